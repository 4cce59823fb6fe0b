// Draws a thread's state. Drawing the same state twice changes nothing; what the reader opened stays open.

import { clock, fragment, h, icon, keyed, pairs, plural, say, seconds, show, spelled } from "./dom.js";
import { showLiveText } from "./livetext.js";
import { tellTimes } from "./page.js";
import { drawDialogue } from "./questions.js";
import { isUnfinished, worked } from "./reducer.js";

const DOTS = { completed: "check", succeeded: "check", failed: "cross", unknown: "warn", refused: "cross", skipped: "skip", cancelled: "stop", waiting: "ask", queued: "more" };
const UNSETTLED = new Set(["running", "waiting", "queued"]);
// What a step or call that has not come to its end is doing, in words.
const DOING = { running: "working", waiting: "waits for you", queued: "goes on" };

export class ConversationView {
  /**
   * `onAsk(text)` asks, `onEdit(text)` puts a question into the composer, `onAnswer(run, entry, value)` answers what
   * the run asks, `onReport(turn)` comes before it grows.
   */
  constructor(column, { onAsk, onEdit, onAnswer, onReport, now }) {
    Object.assign(this, { column, onAsk, onEdit, onAnswer, onReport, now });
    this.turns = h("div", { class: "turns" });
    this.pendings = h("div", { class: "pendings" });
    column.append(this.turns, this.pendings);
    // What scrolled by unseen is not fetched.
    this.visible = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => this.#finish(target)),
      { root: column.parentElement, rootMargin: "600px" },
    );
    this.views = new WeakMap();
  }

  draw(state, pending) {
    keyed(
      this.turns,
      state.runs,
      (run) => run.id,
      (run) => this.#createTurn(run),
      (node, run) => this.#updateTurn(node, run),
    );
    keyed(
      this.pendings,
      pending,
      (message) => message.key,
      () => h("div", { class: "turn" }, h("div", { class: "said" }, h("div", { class: "bubble pending" })), h("span", { class: "bubble-note" })),
      (node, message) => {
        say(node.querySelector(".bubble"), message.text);
        say(node.querySelector(".bubble-note"), message.note ?? "Sending…");
      },
    );
  }

  /** Move the clocks of what is running. */
  tick() {
    for (const node of this.turns.children) {
      const view = this.views.get(node);
      if (view?.run && isUnfinished(view.run)) this.#drawWorkSummary(view, view.run);
    }
  }

  // --- One turn: a question and its answer --------------------------------------------------------------------------

  #createTurn() {
    const view = {
      bubble: h("div", { class: "bubble" }),
      workText: h("span", {}),
      workDot: h("span", { class: "dot running" }),
      steps: h("ol", { class: "steps" }),
      dialogue: h("div", { class: "dialogue", hidden: true }),
      prose: h("div", { class: "prose", hidden: true }),
      report: h("div", { hidden: true }),
      failure: h("div", { class: "failure", role: "alert", hidden: true }),
      note: h("p", { class: "notice", hidden: true }),
      actions: h("div", { class: "turn-actions", hidden: true }),
      run: null,
      fetched: false,
    };
    view.workDot.classList.add("inline");
    view.work = h("details", { class: "work", hidden: true }, h("summary", {}, view.workText), view.steps);
    view.work.addEventListener("click", (event) => {
      if (event.target.closest("summary")?.parentElement === view.work) view.touched = true;
    });
    view.answer = h(
      "div",
      { class: "answer" },
      view.work,
      view.dialogue,
      view.prose,
      view.report,
      view.failure,
      view.note,
      view.actions,
    );
    const node = h("article", { class: "turn" }, h("div", { class: "said" }, view.bubble), view.answer);
    this.views.set(node, view);
    return node;
  }

  #updateTurn(node, run) {
    const view = this.views.get(node);
    if (view.run === run) return;
    const was = view.run;
    view.run = run;
    say(view.bubble, run.question?.text ?? run.goal);
    // A screen reader hears the answer once, when it is complete; or what it has to answer first.
    node.setAttribute("aria-busy", String(isUnfinished(run) && run.phase !== "waiting"));
    if (was?.steps !== run.steps || was?.phase !== run.phase) this.#drawWork(view, run);
    if (was?.dialogue !== run.dialogue) drawDialogue(view.dialogue, run, this.onAnswer);
    if (was?.answer !== run.answer || was?.phase !== run.phase) this.#drawAnswer(view, run);
    if (was?.error !== run.error) this.#drawFailure(view, run);
    if (was?.phase !== run.phase) this.#drawEnd(view, run);
    if (run.phase === "completed" && !view.fetched) this.visible.observe(node);
  }

  #drawWork(view, run) {
    show(view.work, run.steps.length > 0 || run.phase === "running");
    if (!view.touched) view.work.open = isUnfinished(run) || run.phase === "failed";
    this.#drawWorkSummary(view, run);
    keyed(view.steps, run.steps, (step) => step.name, createStep, (node, step) => updateStep(node, step, run));
  }

  #drawWorkSummary(view, run) {
    const calls = run.steps.reduce((sum, step) => sum + step.calls.length, 0);
    const skipped = run.steps.filter((step) => step.status === "skipped").length;
    const counts = [plural(run.steps.length - skipped, "step"), skipped ? `${skipped} skipped` : null, calls ? plural(calls, "tool call") : null];
    const verbs = { completed: "Worked for", cancelled: "Stopped after", failed: "Failed after", waiting: "Waits for you after" };
    const took = worked(run, this.now());
    const time = isUnfinished(run) ? clock(took * 1000) : seconds(took);
    say(view.workText, `${verbs[run.phase] ?? "Working for"} ${time} · ${counts.filter(Boolean).join(" · ")}`);
  }

  #drawAnswer(view, run) {
    const live = run.phase === "running";
    const text = run.answer?.text ?? "";
    show(view.prose, text !== "");
    view.prose.classList.toggle("caret", live && text !== "");
    if (!view.fetched && text) showLiveText(view.prose, text);
  }

  #drawFailure(view, run) {
    show(view.failure, run.error !== null);
    if (!run.error) return;
    const { detail, suggestions, support_id: support, code } = run.error;
    view.failure.replaceChildren(
      h("h3", {}, icon("warn"), "This did not work"),
      h("p", {}, detail),
      suggestions.length ? h("ul", {}, ...suggestions.map((each) => h("li", {}, each))) : null ?? "",
      h("button", { class: "button", type: "button", onclick: () => this.onAsk(run.question?.text ?? run.goal) }, "Try again"),
      h("p", { class: "support" }, `${code} · support id ${support}`),
    );
  }

  #drawEnd(view, run) {
    const ended = !isUnfinished(run);
    show(view.note, run.phase === "cancelled");
    say(view.note, run.answer?.text ? "You stopped this; the text above is not complete." : "You stopped this.");
    show(view.actions, ended && run.phase !== "failed");
    if (!ended) return;
    view.actions.replaceChildren(
      run.answer?.text ? h("button", { class: "button small", type: "button", onclick: (event) => copy(event.currentTarget, run.answer.text) }, icon("copy"), "Copy") : "",
      run.report ? h("a", { class: "button small", href: `/reports/${run.report}/` }, icon("report"), "Open report") : "",
      h("button", { class: "button small", type: "button", onclick: () => this.onEdit(run.question?.text ?? run.goal) }, "Ask again"),
    );
  }

  /** Replace live text by what the server rendered, and add the report. */
  async #finish(node) {
    const view = this.views.get(node);
    if (view.fetched || view.run.phase !== "completed") return;
    view.fetched = true;
    this.visible.unobserve(node);
    const { answer, report } = view.run;
    const [prose, body] = await Promise.allSettled([
      fragment(`/messages/${answer.message}/`),
      report ? fragment(`/reports/${report}/body/`) : Promise.resolve(""),
    ]);
    if (body.value) this.onReport(node);
    if (prose.status === "fulfilled") view.prose.innerHTML = prose.value;
    if (body.status === "fulfilled" && body.value) {
      view.report.innerHTML = body.value;
      tellTimes(view.report);
      show(view.report, true);
    }
  }
}

// --- Steps and tool calls -------------------------------------------------------------------------------------------

function createStep() {
  return h(
    "li",
    { class: "step" },
    h("span", { class: "dot" }),
    h("div", { class: "step-head" }, h("strong", {}), h("span", { class: "muted took" })),
    h("p", { class: "muted recovered", hidden: true }),
    h("details", { class: "thoughts", hidden: true }, h("summary", {}), h("ul", {})),
    h("div", { class: "calls" }),
    h("p", { class: "muted summary", hidden: true }),
  );
}

function updateStep(node, step, run) {
  if (node.step === step && node.phase === run.phase) return;
  Object.assign(node, { step, phase: run.phase });
  const status = settled(step.status, run);
  drawDot(node.querySelector(".dot"), status);
  node.classList.toggle("skipped", status === "skipped");
  say(node.querySelector("strong"), title(step.agent));
  say(node.querySelector(".took"), stepNote(step, status));
  const recovered = node.querySelector(".recovered");
  show(recovered, step.recovered !== null);
  if (step.recovered) say(recovered, `Attempt ${step.recovered.attempt} · ${step.recovered.reason}`);
  const thoughts = node.querySelector(".thoughts");
  show(thoughts, step.thoughts.length > 0);
  say(thoughts.querySelector("summary"), step.thoughts.at(-1) ?? "");
  keyed(thoughts.querySelector("ul"), step.thoughts.map((text, place) => ({ text, place })), (each) => each.place, () => h("li"), (li, each) => say(li, each.text));
  keyed(node.querySelector(".calls"), step.calls, (call) => call.call, createCall, (card, call) => updateCall(card, call, run));
  const summary = node.querySelector(".summary");
  show(summary, Boolean(step.summary) && status !== "skipped");
  say(summary, step.summary);
}

/** A run that was stopped or failed closes what was open; nothing may spin on. */
const settled = (status, run) => (UNSETTLED.has(status) && !isUnfinished(run) ? "cancelled" : status);

function stepNote(step, status) {
  if (status === "skipped") return [status, step.summary].filter(Boolean).join(" · ");
  if (UNSETTLED.has(status)) return status === "running" && step.progress ? `${step.progress} %` : DOING[status];
  const took = step.startedAt && step.endedAt ? seconds(worked(step)) : "";
  return status === "completed" ? took : [status, took].filter(Boolean).join(" · ");
}

function createCall() {
  return h(
    "details",
    { class: "call" },
    h("summary", {}, h("span", { class: "dot" }), h("span", { class: "tool" }), h("span", { class: "gist" }), h("span", { class: "seconds" })),
    h("div", { class: "call-body" }, h("dl", { class: "values" }), h("p", { class: "result" })),
  );
}

function updateCall(node, call, run) {
  if (node.call === call && node.phase === run.phase) return;
  Object.assign(node, { call, phase: run.phase });
  const status = settled(call.status, run);
  const open = UNSETTLED.has(status);
  drawDot(node.querySelector(".dot"), status);
  say(node.querySelector(".tool"), call.tool);
  say(node.querySelector(".gist"), open ? gist(call.arguments) : call.summary || status);
  say(node.querySelector(".seconds"), status === "running" ? (call.progress ? `${call.progress} %` : "") : open ? DOING[status] : call.seconds === null ? status : seconds(call.seconds));
  const list = node.querySelector("dl");
  list.replaceChildren(...pairs(call.arguments));
  show(list, list.childElementCount > 0);
  const doing = status === "running" ? "Running…" : `It ${DOING[status]}.`;
  say(node.querySelector(".result"), open ? doing : call.summary || `The call ${status}.`);
}

function drawDot(node, status) {
  if (node.dataset.status === status) return;
  node.dataset.status = status;
  node.className = `dot ${status}`;
  const name = DOTS[status];
  node.replaceChildren(...(name ? [icon(name)] : []), h("span", { class: "hidden" }, status));
}

const gist = (values) =>
  Object.entries(values)
    .map(([name, value]) => `${name}: ${spelled(value)}`)
    .join(", ");
const title = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

async function copy(button, text) {
  const label = button.lastChild;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    label.textContent = "Not allowed by the browser";
  }
  setTimeout(() => (label.textContent = "Copy"), 1800);
}
