import {doing, el, field} from "/static/app.js";
import {chooser} from "/static/chooser.js";
import {item} from "/static/codes.js";

const HIGH = 380;  // pixels of an image at most

export default async function mount(root, api) {
  const about = await api.call("about");
  let given = null;  // the item, as the server says
  let mask = null;  // Uint8Array of rows * columns, 1: to be filled
  const bar = chooser(api, about, {
    opens: async (values) => opened(await api.call("item", values)),
    draws: async (values) => opened(await api.call("sample", values)),
  });
  const number = (id, value, least, most, step = 1) =>
    el("input", {type: "number", id, value: String(value), min: String(least), max: String(most), step: String(step)});
  const inputs = {n: number("fill-n", 6, 1, about.most), seed: number("fill-seed", 0, 0, Number.MAX_SAFE_INTEGER),
                  temperature: number("fill-temperature", 1, 0, 100, "any"), particles: number("fill-particles", 32, 1, 512)};
  const frames = about.frames ? {first: number("fill-first", 0, 0, about.frames - 1),
                                 last: number("fill-last", about.frames - 1, 0, about.frames - 1)} : {};
  const brush = el("input", {type: "range", min: "1", max: "100", value: "30", "aria-label": "width of the brush"});
  const erase = el("input", {type: "checkbox"});
  const image = el("img", {alt: "the item"});
  const canvas = el("canvas", {id: "fill-mask", "aria-label": "Paint what is to be filled; the buttons hide parts without a mouse"});
  const head = el("h2");
  const sound = el("div", {});
  const go = el("button", {class: "key", id: "fill-go"}, "Fill");
  const place = el("p", {role: "status", class: "dim"});
  const tiles = el("div", {class: "tiles", id: "fill-candidates"});
  const parts = about.kind === "audio"
    ? {"Second half": (row, column) => column >= 0.5, "Middle": (row, column) => column >= 0.35 && column < 0.65, "All": () => true}
    : {"Lower half": (row) => row >= 0.5, "Right half": (row, column) => column >= 0.5,
       "Middle": (row, column) => Math.abs(row - 0.5) < 0.2 && Math.abs(column - 0.5) < 0.2, "All": () => true};
  const work = el("div", {hidden: true}, head,
    el("div", {class: "columns wide"},
      el("div", {}, el("div", {class: "overlaid"}, image, canvas), sound),
      el("form", {class: "panel", onsubmit: (event) => { event.preventDefault(); doing(run); }},
        el("p", {}, about.kind === "audio" ? "Paint over the time that is to be filled." : "Paint over what is to be filled."),
        el("div", {class: "row"}, field("brush", brush), el("label", {class: "check"}, erase, " erase")),
        el("div", {class: "row"}, ...Object.entries(parts).map(([words, inside]) =>
          el("button", {type: "button", onclick: () => hide(inside)}, words)),
          el("button", {type: "button", onclick: () => hide(() => false)}, "Clear")),
        el("div", {class: "row"}, ...Object.entries(frames).map(([name, control]) => field(`${name} frame`, control)),
          field("candidates", inputs.n), field("seed", inputs.seed), field("temperature", inputs.temperature),
          field("particles", inputs.particles)),
        el("div", {class: "row"}, go))),
    place, tiles);
  root.append(bar.root, work);

  function opened(found) {
    given = found;
    mask = new Uint8Array(found.rows * found.columns);
    work.hidden = false;
    tiles.replaceChildren();
    bar.showLabels(found.labels);
    head.textContent = [found.words, Object.values(found.labels).join(" ")].filter(Boolean).join(": ");
    image.onload = () => {
      const audio = about.kind === "audio";
      image.style.width = audio ? "100%" : `min(100%, ${Math.round(HIGH * image.naturalWidth / image.naturalHeight)}px)`;
      image.style.height = audio ? "180px" : "auto";
      drawMask();
    };
    image.src = found.image;
    sound.replaceChildren(...[found.audio ? el("audio", {src: found.audio, controls: true}) : null,
                              found.clip ? el("img", {class: "clip", src: found.clip, alt: "the clip"}) : null].filter(Boolean));
  }

  function hide(inside) {
    if (!given) return;
    for (let row = 0; row < given.rows; row++) {
      for (let column = 0; column < given.columns; column++) {
        mask[row * given.columns + column] = inside((row + 0.5) / given.rows, (column + 0.5) / given.columns) ? 1 : 0;
      }
    }
    drawMask();
  }

  function drawMask() {
    if (!given) return;
    const box = image.getBoundingClientRect();
    canvas.width = given.columns;
    canvas.height = given.rows;
    canvas.style.width = `${box.width}px`;
    canvas.style.height = `${box.height}px`;
    const pixels = new ImageData(given.columns, given.rows);
    mask.forEach((own, place) => { if (own) pixels.data.set([242, 100, 25, 205], 4 * place); });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function paint(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width * given.columns, (event.clientY - box.top) / box.height * given.rows];
    const radius = Math.max(0.5, brush.value / 200 * (given.rows === 1 ? given.columns : given.rows) * 0.5);
    for (let row = 0; row < given.rows; row++) {
      for (let column = 0; column < given.columns; column++) {
        const far = Math.hypot(column + 0.5 - x, given.rows === 1 ? 0 : row + 0.5 - y);
        if (far <= radius || (Math.floor(x) === column && Math.floor(y) === row)) mask[row * given.columns + column] = erase.checked ? 0 : 1;
      }
    }
    drawMask();
  }

  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); paint(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) paint(event); });
  new ResizeObserver(drawMask).observe(image);

  async function run() {
    go.disabled = true;
    place.textContent = "drawing candidates ...";
    try {
      const labels = bar.given();
      const found = await api.call("fill", {
        ...Object.fromEntries(Object.entries({...inputs, ...frames}).map(([name, input]) => [name, Number(input.value)])),
        ...labels, mask: Array.from(mask)});
      tiles.replaceChildren(...found.map((own, rank) => {
        const words = Object.values(own.labels).join(" ");
        return el("div", {class: "tile candidate"}, item(own, `${rank + 1}. ${words ? `${words}, ` : ""}${own.bits.toFixed(1)} bits`),
          el("small", {}, `${own.effective.toFixed(1)} effective particles`));
      }));
      place.textContent = "The likeliest first: bits of the codes and labels, the fewer the likelier.";
    } catch (error) {
      place.textContent = "";
      throw error;
    } finally {
      go.disabled = false;
    }
  }

  await bar.draw();
}
