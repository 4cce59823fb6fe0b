// What a thread looks like, computed from its events alone: (state, event) -> state. Pure, and free of the page.
//
// state = { last, runs: [run] }            runs in the order in which they were asked
// run   = { id, phase, goal, question, position, askedAt, startedAt, endedAt, steps, recovering, requested, approval,
//           answer: {message, text, attempt} | null, report, usage, error }
// step  = { name, agent, status, summary, confidence, attempt, thoughts: [text], progress, calls, startedAt, endedAt }
// call  = { call, tool, arguments, status, seconds, summary, startedAt }

export const emptyThread = () => ({ last: 0, runs: [] });

export const UNFINISHED = new Set(["queued", "running", "waiting"]);
export const isUnfinished = (run) => UNFINISHED.has(run.phase);

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
    steps: [],
    recovering: null,
    requested: [],
    approval: null,
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
  return handler ? handler(run, event.data, event) : run;
}

const HANDLERS = {
  message_created: (run, data, { at }) =>
    data.role === "user" ? { ...run, question: { message: data.message, text: data.text, at } } : run,
  run_queued: (run, data) => ({ ...run, phase: "queued", position: data.position }),
  agent_started: (run, data, { at }) => ({ ...run, phase: "running", goal: data.goal, startedAt: at, position: null }),
  step_started: (run, data, { step, attempt, at }) =>
    changeStep({ ...run, phase: "running" }, step, (old) => ({
      ...(old ?? newStep(step)),
      agent: data.agent,
      status: "running",
      attempt,
      startedAt: at,
    })),
  step_completed: (run, data, { step, at }) =>
    changeStep(run, step, (old) => ({
      ...(old ?? newStep(step)),
      agent: data.agent,
      status: data.status,
      summary: data.summary,
      confidence: data.confidence ?? null,
      endedAt: at,
    })),
  agent_thinking: (run, data, { step, attempt }) =>
    changeStep({ ...run, phase: "running", recovering: null }, step, (old) => ({
      ...(old ?? newStep(step)),
      attempt,
      progress: data.progress,
      thoughts: [...(old?.thoughts ?? []), data.thought],
    })),
  tool_executing: (run, data, { step, at }) =>
    changeCall({ ...run, recovering: null }, step, data.call, (old) => ({
      ...old,
      tool: data.tool,
      arguments: data.arguments,
      status: "running",
      startedAt: at,
    })),
  tool_completed: (run, data, { step }) =>
    changeCall(run, step, data.call, (old) => ({
      ...old,
      tool: data.tool,
      status: data.status,
      seconds: data.seconds,
      summary: data.summary,
    })),
  data_requested: (run, data) => ({ ...run, phase: "waiting", requested: data.items }),
  approval_requested: (run, data) => ({ ...run, phase: "waiting", approval: data }),
  answer_received: (run) => ({ ...run, phase: "queued", requested: [], approval: null }),
  run_recovering: (run, data) => ({ ...run, recovering: { attempt: data.attempt, reason: data.reason } }),
  agent_completed: (run, data, { at }) => ({
    ...run,
    phase: "completed",
    endedAt: at,
    recovering: null,
    report: data.report,
    usage: data.usage,
    answer: { message: data.message, text: data.text, attempt: run.answer?.attempt ?? 1 },
  }),
  agent_error: (run, data, { at }) => ({ ...run, phase: "failed", endedAt: at, recovering: null, error: data }),
  run_cancelled: (run, data, { at }) => ({ ...run, phase: "cancelled", endedAt: at, recovering: null }),
};

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
  startedAt: null,
  endedAt: null,
});

function changeStep(run, name, change) {
  const steps = run.steps.some((step) => step.name === name)
    ? run.steps.map((step) => (step.name === name ? change(step) : step))
    : [...run.steps, change(null)];
  return { ...run, steps };
}

function changeCall(run, stepName, id, change) {
  return changeStep(run, stepName, (old) => {
    const step = old ?? newStep(stepName);
    const blank = { call: id, tool: "", arguments: {}, status: "running", seconds: null, summary: "", startedAt: null };
    const calls = step.calls.some((call) => call.call === id)
      ? step.calls.map((call) => (call.call === id ? change(call) : call))
      : [...step.calls, change(blank)];
    return { ...step, calls };
  });
}

/** Live text: `offset` counts characters (code points), as the server does. */
function withText(run, { attempt = 1, data }) {
  if (!isUnfinished(run)) return run;
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

function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
