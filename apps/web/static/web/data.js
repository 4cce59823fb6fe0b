// The page of datasets: uploads and what is still being read.

import { fragment } from "./dom.js";
import { Journal } from "./journal.js";
import { tellTimes } from "./page.js";
import { Uploads, acceptDrops } from "./uploads.js";

const drop = document.querySelector(".drop");
const picker = document.querySelector("#file");
const list = document.querySelector("#datasets");

async function refresh() {
  try {
    list.innerHTML = await fragment("/data/list/");
    tellTimes(list);
  } catch {
    // The next change draws it.
  }
}

const uploads = new Uploads(document.querySelector(".uploads"), {
  mostBytes: Number(picker?.dataset.maxBytes ?? Infinity),
  onSettled: refresh,
  onCreated: refresh,
});
const written = (field) => document.querySelector(field).value.trim();
const accept = (files) =>
  files.forEach((file) =>
    uploads.add(file, {
      metadataOnly: document.querySelector("#metadata-only").checked,
      priceAs: written("#price-as"),
      columns: written("#columns"),
    }),
  );

if (drop) {
  picker.addEventListener("change", () => {
    accept([...picker.files]);
    picker.value = "";
  });
  document.querySelector("#choose").addEventListener("click", () => picker.click());
  acceptDrops(drop, accept);
  // Somebody may have been quicker than this script.
  if (picker.files.length) picker.dispatchEvent(new Event("change"));
  // A file that misses the field must not replace the page.
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
}

const seen = new Map();
new Journal({
  url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/`,
  onEvent: () => {},
  onFrame: (frame) => {
    if (frame.type !== "dataset_progress") return;
    uploads.update(frame);
    const bar = list.querySelector(`progress[data-dataset="${CSS.escape(frame.id)}"]`);
    if (bar) bar.value = frame.progress;
    if (seen.get(frame.id) !== frame.state) refresh();
    seen.set(frame.id, frame.state);
  },
});
// Frames are hints: while something is being read, the list is looked at from time to time too.
setInterval(() => list.querySelector("progress") && !document.hidden && refresh(), 5000);
