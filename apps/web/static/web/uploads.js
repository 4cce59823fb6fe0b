// Sending a usage log: one request with progress, then the import's own progress until it is ready.

import { bytes, h, icon, plural, say, show } from "./dom.js";
import { Refused, api } from "./journal.js";

const LOOK_EVERY = 2000; // milliseconds, where no frame brings the news
export const SETTLED = new Set(["ready", "failed"]);

/** POST a file; `onProgress(share)` runs from 0 to 1. `abort` of the result gives up. */
export function send(file, { metadataOnly, priceAs = "", mapping = null, continues = "", onProgress }) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    const form = new FormData();
    // The switch goes first, so that the server knows it before the first byte of the file.
    form.append("metadata_only", metadataOnly ? "true" : "false");
    form.append("price_as", priceAs);
    if (continues) form.append("continues", continues);
    if (mapping) form.append("mapping", JSON.stringify(mapping));
    form.append("file", file, file.name);
    request.open("POST", "/api/datasets/");
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-CSRFToken", document.querySelector('meta[name="csrf-token"]').content);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // Said by the status below.
      }
      // 200 at once means that the same file was imported before.
      if (request.status < 300) resolve({ ...body, known: request.status === 200 });
      else reject(new Refused(body ?? { detail: uploadRefusal(request.status) }));
    };
    request.onerror = () => reject(new Refused({ code: "network.down", detail: "The upload was interrupted. Check your connection and try again." }));
    request.onabort = () => reject(new Refused({ code: "upload.stopped", detail: "Stopped." }));
    request.send(form);
  });
  return { done, abort: () => request.abort() };
}

/**
 * What a person wrote about columns, as field -> column: "input_tokens=prompt_len, user=" -> {input_tokens:
 * "prompt_len", user: null}, where null says that no column is to be used. null when nothing is written; throws
 * Refused for what is no such list.
 */
export function readMapping(text) {
  const parts = text.split(/[,;\n]/).map((part) => part.trim()).filter(Boolean);
  if (!parts.length) return null;
  return Object.fromEntries(
    parts.map((part) => {
      const [field, ...column] = part.split("=").map((word) => word.trim());
      if (!field || !column.length) throw new Refused({ code: "mapping.invalid", detail: `“${part}” names no column. Write field=column, for example input_tokens=prompt_len.` });
      return [field, column.join("=") || null];
    }),
  );
}

const uploadRefusal = (status) =>
  status === 413 ? "The file is larger than this Netra accepts." : `The upload was refused (${status}).`;

/** Cards of running uploads and imports in `container`; `onSettled(dataset)` when one is ready or has failed. */
export class Uploads {
  constructor(container, { mostBytes = Infinity, onSettled = () => {}, onCreated = () => {} } = {}) {
    Object.assign(this, { container, mostBytes, onSettled, onCreated });
    this.cards = new Map(); // dataset id -> card
  }

  /** Whether something is still on its way. */
  get busy() {
    return this.container.querySelector(".upload:not(.failed, .done)") !== null;
  }

  async add(file, { metadataOnly = false, priceAs = "", columns = "", continues = "" }) {
    const card = this.#card(file.name);
    card.close.onclick = () => card.node.remove();
    if (file.size === 0) return this.#fail(card, "The file is empty. Export it again and look that it has rows.");
    // The server refuses it too, but by then a browser may see only a broken connection.
    if (file.size > this.mostBytes) {
      return this.#fail(card, `The file has ${bytes(file.size)}; this Netra accepts up to ${bytes(this.mostBytes)}. Export a shorter time, or compress it.`);
    }
    let mapping;
    try {
      mapping = readMapping(columns);
    } catch (error) {
      return this.#fail(card, error.message);
    }
    const sending = send(file, {
      metadataOnly,
      priceAs,
      mapping,
      continues,
      onProgress: (share) => {
        card.bar.value = share * 100;
        say(card.state, share < 1 ? `Sending, ${bytes(Math.round(file.size * share))} of ${bytes(file.size)}` : "Sent, reading it…");
      },
    });
    card.close.onclick = () => sending.abort();
    say(card.state, `Sending ${bytes(file.size)}`);
    try {
      const dataset = await sending.done;
      card.close.onclick = () => card.node.remove();
      this.cards.set(dataset.id, card);
      this.onCreated(dataset);
      this.update(dataset);
      this.#watch(dataset.id);
    } catch (error) {
      if (error.code === "upload.stopped") card.node.remove();
      else this.#fail(card, error.message, () => this.add(file, { metadataOnly, priceAs, columns, continues }));
    }
    return undefined;
  }

  /** What is new about a dataset: a `dataset_progress` frame or the answer of the REST door, which are the same. */
  update(dataset) {
    const card = this.cards.get(dataset.id);
    if (!card || card.settled) return;
    if (dataset.state === "failed") {
      card.settled = true;
      this.#fail(card, dataset.error?.detail ?? "The file could not be read.");
      this.onSettled(dataset);
    } else if (dataset.state === "ready") {
      card.settled = true;
      card.node.classList.add("done");
      show(card.bar, false);
      const rejected = dataset.rejected_rows ? `, ${plural(dataset.rejected_rows, "row")} rejected` : "";
      const before = dataset.known_rows ? `, ${plural(dataset.known_rows, "row")} known already` : "";
      const ready = dataset.known ? `It is here already, as “${dataset.name}”` : "Ready";
      say(card.state, `${ready}: ${plural(dataset.rows ?? 0, "call")}${rejected}${before}`);
      this.onSettled(dataset);
    } else {
      if (dataset.progress > 0) card.bar.value = dataset.progress;
      else card.bar.removeAttribute("value");
      say(card.state, dataset.rows ? `Reading, ${plural(dataset.rows, "call")} so far` : "Reading…");
    }
  }

  /** Frames are hints; looking from time to time settles what a lost one left open. */
  async #watch(id) {
    const card = this.cards.get(id);
    while (card && !card.settled && card.node.isConnected) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
      try {
        this.update(await api(`/api/datasets/${id}/`));
      } catch (error) {
        if (error.code === "dataset.not_found" || error.code === "object.not_found") return card.node.remove();
      }
    }
    return undefined;
  }

  #card(name) {
    const card = {
      state: h("span", { class: "state" }),
      bar: h("progress", { max: 100, value: 0, "aria-label": `Progress of ${name}` }),
      close: h("button", { class: "icon-button", type: "button", "aria-label": `Remove ${name} from this list` }, icon("cross")),
      settled: false,
    };
    card.node = h("div", { class: "upload" }, icon("file"), h("div", { class: "grow" }, h("div", { class: "name" }, name), card.state), card.close, card.bar);
    this.container.append(card.node);
    return card;
  }

  #fail(card, detail, retry) {
    card.node.classList.add("failed");
    show(card.bar, false);
    say(card.state, "Not imported");
    card.close.onclick = () => card.node.remove();
    card.node.append(h("p", { class: "why", role: "alert" }, detail));
    if (retry) {
      const again = h("button", { class: "button small", type: "button" }, "Try again");
      again.onclick = () => {
        card.node.remove();
        retry();
      };
      card.node.append(h("div", {}), again);
    }
  }
}

/** Let files be dropped on `target`. */
export function acceptDrops(target, onFiles) {
  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer?.types?.includes("Files");
  target.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    target.classList.add("over");
  });
  target.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) target.classList.remove("over");
  });
  target.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  target.addEventListener("drop", (event) => {
    depth = 0;
    target.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    onFiles([...event.dataTransfer.files]);
  });
}
