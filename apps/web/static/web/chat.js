// The chat page: a thread's events in, a conversation out; what is typed and dropped goes the other way.

import { ConversationView } from "./conversation.js";
import { clock, h, plural, say, seconds, show } from "./dom.js";
import { Journal, api } from "./journal.js";
import { currentRun, emptyThread, isUnfinished, measured, openQuestions, reduce, worked } from "./reducer.js";
import { ThreadList } from "./threads.js";
import { Uploads, acceptDrops } from "./uploads.js";

const NEAR_END = 90; // pixels from the end that count as reading along
const $ = (selector) => document.querySelector(selector);

const page = $(".conversation");
const log = $(".log");
const composer = $(".composer");
const input = composer.querySelector("textarea");
const datasets = $("#dataset");
const welcome = $(".welcome");

let thread = page.dataset.thread || null;
let state = emptyThread();
let pending = kept("outbox", thread); // messages that Netra has not confirmed: {key, text, dataset, note}
let link = { link: "connecting", detail: "", retryAt: null };
let skew = Infinity; // milliseconds that this clock is ahead of the server's
let reading = true; // along at the end
let unseen = false; // something came in below what is on the screen
let drawing = false;
let asked = ""; // the numbers of the questions that were announced
let services = []; // what is down, by the server's own account

const now = () => new Date(Date.now() - (Number.isFinite(skew) ? skew : 0)).toISOString();
const view = new ConversationView($(".column"), { onAsk: ask, onEdit: edit, onAnswer: answer, onReport: readFromTop, now });
const list = new ThreadList($(".threads"), { current: () => thread });
const uploads = new Uploads(composer.querySelector(".uploads"), {
  mostBytes: Number($("#file").dataset.maxBytes),
  onSettled: (dataset) => dataset.state === "ready" && offer(dataset),
});
const journal = new Journal({
  url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/`,
  onEvent: heard,
  onStart: () => {
    state = emptyThread();
    draw();
  },
  onFrame: framed,
  onStatus: (status) => {
    link = status;
    draw();
  },
});

// --- What comes in --------------------------------------------------------------------------------------------------

function heard(event) {
  if (event.thread !== thread) return;
  const before = currentRun(state);
  state = reduce(state, event);
  if (event.at) skew = Math.min(skew, Date.now() - new Date(event.at));
  if (event.type === "message_created") {
    const confirmed = pending.findIndex((message) => message.text === event.data.text);
    if (confirmed >= 0) drop(pending[confirmed].key);
  }
  const after = currentRun(state);
  if (before && after?.id === before.id && isUnfinished(before) && !isUnfinished(after)) {
    announce({ completed: "The answer is complete.", failed: "The answer failed.", cancelled: "Stopped." }[after.phase]);
    list.refresh();
  }
  unseen ||= !reading;
  draw();
}

function framed(frame) {
  if (frame.type === "dataset_progress") {
    uploads.update(frame);
  } else if (frame.type === "analysis_progress") {
    state = measured(state, frame);
    draw();
  } else if (frame.type === "degraded") {
    services = frame.level === "none" ? [] : frame.services;
    draw();
  } else if (frame.type === "error" && frame.thread === thread && frame.code === "thread.not_found") {
    $(".column").replaceChildren(
      h("div", { class: "empty" }, h("h2", {}, "This conversation is gone"), h("p", {}, "It was deleted, or it belongs to somebody else."), h("a", { class: "button", href: "/" }, "New chat")),
    );
    show(composer, false);
  }
}

// --- What is shown --------------------------------------------------------------------------------------------------

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view.draw(state, pending);
    if (welcome) show(welcome, state.runs.length === 0 && pending.length === 0 && !thread);
    drawControls();
  });
}

function drawControls() {
  const run = currentRun(state);
  const active = run && isUnfinished(run);
  show($("#stop"), Boolean(active));
  $("#send").disabled = !input.value.trim() || link.link === "closed";
  const { light, text } = statusOf(run);
  $(".status .light").className = `light ${light}`;
  say($(".status .grow"), text);
  drawQuestions(run ? openQuestions(run) : [], run?.phase === "waiting");
  show($("#sign-in-again"), link.link === "closed");
}

/** The composer says what a message would do while something is asked, and a screen reader hears that it is. */
function drawQuestions(open, resting) {
  const [data, leave] = ["data", "approval"].map((kind) => open.find((entry) => entry.kind === kind));
  input.placeholder = data ? "Answer what is missing" : leave && resting ? "Decide above first" : "Ask about your LLM spend";
  say($('label[for="ask"]'), data ? "Your answer" : "Your question");
  const numbers = open.map((entry) => entry.seq).join();
  if (numbers === asked) return;
  asked = numbers;
  list.refresh();
  if (!numbers) show($("#refusal"), false);
  if (leave) announce(`Your decision about ${leave.tool} is needed.`);
  else if (data) announce("Some data is missing. Your next message is the answer.");
}

function statusOf(run) {
  if (link.link === "closed") return { light: "lost", text: link.detail };
  if (link.link === "connecting") return { light: "", text: "Connecting…" };
  if (link.link === "reconnecting") return { light: "lost", text: "Connection lost, reconnecting. Nothing is lost." };
  const note = link.link === "polling" ? " · no live connection, updated every few seconds" : services.length ? ` · slower than usual (${services.join(", ")})` : "";
  if (!run) return { light: "live", text: `Ready${note}` };
  const work = clock(worked(run, now()) * 1000);
  switch (run.phase) {
    case "queued":
      if (run.startedAt) return { light: "working", text: `Answered, going on · ${work}${note}` };
      return { light: "waiting", text: `${run.position > 1 ? `Queued at position ${run.position}` : "Queued"} · ${work}${note}` };
    case "running": {
      const steps = run.steps.filter((step) => step.status === "running");
      const doing = steps.map((step) => step.agent).join(" and ") || run.steps.at(-1)?.agent || "starting";
      const needed = openQuestions(run).length ? " · needs your answer" : "";
      return { light: needed ? "waiting" : "working", text: `Working · ${doing} · ${work}${needed}${note}` };
    }
    case "waiting":
      return { light: "waiting", text: `Waiting for your answer${note}` };
    case "completed":
      return { light: "live", text: `Done in ${seconds(worked(run, now()))}${note}` };
    case "failed":
      return { light: "lost", text: `Failed after ${seconds(worked(run, now()))}${note}` };
    default:
      return { light: "live", text: `Stopped${note}` };
  }
}

const announce = (text) => text && say($("#announcer"), text);

// --- Reading along --------------------------------------------------------------------------------------------------

const toEnd = () => (log.scrollTop = log.scrollHeight);
// A new chat is read from its top.
const toLatest = () => welcome?.hidden !== false && toEnd();

log.addEventListener("scroll", () => {
  reading = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
  if (reading) unseen = false;
  show($(".jump"), unseen);
});
new ResizeObserver(() => {
  if (reading) toLatest();
  show($(".jump"), unseen && log.scrollHeight - log.scrollTop - log.clientHeight > NEAR_END);
}).observe($(".column"));
new ResizeObserver(() => reading && toLatest()).observe(log);
$(".jump").addEventListener("click", () => {
  reading = true;
  unseen = false;
  toEnd();
  show($(".jump"), false);
});

/** A finished answer is read from its beginning: the report that is about to be added must not push it away. */
function readFromTop(turn) {
  if (!reading || turn !== turn.parentElement.lastElementChild) return;
  reading = false;
  requestAnimationFrame(() => turn.scrollIntoView({ block: "start" }));
}

// --- Asking ---------------------------------------------------------------------------------------------------------

async function ask(text) {
  text = text.trim();
  if (!text) return;
  const message = { key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, text, dataset: datasets.value || null };
  pending = [...pending, message];
  reading = true;
  draw();
  toEnd();
  try {
    await ensureThread(text);
    keep("outbox", thread, pending);
    await deliver(message);
    list.refresh();
  } catch (error) {
    refuse(message, error);
  }
}

async function deliver(message) {
  const { key, text, dataset } = message;
  await journal.request({ type: "message.send", thread, text, key, ...(dataset ? { dataset } : {}) });
  // The event brings the message itself; it may be a moment behind.
  setTimeout(() => drop(key), state.runs.some((run) => run.question?.text === text) ? 0 : 4000);
}

/** Answer what a run asks; what is refused is told by whoever asked for it. */
function answer(run, { call }, value) {
  return journal.request({ type: "run.answer", run: run.id, call, value });
}

function refuse(message, error) {
  drop(message.key);
  if (!input.value.trim()) input.value = message.text;
  sized();
  const notice = $("#refusal");
  notice.querySelector("span").textContent = [error.message, error.retryAfter ? `Try again in ${seconds(error.retryAfter)}.` : "", error.supportId ? `Support id ${error.supportId}.` : ""].filter(Boolean).join(" ");
  show(notice, true);
}

function drop(key) {
  pending = pending.filter((message) => message.key !== key);
  keep("outbox", thread, pending);
  draw();
}

let founding = null;

function ensureThread() {
  if (thread) return Promise.resolve();
  founding ??= api("/api/threads/", { method: "POST", body: {} }).then(
    (created) => {
      thread = created.id;
      page.dataset.thread = thread;
      history.replaceState(null, "", `/t/${thread}/`);
      forget("draft", null);
      journal.follow(thread);
    },
    (error) => {
      founding = null;
      throw error;
    },
  );
  return founding;
}

function edit(text) {
  input.value = text;
  sized();
  input.focus();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value;
  if (!text.trim() || link.link === "closed") return;
  input.value = "";
  forget("draft", thread);
  show($("#refusal"), false);
  sized();
  ask(text);
});

input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

input.addEventListener("input", () => {
  keep("draft", thread, input.value);
  sized();
});

function sized() {
  // `field-sizing: content` does this where it is known.
  if (!CSS.supports("field-sizing", "content")) {
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight}px`;
  }
  drawControls();
}

$("#stop").addEventListener("click", async () => {
  const run = state.runs.find(isUnfinished);
  if (!run) return;
  $("#stop").disabled = true;
  try {
    await journal.request({ type: "run.cancel", run: run.id });
  } catch (error) {
    if (error.code !== "run.finished") announce(error.message);
  }
  $("#stop").disabled = false;
});

for (const starter of document.querySelectorAll("[data-ask]")) {
  starter.addEventListener("click", () => {
    if (!datasets.value) edit(starter.dataset.ask);
    else ask(starter.dataset.ask);
  });
}

// --- Data -----------------------------------------------------------------------------------------------------------

const picker = $("#file");
const metadataOnly = $("#metadata-only");

const accept = (files) => files.forEach((file) => uploads.add(file, { metadataOnly: metadataOnly.checked }));
$("#attach").addEventListener("click", () => picker.click());
for (const button of document.querySelectorAll("[data-attach]")) button.addEventListener("click", () => picker.click());
picker.addEventListener("change", () => {
  accept([...picker.files]);
  picker.value = "";
});
acceptDrops(page, accept);
input.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    accept(files);
  }
});

/** A dataset that has just become ready is what the next question is about. */
function offer({ id, name, rows }) {
  const known = [...datasets.options].filter((option) => option.value && option.value !== id);
  datasets.replaceChildren(h("option", { value: id }, `${name} · ${plural(rows, "call")}`), ...known);
  datasets.value = id;
}

// --- The drawer of narrow screens -----------------------------------------------------------------------------------

const drawer = $(".threads");
const toggle = $(".drawer-toggle");
const scrim = h("div", { class: "scrim", hidden: true });
document.body.append(scrim);

function openDrawer(open) {
  drawer.classList.toggle("open", open);
  toggle.setAttribute("aria-expanded", String(open));
  show(scrim, open);
  if (open) drawer.querySelector("a, input").focus();
}
toggle.addEventListener("click", () => openDrawer(!drawer.classList.contains("open")));
scrim.addEventListener("click", () => openDrawer(false));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drawer.classList.contains("open")) {
    openDrawer(false);
    toggle.focus();
  }
});

// --- What the browser keeps -----------------------------------------------------------------------------------------

function keep(what, of, value) {
  try {
    if (value?.length) sessionStorage.setItem(`${what}:${of ?? "new"}`, JSON.stringify(value));
    else sessionStorage.removeItem(`${what}:${of ?? "new"}`);
  } catch {
    // A browser that keeps nothing forgets a draft on reload.
  }
}

function kept(what, of) {
  try {
    return JSON.parse(sessionStorage.getItem(`${what}:${of ?? "new"}`)) ?? (what === "outbox" ? [] : "");
  } catch {
    return what === "outbox" ? [] : "";
  }
}

function forget(what, of) {
  keep(what, of, null);
}

// --- Begin ----------------------------------------------------------------------------------------------------------

// Somebody may have been quicker than this script.
input.value ||= kept("draft", thread);
if (picker.files.length) picker.dispatchEvent(new Event("change"));
sized();
if (thread) journal.follow(thread);
// What was sent but never confirmed before a reload is sent again; its key makes that harmless.
for (const message of thread ? pending : []) deliver(message).catch((error) => refuse(message, error));
draw();
setInterval(() => {
  view.tick();
  drawControls();
}, 1000);
document.addEventListener("visibilitychange", () => document.hidden || list.refresh());
addEventListener("pagehide", () => keep("draft", thread, input.value));
