// Copyright 2026 The coca_hf authors. All rights reserved.
// SPDX-License-Identifier: Apache-2.0
// The page: pictures in, words out. `coca.js` is the model.

import { CoCa } from "./coca.js";

const element = (id) => document.getElementById(id);
const status = element("status");
let model = null;
let picture = null; // what the model sees of the chosen file
let waiting = null; // a file that was chosen while the model was loading
let run = 0; // counts up, so that what an earlier picture still computes is not shown

function say(text, isWrong = false) {
  status.textContent = text;
  status.classList.toggle("wrong", isWrong);
}

async function show(file) {
  if (!file) return;
  const number = ++run;
  picture = null;
  element("caption").textContent = "";
  element("scores").replaceChildren();
  const image = element("picture");
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  image.alt = file.name;
  element("hint").hidden = true;
  if (!model) {
    waiting = file;
    return;
  }
  try {
    const started = performance.now();
    say("Looking …");
    const seen = await model.look(file);
    if (number !== run) return;
    picture = seen;
    if (model.captions) {
      const caption = await model.caption(seen, (text) => {
        if (number === run) element("caption").textContent = text;
      });
      if (number !== run) return;
      element("caption").textContent = caption;
      image.alt = caption;
    }
    say(`${((performance.now() - started) / 1000).toFixed(1)} seconds in this page.`);
    if (element("labels").value.trim()) await compare();
  } catch (error) {
    if (number !== run) return;
    image.hidden = true;
    element("hint").hidden = false;
    say(`${file.name} cannot be read as a picture: ${error.message}`, true);
  }
}

async function compare() {
  const labels = [...new Set(element("labels").value.split(",").map((label) => label.trim()).filter(Boolean))];
  if (!picture) return say("Choose a picture first.");
  if (labels.length < 2) return say("Give two labels or more, separated by commas.");
  const number = run;
  const scores = await model.compare(picture, labels);
  if (number !== run) return;
  const rows = labels.map((label, index) => [label, scores[index]]).sort((a, b) => b[1] - a[1]);
  element("scores").replaceChildren(
    ...rows.map(([label, score]) => {
      const row = document.createElement("li");
      const bar = document.createElement("progress");
      bar.value = score;
      const words = [label, `${(100 * score).toFixed(1)} %`].map((text) =>
        Object.assign(document.createElement("span"), { textContent: text }),
      );
      row.append(...words, bar);
      return row;
    }),
  );
}

function offer(names) {
  element("examples").hidden = !names.length;
  for (const name of names) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const image = Object.assign(document.createElement("img"), { src: name, alt: `Try ${name.split("/").pop()}` });
    button.append(image);
    button.addEventListener("click", async () => {
      const content = await (await fetch(name)).blob();
      show(new File([content], name.split("/").pop(), { type: content.type }));
    });
    element("examples").append(button);
  }
}

element("file").addEventListener("change", (event) => show(event.target.files[0]));
element("classify").addEventListener("submit", (event) => {
  event.preventDefault();
  compare().catch((error) => say(error.message, true));
});
document.addEventListener("paste", (event) => show(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") show(event.dataTransfer.files[0]);
  });
}

try {
  model = await CoCa.load(new URL("./", import.meta.url), say);
  element("caption").hidden = !model.captions;
  element("about").textContent = model.settings.about;
  offer(model.settings.examples ?? []);
  say("Ready.");
  show(waiting);
} catch (error) {
  say(`The model cannot be loaded: ${error.message}`, true);
}
// For tests and the console.
globalThis.coca = model;
