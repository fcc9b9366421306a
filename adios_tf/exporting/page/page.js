"use strict";
const byId = (id) => document.getElementById(id);
let latest = 0;

function figure(caption, pictures) {
  const box = document.createElement("figure");
  for (const [source, text] of pictures) {
    const image = document.createElement("img");
    image.src = source;
    image.alt = text;
    image.className = "crisp";
    box.append(image);
  }
  const words = document.createElement("figcaption");
  words.textContent = caption;
  box.append(words);
  return box;
}

function say(text, bad = false) {
  byId("state").textContent = text;
  byId("state").className = bad ? "bad" : "";
}

function show(found) {
  const percent = (share) => `${Math.round(100 * share)} %`;
  byId("masks").hidden = !found.masks;
  byId("slots").replaceChildren(
    ...(found.masks || []).map((mask, n) =>
      figure(`mask ${n}: ${percent(found.coverage[n])} hidden`, [
        [mask, `mask ${n}`],
        [found.occluded[n], `the image without what mask ${n} hides`],
      ])),
    ...(found.segments ? [figure("which mask hides most", [[found.segments, "segments"]])] : []),
  );
  byId("near").hidden = !found.neighbors;
  byId("neighbors").replaceChildren(
    ...(found.neighbors || []).map((one) =>
      figure(`${one.title}, ${one.similarity.toFixed(3)}`, [[one.picture, one.title]])),
  );
}

async function look(file) {
  const mine = ++latest;
  URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(file);
  byId("preview").alt = file.name || "your image";
  byId("preview").hidden = false;
  say("looking ...");
  show({});
  const started = performance.now();
  let found, error;
  try {
    const answer = await fetch("look", { method: "POST", body: file });
    found = await answer.json();
    error = answer.ok ? "" : found.error;
  } catch (problem) {
    error = `the server does not answer (${problem.message})`;
  }
  if (mine !== latest) return;
  if (error) return say(error, true);
  show(found);
  say(`done in ${Math.round(performance.now() - started)} ms`);
}

byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) look(event.target.files[0]);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) look(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) look(event.clipboardData.files[0]);
});
