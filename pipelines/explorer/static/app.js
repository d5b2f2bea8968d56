// The frame around all pages: loads the state, lists the pages, and shows one of them. A page is a module
// pages/NAME.js that exports `mount(root, api)`; it may return {show, hide}, called when it comes and goes.

const tab = crypto.randomUUID();
const MOST_UPLOAD = 32 * 2 ** 20;
export const state = {};
const shown = new Map();  // name of a page -> {root, page}, once it was opened
let current = null;

// An element: el("button", {class: "key", onclick: f}, "Draw", ...). Values are text, never HTML.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// A label above its control; the control keeps its own id.
export function field(words, control, hint) {
  return el("label", {class: "field"}, el("span", {}, words), control, hint ? el("small", {}, hint) : null);
}

export function select(names, chosen, empty) {
  const options = names.map((name) => el("option", {value: name, selected: name === chosen}, name));
  return el("select", {}, empty === undefined ? null : el("option", {value: ""}, empty), options);
}

// What went wrong, or what is going on, in words above the page; without words the line goes away.
export function say(words, error = false) {
  const line = document.getElementById("message");
  line.textContent = words || "";
  line.hidden = !words;
  line.classList.toggle("error", error);
}

// Runs an action of the user; what it throws is said, except where it was stopped, and that it takes long.
export async function doing(action) {
  say("");
  const wait = "Working ...";
  const timer = setTimeout(async () => {
    say(wait);
    const found = await fetch("/api/state").then((answer) => answer.json()).catch(() => ({}));
    if (found.note && document.getElementById("message").textContent === wait) say(`${wait} ${found.note}`);
  }, 700);
  const ended = () => {
    clearTimeout(timer);
    if (document.getElementById("message").textContent.startsWith(wait)) say("");
  };
  try {
    const found = await action();
    ended();
    return found;
  } catch (error) {
    ended();
    if (error.name !== "AbortError") say(error.message, true);
    return undefined;
  }
}

async function answered(request) {
  let answer;
  try {
    answer = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The explorer does not answer: it was ended, or it refused what was sent.");
  }
  return answer;
}

async function value(request) {
  const answer = await answered(request);
  const found = await answer.json().catch(() => ({error: `The explorer answered ${answer.status}.`}));
  if (found.error !== undefined) throw new Error(found.error);
  return found.value;
}

function post(page, name, values, signal, query = "") {
  return fetch(`/api/call/${page}/${name}${query}`, {
    method: "POST", signal, headers: {"Content-Type": "application/json"},
    body: JSON.stringify({tab, arguments: values}),
  });
}

// What a page has of the server.
function apiOf(page) {
  return {
    state,
    // The value that a method of pages/NAME.py returns.
    call: (name, values = {}, signal = undefined) => value(post(page, name, values, signal)),
    // Each value that it yields, as soon as it is there; ends when it ends. A signal stops it on the server too.
    async stream(name, values, each, signal = undefined) {
      const answer = await answered(post(page, name, values, signal, "?stream=1"));
      if (!answer.ok) {
        await value(Promise.resolve(answer));
        return;
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const {value: text, done} = await answered(reader.read());
        if (done) return;
        const lines = (rest + text).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const found = JSON.parse(line);
          if (found.error !== undefined) throw new Error(found.error);
          each(found.value);
        }
      }
    },
    // A file -> the name by which a call finds it as an upload.
    async upload(file) {
      if (file.size > MOST_UPLOAD) {
        throw new Error(`${file.name}: expected at most ${MOST_UPLOAD / 2 ** 20} MB, found ${Math.ceil(file.size / 2 ** 20)} MB`);
      }
      return value(fetch(`/api/upload?name=${encodeURIComponent(file.name)}`, {method: "POST", body: file}));
    },
  };
}

// A place to drop a file on, or to choose one: takes(file).
export function dropZone(words, accept, takes) {
  const input = el("input", {type: "file", accept, onchange: () => input.files.length && takes(input.files[0])});
  const zone = el("label", {class: "drop"}, el("span", {}, words), input);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) takes(event.dataTransfer.files[0]);
  });
  return zone;
}

async function open(name) {
  if (current !== null && shown.has(current)) {
    shown.get(current).root.hidden = true;
    shown.get(current).page?.hide?.();
  }
  current = name;
  say("");
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!shown.has(name)) {
    const root = el("section", {id: `page-${name}`});
    document.getElementById("page").append(root);
    shown.set(name, {root, page: null});
    await doing(async () => {
      const module = await import(`/static/pages/${name}.js`);
      shown.get(name).page = await module.default(root, apiOf(name));
    });
  }
  if (current !== name) return;
  shown.get(name).root.hidden = false;
  shown.get(name).page?.show?.();
}

function openHash() {
  const able = state.pages.filter((page) => page.why_not === null).map((page) => page.name);
  const wanted = location.hash.slice(1);
  open(able.includes(wanted) ? wanted : able[0]);
}

function ready() {
  document.title = `${state.title} – explorer`;
  document.getElementById("run").textContent = state.title;
  document.getElementById("words").textContent = state.words;
  document.getElementById("page").replaceChildren();
  document.getElementById("pages").replaceChildren(...state.pages.map((page) => page.why_not === null
    ? el("a", {href: `#${page.name}`}, page.title)
    : el("button", {type: "button", class: "missing", title: page.why_not,
                    onclick: () => say(`${page.title}: ${page.why_not}`)}, page.title)));
  window.addEventListener("hashchange", openHash);
  openHash();
}

async function start() {
  for (;;) {
    let found;
    try {
      found = await (await fetch("/api/state")).json();
    } catch {
      found = {status: "failed", title: "Explorer", words: "The explorer was ended: the terminal says why."};
    }
    Object.assign(state, found);
    document.getElementById("run").textContent = state.title;
    if (state.status === "ready") return ready();
    if (state.status === "failed") {
      document.getElementById("page").replaceChildren();
      document.getElementById("words").textContent = "";
      return say(state.words, true);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

start();
