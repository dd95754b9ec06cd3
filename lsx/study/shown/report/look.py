"""The report's style sheet and script; both go into the page."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --quiet: #5b6472; --ground: #ffffff; --panel: #f6f7f9;
  --line: #dfe3e8; --grid: #e6e9ee; --accent: #b4430f; --link: #1d5fa8; --row: #fff4ec }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #dde1e7; --quiet: #9aa3b0; --ground: #14171c;
  --panel: #1c2027; --line: #313742; --grid: #2a303a; --accent: #ff9a66; --link: #7db4f0; --row: #2b221c } }
* { box-sizing: border-box }
html { scroll-behavior: smooth; scroll-padding-top: 3.2rem }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; color: var(--ink); background: var(--ground) }
header, main { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem }
header { padding-top: 2rem } main { padding-bottom: 4rem }
h1 { font-size: 1.9rem; margin: 0 } h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere }
h2 { font-size: 1.3rem; margin: 0 0 .9rem } h3 { font-size: 1rem; margin: 1.4rem 0 .5rem }
a { color: var(--link) } code, pre { font-family: ui-monospace, monospace; font-size: .86em }
nav { position: sticky; top: 0; z-index: 5; background: var(--ground); border-bottom: 1px solid var(--line);
  margin-top: 1rem }
nav ul { display: flex; gap: 1.1rem; list-style: none; margin: 0 auto; padding: .6rem 1.25rem; max-width: 76rem;
  overflow-x: auto; white-space: nowrap; font-size: .9rem }
nav a { text-decoration: none } nav a:hover { text-decoration: underline }
section { padding: 1.6rem 0 .4rem; border-bottom: 1px solid var(--line) } section:last-child { border: 0 }
.question { max-width: 62rem } .answer { font-size: 1.1rem; max-width: 62rem }
.quiet { color: var(--quiet); font-size: .88rem; max-width: 62rem }
.left-out { color: var(--quiet); font-style: italic }
.notice { border-left: 3px solid var(--accent); padding: .35rem .8rem; background: var(--panel); max-width: 62rem }
.scroll { overflow-x: auto; max-width: 100% } .tall { max-height: 34rem; overflow-y: auto }
.several { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: .5rem 1.2rem }
.several.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)) }
.several > * { min-width: 0 }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .88rem; margin: 0 0 .6rem }
.legend i { display: inline-block; width: 1.4rem; height: 3px; vertical-align: middle; margin-right: .4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 0 0 1rem }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.35 }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line) }
th { white-space: nowrap; font-weight: 600; background: var(--ground) } .tall th { position: sticky; top: 0 }
td.number, .figures td + td, .figures th + th { font-variant-numeric: tabular-nums }
td.number { white-space: nowrap } td.name { min-width: 14rem }
tr.bold td { font-weight: 600 } tr.dim td { color: var(--quiet) } tr.chosen td { background: var(--row) }
td.fail { color: #d64545 } td.pruned { color: #b07c0c } td.running { color: #8b6fd1 }
th button { all: unset; cursor: pointer; padding: .1rem 0 } th button:focus-visible { outline: 2px solid var(--link) }
th button::after { content: "\\2195"; color: var(--line); margin-left: .3rem }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--accent) }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--accent) }
details { margin: .8rem 0 } summary { cursor: pointer }
pre { overflow: auto; max-height: 30rem; background: var(--panel); padding: .8rem; border-radius: 4px }
picture img { display: block; height: auto; margin: .4rem 0 }
@media (max-width: 40rem) { header, main { padding-left: .9rem; padding-right: .9rem } nav ul { padding: .5rem .9rem }
  h1 { font-size: 1.5rem } dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem } }
@media print { nav { display: none } body { font-size: 11pt } .tall, pre { max-height: none; overflow: visible }
  section { border: 0 } .scroll { overflow: visible } picture img { max-width: 100% } h2, h3 { break-after: avoid }
  .plot, tr, picture { break-inside: avoid } .several, .several.small { grid-template-columns: 1fr }
  .setting { display: none } table { font-size: 7pt } th button::after { content: "" } }
"""

SCRIPT = """
(() => {
  "use strict";
  const PRINTED = 680;  // CSS pixels of a page's width
  // plotly's own button to send a chart to its makers' server is there unless it is refused.
  const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};
  const plots = [...document.querySelectorAll("script[data-plot]")].map((script) =>
    ({place: document.getElementById(script.dataset.plot), figure: JSON.parse(script.textContent)}));

  function template(printing) {
    const style = getComputedStyle(document.documentElement);
    const color = (name, printed) => printing ? printed : style.getPropertyValue(name).trim();
    const ink = color("--ink", "#1f2937"), grid = color("--grid", "#e6e9ee");
    const axis = {gridcolor: grid, linecolor: grid, zerolinecolor: grid, zeroline: false, showgrid: true, ticks: ""};
    const clear = "rgba(0,0,0,0)", family = "system-ui, sans-serif";
    return {layout: {font: {color: ink, family, size: 12}, paper_bgcolor: clear, plot_bgcolor: clear,
      xaxis: axis, yaxis: axis, legend: {bgcolor: clear},
      modebar: {bgcolor: clear, color: color("--quiet", ink), activecolor: color("--link", ink)},
      hoverlabel: {align: "left", bgcolor: color("--panel", "#f6f7f9"), bordercolor: grid,
        font: {color: ink, family}}}};
  }

  function draw(printing) {
    const look = template(printing);
    for (const {place, figure} of plots) {
      const layout = {...figure.layout, template: look};
      if (printing) {
        layout.width = Math.max(PRINTED, parseInt(place.style.minWidth) || 0);
        layout.autosize = false;
      }
      place.style.zoom = printing ? PRINTED / layout.width : "";
      Plotly.react(place, figure.data, layout, config);
    }
  }

  function value(row, column) {
    const cell = row.cells[column], known = cell.dataset.value;
    return known === undefined ? cell.textContent.trim() : Number(known);
  }

  function compare(one, other) {
    const numbers = [one, other].map((each) => typeof each === "number");
    if (numbers[0] && numbers[1]) return one - other;
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
    return one.localeCompare(other, undefined, {numeric: true});
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const missing = (row) => row.cells[column].textContent.trim() === "\\u2013";
      const rows = [...body.rows].map((row) => ({row, missing: missing(row), value: value(row, column)}));
      rows.sort((one, other) => one.missing - other.missing || sign * compare(one.value, other.value));
      body.append(...rows.map((each) => each.row));
    }));
  }

  draw(false);
  document.querySelectorAll("table.sortable").forEach(sortable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(false));
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));
  document.documentElement.dataset.drawn = plots.length;
})();
"""
