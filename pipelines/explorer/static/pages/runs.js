import {doing, el, field, select} from "/static/app.js";
import {COLOURS, bars, plot} from "/static/curves.js";

export default async function mount(root, api) {
  const list = el("div", {class: "scroll"});
  const stage = select(["stage 1", "stage 2"], "stage 1");
  const figure = el("select", {id: "runs-figure"});
  const logarithmic = el("input", {type: "checkbox"});
  const curves = el("div", {id: "runs-curves"});
  const beside = el("div", {class: "beside", id: "runs-beside"});
  const wanted = el("select", {});
  const chosen = new Map();  // name -> its colour
  let logs = {};
  root.append(
    el("div", {class: "row"}, el("h2", {}, "Runs"), el("button", {type: "button", onclick: () => doing(refresh)}, "Read again")), list,
    el("h2", {}, "Curves"), el("div", {class: "row"}, field("stage", stage), field("figure", figure),
      el("label", {class: "check"}, logarithmic, " logarithmic")), curves,
    el("h2", {}, "Side by side"), el("div", {class: "row"}, field("show", wanted)), beside);
  wanted.append(el("option", {value: ":codebook"}, "use of the codebook"), el("option", {value: ":doctor"}, "what the doctor finds"));

  async function refresh() {
    const found = await api.call("table");
    if (!chosen.size) for (const row of found.rows) if (row.open) chosen.set(row.name, COLOURS[0]);
    list.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...["", "run", "kind", "data", "age", "stage 1", "stage 2", "figures", "disk"]
      .map((words) => el("th", {}, words)))), el("tbody", {}, ...found.rows.map((row) => {
      const box = el("input", {type: "checkbox", checked: chosen.has(row.name), "aria-label": `show ${row.name}`, disabled: row.damage !== null});
      const mark = el("span", {class: "swatch", style: {background: chosen.get(row.name) || "transparent"}});
      box.addEventListener("change", () => doing(async () => {
        if (box.checked) chosen.set(row.name, COLOURS.find((own) => ![...chosen.values()].includes(own)) || "#888888");
        else chosen.delete(row.name);
        mark.style.background = chosen.get(row.name) || "transparent";
        await load();
      }));
      return el("tr", {}, el("td", {}, box, " ", mark), el("td", {}, row.open ? el("strong", {}, row.name) : row.name),
        ...(row.damage !== null ? [el("td", {colSpan: 7}, `damaged: ${row.damage}`)]
          : [row.kind, row.data, row.age, row.stage1, row.stage2, row.figures, row.size].map((words) => el("td", {}, words))));
    }))));
    if (!found.rows.length) list.replaceChildren(el("p", {class: "dim"}, `no runs in ${found.folder}`));
    await load();
  }

  // What the chosen runs have: their logs, and their images.
  async function load() {
    logs = await api.call("curves", {runs: [...chosen.keys()]});
    names();
    const files = new Set();
    for (const name of chosen.keys()) for (const file of await api.call("pictures", {run: name})) files.add(file);
    const before = wanted.value;
    wanted.replaceChildren(...[...wanted.options].slice(0, 2), ...[...files].map((file) => el("option", {value: file}, file)));
    wanted.value = before;
    if (!wanted.value) wanted.value = ":codebook";
    await showBeside();
  }

  // The figures of the stage; first those that both splits have, as the loss.
  function names() {
    const key = stage.value.replace(" ", "");
    const splits = new Map();
    for (const own of Object.values(logs)) for (const [name, found] of Object.entries(own[key] || {})) {
      splits.set(name, Math.max(splits.get(name) || 0, Object.keys(found).length));
    }
    const found = [...splits.keys()].sort((one, other) => splits.get(other) - splits.get(one));
    const before = figure.value;
    figure.replaceChildren(...found.map((name) => el("option", {value: name}, name)));
    if (found.includes(before)) figure.value = before;
    draw();
  }

  function draw() {
    const key = stage.value.replace(" ", "");
    const lines = [];
    const legend = [];
    const without = [];
    for (const [name, colour] of chosen) {
      const splits = logs[name]?.[key]?.[figure.value];
      if (!splits) { without.push(name); continue; }
      for (const [split, points] of Object.entries(splits)) {
        lines.push({name, points, colour, dashed: split === "train" && Object.keys(splits).length > 1});
        legend.push(el("span", {}, el("span", {class: "swatch", style: {background: colour}}),
          ` ${name}, ${split}: ${Number(points[points.length - 1][1].toPrecision(4))} at the end`));
      }
    }
    curves.replaceChildren(
      lines.length ? el("div", {class: "panel"}, plot(lines, {x: "step", y: figure.value, logarithmic: logarithmic.checked, label: `curves of ${figure.value}`}),
        el("p", {class: "legend"}, ...legend), el("small", {}, "thin: training; thick: validation")) : "",
      without.length ? el("p", {class: "dim"}, `no log of ${stage.value}: ${without.join(", ")} (published runs come without)`) : "");
  }

  async function showBeside() {
    const what = wanted.value;
    const parts = [];
    beside.replaceChildren(el("p", {class: "dim"}, "reading ..."));
    for (const [name, colour] of [...chosen]) {
      const part = el("div", {class: "panel"}, el("h3", {class: "first"}, el("span", {class: "swatch", style: {background: colour}}), ` ${name}`));
      try {
        if (what === ":codebook") {
          const found = await api.call("codebook", {run: name});
          found.books.forEach((book, number) => part.append(
            el("p", {}, `${found.books.length > 1 ? `codebook ${number + 1}: ` : ""}${book.used} of ${book.num_codes} codes used, perplexity ${book.perplexity.toFixed(1)}`),
            bars(book.shares, colour)));
          part.append(el("small", {}, found.words));
        } else if (what === ":doctor") {
          const found = await api.call("doctor", {run: name});
          if (!found.findings.length) part.append(el("p", {}, "nothing found"));
          for (const own of found.findings) part.append(el("h3", {}, `${own.rule} (${own.stage})`), el("p", {}, own.evidence),
            el("p", {}, own.meaning), own.advice ? el("p", {}, el("strong", {}, "change: "), own.advice) : "",
            own.command ? el("p", {}, el("code", {}, own.command)) : "");
          part.append(el("small", {}, `looked at: ${found.looked_at.join(", ")}`));
        } else if ((await api.call("pictures", {run: name})).includes(what)) {
          part.append(el("img", {class: "smooth", src: await api.call("picture", {run: name, file: what}), alt: `${what} of ${name}`}));
        } else part.append(el("p", {class: "dim"}, `${what} is not there`));
      } catch (error) {
        part.append(el("p", {class: "dim"}, error.message));
      }
      if (what !== wanted.value || !chosen.has(name)) return;
      parts.push(part);
    }
    beside.replaceChildren(...parts);
  }

  stage.addEventListener("change", names);
  figure.addEventListener("change", draw);
  logarithmic.addEventListener("change", draw);
  wanted.addEventListener("change", () => doing(showBeside));
  list.append(el("p", {class: "dim"}, "reading ..."));
  await refresh();
}
