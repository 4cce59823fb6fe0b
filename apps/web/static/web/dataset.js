// The page of a dataset, where a later file of it is sent from, and that of its bills.

import { Uploads } from "./uploads.js";

const picker = document.querySelector("#file");

if (picker) {
  const uploads = new Uploads(document.querySelector(".uploads"), {
    mostBytes: Number(picker.dataset.maxBytes),
    // What failed, or was here already, stays to be read.
    onSettled: (file) => file.state === "ready" && !file.known && location.reload(),
  });
  document.querySelector("#choose").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    for (const file of picker.files) uploads.add(file, { continues: picker.dataset.continues ?? "" });
    picker.value = "";
  });
}
