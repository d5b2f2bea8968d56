import {doing, el, field, select} from "/static/app.js";

const ACCEPT = {image: "image/*,.heic", audio: "audio/*", video: "video/*,.npy", codes: "image/*,.heic"};
const PIXELS = "From left to right: the image, the bits of its codes, and those of its pixels given the codes; bright positions cost many.";
const MAPS = {image: PIXELS, codes: PIXELS, video: "Beside each clip the bits of its codes; bright positions cost many.",
  audio: "Below each spectrogram the bits of the codes, and of the samples given the codes."};

export default async function mount(root, api) {
  document.head.append(el("link", {rel: "stylesheet", href: "/static/pages/scores.css"}));
  const about = await api.call("about");
  const labels = new Map(Object.entries(about.labels).map(([name, classes]) => [name, about.needed.includes(name)
    ? select(classes, classes[0]) : select(classes, "", "not given")]));
  const actions = about.actions.length ? select(about.actions, about.actions[0]) : null;
  const rank = el("select", {id: "scores-rank"}, Object.entries(about.ranks).map(([by, words]) => el("option", {value: by}, words)));
  const folder = about.folders === null ? null : select(about.folders, about.folders[0]);
  const input = el("input", {type: "file", multiple: true, id: "scores-files", accept: ACCEPT[about.kind] || "",
    onchange: () => input.files.length && doing(() => send([...input.files]))});
  const zone = el("label", {class: "drop"}, el("span", {}, `Drop up to ${about.most} files here, or choose them`), input);
  const place = el("p", {class: "dim", role: "status", id: "scores-place"});
  const list = el("ol", {class: "scores", id: "scores-list"});
  let last = null, running = null;

  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) doing(() => send([...event.dataTransfer.files]));
  });
  root.append(zone,
    el("form", {class: "panel row scores-form", onsubmit: (event) => { event.preventDefault(); if (folder) doing(() => run({folder: folder.value})); }},
      field("ranked by", rank), ...[...labels].map(([name, control]) => field(name, control)),
      actions ? field("action of all frames", actions) : null,
      folder ? field("or a folder of the data", folder) : null, folder ? el("button", {class: "key"}, "Rank the folder") : null),
    el("p", {}, el("small", {}, `Bits are what a file of the item's codes would take: the fewer, the more usual. ${MAPS[about.kind]}`)),
    place, list);
  for (const control of [rank, actions, ...labels.values()]) control?.addEventListener("change", () => last && doing(() => run(last)));

  async function send(files) {
    if (files.length > about.most) throw new Error(`files: expected at most ${about.most}, found ${files.length}.`);
    const keys = [];
    for (const file of files) {
      place.textContent = `sending ${keys.length + 1} of ${files.length} ...`;
      keys.push(await api.upload(file));
    }
    await run({files: keys});
  }

  async function run(given) {
    running?.abort();
    const own = running = new AbortController();
    last = given;
    place.textContent = "scoring ...";
    list.replaceChildren();
    let notes = "";
    try {
      const found = await api.call("rank", {
        ...given, rank: rank.value, actions: actions?.value || null,
        labels: Object.fromEntries([...labels].map(([name, control]) => [name, control.value])),
      }, own.signal);
      list.replaceChildren(...found.items.map(entry));
      notes = found.unreadable.length ? `Not readable: ${found.unreadable.join(", ")}. ` : "";
      await compare(own.signal, notes);
    } finally {
      if (running === own && place.textContent.endsWith("...")) place.textContent = notes;
    }
  }

  async function compare(signal, notes) {
    for (;;) {
      const found = await api.call("compare", {}, signal);
      if (found.percentiles) {
        found.percentiles.forEach((share, number) => {
          list.children[number].querySelector(".percentile").textContent = `stranger than ${share.toFixed(0)} % of held-out items`;
        });
        place.textContent = `${notes}Compared with ${found.among} items of the ${found.split} split.`;
      } else if (found.why) {
        place.textContent = `${notes}Percentiles are left out: ${found.why}`;
      } else {
        place.textContent = `${notes}scoring up to ${about.held_out} held-out items to compare with ...`;
        await new Promise((resolve) => setTimeout(resolve, 500));
        continue;
      }
      return;
    }
  }

  function entry(item) {
    return el("li", {class: "panel"}, el("img", {src: item.map, class: about.kind === "audio" ? "smooth" : "", alt: `where the bits of ${item.name} lie`}),
      el("div", {}, el("strong", {}, item.name), el("p", {}, `${item.bits_per_code.toFixed(2)} bits per code, ${item.bits_per_dim.toFixed(3)} bits per dimension`),
        rank.value === "codec" ? el("p", {}, `${item.rank.toFixed(3)} bits per dimension more than a lossless file`) : null,
        el("p", {class: "percentile dim"})));
  }
}
