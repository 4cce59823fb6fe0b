// The browser half of "loses nothing": one socket for all threads, every event exactly once and in order.
//
// A thread is followed from a number. An event counts only if it is the next one; a duplicate is dropped, a gap is
// asked for again. After a reconnect each thread resumes behind the last number seen. Where no socket can be had,
// the same events are fetched over HTTP. What is sent carries a key, so sending it twice is harmless.

const FIRST_WAIT = 250; // milliseconds
const LONGEST_WAIT = 5000;
const OPEN_PATIENCE = 8000; // until `ready`
const SOCKET_TRIES = 3; // in a row, before HTTP takes over
const POLL_EVERY = 1500;
const SOCKET_AGAIN_EVERY = 15000; // while polling
const ACK_EVERY = 250;
const ACK_EVENTS = 64;
const REPLY_PATIENCE = 15000;
const ASK_AGAIN = 2000; // after a subscription failed for a reason that may pass

const CLOSED_FOR_GOOD = new Set([4401, 4403]);

/** A refusal of the server: `code`, a sentence, and perhaps when to come back (seconds). */
export class Refused extends Error {
  constructor({ code = "request.failed", detail = "The request failed.", retry_after = null, support_id = null } = {}) {
    super(detail);
    this.code = code;
    this.retryAfter = retry_after;
    this.supportId = support_id;
  }
}

/** JSON over HTTP as the signed-in person; a problem document becomes `Refused`. */
export async function api(path, { method = "GET", body, headers = {} } = {}) {
  const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
  let response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        ...(method === "GET" ? {} : { "X-CSRFToken": token, "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused({ code: "network.down", detail: "Netra cannot be reached. Check your connection and try again." });
  }
  const text = await response.text();
  let document_ = null;
  try {
    document_ = text ? JSON.parse(text) : null;
  } catch {
    // An answer that is not JSON says as much as its status.
  }
  if (!response.ok) throw new Refused(document_ ?? { detail: `Netra answered ${response.status}.` });
  return document_;
}

export class Journal {
  /**
   * `onEvent(event)`: the next event of a followed thread, or live text. `onStart(thread)`: forget what was shown of
   * the thread, it starts over. `onFrame(frame)`: anything else. `onStatus({link, detail, retryAt})`, link being
   * connecting | live | reconnecting | polling | closed. The rest can be replaced in tests.
   */
  constructor({
    url,
    onEvent,
    onStart = () => {},
    onFrame = () => {},
    onStatus = () => {},
    Socket = WebSocket,
    call = api,
    random = Math.random,
  }) {
    Object.assign(this, { url, onEvent, onStart, onFrame, onStatus, Socket, call, random });
    this.threads = new Map(); // thread -> {last, told, subscribed}
    this.waiting = new Map(); // id -> {frame, resolve, reject, timer}
    this.failures = 0;
    this.nextId = 1;
    this.link = "connecting";
    this.down = false; // while polling: not even HTTP gets through
    this.stopped = false;
    this.wake = () => this.#hurry();
    globalThis.addEventListener?.("online", this.wake);
    this.#open();
  }

  /** Receive every event of `thread` numbered above `after`. */
  follow(thread, after = 0) {
    this.threads.set(thread, { last: after, told: after, fresh: 0, asked: null });
    if (this.link === "live") this.#subscribe(thread);
    if (this.link === "polling") this.#poll();
  }

  unfollow(thread) {
    if (!this.threads.delete(thread)) return;
    if (this.link === "live") this.#say({ type: "thread.unsubscribe", thread, id: this.#id() });
  }

  /** The number of the last event seen. */
  position(thread) {
    return this.threads.get(thread)?.last ?? 0;
  }

  /**
   * Send `message.send`, `run.answer` or `run.cancel`; resolves with `accepted`, rejects with `Refused`. Without a link it waits
   * and is sent again after every reconnect until it is answered.
   */
  request(frame) {
    return new Promise((resolve, reject) => {
      const id = this.#id();
      this.waiting.set(id, { frame: { ...frame, id }, resolve, reject });
      if (this.link === "live") this.#deliver(id);
      if (this.link === "polling") this.#deliverByHttp(id);
      if (this.link === "closed") this.#settle(id, { error: { code: "link.closed", detail: this.detail } });
    });
  }

  close() {
    this.stopped = true;
    globalThis.removeEventListener?.("online", this.wake);
    clearTimeout(this.timer);
    clearTimeout(this.pollTimer);
    clearInterval(this.heart);
    clearInterval(this.acks);
    this.socket?.close(1000);
  }

  // --- The socket ---------------------------------------------------------------------------------------------------

  #open() {
    if (this.stopped) return;
    clearTimeout(this.timer);
    if (this.link !== "polling") this.#status(this.failures === 0 && !this.wasLive ? "connecting" : "reconnecting");
    let socket;
    try {
      socket = new this.Socket(this.url);
    } catch {
      this.#lost({ code: 1006 });
      return;
    }
    this.socket = socket;
    const patience = setTimeout(() => socket.close(), OPEN_PATIENCE);
    socket.onopen = () => socket.send(JSON.stringify({ type: "hello" }));
    socket.onmessage = (message) => {
      if (socket !== this.socket) return;
      this.heardAt = Date.now();
      const frame = JSON.parse(message.data);
      if (frame.type === "ready") clearTimeout(patience);
      this.#receive(frame);
    };
    socket.onclose = (closed) => {
      clearTimeout(patience);
      if (socket !== this.socket) return;
      this.socket = null;
      this.#lost(closed);
    };
  }

  #receive(frame) {
    switch (frame.type) {
      case "ready":
        return this.#ready(frame);
      case "accepted":
        return this.#replied(frame, { accepted: frame });
      case "error":
        return this.#replied(frame, { error: frame });
      case "pong":
        return undefined;
      case "reconnect":
        return this.#reconnect(frame.in_ms ?? 0);
      default:
        return frame.thread && (frame.seq !== undefined || frame.type === "message_delta")
          ? this.#hear(frame)
          : this.onFrame(frame);
    }
  }

  #ready({ heartbeat_seconds: seconds = 25 }) {
    this.failures = 0;
    this.wasLive = true;
    clearTimeout(this.pollTimer);
    this.#status("live");
    clearInterval(this.heart);
    clearInterval(this.acks);
    this.heart = setInterval(() => this.#beat(seconds * 1000), seconds * 1000);
    this.acks = setInterval(() => this.#acknowledge(), ACK_EVERY);
    for (const thread of this.threads.keys()) this.#subscribe(thread);
    for (const id of this.waiting.keys()) this.#deliver(id);
  }

  #beat(every) {
    // A link that died without a word: nothing was heard although a pong was due.
    if (Date.now() - this.heardAt > 2.5 * every) this.socket?.close();
    else this.#say({ type: "ping", at: Date.now() });
  }

  #lost({ code }) {
    clearInterval(this.heart);
    clearInterval(this.acks);
    if (this.stopped) return;
    if (CLOSED_FOR_GOOD.has(code)) return this.#closeForGood(code);
    this.failures += 1;
    const polling = this.failures >= SOCKET_TRIES;
    // The first try is at once, the others are spread, so that a restart is not met by everybody together.
    const wait = polling
      ? SOCKET_AGAIN_EVERY
      : this.failures === 1 && this.wasLive && code !== 4029
        ? 0
        : FIRST_WAIT + this.random() * (Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** (this.failures + 1)) - FIRST_WAIT);
    if (!polling) this.#status("reconnecting", { retryAt: Date.now() + wait });
    else if (this.link !== "polling") {
      this.#status("polling");
      for (const id of this.waiting.keys()) this.#deliverByHttp(id);
      this.#poll();
    }
    this.timer = setTimeout(() => this.#open(), wait);
    return undefined;
  }

  #closeForGood(code) {
    this.#status("closed", {
      detail:
        code === 4401
          ? "You are signed out. Sign in again to go on; nothing is lost."
          : "This address is not allowed to open a live connection. Open Netra under its own address.",
    });
    for (const id of [...this.waiting.keys()]) this.#settle(id, { error: { code: "link.closed", detail: this.detail } });
  }

  #reconnect(milliseconds) {
    const wait = milliseconds * (0.5 + this.random() / 2);
    setTimeout(() => this.socket?.close(1000), wait);
  }

  #hurry() {
    if (this.link === "live" || this.link === "closed" || this.socket) return;
    this.#open();
  }

  #say(frame) {
    if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(frame));
  }

  #status(link, { detail = "", retryAt = null } = {}) {
    Object.assign(this, { link, detail });
    this.onStatus({ link, detail, retryAt });
  }

  #id() {
    return `c${this.nextId++}`;
  }

  // --- Events -------------------------------------------------------------------------------------------------------

  #subscribe(thread) {
    const followed = this.threads.get(thread);
    followed.asked = this.#id();
    this.#say({ type: "thread.subscribe", thread, after: followed.last, id: followed.asked });
  }

  #hear(event) {
    const followed = this.threads.get(event.thread);
    if (!followed) return;
    if (event.type === "message_delta") return this.onEvent(event);
    if (event.seq <= followed.last) return;
    if (event.seq > followed.last + 1) {
      // Ask once per gap; what arrives meanwhile is part of the answer.
      if (followed.gap !== followed.last) {
        followed.gap = followed.last;
        this.#subscribe(event.thread);
      }
      return;
    }
    followed.last = event.seq;
    followed.fresh += 1;
    this.onEvent(event);
    if (followed.fresh >= ACK_EVENTS) this.#acknowledge();
  }

  #acknowledge() {
    for (const [thread, followed] of this.threads) {
      if (followed.last <= followed.told) continue;
      followed.told = followed.last;
      followed.fresh = 0;
      this.#say({ type: "ack", thread, seq: followed.last });
    }
  }

  async #poll() {
    clearTimeout(this.pollTimer);
    for (const [thread, followed] of [...this.threads]) {
      try {
        let more = true;
        while (more && this.link === "polling") {
          const page = await this.call(`/api/threads/${thread}/events/?after=${followed.last}`);
          page.events.forEach((event) => this.#hear(event));
          more = page.more && page.events.length > 0;
          this.#reached(true);
        }
      } catch (error) {
        if (error.code?.startsWith("authentication.")) return this.#closeForGood(4401);
        this.#reached(false);
      }
    }
    if (this.link === "polling" && !this.stopped) this.pollTimer = setTimeout(() => this.#poll(), POLL_EVERY);
    return undefined;
  }

  /** A house that was down and is back is worth a socket at once. */
  #reached(up) {
    if (this.link !== "polling" || this.down === !up) return;
    const returned = this.down && up;
    this.down = !up;
    this.onStatus({ link: up ? "polling" : "reconnecting", detail: "", retryAt: null });
    if (returned) this.#hurry();
  }

  // --- Requests -----------------------------------------------------------------------------------------------------

  #deliver(id) {
    const request = this.waiting.get(id);
    clearTimeout(request.timer);
    this.#say(request.frame);
    // An answer that got lost is asked for again; the key makes that harmless.
    request.timer = setTimeout(() => this.waiting.has(id) && this.link === "live" && this.#deliver(id), REPLY_PATIENCE);
  }

  async #deliverByHttp(id) {
    const { frame } = this.waiting.get(id);
    try {
      this.#settle(id, { accepted: await this.#byHttp(frame) });
    } catch (error) {
      if (error.code === "network.down") setTimeout(() => this.#tryAgainByHttp(id), POLL_EVERY);
      else this.#settle(id, { refused: error });
    }
  }

  #tryAgainByHttp(id) {
    if (this.link === "polling" && this.waiting.has(id)) this.#deliverByHttp(id);
  }

  #byHttp(frame) {
    if (frame.type === "run.cancel") return this.call(`/api/runs/${frame.run}/cancel/`, { method: "POST" });
    if (frame.type === "run.answer") {
      const { run, call, value } = frame;
      return this.call(`/api/runs/${run}/answer/`, { method: "POST", body: { call, value } });
    }
    return this.call(`/api/threads/${frame.thread}/messages/`, {
      method: "POST",
      body: { text: frame.text, ...(frame.dataset ? { dataset: frame.dataset } : {}) },
      headers: { "Idempotency-Key": frame.key },
    });
  }

  #replied(frame, outcome) {
    if (this.waiting.has(frame.reply_to)) return this.#settle(frame.reply_to, outcome);
    if (!outcome.error) return undefined;
    const [thread, followed] = [...this.threads].find(([, each]) => each.asked === frame.reply_to) ?? [];
    if (thread && frame.code === "thread.behind") {
      // The house was restored to an earlier time: what is known of the thread is void.
      Object.assign(followed, { last: 0, told: 0, fresh: 0, gap: undefined });
      this.onStart(thread);
      return this.#subscribe(thread);
    }
    if (thread && frame.code !== "thread.not_found") {
      setTimeout(() => this.link === "live" && this.threads.has(thread) && this.#subscribe(thread), ASK_AGAIN);
    } else if (thread) {
      this.threads.delete(thread);
    }
    return this.onFrame({ ...frame, thread });
  }

  #settle(id, { accepted, error, refused }) {
    const request = this.waiting.get(id);
    if (!request) return;
    this.waiting.delete(id);
    clearTimeout(request.timer);
    if (accepted) request.resolve(accepted);
    else request.reject(refused ?? new Refused(error));
  }
}
