import {doing, el, field, say} from "/static/app.js";

const SHOWN = 12;  // frames in the strip
const WAITING = 3;  // keys that are pressed ahead of the frames
const SIGNS = {ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→"};
const PLACES = {ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right"};

export default async function mount(root, api) {
  document.head.append(el("link", {rel: "stylesheet", href: "/static/pages/world.css"}));
  const about = await api.call("about");
  const actions = new Map(about.keys.map(({key, action}) => [key, action]));
  const number = (id, value, least, most, step) =>
    el("input", {type: "number", id, value: String(value), min: String(least), max: String(most), step});
  const clip = number("world-clip", 0, 0, 2 ** 53 - 1, "1");
  const seed = number("world-seed", 0, 0, 2 ** 53 - 1, "1");
  const temperature = number("world-temperature", 0.8, 0, 100, "any");
  const topP = number("world-top-p", "", 0, 1, "any");
  const view = el("img", {id: "world-view", alt: "where you are", hidden: true});
  const nothing = el("p", {class: "dim world-nothing"}, "Nothing yet: the first key draws the first frame.");
  const rate = el("p", {id: "world-rate", class: "dim", role: "status"});
  const strip = el("div", {id: "world-strip", class: "world-strip", "aria-label": "the last frames"});
  const pressed = [];  // keys whose frames are not yet asked for
  const times = [];  // when the last frames came, in ms
  let steps = 0, walking = false, begun = null;

  const buttons = new Map(about.keys.map(({key, action}) => [key, el("button", {
    type: "button", class: `world-${PLACES[key] || "other"}`, title: action || "the next frame",
    onclick: () => press(key),
  }, SIGNS[key] || key, el("small", {}, action || "next frame"))]));
  const arrows = [...buttons].filter(([key]) => SIGNS[key]).map(([, button]) => button);
  const others = [...buttons].filter(([key]) => !SIGNS[key]).map(([, button]) => button);
  const save = el("button", {type: "button", onclick: () => doing(keep)}, "Save the walk");
  const begin = el("button", {class: "key", id: "world-begin"}, "Begin at the clip");
  const blank = el("button", {type: "button", id: "world-nothing", onclick: () => doing(() => start(null))}, "Begin from nothing");
  const seen = about.window === 1 ? "the frame before it" : `the ${about.window} frames before it`;
  const said = actions.has("ArrowUp") && actions.get("ArrowUp") === null ? "" : " and on the actions that led to them and to it";
  root.append(
    el("form", {class: "panel row", onsubmit: (event) => { event.preventDefault(); doing(() => start(Number(clip.value))); }},
      field("held-out clip", clip), field("seed", seed), field("temperature", temperature), field("top-p", topP), begin, blank),
    el("div", {class: "world"},
      el("div", {class: "world-frame"}, view, nothing),
      el("div", {class: "world-side"},
        el("div", {class: "world-keys"}, ...arrows), el("div", {class: "row"}, ...others), rate,
        el("p", {}, el("small", {}, `The arrow keys walk. The prior draws each frame conditioned on ${seen}${said}; `
          + "nothing else of the walk is remembered, and no map of the place exists. What it shows of a place that went out "
          + "of view is invented anew.")),
        save)),
    strip);

  async function start(number) {
    pressed.length = times.length = steps = 0;
    view.hidden = true;
    nothing.hidden = false;
    strip.replaceChildren();
    if (begun === null) rate.textContent = "looking for held-out clips ...";
    try {
      begun = await api.call("begin", {
        clip: number, seed: Number(seed.value), temperature: Number(temperature.value),
        top_p: topP.value === "" ? null : Number(topP.value),
      });
    } finally {
      rate.textContent = "";
    }
    if (begun.why) say(begun.why);
    if (begun.clips) clip.max = String(begun.clips - 1);
    begun.frames.forEach((frame) => show(frame, "held out"));
    if (begun.clips) rate.textContent = `held-out clip ${number} of ${begun.clips}`;
  }

  function show(frame, caption) {
    view.src = frame;
    view.hidden = false;
    nothing.hidden = true;
    strip.append(el("figure", {}, el("img", {src: frame, alt: ""}), el("figcaption", {}, caption)));
    while (strip.children.length > SHOWN) strip.firstChild.remove();
    strip.scrollLeft = strip.scrollWidth;
  }

  // Every press is a step; of a key that is held down, as many as there is time for.
  function press(key, held = false) {
    if (held && pressed.length >= 1 || pressed.length >= WAITING) return;
    pressed.push(key);
    if (!walking) doing(walk);
  }

  async function walk() {
    walking = true;
    try {
      while (pressed.length) {
        const key = pressed.shift(), action = actions.get(key);
        const found = await api.call("step", {action});
        steps += 1;
        found.frames.forEach((frame) => show(frame, action || String(steps)));
        times.push(performance.now());
        if (times.length > 10) times.shift();
        const between = (times.at(-1) - times[0]) / (times.length - 1) / 1000;
        const shown = between < 1 ? `, ${(found.frames.length / between).toFixed(0)} frames per second` : "";
        rate.textContent = `step ${steps}: drawn in ${(1000 * found.seconds).toFixed(0)} ms${shown}`;
      }
    } finally {
      pressed.length = 0;
      walking = false;
    }
  }

  async function keep() {
    const found = await api.call("film");
    el("a", {href: found.film, download: "walk.png"}).click();
    say(`Saved: ${found.frames} frames as one PNG that moves.`);
  }

  window.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (root.hidden || typing || event.ctrlKey || event.metaKey || event.altKey || !actions.has(event.key)) return;
    event.preventDefault();
    press(event.key, event.repeat);
  });
  await doing(() => start(Number(clip.value)));
}
