// What a thread looks like, computed from its events alone: (state, event) -> state. Pure, and free of the page.
//
// state    = { last, runs: [run] }         runs in the order in which they were asked
// run      = { id, phase, goal, question, position, askedAt, startedAt, endedAt, pausedAt, paused, steps,
//              dialogue, answer: {message, text, attempt} | null, report, usage, error }
// step     = { name, agent, status, summary, confidence, attempt, thoughts: [text], progress, calls, recovered,
//              startedAt, endedAt, pausedAt, paused }
// call     = { call, tool, arguments, status, seconds, summary, startedAt, progress }
// dialogue = what was said after the question, in order: what the run asked the person, and their replies
// asking   = { seq, kind: "data" | "approval", status: "open" | "answered" | "closed", step, call, closedAt,
//              items | tool, reason, arguments, expiresAt }
// reply    = { seq, kind: "reply", text }
//
// A step that asks is `waiting`; once everything is answered it is `queued`, until the first sign of its next attempt.

export const emptyThread = () => ({ last: 0, runs: [] });

export const UNFINISHED = new Set(["queued", "running", "waiting"]);
export const isUnfinished = (run) => UNFINISHED.has(run.phase);

/** What the run asks and nobody has answered. */
export const openQuestions = (run) => run.dialogue.filter((entry) => entry.status === "open");

/** Seconds that a run or a step has worked until `now`; while it waits for the person, they stand still. */
export function worked({ askedAt, startedAt, pausedAt, endedAt, paused }, now) {
  return Math.max(0, span(startedAt ?? askedAt, pausedAt ?? endedAt ?? now) - paused);
}

const span = (from, to) => (new Date(to) - new Date(from)) / 1000;

/** The run that a status line is about: the first unfinished one, else the last. */
export const currentRun = (state) => state.runs.find(isUnfinished) ?? state.runs.at(-1) ?? null;

/** The state after `event`. A numbered event that is not the next one changes nothing: the journal never sends one. */
export function reduce(state, event) {
  if (event.type === "message_delta") return changeRun(state, event.run, (run) => withText(run, event));
  if (event.seq !== state.last + 1) return state;
  const known = state.runs.some((run) => run.id === event.run);
  const runs = known ? state.runs : [...state.runs, newRun(event)];
  const next = changeRun({ last: event.seq, runs }, event.run, (run) => apply(run, event));
  return next;
}

/** The state after an `analysis_progress` frame, which has no number: calls on its dataset tell how far it is. */
export function measured(state, { dataset, progress }) {
  const waits = (call) => call.status === "running" && call.arguments.dataset === dataset;
  if (!state.runs.some((run) => run.steps.some((step) => step.calls.some(waits)))) return state;
  const told = (step) => ({ ...step, calls: step.calls.map((call) => (waits(call) ? { ...call, progress } : call)) });
  return { ...state, runs: state.runs.map((run) => (isUnfinished(run) ? { ...run, steps: run.steps.map(told) } : run)) };
}

function newRun(event) {
  return {
    id: event.run,
    phase: "queued",
    goal: "",
    question: null,
    position: null,
    askedAt: event.at,
    startedAt: null,
    endedAt: null,
    pausedAt: null,
    paused: 0, // seconds
    steps: [],
    dialogue: [],
    answer: null,
    report: null,
    usage: null,
    error: null,
  };
}

function changeRun(state, id, change) {
  return { ...state, runs: state.runs.map((run) => (run.id === id ? change(run) : run)) };
}

function apply(run, event) {
  const handler = HANDLERS[event.type];
  // An event of a later release: its number counts, its content is not understood.
  return handler ? inPhase(handler(run, event.data, event), event.at) : run;
}

/** While a run is at work, its steps say whether it is running, queued again, or waiting for the person. */
function inPhase(run, at) {
  const steps = waitingSteps(run, at);
  const phase = run.startedAt && isUnfinished(run) ? phaseOf(steps) : run.phase;
  return resting({ ...run, steps, phase }, phase === "waiting", at);
}

function phaseOf(steps) {
  const some = (status) => steps.some((step) => step.status === status);
  return ["running", "queued", "waiting"].find(some) ?? "running";
}

/** A step waits as long as one of its questions is open, also when it went on with another one meanwhile. */
function waitingSteps(run, at) {
  const asking = new Set(openQuestions(run).map((entry) => entry.step));
  return run.steps.map((step) => {
    const waits = asking.has(step.name);
    return resting(waits && step.status !== "waiting" ? { ...step, status: "waiting" } : step, waits, at);
  });
}

/** A run or a step with its clock stopped, or going again. */
function resting(timed, rests, at) {
  if (rests === (timed.pausedAt !== null)) return timed;
  if (rests) return { ...timed, pausedAt: at };
  return { ...timed, pausedAt: null, paused: timed.paused + span(timed.pausedAt, at) };
}

const HANDLERS = {
  message_created: (run, data, { at, seq }) => {
    if (data.role !== "user") return run;
    if (!run.question) return { ...run, question: { message: data.message, text: data.text, at } };
    return { ...run, dialogue: [...run.dialogue, { seq, kind: "reply", text: data.text }] };
  },
  run_queued: (run, data) => ({ ...run, position: data.position }),
  agent_started: (run, data, { at }) => ({ ...run, phase: "running", goal: data.goal, startedAt: at, position: null }),
  step_started: (run, data, event) =>
    changeStep(run, event.step, (old) => ({ ...alive(old, event), agent: data.agent, startedAt: event.at })),
  step_completed: (run, data, { step, at }) =>
    changeStep(closed(run, at, (entry) => entry.step === step), step, (old) => ({
      ...old,
      agent: data.agent,
      status: data.status,
      summary: data.summary,
      confidence: data.confidence ?? null,
      endedAt: at,
    })),
  agent_thinking: (run, data, event) =>
    changeStep(run, event.step, (old) => ({
      ...alive(old, event),
      progress: data.progress,
      thoughts: [...old.thoughts, data.thought],
    })),
  tool_executing: (run, data, event) =>
    changeStep(run, event.step, (old) =>
      changeCall(alive(old, event), data.call, {
        tool: data.tool,
        arguments: data.arguments,
        status: "running",
        startedAt: event.at,
      }),
    ),
  tool_completed: (run, data, event) =>
    changeStep(run, event.step, (old) =>
      changeCall(alive(old, event), data.call, {
        tool: data.tool,
        status: data.status,
        seconds: data.seconds,
        summary: data.summary,
      }),
    ),
  data_requested: (run, data, event) => asked(run, event, { kind: "data", call: data.call ?? null, items: data.items }),
  approval_requested: (run, data, event) => {
    const { call, tool, reason } = data;
    const known = run.steps.find((step) => step.name === event.step)?.calls.find((each) => each.call === call);
    const values = data.arguments ?? known?.arguments ?? {};
    const entry = { kind: "approval", call, tool, reason, arguments: values, expiresAt: data.expires_at };
    return changeStep(asked(run, event, entry), event.step, (old) =>
      changeCall(old, call, { tool, arguments: values, status: "waiting" }),
    );
  },
  answer_received: (run, data, { at }) => {
    const open = openQuestions(run);
    const entry = open.find((each) => each.call === data.call) ?? open.find((each) => each.kind === "data");
    if (!entry) return run;
    const answered = closed(run, at, (each) => each === entry, "answered");
    return changeStep(answered, entry.step, (old) => {
      const step = { ...old, status: "queued" };
      return entry.kind === "approval" ? changeCall(step, entry.call, { status: "queued" }) : step;
    });
  },
  run_recovering: (run, data, event) =>
    changeStep(run, event.step, (old) => ({
      ...alive(old, event),
      recovered: { attempt: data.attempt, reason: data.reason },
    })),
  agent_completed: (run, data, { at }) => ({
    ...ended(run, at, "completed"),
    report: data.report,
    usage: data.usage,
    answer: { message: data.message, text: data.text, attempt: run.answer?.attempt ?? 1 },
  }),
  agent_error: (run, data, { at }) => ({ ...ended(run, at, "failed"), error: data }),
  run_cancelled: (run, data, { at }) => ended(run, at, "cancelled"),
};

const ended = (run, at, phase) => ({ ...closed(run, at, () => true), phase, endedAt: at });

// --- Questions ------------------------------------------------------------------------------------------------------

function asked(run, event, entry) {
  const open = { seq: event.seq, step: event.step, status: "open", closedAt: null, ...entry };
  return changeStep({ ...run, dialogue: [...run.dialogue, open] }, event.step, (old) => alive(old, event));
}

/** The run with the open questions that `which` picks closed. */
function closed(run, at, which, status = "closed") {
  if (openQuestions(run).length === 0) return run;
  const close = (entry) => (entry.status === "open" && which(entry) ? { ...entry, status, closedAt: at } : entry);
  return { ...run, dialogue: run.dialogue.map(close) };
}

// --- Steps and calls ------------------------------------------------------------------------------------------------

const newStep = (name) => ({
  name,
  agent: name,
  status: "running",
  summary: "",
  confidence: null,
  attempt: 1,
  thoughts: [],
  progress: 0,
  calls: [],
  recovered: null,
  startedAt: null,
  endedAt: null,
  pausedAt: null,
  paused: 0, // seconds
});

/**
 * A step that has just shown that it is at work. One that was answered shows it by its next attempt: what comes of the
 * last one is the end of a call that a tool worker had.
 */
function alive(step, { attempt }) {
  return step.status === "queued" && attempt <= step.attempt ? step : { ...step, status: "running", attempt };
}

function changeStep(run, name, change) {
  const steps = run.steps.some((step) => step.name === name)
    ? run.steps.map((step) => (step.name === name ? change(step) : step))
    : [...run.steps, change(newStep(name))];
  return { ...run, steps };
}

function changeCall(step, id, changes) {
  const blank = { call: id, tool: "", arguments: {}, status: "running", seconds: null, summary: "", startedAt: null, progress: null };
  const calls = step.calls.some((call) => call.call === id)
    ? step.calls.map((call) => (call.call === id ? { ...call, ...changes } : call))
    : [...step.calls, { ...blank, ...changes }];
  return { ...step, calls };
}

/** Live text: `offset` counts characters (code points), as the server does. */
function withText(run, { attempt = 1, data }) {
  if (!isUnfinished(run)) return run;
  if (run.phase === "queued" && run.startedAt) run = resumed(run, attempt);
  const { message, offset, text } = data;
  let answer = run.answer;
  if (answer && answer.message === message && attempt < answer.attempt) return run;
  if (!answer || answer.message !== message || attempt > answer.attempt) answer = { message, text: "", attempt };
  const length = codePoints(answer.text);
  if (offset > length) {
    // A piece is missing; the next snapshot starts at 0 and brings it.
    return answer === run.answer ? run : { ...run, answer };
  }
  const kept = offset === length ? answer.text : [...answer.text].slice(0, offset).join("");
  return { ...run, answer: { ...answer, text: kept + text } };
}

/** Text of a later attempt may be the first sign of life after an answer. */
function resumed(run, attempt) {
  const steps = run.steps.map((step) => (step.status === "queued" ? alive(step, { attempt }) : step));
  return { ...run, steps, phase: phaseOf(steps) };
}

function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
