// Text that is still being written: enough Markdown to read well. The finished message comes from the server as HTML.

import { h, keyed } from "./dom.js";

/** Show `text` in `container`; blocks that did not change keep their nodes. */
export function showLiveText(container, text) {
  const blocks = text.split(/\n{2,}/).filter((block) => block.trim());
  const items = blocks.map((block, place) => ({ place, block }));
  keyed(
    container,
    items,
    ({ place, block }) => `${place}:${kindOf(block)}`,
    ({ block }) => h({ heading: "h3", bullets: "ul", numbers: "ol", code: "pre", text: "p" }[kindOf(block)]),
    (node, { block }) => {
      if (node.dataset.text === block) return;
      node.dataset.text = block;
      node.replaceChildren(...contentOf(block));
    },
  );
}

function kindOf(block) {
  if (/^#{1,6}\s/.test(block)) return "heading";
  if (/^\s*[-*]\s/.test(block)) return "bullets";
  if (/^\s*\d+[.)]\s/.test(block)) return "numbers";
  if (/^(```|\|)/.test(block)) return "code";
  return "text";
}

function contentOf(block) {
  switch (kindOf(block)) {
    case "heading":
      return inline(block.replace(/^#{1,6}\s+/, ""));
    case "bullets":
    case "numbers":
      return block
        .split(/\n(?=\s*(?:[-*]|\d+[.)])\s)/)
        .map((item) => h("li", {}, ...inline(item.replace(/^\s*(?:[-*]|\d+[.)])\s+/, ""))));
    case "code":
      return [block.replace(/^```\w*\n?/, "").replace(/\n?```$/, "")];
    default:
      return inline(block);
  }
}

/** A sentence with its emphasis and code. */
export function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (/^\*\*[^*]+\*\*$/.test(part)) return h("strong", {}, part.slice(2, -2));
    if (/^`[^`]+`$/.test(part)) return h("code", {}, part.slice(1, -1));
    return part;
  });
}
