"use strict";

const select = (id) => document.getElementById(id);

function showMetric(metric) {
  for (const part of document.querySelectorAll("[data-metric]")) part.hidden = part.dataset.metric !== metric;
}

function showOverlays() {
  const chosen = [select("overlay-case").value, select("overlay-model").value];
  for (const part of document.querySelectorAll(".overlays")) {
    part.hidden = part.dataset.case !== chosen[0] || part.dataset.model !== chosen[1];
  }
  const channel = select("overlay-channel").value;
  for (const use of document.querySelectorAll("use.picture")) {
    const present = use.dataset.present.trim().split(" ").includes(channel);
    use.setAttribute("href", "#" + use.dataset.picture + (present ? channel : use.dataset.first));
  }
}

function choose(element, value) {
  element.value = value;
  for (const kind of ["input", "change"]) element.dispatchEvent(new Event(kind, { bubbles: true }));
}

// --- what is chosen, in the address ---

const chosen = (element) => element.selectedOptions[0]?.dataset.name ?? element.value;
const remembered = () => [...document.querySelectorAll("select[data-state]")];

function writeState() {
  const state = new URLSearchParams(remembered().map((element) => [element.dataset.state, chosen(element)]));
  history.replaceState(null, "", "#" + state);
}

function readState() {
  if (!location.hash.includes("=")) return;
  const state = new URLSearchParams(location.hash.slice(1));
  for (const element of remembered()) {
    const name = state.get(element.dataset.state);
    const option = [...element.options].find((each) => (each.dataset.name ?? each.value) === name);
    if (option) choose(element, option.value);
  }
}

// --- tables: order of the rows, search, links to overlays ---

function sortBy(head) {
  const body = head.closest("table").tBodies[0];
  const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of head.closest("thead").querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const value = (row) => Number.parseFloat(row.querySelectorAll("td.sortable")[head.dataset.column].textContent);
  const sign = order === "descending" ? -1 : 1;
  const rows = [...body.rows].map((row) => [row, value(row)]);
  rows.sort(([, a], [, b]) => (Number.isNaN(a) - Number.isNaN(b)) || sign * (a - b) || 0);
  body.append(...rows.map(([row]) => row));
}

for (const head of document.querySelectorAll("th[data-column]")) {
  head.tabIndex = 0;
  head.title = "sort the rows";
  head.addEventListener("click", () => sortBy(head));
  head.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(head));
}

select("case-search")?.addEventListener("input", (event) => {
  const text = event.target.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("table.caselist tbody tr")) {
    row.hidden = !row.dataset.name.toLowerCase().includes(text);
  }
});

for (const link of document.querySelectorAll("a[data-overlay]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    choose(select("overlay-case"), link.dataset.overlay);
    select("overlays").scrollIntoView();
  });
}

// --- downloads ---

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const nameOf = (text) => text.split(/[.:,;]/)[0].replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60);

function svgOf(svg) {
  const copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.style.color = "#000000";
  return new XMLSerializer().serializeToString(copy);
}

function csvOf(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const line = (row) => [...row.cells].flatMap((cell) => [cell.textContent.trim(), ...Array(cell.colSpan - 1).fill("")]);
  return [...table.rows].map((row) => line(row).map(quoted).join(",")).join("\n") + "\n";
}

function addButton(place, text, action) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, className: "download" });
  button.addEventListener("click", action);
  place.append(button);
}

for (const svg of document.querySelectorAll("figure.scroll > svg")) {
  const name = nameOf(svg.getAttribute("aria-label"));
  addButton(svg.parentElement, "SVG", () => save(name + ".svg", "image/svg+xml", svgOf(svg)));
}
for (const table of document.querySelectorAll(".scroll > table")) {
  const name = nameOf(table.parentElement.getAttribute("aria-label"));
  addButton(table.parentElement, "CSV", () => save(name + ".csv", "text/csv", csvOf(table)));
}

// --- light and dark ---

const THEMES = ["auto", "light", "dark"];

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  select("theme").textContent = "theme: " + theme;
}

select("theme")?.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  showTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

select("metric")?.addEventListener("change", (event) => showMetric(event.target.value));
for (const id of ["overlay-case", "overlay-model", "overlay-channel"]) select(id)?.addEventListener("change", showOverlays);
if (select("metric")) showMetric(select("metric").value);
readState();
for (const element of remembered()) element.addEventListener("change", writeState);
