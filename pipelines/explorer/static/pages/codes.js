import {doing, el, field, select} from "/static/app.js";
import {chooser} from "/static/chooser.js";
import {colour, css, drawnShape, item, placeOf, positionAt} from "/static/codes.js";

const VIEWS = {item: "original", made: "decoded", error: "error", difference: "what changed"};
const HIGH = 420;  // pixels of an image at most

export default async function mount(root, api) {
  const about = await api.call("about");
  let look = null;  // what the server says of the item
  let at = 0;  // the chosen position
  let book = 0;
  let asked = 0;  // clicks so far: answers to earlier ones are dropped

  const bar = chooser(api, about, {
    opens: async (values) => opened(await api.call("item", values)),
    draws: about.prior ? async (values) => opened(await api.call("sample", values)) : null,
  });
  root.append(bar.root);

  const view = select(Object.values(VIEWS), VIEWS.made);
  const over = select(["codes", "bits", "nothing"], "codes");
  const books = el("select", {}, ...Array.from({length: about.books}, (_, number) => el("option", {value: String(number)}, `${number + 1}`)));
  const strength = el("input", {type: "range", min: "0", max: "100", value: "45", "aria-label": "strength of the colours"});
  const image = el("img", {alt: "the item", id: "codes-image"});
  const canvas = el("canvas", {id: "codes-grid", tabIndex: 0, role: "application",
    "aria-label": "Codes over the item: the arrow keys choose a position"});
  const words = el("p", {role: "status", id: "codes-words"});
  const head = el("h2", {id: "codes-head"});
  const sounds = el("div", {});
  const side = el("div", {class: "panel", id: "codes-side"});
  const where = el("div", {});
  const work = el("div", {hidden: true}, head,
    el("div", {class: "columns wide"},
      el("div", {},
        el("div", {class: "row"}, field("image", view), field("over it", over),
          about.books > 1 ? field("codebook", books) : null, field("colours", strength)),
        el("div", {class: "overlaid"}, image, canvas), words, sounds),
      side),
    where);
  root.append(work);

  function opened(found) {
    look = found;
    at = 0;
    bar.showLabels(found.labels);
    work.hidden = false;
    head.textContent = [found.words, Object.values(found.labels).join(" ")].filter(Boolean).join(": ");
    show();
    return click(firstUnusual());
  }

  // The position whose code is the least likely: there is most to see.
  const firstUnusual = () => look.bits ? look.bits.indexOf(Math.max(...look.bits)) : 0;

  function show() {
    for (const option of view.options) {
      const key = Object.keys(VIEWS).find((own) => VIEWS[own] === option.value);
      option.disabled = !look[key];
    }
    if (view.selectedOptions[0].disabled) view.value = VIEWS.made;
    const key = Object.keys(VIEWS).find((own) => VIEWS[own] === view.value);
    image.onload = () => {
      const [width, height] = [image.naturalWidth, image.naturalHeight];
      image.style.width = about.kind === "audio" ? "100%" : `min(100%, ${Math.round(HIGH * Math.min(width / height, 4))}px)`;
      image.style.height = about.kind === "audio" ? "180px" : "auto";
      drawOver();
    };
    image.src = look[key].image;
    const parts = [];
    if (look.bits) {
      const sum = look.bits.reduce((total, own) => total + own, 0);
      parts.push(`${sum.toFixed(1)} bits for ${look.bits.length} positions`);
      if (look.before_bits !== undefined && look.before_bits !== null && look.changed) {
        parts.push(`${look.before_bits.toFixed(1)} before: log2 p changed by ${(look.before_bits - sum).toFixed(1)}`);
      }
    } else parts.push(`bits are not known: ${look.why_no_bits}`);
    if (look.error) parts.push(`reconstruction: ${look.error.words}`);
    if (look.changed) parts.push(`${look.changed} code${look.changed > 1 ? "s" : ""} changed: ${look.difference.words}`);
    words.textContent = parts.join(" · ");
    sounds.replaceChildren(...["item", "made"].filter((own) => look[own]?.audio).map((own) => field(VIEWS[own], el("audio", {src: look[own].audio, controls: true}))),
      ...["item", "made"].filter((own) => look[own]?.clip).map((own) => field(VIEWS[own], el("img", {class: "clip", src: look[own].clip, alt: VIEWS[own]}))));
  }

  function drawOver() {
    const box = image.getBoundingClientRect();
    if (!look || !box.width) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
    canvas.style.width = `${box.width}px`;
    canvas.style.height = `${box.height}px`;
    const pen = canvas.getContext("2d");
    const [rows, columns] = drawnShape(look.grid);
    const [high, wide] = [canvas.height / rows, canvas.width / columns];
    const most = look.bits ? Math.max(...look.bits, 1e-6) : 1;
    const box0 = (position) => {
      const [row, column] = placeOf(look.grid, position);
      return [Math.round(column * wide), Math.round(row * high), Math.ceil(wide), Math.ceil(high)];
    };
    const count = look.codes.length / about.books;
    for (let position = 0; position < count && over.value !== "nothing"; position++) {
      if (over.value === "codes") {
        const [r, g, b] = colour(look.codes[position * about.books + book]);
        pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${strength.value / 100})`;
      } else if (look.bits) {
        const share = look.bits[position] / most;
        pen.fillStyle = `rgba(${Math.round(255 * Math.min(1, 1.6 * share))}, ${Math.round(190 * share * share)}, 40, ${(0.15 + 0.85 * share) * strength.value / 50})`;
      } else break;
      pen.fillRect(...box0(position));
    }
    const [x, y, w, h] = box0(at);
    pen.lineWidth = 3 * scale;
    pen.strokeStyle = "#000";
    pen.strokeRect(x, y, w, h);
    pen.lineWidth = 1.5 * scale;
    pen.strokeStyle = "#fff";
    pen.strokeRect(x, y, w, h);
  }

  for (const control of [view]) control.addEventListener("change", show);
  for (const control of [over, strength]) control.addEventListener("input", drawOver);
  books.addEventListener("change", () => { book = Number(books.value); drawOver(); click(at); });
  new ResizeObserver(drawOver).observe(image);

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = drawnShape(look.grid);
    const row = Math.min(rows - 1, Math.floor((event.clientY - box.top) / box.height * rows));
    const column = Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns));
    click(positionAt(look.grid, row, column));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!step || !look) return;
    event.preventDefault();
    const [rows, columns] = drawnShape(look.grid);
    const [row, column] = placeOf(look.grid, at);
    click(positionAt(look.grid, Math.min(rows - 1, Math.max(0, row + step[0])), Math.min(columns - 1, Math.max(0, column + step[1]))));
  });

  // The chosen position of an image of the item, with its neighbours around it.
  function around(address, words, size = 96) {
    const made = el("canvas", {width: 96, height: 96, role: "img", "aria-label": words, style: {width: `${size}px`}});
    const source = new Image();
    const [rows, columns] = drawnShape(look.grid);
    const [row, column] = placeOf(look.grid, at);
    source.onload = () => {
      const [wide, high] = [source.naturalWidth / columns, source.naturalHeight / rows];
      const pen = made.getContext("2d");
      pen.imageSmoothingEnabled = false;
      if (rows === 1) pen.drawImage(source, (column - 1.5) * wide, 0, 4 * wide, high, 0, 0, 96, 96);
      else pen.drawImage(source, (column - 1) * wide, (row - 1) * high, 3 * wide, 3 * high, 0, 0, 96, 96);
      pen.strokeStyle = "#e8590c";
      pen.lineWidth = 2;
      if (rows > 1) pen.strokeRect(32, 32, 32, 32);
    };
    source.src = address;
    return made;
  }

  function click(position) {
    at = position;
    drawOver();
    const own = ++asked;
    return doing(async () => {
      const found = await api.call("click", {position, book});
      if (own !== asked) return;
      showCode(found);
      const occurs = await api.call("where", {code: found.code, book});
      if (own === asked) showWhere(found.code, occurs);
    });
  }

  function showCode(found) {
    const [high, wide] = look.grid.slice(-2);
    const words = `row ${Math.floor(at / wide) % high}, column ${at % wide}`;
    const place = {1: `position ${at}`, 2: words, 3: `frame ${Math.floor(at / (high * wide))}, ${words}`}[look.grid.length];
    const other = el("input", {type: "number", id: "codes-other", min: "0", max: String(about.num_codes - 1), value: String(found.near[0]?.code ?? 0)});
    const replace = (code) => doing(async () => {
      changed(await api.call("replace", {position: at, book, code}));
      await click(at);
    });
    side.replaceChildren(
      el("h2", {class: "first"}, swatch(found.code), ` code ${found.code}`),
      el("p", {class: "dim"}, `${place}${look.bits ? `: ${look.bits[at].toFixed(2)} bits` : ""}`),
      el("div", {class: "row top"},
        el("figure", {}, around(look.made.image, "decoded, around the position"), el("figcaption", {}, "in context")),
        found.alone ? el("figure", {class: "alone"}, about.kind === "audio" ? item(found.alone) : around(found.alone.image, "the code decoded alone"),
          el("figcaption", {}, "alone")) : null),
      el("small", {}, about.kind === "audio" ? "Alone: this code in a row." : "Alone: among codes that are all the item's commonest."),
      el("h3", {}, "Nearest codes, by the codebook"),
      el("div", {class: "near"}, ...found.near.map((near) => el("button", {type: "button", class: "nearby", title: `put code ${near.code} here`,
        onclick: () => replace(near.code)}, near.image ? around(near.image, "", 48) : null,
        el("span", {}, swatch(near.code), ` ${near.code}`), el("small", {}, near.distance.toPrecision(2))))),
      el("form", {class: "row", onsubmit: (event) => { event.preventDefault(); replace(Number(other.value)); }},
        field("another code here", other), el("button", {class: "key", id: "codes-replace"}, "Replace"),
        el("button", {type: "button", disabled: !look.changed, onclick: () => doing(async () => {
          changed(await api.call("reset"));
          await click(at);
        })}, "Undo all")));
  }

  function changed(found) {
    look = {...look, ...found};
    if (!look.changed) delete look.difference;
    show();
  }

  function showWhere(code, found) {
    if (found.why) {
      where.replaceChildren(el("h2", {}, `Where else code ${code} occurs`), el("p", {class: "dim"}, found.why));
      return;
    }
    where.replaceChildren(el("h2", {}, `Where else code ${code} occurs`),
      el("p", {class: "dim"}, `in ${found.items.toLocaleString("en")} of ${found.of}; ${(100 * found.share).toFixed(2)} % of all codes`),
      el("div", {class: "tiles"}, ...found.examples.map((example) => {
        const words = Object.values(example.labels).join(" ");
        return el("div", {class: "tile"}, marked(example), example.audio ? el("audio", {src: example.audio, controls: true}) : null,
          el("small", {}, `${example.source === "real" ? "" : "decoded "}item ${example.number}${words ? `: ${words}` : ""}`));
      })));
  }

  // A training item, with frames where the code occurs; a clip moves instead.
  function marked(example) {
    if (about.kind === "video") return el("img", {src: example.image, alt: "training clip"});
    const made = el("canvas", {role: "img", "aria-label": "training item"});
    const source = new Image();
    source.onload = () => {
      const [rows, columns] = drawnShape(about.kind === "audio" ? [Math.max(...example.positions) + 1] : about.grid);
      const factor = Math.max(1, Math.round(200 / source.naturalHeight));
      made.width = about.kind === "audio" ? 300 : source.naturalWidth * factor;
      made.height = about.kind === "audio" ? 120 : source.naturalHeight * factor;
      const pen = made.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(source, 0, 0, made.width, made.height);
      pen.strokeStyle = "#ff7b1c";
      pen.lineWidth = 2;
      const wide = example.seconds ? made.width * about.hop_seconds / example.seconds : made.width / columns;
      for (const position of example.positions) {
        const [row, column] = about.kind === "audio" ? [0, position] : placeOf(about.grid, position);
        pen.strokeRect(column * wide, row * made.height / rows, wide, made.height / rows);
      }
    };
    source.src = example.image;
    return made;
  }

  const swatch = (code) => el("span", {class: "swatch", style: {background: css(code)}});

  if (about.prior) await bar.draw();
}
