// The few things that building a page by hand needs.

const ICONS = new URL("./icons.svg", import.meta.url).pathname;

/** An element: `h("p", {class: "muted", onclick: f, "data-x": 1}, "text", child)`; null and false children are left out. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("width", "20");
  svg.setAttribute("height", "20");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/** Write a text only where it differs, so that a selection survives. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Make the children of `parent` those of `items`, reusing the node of the same key. */
export function keyed(parent, items, keyOf, create, update) {
  const left = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, place) => {
    const key = String(keyOf(item));
    let node = left.get(key);
    if (node) left.delete(key);
    else {
      node = create(item);
      node.dataset.key = key;
    }
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    update(node, item);
  });
  for (const node of left.values()) node.remove();
}

export const spelled = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Names and values, for a `dl`. */
export const pairs = (values) => Object.entries(values).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, spelled(value))]);

/** HTML of our own server, which has sanitized it. */
export async function fragment(path) {
  const response = await fetch(path, { credentials: "same-origin", headers: { "X-Fragment": "1" } });
  if (!response.ok || response.redirected) throw new Error(`${path} answered ${response.status}`);
  return response.text();
}

export function seconds(amount) {
  if (amount === null || amount === undefined) return "";
  if (amount < 0.1) return "under 0.1 s";
  if (amount < 10) return `${amount.toFixed(1)} s`;
  if (amount < 60) return `${Math.round(amount)} s`;
  const minutes = Math.floor(amount / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(amount % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A running clock, in whole seconds. */
export function clock(milliseconds) {
  const whole = Math.max(0, Math.floor(milliseconds / 1000));
  return whole < 60 ? `${whole} s` : seconds(whole);
}

export function bytes(amount) {
  if (amount < 1024) return `${amount} B`;
  const units = ["KiB", "MiB", "GiB"];
  let unit = -1;
  do {
    amount /= 1024;
    unit += 1;
  } while (amount >= 1024 && unit < units.length - 1);
  return `${amount.toFixed(1)} ${units[unit]}`;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;
