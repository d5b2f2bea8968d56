import {doing, el, field, say, select} from "/static/app.js";
import {drawCodes, item} from "/static/codes.js";

// Runs functions in order, `every` milliseconds apart, as long as this delays them by at most `most` in all.
function paced(every, most) {
  let last = Promise.resolve();
  let delay = 0;
  return (show) => {
    const wait = Math.min(every, most - delay);
    delay += wait;
    last = last.then(() => new Promise((resolve) => setTimeout(resolve, wait))).then(show);
    return last;
  };
}

export default async function mount(root, api) {
  const about = await api.call("about");
  const labels = new Map(Object.entries(about.labels).map(([name, classes]) => [name, select(classes, "", "as in training")]));
  const actions = about.actions.length ? select(about.actions, "", "as in training") : null;
  const number = (id, value, least, most, step = 1) =>
    el("input", {type: "number", id, value: String(value), min: String(least), max: String(most), step: String(step)});
  const inputs = {
    n: number("samples-n", 8, 1, about.most), seed: number("samples-seed", 0, 0, Number.MAX_SAFE_INTEGER),
    temperature: number("samples-temperature", 1, 0, 100, "any"), top_k: number("samples-top-k", "", 1, 2 ** 31),
    top_p: number("samples-top-p", "", 0, 1, "any"), seconds: about.seconds ? number("samples-seconds", "", 0, 3600, "any") : null,
  };
  const draw = el("button", {class: "key", id: "samples-draw"}, "Draw");
  const stop = el("button", {type: "button", disabled: true}, "Stop");
  const place = el("p", {class: "dim", role: "status"});
  const tiles = el("div", {class: "tiles", id: "samples-drawn"});
  const kept = el("div", {class: "tiles"});
  const keptHead = el("h2", {hidden: true}, "Kept");
  let running = null;

  const form = el("form", {class: "panel row", onsubmit: (event) => { event.preventDefault(); doing(run); }},
    ...[...labels].map(([name, control]) => field(name, control)),
    actions ? field("action", actions) : null,
    field("samples", inputs.n), field("seed", inputs.seed), field("temperature", inputs.temperature),
    field("top-k", inputs.top_k), field("top-p", inputs.top_p),
    inputs.seconds ? field("seconds", inputs.seconds) : null, draw, stop);
  stop.addEventListener("click", () => running?.abort());
  root.append(form, place, tiles, keptHead, kept);

  const numberOf = (input) => input === null || input.value === "" ? null : Number(input.value);

  async function run() {
    running?.abort();
    const own = running = new AbortController();
    const values = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, numberOf(input)]));
    values.labels = Object.fromEntries([...labels].map(([name, control]) => [name, control.value]));
    values.actions = actions?.value || null;
    const made = [];
    stop.disabled = false;
    place.textContent = "waiting ...";
    try {
      const shows = paced(40, 400);  // fast priors are done before one has seen anything
      await api.stream("draw", values, (found) => shows(() => {
        if (running !== own) return;
        if (found.codes) {
          if (!made.length) {
            made.push(...found.codes.map(() => el("div", {class: "tile"}, el("canvas", {}))));
            tiles.replaceChildren(...made);
          }
          found.codes.forEach((codes, place) => drawCodes(made[place].firstChild, codes, about.grid, about.books));
          place.textContent = "drawing codes in raster order ...";
        } else if (found.samples) {
          place.textContent = "";
          tiles.replaceChildren(...found.samples.map((sample, place) => made[place] = tile(sample, values.seed, place)));
        } else if (found.no_nearest) {
          place.textContent = `Nearest training items are left out: ${found.no_nearest}`;
        } else {
          const words = Object.values(found.labels).join(" ");
          made[found.nearest].querySelector(".nearest").replaceChildren(
            item(found, `nearest of ${found.of}${words ? `, ${words}` : ""}: ${(100 * found.differ).toFixed(0)} % of codes differ`
              + (found.source === "decoded" ? " (decoded)" : "")));
        }
      }), own.signal);
      await shows(() => {});
    } finally {
      if (running === own) {
        stop.disabled = true;
        if (place.textContent.endsWith("...")) place.textContent = "";
      }
    }
  }

  function tile(sample, seed, place) {
    const words = Object.values(sample.labels).join(" ");
    const likely = sample.bits === null ? `log-likelihood not known: ${sample.why_no_bits}`
      : `log2 p = ${(-sample.bits).toFixed(1)} bits`;
    const name = [`seed${seed}`, String(place), ...Object.values(sample.labels)].join("-");
    const keep = el("button", {type: "button"}, "Keep");
    const made = el("div", {class: "tile sample"}, item(sample, [`${place}`, words].filter(Boolean).join(": ")),
      el("p", {}, el("small", {}, likely)), el("div", {class: "nearest small"}),
      el("div", {class: "row"}, keep,
        el("a", {class: "button", href: sample.audio || sample.image, download: `${name}.${sample.audio ? "wav" : "png"}`}, "Save")));
    keep.addEventListener("click", () => {
      const copy = made.cloneNode(true);
      const drop = el("button", {type: "button", onclick: () => { copy.remove(); keptHead.hidden = !kept.children.length; }}, "Drop");
      copy.querySelector("button").replaceWith(drop);
      kept.append(copy);
      keptHead.hidden = false;
      say("");
    });
    return made;
  }
}
