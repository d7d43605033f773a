"use strict";

(async () => {
  const element = (id) => document.getElementById("viewer-" + id);
  const data = JSON.parse(element("data").textContent);
  const status = (text) => (element("status").textContent = text);
  const labels = [{ label: 0, rgb: [0, 0, 0] }, ...data.labels];
  const colormap = (rgbOf) => ({
    I: labels.map((entry) => entry.label),
    R: labels.map((entry) => rgbOf(entry)[0]),
    G: labels.map((entry) => rgbOf(entry)[1]),
    B: labels.map((entry) => rgbOf(entry)[2]),
    A: labels.map((entry) => (entry.label ? 255 : 0)),
    labels: labels.map(() => ""),
  });
  const colours = { mask: colormap((entry) => entry.rgb), truth: colormap((entry) => (entry.label ? [255, 255, 255] : [0, 0, 0])) };
  const cache = new Map();
  const current = () => data.cases[Number(element("case").value)];
  let shownCase = null;

  async function volume(kind, number, base64) {
    const key = "case" + element("case").value + "-" + kind + number;
    if (!cache.has(key)) {
      const image = await niivue.NVImage.loadFromBase64({ base64, name: key + ".nii.gz", colormap: "gray" });
      if (kind in colours) image.setColormapLabel(structuredClone(colours[kind]));
      else [image.cal_min, image.cal_max] = [0, 255];
      cache.set(key, image);
    }
    return cache.get(key);
  }

  const maskOf = (model, subset) => current().masks.findIndex((mask) => mask.model === model && mask.subset === subset);

  // A case has the images and the subsets of its own modalities alone: the others cannot be chosen.
  function adapt() {
    const images = current().images.map((image) => image.name);
    for (const option of element("image").options) option.disabled = !images.includes(data.modalities[option.value]);
    for (const option of element("subset").options) {
      option.disabled = !current().masks.some((mask) => mask.subset === option.value);
    }
    const image = element("image").selectedOptions[0];
    if (!image || image.disabled) element("image").value = data.modalities.indexOf(images[0]);
    const subset = element("subset").selectedOptions[0];
    if ((!subset || subset.disabled) && current().start.subset) element("subset").value = current().start.subset;
    element("note").textContent = current().note;
  }

  function showModalities() {
    const present = data.subsets[element("subset").value] || [];
    for (const box of boxes()) box.checked = present.includes(data.modalities[box.value]);
  }

  const boxes = () => [...element("modalities").querySelectorAll("input")];

  function chooseModalities() {
    const chosen = boxes().filter((box) => box.checked).map((box) => data.modalities[box.value]);
    const fits = ([, members]) => members.length === chosen.length && members.every((name) => chosen.includes(name));
    const found = Object.entries(data.subsets).find(fits);
    const option = [...element("subset").options].find((each) => found && each.value === found[0] && !each.disabled);
    if (!option) {
      showModalities();
      return status("No prediction of this case from these modalities.");
    }
    choose("subset", option.value);
  }

  function choose(id, value) {
    element(id).value = value;
    for (const kind of ["input", "change"]) element(id).dispatchEvent(new Event(kind, { bubbles: true }));
  }

  async function show() {
    adapt();
    showModalities();
    const names = current().images.map((image) => image.name);
    const image = names.indexOf(data.modalities[element("image").value]);
    const mask = maskOf(element("model").value, element("subset").value);
    const layers = [await volume("image", image, current().images[image].data)];
    if (mask >= 0) layers.push(await volume("mask", mask, current().masks[mask].data));
    layers.push(await volume("truth", "", current().truth));
    for (const shown of [...viewer.volumes]) if (!layers.includes(shown)) viewer.removeVolume(shown);
    layers.forEach((layer, place) => {
      if (!viewer.volumes.includes(layer)) viewer.addVolume(layer);
      viewer.setVolume(layer, place);
    });
    const opacity = element("prediction").checked ? Number(element("opacity").value) : 0;
    if (mask >= 0) viewer.setOpacity(1, opacity);
    viewer.setOpacity(layers.length - 1, element("truth").checked ? 1 : 0);
    viewer.setSliceType(Number(element("view").value));
    if (shownCase !== current()) {
      viewer.scene.crosshairPos = viewer.mm2frac(current().centre);
      viewer.drawScene();
      shownCase = current();
    }
    status(mask >= 0 ? "" : "This subset has no prediction for this case.");
    canvas.dataset.shown = JSON.stringify(viewer.volumes.map((layer) => layer.name));
  }

  function step(direction) {
    const possible = [...element("subset").options].filter((option) => !option.disabled).map((option) => option.value);
    const place = possible.indexOf(element("subset").value) + direction;
    if (possible[place]) choose("subset", possible[place]);
  }

  function slice(direction) {
    const axis = { 1: [0, direction, 0], 2: [direction, 0, 0] }[element("view").value] || [0, 0, direction];
    viewer.moveCrosshairInVox(...axis);
  }

  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    ArrowUp: () => slice(1),
    ArrowDown: () => slice(-1),
    "+": () => choose("opacity", Number(element("opacity").value) + 0.1),
    "-": () => choose("opacity", Number(element("opacity").value) - 0.1),
    f: () => fullScreen(),
  };

  function fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else element("stage").requestFullscreen();
  }

  if (!document.createElement("canvas").getContext("webgl2")) {
    status("This browser has no WebGL 2, which the viewer needs.");
    return;
  }
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 1, 1, 0.5],
    crosshairWidth: 0.3,
    crosshairWidthUnit: "percent",
    dragAndDropEnabled: false,
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    logLevel: "error",
  });
  const canvas = document.getElementById("niivue");
  canvas.niivue = viewer;
  await viewer.attachToCanvas(canvas);
  let last = Promise.resolve();
  const queue = () => (last = last.then(show).catch((error) => status("The viewer failed: " + error.message)));
  for (const id of ["case", "image", "model", "subset", "view", "truth", "prediction", "opacity"]) element(id).addEventListener("input", queue);
  element("subset").addEventListener("input", showModalities);
  element("modalities").addEventListener("change", chooseModalities);
  element("full").addEventListener("click", fullScreen);
  canvas.addEventListener("keydown", (event) => {
    const key = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    key();
  }, { capture: true });
  queue();
})();
