"""A page as one file: style, script and media inside, and a policy that forbids the browser every request."""

from typing import Any

from pipelines.reporting.html import Html, join, tag

POLICY = ("default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
          "base-uri 'none'; form-action 'none'")
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #5d6873; --line: #dde2e7; --panel: #f5f7f9;
  --s0: #2563a8; --s1: #c2410c; --s2: #15803d; --s3: #7e3fa8; --s4: #a16207; --s5: #0e7490;
  --s6: #be185d; --s7: #57534e }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e3e7eb; --soft: #99a4af; --line: #313a43;
  --panel: #1c2228; --s0: #6cabf0; --s1: #f59058; --s2: #5cc983; --s3: #c595ea; --s4: #dcb44c; --s5: #4fc3d9;
  --s6: #f07bb2; --s7: #b6b0aa } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
p { margin: .5rem 0; max-width: 46rem }
.soft, figcaption, dt { color: var(--soft) } .soft, figcaption { font-size: .875em }
a { color: var(--s0) }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0;
  margin: .8rem 0; font-size: .9rem }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .6rem 1.5rem; margin: 1rem 0 }
dt { font-size: .8rem } dd { margin: 0; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto; margin: .8rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { vertical-align: bottom } th.number { text-align: right } td.number { text-align: right; white-space: nowrap }
th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid var(--s0) }
th[aria-sort=ascending] button::after { content: " \\25B2" }
th[aria-sort=descending] button::after { content: " \\25BC" }
.items { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0 }
figure { margin: 0; max-width: 100% } .chart { margin: .8rem 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1rem }
.charts .chart { max-width: 34rem }
img { display: block; max-width: 100%; height: auto; cursor: zoom-in } img.pixels { image-rendering: pixelated }
audio { display: block; width: 15rem; max-width: 100%; height: 2rem; margin-top: .2rem }
.side { display: flex; flex-wrap: wrap; gap: .15rem } .side figure { width: min-content }
.side img { max-width: calc(100vw - 2rem) }
.codes { display: flex; flex-wrap: wrap; gap: 2px }
.large { position: fixed; inset: 0; z-index: 1; background: rgb(0 0 0 / .85); display: grid; place-items: center;
  cursor: zoom-out; padding: 1rem }
.large img { max-width: 96vw; max-height: 94vh; object-fit: contain; cursor: zoom-out; background: #fff }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif } svg text { fill: var(--soft) }
svg .grid { stroke: var(--line); stroke-width: 1 } svg .line { fill: none; stroke-width: 2; stroke-linejoin: round }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem }
.key i { display: inline-block; width: 1.1em; height: .3em; border-radius: .15em; margin-right: .4em;
  vertical-align: middle }
pre { background: var(--panel); padding: .7rem .9rem; overflow-x: auto; font-size: .85rem; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere }
.finding { border-left: 3px solid var(--s1); padding-left: .9rem; margin: 1rem 0 } .out { font-style: italic }
summary { cursor: pointer }
@media print { :root { color-scheme: light; font-size: 13px } body { max-width: none; padding: 0 }
  nav, audio { display: none }
  h2, h3 { break-after: avoid } figure, tr, .finding, .charts .chart { break-inside: avoid }
  .scroll { overflow: visible }
  img { print-color-adjust: exact } th button::after { display: none } }
@media print and (prefers-color-scheme: dark) { :root { --paper: #fff; --ink: #1c2126; --soft: #5d6873; --line: #dde2e7;
  --panel: #f5f7f9; --s0: #2563a8; --s1: #c2410c; --s2: #15803d; --s3: #7e3fa8; --s4: #a16207; --s5: #0e7490;
  --s6: #be185d; --s7: #57534e } }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0]
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim()
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending"
    heads.forEach(other => other.setAttribute("aria-sort", "none"))
    head.setAttribute("aria-sort", down ? "descending" : "ascending")
    const order = (a, b) => {
      const [left, right] = [key(a, column), key(b, column)]
      if (left === "" || right === "") return (left === "") - (right === "")
      const both = isNaN(left) || isNaN(right) ? left.localeCompare(right, "en", {numeric: true}) : left - right
      return down ? -both : both
    }
    body.append(...[...body.rows].sort(order))
  }))
}
document.addEventListener("click", event => {
  const open = document.querySelector(".large")
  if (open) return open.remove()
  if (event.target.tagName !== "IMG") return
  const large = document.createElement("div"), copy = event.target.cloneNode()
  copy.removeAttribute("width")
  large.className = "large"
  large.append(copy)
  document.body.append(large)
  const factor = Math.min(.96 * innerWidth / copy.naturalWidth, .94 * innerHeight / copy.naturalHeight)
  const whole = factor > 1 && copy.className === "pixels" ? Math.floor(factor) : Math.min(factor, 4)
  copy.style.width = `${copy.naturalWidth * whole}px`
})
document.addEventListener("keydown", event => event.key === "Escape" && document.querySelector(".large")?.remove())
"""


def page(title: str, head: Any, sections: list[tuple[str, Any]]) -> bytes:
    """The file: a title, what stands below it, and sections by their titles, to which links lead."""
    parts = [tag("section", tag("h2", name), body, id=anchor(name)) for name, body in sections]
    links = tag("nav", tag("ul", [tag("li", tag("a", name, href=f"#{anchor(name)}")) for name, _ in sections]),
                aria_label="sections")
    return join(
        Html("<!DOCTYPE html>\n"),
        tag("html", tag("head",
                        tag("meta", charset="utf-8"),
                        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
                        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                        tag("link", rel="icon", href="data:,"), tag("title", title), tag("style", Html(STYLE))),
            tag("body", tag("h1", title), head, links if len(parts) > 2 else None, parts, tag("script", Html(SCRIPT))),
            lang="en"),
        Html("\n"),
    ).encode("utf-8", "backslashreplace")  # names of files may be bytes of no encoding


def anchor(title: str) -> str:
    return "-".join(title.lower().split())
