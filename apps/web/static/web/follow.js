// Work under way on this page: each `progress[data-follow]` runs with its frames, and the page is drawn anew at the end.
//
// data-follow is where to look again, data-id what to listen for, data-then where to go if it did not end well.

import { Journal, api } from "./journal.js";

const LOOK_EVERY = 2000; // milliseconds, where no frame brings the news
const UNDER_WAY = new Set(["queued", "importing", "running"]);
const bars = [...document.querySelectorAll("progress[data-follow]")];
let leaving = false;

function leave(bar, state) {
  if (leaving) return;
  leaving = true;
  if (state !== "ready" && bar.dataset.then) location.replace(bar.dataset.then);
  else location.reload();
}

function update(bar, work) {
  if (!UNDER_WAY.has(work.state)) return leave(bar, work.state);
  if (work.progress > 0) bar.value = work.progress;
  const said = document.querySelector(`[data-says="${CSS.escape(work.id)}"]`);
  if (said) said.textContent = work.state === "queued" ? "Waiting for a worker" : `${work.progress} %`;
  return undefined;
}

async function look() {
  for (const bar of bars) {
    try {
      update(bar, await api(bar.dataset.follow));
    } catch {
      // Looked at again soon.
    }
  }
  if (!leaving) setTimeout(look, LOOK_EVERY);
}

if (bars.length) {
  new Journal({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/`,
    onEvent: () => {},
    onFrame: (frame) => {
      const bar = bars.find((each) => each.dataset.id === frame.id);
      if (bar && frame.type.endsWith("_progress")) update(bar, frame);
    },
  });
  look();
}
