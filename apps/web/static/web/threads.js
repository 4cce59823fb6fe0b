// The list of conversations: find, rename, archive, delete. The list itself is drawn by the server.

import { fragment, show } from "./dom.js";
import { api } from "./journal.js";
import { ask } from "./page.js";

export class ThreadList {
  /** `current()` names the thread that is open, or null. */
  constructor(panel, { current }) {
    Object.assign(this, { panel, current });
    this.list = panel.querySelector(".thread-list");
    this.search = panel.querySelector("input[type=search]");
    this.search.addEventListener("input", () => this.#filter());
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("toggle", (event) => this.#closeOthers(event), true);
    document.addEventListener("click", (event) => event.target.closest(".thread-menu") || this.#closeMenus());
    panel.addEventListener("keydown", (event) => event.key === "Escape" && this.#closeMenus());
  }

  async refresh() {
    try {
      this.list.innerHTML = await fragment(`/threads/?current=${this.current() ?? ""}`);
      this.#filter();
    } catch {
      // The list stays as it was; the next change draws it again.
    }
  }

  #filter() {
    const wanted = this.search.value.trim().toLowerCase();
    let found = 0;
    for (const item of this.list.querySelectorAll(".thread")) {
      const matches = item.textContent.toLowerCase().includes(wanted);
      show(item, matches);
      found += matches;
    }
    for (const group of this.list.querySelectorAll("section")) {
      show(group, group.querySelector(".thread:not([hidden])") !== null);
    }
    const none = this.list.querySelector(".none-found");
    if (none) show(none, wanted !== "" && found === 0);
  }

  #closeMenus(except = null) {
    for (const menu of this.list.querySelectorAll(".thread-menu[open]")) if (menu !== except) menu.open = false;
  }

  #closeOthers(event) {
    if (event.target.open) this.#closeMenus(event.target);
  }

  async #clicked(event) {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (!action) return;
    const item = event.target.closest(".thread");
    const { thread } = item.dataset;
    const title = item.querySelector("a").textContent.trim();
    this.#closeMenus();
    if (action === "rename") return this.#rename(item, thread, title);
    if (action === "archive") return this.#change(thread, () => api(`/api/threads/${thread}/`, { method: "PATCH", body: { archived: true } }));
    const agreed = await ask({
      title: "Delete this conversation?",
      text: `“${title}” with all its answers is deleted for good. Datasets stay.`,
      action: "Delete",
    });
    return agreed && this.#change(thread, () => api(`/api/threads/${thread}/`, { method: "DELETE" }));
  }

  #rename(item, thread, title) {
    const link = item.querySelector("a");
    const input = Object.assign(document.createElement("input"), { value: title, maxLength: 200, type: "text" });
    input.setAttribute("aria-label", "New title");
    link.replaceWith(input);
    input.select();
    let done = false;
    const finish = async (keep) => {
      if (done) return;
      done = true;
      const wanted = input.value.trim();
      if (keep && wanted && wanted !== title) {
        await api(`/api/threads/${thread}/`, { method: "PATCH", body: { title: wanted } }).catch(() => {});
        if (thread === this.current()) document.title = `${wanted} · Netra`;
      }
      await this.refresh();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    input.addEventListener("blur", () => finish(true));
  }

  async #change(thread, change) {
    try {
      await change();
    } catch (error) {
      await ask({ title: "This did not work", text: error.message, action: "OK" });
      return;
    }
    if (thread === this.current()) location.assign("/");
    else await this.refresh();
  }
}
