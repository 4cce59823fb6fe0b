// What a run asks the person, and what they replied: cards in the conversation that close when they are answered.

import { h, icon, keyed, pairs, say, show } from "./dom.js";
import { inline } from "./livetext.js";
import { tellTimes } from "./page.js";

// By the reason of the question: what is asked, why, and what may be answered, the first being what goes on.
const APPROVALS = {
  unsafe: {
    title: (tool) => ["May ", tool, " run?"],
    why: "This tool runs only with your permission, because what it does may not be possible to undo.",
    answers: [
      ["approve", "Allow"],
      ["deny", "Do not allow"],
    ],
    closed: "Whether {tool} may run",
  },
  size: {
    title: (tool) => ["May ", tool, " run, although it is large?"],
    why: "This call is larger than what runs without your permission.",
    answers: [
      ["approve", "Allow"],
      ["deny", "Do not allow"],
    ],
    closed: "Whether {tool} may run",
  },
  unknown_effect: {
    title: (tool) => ["Run ", tool, " again?"],
    why: "It was cut off, and nobody knows whether it took effect. If it did, running it again may do the same thing twice.",
    answers: [
      ["retry", "Run it again"],
      ["skip", "Leave it"],
    ],
    closed: "Whether {tool} runs again",
  },
};

// A reason of a later release is asked about like the careful one; the server says what may be answered.
const about = (entry) => APPROVALS[entry.reason] ?? APPROVALS.unsafe;

/** Show what was asked and replied in `run`; `onAnswer(run, entry, value)` resolves once an answer is accepted. */
export function drawDialogue(container, run, onAnswer) {
  const answered = container.contains(document.activeElement) ? document.activeElement.closest(".asked") : null;
  keyed(
    container,
    run.dialogue,
    (entry) => `${entry.seq}:${entry.status}`,
    (entry) => create(entry, run, onAnswer),
    () => {},
  );
  show(container, run.dialogue.length > 0);
  // The keyboard goes on where the card was.
  if (answered && !answered.isConnected) container.querySelector(`[data-seq="${answered.dataset.seq}"]`)?.focus();
}

function create(entry, run, onAnswer) {
  if (entry.kind === "reply") return h("div", { class: "said" }, h("div", { class: "bubble" }, entry.text));
  if (entry.status !== "open") return closedLine(entry);
  return entry.kind === "data" ? dataCard(entry) : approvalCard(entry, run, onAnswer);
}

function card(entry, title, ...content) {
  const id = `asked-${entry.seq}`;
  return h(
    "section",
    { class: "asked", role: "group", "aria-labelledby": id, "data-seq": entry.seq },
    h("h3", { id }, icon("ask"), h("span", {}, ...title)),
    ...content,
  );
}

// --- Leave for a tool call ------------------------------------------------------------------------------------------

function approvalCard(entry, run, onAnswer) {
  const { title, why, answers } = about(entry);
  const refusal = h("p", { class: "field-error", role: "alert", hidden: true });
  const row = h("div", { class: "row" });
  row.append(...answers.map(([value, label], place) => button(value, label, place === 0 && entry.reason !== "unknown_effect")));
  const until = h("time", { datetime: entry.expiresAt });
  const node = card(
    entry,
    title(h("code", {}, entry.tool)),
    h("p", {}, why),
    Object.keys(entry.arguments).length > 0 && h("dl", { class: "values" }, ...pairs(entry.arguments)),
    row,
    refusal,
    h("p", { class: "muted small-print" }, "It waits until ", until, "; without an answer, the run ends then."),
  );
  tellTimes(node);
  return node;

  function button(value, label, primary) {
    return h("button", { class: primary ? "button primary" : "button", type: "button", onclick: () => answer(value) }, label);
  }

  async function answer(value) {
    // Not `disabled`: the keyboard's focus would be lost with it.
    if (row.getAttribute("aria-busy") === "true") return;
    busy(true);
    show(refusal, false);
    try {
      // Accepted, it stays as it is until the event closes it, here and in every other tab.
      await onAnswer(run, entry, value);
    } catch (error) {
      busy(false);
      say(refusal, error.message);
      show(refusal, true);
    }
  }

  function busy(now) {
    row.setAttribute("aria-busy", String(now));
    for (const each of row.children) each.setAttribute("aria-disabled", String(now));
  }
}

// --- Data -----------------------------------------------------------------------------------------------------------

function dataCard(entry) {
  return card(
    entry,
    ["Some data is missing"],
    missing(entry.items),
    h("p", {}, h("strong", {}, "Your next message is the answer."), " Upload or choose a dataset below and send it with a word, or say that there is none."),
  );
}

function missing(items) {
  return h(
    "ul",
    { class: "missing" },
    ...items.map((item) =>
      h(
        "li",
        {},
        h("strong", {}, item.field),
        h("p", {}, ...inline(item.why)),
        h("p", { class: "muted" }, `Unlocks ${item.unlocks}.${item.worth_usd ? ` Worth up to $${item.worth_usd}.` : ""}`),
        h("p", { class: "muted" }, ...inline(item.how_to_export)),
      ),
    ),
  );
}

// --- What is over ---------------------------------------------------------------------------------------------------

function closedLine(entry) {
  const how = entry.status === "answered" ? "answered" : "not answered";
  const props = { class: "asked-line", tabindex: -1, "data-seq": entry.seq };
  if (entry.kind === "approval") return h("p", props, `${about(entry).closed.replace("{tool}", entry.tool)} · ${how}`);
  const fields = entry.items.map((item) => item.field).join(", ");
  return h("details", props, h("summary", {}, `Asked for ${fields} · ${how}`), missing(entry.items));
}
