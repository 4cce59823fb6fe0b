"""The browser's end of the journal: every event once and in order, whatever happens to the socket."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("house")]

# A scripted server: `sockets` are those that the journal opened; `said(n)` is what it said on the n-th.
BENCH = """
const { Journal } = await import("/web/journal.js");
const sockets = [], seen = [], statuses = [], frames = [], calls = [];
let refuse = false;
class Socket {
    constructor(url) {
        Object.assign(this, { url, readyState: 0, out: [] });
        sockets.push(this);
        setTimeout(() => {
            if (refuse) return this.die(1006);
            this.readyState = 1;
            this.onopen();
        });
    }
    send(text) { this.out.push(JSON.parse(text)); this.onsend?.(JSON.parse(text)); }
    say(frame) { this.onmessage({ data: JSON.stringify(frame) }); }
    close(code = 1000) { if (this.readyState !== 3) this.die(code); }
    die(code) { this.readyState = 3; this.onclose({ code }); }
}
const until = async (condition, what) => {
    for (let tries = 0; tries < 400; tries += 1) {
        if (condition()) return;
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    throw new Error("never: " + (what ?? condition));
};
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const event = (seq, thread = "t") => ({ type: "x", thread, run: "r", seq, at: "", data: {} });
const journal = new Journal({
    url: "/ws/", Socket, random: () => 0,
    onEvent: (event) => seen.push(event.seq ?? event.type),
    onStart: (thread) => seen.push("start " + thread),
    onFrame: (frame) => frames.push(frame),
    onStatus: ({ link }) => statuses.push(link),
    call: async (path, options) => { calls.push([path, options]); return answer(path, options); },
});
let answer = () => ({ events: [], last_seq: 0, more: false });
const of = (socket, type) => socket.out.filter((frame) => frame.type === type);
const refuseLast = (socket, type, error) =>
    socket.say({ type: "error", detail: "No.", reply_to: of(socket, type).at(-1).id, ...error });
const live = async (place = 0) => {
    await until(() => sockets[place]?.readyState === 1, "socket " + place);
    sockets[place].say({ type: "ready", connection: "c", heartbeat_seconds: 25, limits: {} });
    return sockets[place];
};
"""


@pytest.fixture
def bench(modules):
    """Run a script against the journal; what it returns comes back."""
    return lambda script: modules.evaluate(f"async () => {{ {BENCH} {script} }}")


def test_it_says_hello_first_and_follows_once_it_is_welcome(bench):
    out = bench("""
        journal.follow("t", 7);
        await until(() => sockets[0]?.out.length);
        const before = [...sockets[0].out];
        await live();
        return { before, after: sockets[0].out };
    """)

    assert out["before"] == [{"type": "hello"}]
    [subscribe] = out["after"][1:]
    assert (subscribe["type"], subscribe["thread"], subscribe["after"]) == ("thread.subscribe", "t", 7)


def test_a_duplicate_is_dropped_and_a_gap_is_asked_for_once(bench):
    out = bench("""
        journal.follow("t");
        const socket = await live();
        for (const seq of [1, 2, 2, 1, 5, 6, 7]) socket.say(event(seq));
        const asked = of(socket, "thread.subscribe").map((frame) => frame.after);
        for (const seq of [3, 4, 5, 6, 7]) socket.say(event(seq));
        return { seen, asked };
    """)

    assert out == {"seen": [1, 2, 3, 4, 5, 6, 7], "asked": [0, 2]}


def test_events_of_threads_that_are_not_followed_are_not_shown(bench):
    assert (
        bench("""
        const socket = await live();
        socket.say(event(1, "other"));
        return seen;
    """)
        == []
    )


def test_after_a_lost_socket_it_is_back_at_once_and_goes_on_where_it_was(bench):
    out = bench("""
        journal.follow("t");
        (await live()).say(event(1));
        sockets[0].say(event(2));
        const lost = performance.now();
        sockets[0].die(1006);
        await until(() => sockets.length === 2);
        const waited = performance.now() - lost;
        const again = await live(1);
        again.say(event(2));
        again.say(event(3));
        return { seen, after: of(again, "thread.subscribe").map((frame) => frame.after), waited, statuses };
    """)

    assert out["seen"] == [1, 2, 3]
    assert out["after"] == [2]
    assert out["waited"] < 200
    assert out["statuses"] == ["connecting", "live", "reconnecting", "live"] or out["statuses"] == [
        "connecting",
        "live",
        "reconnecting",
        "reconnecting",
        "live",
    ]


def test_what_was_not_answered_is_sent_again_with_the_same_key(bench):
    out = bench("""
        const sent = journal.request({ type: "message.send", thread: "t", text: "Hi", key: "k" });
        await live();
        sockets[0].die(4012);
        await until(() => sockets.length === 2);
        const again = await live(1);
        const [frame] = of(again, "message.send");
        again.say({ type: "accepted", reply_to: frame.id, run: "r", message: "m" });
        again.say({ type: "accepted", reply_to: frame.id, run: "r", message: "m" });
        return { run: (await sent).run, keys: sockets.flatMap((s) => of(s, "message.send")).map((f) => f.key) };
    """)

    assert out == {"run": "r", "keys": ["k", "k"]}


def test_a_refusal_is_told_with_its_code(bench):
    out = bench("""
        const socket = await live();
        const sent = journal.request({ type: "message.send", thread: "t", text: "Hi", key: "k" });
        refuseLast(socket, "message.send", { code: "rate.exceeded", retry_after: 3 });
        return sent.catch((error) => ({ code: error.code, message: error.message, retryAfter: error.retryAfter }));
    """)

    assert out == {"code": "rate.exceeded", "message": "No.", "retryAfter": 3}


def test_what_was_seen_is_acknowledged_soon_and_only_once(bench):
    out = bench("""
        journal.follow("t");
        const socket = await live();
        socket.say(event(1)); socket.say(event(2));
        const early = of(socket, "ack").length;
        await pause(700);
        return { early, acks: of(socket, "ack").map((frame) => [frame.thread, frame.seq]) };
    """)

    assert out == {"early": 0, "acks": [["t", 2]]}


def test_many_events_are_acknowledged_without_waiting(bench):
    acks = bench("""
        journal.follow("t");
        const socket = await live();
        for (let seq = 1; seq <= 130; seq += 1) socket.say(event(seq));
        return of(socket, "ack").map((frame) => frame.seq);
    """)

    assert acks == [64, 128]


@pytest.mark.parametrize("code", [4401, 4403])
def test_a_door_that_is_closed_for_good_is_not_knocked_at_again(bench, code):
    out = bench(f"""
        const socket = await live();
        const sent = journal.request({{ type: "run.cancel", run: "r" }}).catch((error) => error.code);
        socket.die({code});
        await pause(600);
        return {{ count: sockets.length, last: statuses.at(-1), code: await sent }};
    """)

    assert out == {"count": 1, "last": "closed", "code": "link.closed"}


def test_without_a_socket_the_same_events_are_fetched(bench):
    out = bench("""
        refuse = true;
        answer = (path) => path.endsWith("after=0")
            ? { events: [event(1), event(2)], last_seq: 3, more: true }
            : path.endsWith("after=2") ? { events: [event(2), event(3)], last_seq: 3, more: false }
            : { events: [], last_seq: 3, more: false };
        journal.follow("t");
        await until(() => seen.length === 3);
        return { seen, sockets: sockets.length, last: statuses.at(-1), first: calls[0][0] };
    """)

    assert out == {"seen": [1, 2, 3], "sockets": 3, "last": "polling", "first": "/api/threads/t/events/?after=0"}


def test_without_a_socket_a_message_goes_over_http_with_its_key(bench):
    out = bench("""
        refuse = true;
        answer = (path) => path.includes("/messages/") ? { run: "r", message: "m" } : { events: [], more: false };
        const message = { type: "message.send", thread: "t", text: "Hi", key: "k", dataset: "d" };
        const { run } = await journal.request(message);
        return { run, call: calls.find(([path]) => path.includes("/messages/")) };
    """)

    assert out["run"] == "r"
    path, options = out["call"]
    assert path == "/api/threads/t/messages/"
    assert options == {"method": "POST", "body": {"text": "Hi", "dataset": "d"}, "headers": {"Idempotency-Key": "k"}}


def test_without_a_socket_an_answer_goes_over_http(bench):
    out = bench("""
        refuse = true;
        answer = (path) => path.endsWith("/answer/") ? { id: "r" } : { events: [], more: false };
        await journal.request({ type: "run.answer", run: "r", call: "c", value: "approve" });
        return calls.find(([path]) => path.endsWith("/answer/"));
    """)

    assert out == ["/api/runs/r/answer/", {"method": "POST", "body": {"call": "c", "value": "approve"}}]


def test_once_a_socket_can_be_had_again_it_is_used(bench):
    out = bench("""
        refuse = true;
        answer = (path) => path.endsWith("after=0") ? { events: [event(1)], more: false } : { events: [], more: false };
        journal.follow("t");
        await until(() => seen.length === 1);
        refuse = false;
        dispatchEvent(new Event("online"));
        const socket = await live(3);
        return { last: statuses.at(-1), after: of(socket, "thread.subscribe").map((frame) => frame.after) };
    """)

    assert out == {"last": "live", "after": [1]}


def test_a_house_that_was_down_gets_a_socket_as_soon_as_it_answers_again(bench):
    out = bench("""
        refuse = true;
        answer = () => { throw { code: "network.down" }; };
        journal.follow("t");
        await until(() => statuses.at(-1) === "reconnecting" && journal.link === "polling");
        const before = sockets.length;
        refuse = false;
        answer = () => ({ events: [], more: false });
        await live(before);
        return { last: statuses.at(-1), soon: sockets.length - before };
    """)

    assert out == {"last": "live", "soon": 1}


def test_a_house_restored_to_an_earlier_time_is_read_from_the_start(bench):
    out = bench("""
        journal.follow("t", 9);
        const socket = await live();
        refuseLast(socket, "thread.subscribe", { code: "thread.behind" });
        socket.say(event(1));
        return { seen, after: of(socket, "thread.subscribe").map((frame) => frame.after) };
    """)

    assert out == {"seen": ["start t", 1], "after": [9, 0]}


def test_a_thread_that_is_gone_is_told_and_left(bench):
    out = bench("""
        journal.follow("t");
        const socket = await live();
        refuseLast(socket, "thread.subscribe", { code: "thread.not_found" });
        socket.die(1006);
        await until(() => sockets.length === 2);
        const again = await live(1);
        return { thread: frames[0].thread, asked: of(again, "thread.subscribe").length };
    """)

    assert out == {"thread": "t", "asked": 0}


def test_a_move_that_is_announced_loses_nothing(bench):
    out = bench("""
        journal.follow("t");
        const socket = await live();
        socket.say(event(1));
        socket.say({ type: "reconnect", in_ms: 100 });
        await until(() => sockets.length === 2);
        (await live(1)).say(event(2));
        return seen;
    """)

    assert out == [1, 2]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_line_does_every_event_arrives_once_and_in_order(bench, seed):
    """A line that loses, doubles and swaps frames, and breaks; the server repeats its position, as ours does."""
    seen = bench(f"""
        let state = {seed} * 7919 + 17;
        const chance = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
        const all = 200;
        const some = (most, after) =>
            Array.from({{ length: Math.min(most, all - after) }}, (_, place) => event(after + 1 + place));
        const bad = (socket, frames) => {{
            for (const frame of frames) {{
                if (socket.readyState !== 1) return;
                if (chance() < 0.15) continue;
                if (chance() < 0.01) return socket.die(1006);
                socket.say(frame);
                if (chance() < 0.2) socket.say(frame);
                if (chance() < 0.1 && frame.seq > 2) socket.say(event(frame.seq - 1));
            }}
        }};
        const serve = (socket) => {{
            socket.onsend = (frame) => setTimeout(() => {{
                if (socket.readyState !== 1) return;
                if (frame.type === "hello") socket.say({{ type: "ready", heartbeat_seconds: 25 }});
                if (frame.type === "thread.subscribe")
                    bad(socket, some(40, frame.after));
            }});
        }};
        journal.follow("t");
        let served = 0;
        const started = performance.now();
        while (seen.at(-1) !== all && performance.now() - started < 15000) {{
            for (; served < sockets.length; served += 1) {{
                serve(sockets[served]);
                if (sockets[served].out.length) sockets[served].onsend({{ type: "hello" }});
            }}
            const socket = sockets.at(-1);
            if (socket.readyState === 1 && journal.link === "live") {{
                // The position check: what the client lacks is offered again.
                bad(socket, some(30, journal.position("t")));
            }}
            await pause(5);
        }}
        return seen;
    """)

    assert seen == list(range(1, 201))
