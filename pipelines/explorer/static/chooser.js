// The bar in which a user chooses an item: a file, a held-out item, or a sample; with the labels it is given.

import {doing, dropZone, el, field, select} from "/static/app.js";

const ACCEPT = {image: "image/*,.heic", codes: "image/*,.heic", audio: "audio/*", video: "video/*,.npy"};

// about: what `layout` says on the server. opens(values) is called for files and held-out items, draws(values), where
// it is given, for samples; both with labels and the action.
export function chooser(api, about, {opens, draws}) {
  const labels = new Map(Object.entries(about.labels).map(([name, classes]) => {
    const needed = about.needed.includes(name);
    return [name, select(classes, needed ? classes[0] : "", needed ? undefined : "not given")];
  }));
  const actions = about.actions.length ? select(about.actions, about.actions[0], "not given") : null;
  const held = el("input", {type: "number", value: "0", min: "0"});
  const seed = el("input", {type: "number", value: "0", min: "0"});
  const given = () => ({labels: Object.fromEntries([...labels].map(([name, control]) => [name, control.value])),
                        actions: actions?.value || null});
  const draw = () => doing(() => draws({seed: Number(seed.value), ...given()}));
  const root = el("div", {class: "panel row"},
    dropZone("Drop a file here, or choose one:", ACCEPT[about.kind] || "",
             (file) => doing(async () => opens({file: await api.upload(file), ...given()}))),
    field("held-out item", el("span", {class: "joined"}, held,
      el("button", {type: "button", class: "held", onclick: () => doing(() => opens({number: Number(held.value), ...given()}))}, "Open"))),
    draws ? field("or a sample, by its seed", el("span", {class: "joined"}, seed,
      el("button", {type: "button", class: "drawn", onclick: draw}, "Draw"))) : null,
    ...[...labels].map(([name, control]) => field(about.needed.includes(name) ? `${name}, of the decoder` : name, control)),
    actions ? field("action", actions) : null);
  return {
    root, draw, given,
    // Puts the labels that an item has into the controls.
    showLabels(found = {}) {
      for (const [name, own] of Object.entries(found)) if (labels.has(name)) labels.get(name).value = own;
    },
  };
}
