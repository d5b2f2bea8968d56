// Curves over each other as SVG: lines = [{name, points: [[x, y], ...], dashed}].

const SPACE = "http://www.w3.org/2000/svg";
export const COLOURS = ["#1f77b4", "#e8590c", "#2b8a3e", "#9c36b5", "#c92a2a", "#0c8599", "#846358", "#e64980", "#66a80f", "#5f3dc4", "#868e96", "#e6a700"];

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((own) => own * power).find((own) => own >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

const words = (value) => Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
  ? value.toExponential(1) : String(Number(value.toPrecision(4)));

export function plot(lines, {x, y, logarithmic = false, label}) {
  const [width, height, left, bottom, top, right] = [760, 340, 62, 40, 12, 26];
  const level = (value) => logarithmic ? Math.log10(value) : value;
  lines = lines.map((line) => ({...line, points: line.points.filter(([, value]) => !logarithmic || value > 0)}));
  const all = lines.flatMap((line) => line.points);
  const made = svg("svg", {viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": label || y});
  if (!all.length) {
    made.append(svg("text", {x: width / 2, y: height / 2, "text-anchor": "middle"}, "nothing to draw"));
    return made;
  }
  // the first steps of a training would flatten the rest of the curve
  const last = Math.max(...all.map(([step]) => step));
  const settled = all.filter(([step]) => step > 0.05 * last).map(([, value]) => level(value));
  const shown = settled.length ? settled : all.map(([, value]) => level(value));
  let [low, high] = [Math.min(...shown), Math.max(...shown)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  [low, high] = [low - 0.04 * (high - low), high + 0.04 * (high - low)];
  const first = Math.min(...all.map(([step]) => step));
  const toX = (value) => left + (value - first) / (last - first || 1) * (width - left - right);
  const toY = (value) => height - bottom - (level(value) - low) / (high - low) * (height - bottom - top);
  for (const value of ticks(low, high, 5)) {
    const at = height - bottom - (value - low) / (high - low) * (height - bottom - top);
    made.append(svg("line", {x1: left, x2: width - right, y1: at, y2: at, class: "rule"}),
                svg("text", {x: left - 6, y: at + 4, "text-anchor": "end"}, words(logarithmic ? 10 ** value : value)));
  }
  for (const value of ticks(first, last, 6)) {
    made.append(svg("text", {x: toX(value), y: height - bottom + 17, "text-anchor": "middle"}, words(value)));
  }
  made.append(svg("text", {x: (left + width) / 2, y: height - 4, "text-anchor": "middle"}, x),
              svg("text", {x: 13, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${height / 2})`}, y));
  const id = `clip${Math.floor(performance.now())}${lines.length}`;
  made.append(svg("clipPath", {id}, svg("rect", {x: left, y: top - 4, width: width - left - right, height: height - top - bottom + 4})));
  for (const line of lines) {
    if (!line.points.length) continue;
    const path = line.points.map(([step, value], place) => `${place ? "L" : "M"}${toX(step).toFixed(1)} ${toY(value).toFixed(1)}`).join("");
    made.append(svg("path", {d: path, fill: "none", stroke: line.colour, "stroke-width": line.dashed ? 1 : 2,
      opacity: line.dashed ? 0.55 : 1, "clip-path": `url(#${id})`}));
    if (line.points.length === 1) made.append(svg("circle", {cx: toX(line.points[0][0]), cy: toY(line.points[0][1]), r: 3, fill: line.colour}));
  }
  return made;
}

// Shares in descending order as bars, on a logarithmic axis.
export function bars(shares, colour) {
  const [width, height] = [360, 130];
  const made = svg("svg", {viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": "share of each code, in descending order"});
  const least = Math.log10(Math.min(...shares.filter((own) => own > 0), 1));
  const most = Math.log10(Math.max(...shares, 1e-12));
  shares.forEach((share, place) => {
    if (share <= 0) return;
    const high = 4 + (Math.log10(share) - least) / (most - least || 1) * (height - 8);
    made.append(svg("rect", {x: place * width / shares.length, y: height - high, width: width / shares.length + 0.2, height: high, fill: colour}));
  });
  return made;
}
