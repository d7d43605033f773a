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

select("metric")?.addEventListener("change", (event) => showMetric(event.target.value));
for (const id of ["overlay-case", "overlay-model", "overlay-channel"]) select(id)?.addEventListener("change", showOverlays);
if (select("metric")) showMetric(select("metric").value);
