"use strict";

(async () => {
  const element = (id) => document.getElementById("viewer-" + id);
  const data = JSON.parse(element("data").textContent);
  const status = (text) => (element("status").textContent = text);
  const labels = [{ label: 0, rgb: [0, 0, 0] }, ...data.labels];
  const colours = {
    I: labels.map((entry) => entry.label),
    R: labels.map((entry) => entry.rgb[0]),
    G: labels.map((entry) => entry.rgb[1]),
    B: labels.map((entry) => entry.rgb[2]),
    A: labels.map((entry) => (entry.label ? 255 : 0)),
    labels: labels.map(() => ""),
  };
  const cache = new Map();

  async function volume(key, base64, isMask) {
    if (!cache.has(key)) {
      const image = await niivue.NVImage.loadFromBase64({ base64, name: key + ".nii.gz", colormap: "gray" });
      if (isMask) image.setColormapLabel(structuredClone(colours));
      cache.set(key, image);
    }
    return cache.get(key);
  }

  function chosenMask() {
    const [model, subset] = [element("model").value, element("subset").value];
    return data.masks.findIndex((mask) => mask.model === model && mask.subset === subset);
  }

  async function show() {
    const image = Number(element("image").value);
    const mask = chosenMask();
    const layers = [await volume("image" + image, data.images[image].data, false)];
    if (mask >= 0) layers.push(await volume("mask" + mask, data.masks[mask].data, true));
    layers.push(await volume("truth", data.truth, true));
    for (const shown of [...viewer.volumes]) if (!layers.includes(shown)) viewer.removeVolume(shown);
    layers.forEach((layer, place) => {
      if (!viewer.volumes.includes(layer)) viewer.addVolume(layer);
      viewer.setVolume(layer, place);
    });
    const opacity = element("prediction").checked ? Number(element("opacity").value) : 0;
    if (mask >= 0) viewer.setOpacity(1, opacity);
    viewer.setOpacity(layers.length - 1, element("truth").checked ? 1 : 0);
    viewer.setSliceType(Number(element("view").value));
    if (!canvas.dataset.shown) {
      viewer.scene.crosshairPos = viewer.mm2frac(data.centre);
      viewer.drawScene();
    }
    status(mask >= 0 ? "" : "This subset has no prediction for this case.");
    canvas.dataset.shown = JSON.stringify(viewer.volumes.map((layer) => layer.name));
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
  for (const id of ["image", "model", "subset", "view", "truth", "prediction", "opacity"]) element(id).addEventListener("input", queue);
  queue();
})();
