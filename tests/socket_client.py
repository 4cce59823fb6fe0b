"""A client of the tests' own: it speaks the public protocol, keeps every event it is shown, and checks the numbers.

`Recorder` behaves like a browser tab: it acknowledges, resumes after a lost socket, and never repairs what it sees.
"""

import json
import time
from collections import defaultdict
from uuid import UUID, uuid4

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TERMINAL = {"agent_completed", "agent_error", "run_cancelled"}
PATIENCE = 30.0  # seconds


class Refused(Exception):
    """The server answered with an error frame."""

    def __init__(self, frame: dict) -> None:
        super().__init__(frame)
        self.frame = frame


class Recorder:
    """One tab of one user."""

    def __init__(self, url: str, *, cookie: str | None = None, ticket=None, origin: str | None = "same") -> None:
        self.url = url.replace("http", "ws", 1) + "/ws/"
        self._origin = url if origin == "same" else origin
        self._cookie, self._ticket = cookie, ticket
        self.events: dict[str, list[dict]] = defaultdict(list)  # by thread, as they came
        self.deltas: list[dict] = []
        self.frames: list[dict] = []  # everything without a number
        self.socket: ClientConnection | None = None

    def open(self) -> dict:
        """Connect, say hello, and follow again what was followed before; answers the `ready` frame."""
        self.close()
        headers = {"Cookie": self._cookie} if self._cookie else {}
        self._connecting = connect(self.url, origin=self._origin, additional_headers=headers, close_timeout=1)
        self.socket = self._connecting.__enter__()
        self.send({"type": "hello"} | ({"ticket": self._ticket()} if self._ticket else {}))
        ready = self.receive()
        for thread in self.events:
            self.subscribe(thread)
        return ready

    def close(self) -> None:
        if self.socket is not None:
            self._connecting.__exit__(None, None, None)
            self.socket = None

    def send(self, frame: dict) -> None:
        assert self.socket is not None
        self.socket.send(json.dumps(frame))

    def receive(self, timeout: float = PATIENCE) -> dict:
        """The next frame, recorded."""
        assert self.socket is not None
        frame = json.loads(self.socket.recv(timeout))
        if "seq" in frame:
            self.events[frame["thread"]].append(frame)
            self.send({"type": "ack", "thread": frame["thread"], "seq": frame["seq"]})
        elif frame["type"] == "message_delta":
            self.deltas.append(frame)
        else:
            self.frames.append(frame)
        return frame

    def ask(self, frame: dict) -> dict:
        """Send a message and wait for its reply; events that come meanwhile are recorded.

        Raises:
            Refused: the reply is an error.
        """
        frame = frame | {"id": uuid4().hex}
        self.send(frame)
        while True:
            reply = self.receive()
            if reply.get("reply_to") == frame["id"]:
                if reply["type"] == "error":
                    raise Refused(reply)
                return reply

    def subscribe(self, thread: str | UUID, after: int | None = None) -> dict:
        thread = str(thread)
        seen = self.events[thread]
        last = seen[-1]["seq"] if seen else 0
        return self.ask({"type": "thread.subscribe", "thread": thread, "after": last if after is None else after})

    def say(self, thread: str | UUID, text: str, **more) -> dict:
        return self.ask({"type": "message.send", "thread": str(thread), "text": text, "key": uuid4().hex, **more})

    def follow(self, run: str, until: set[str] = TERMINAL, timeout: float = PATIENCE) -> dict:
        """Read until an event of `run` is one of `until`, resuming over lost sockets; answers that event."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = [e for es in self.events.values() for e in es if e["run"] == run and e["type"] in until]
            if found:
                return found[0]
            try:
                self.receive(timeout=deadline - time.monotonic())
            except (ConnectionClosed, ConnectionError):
                self.reopen(deadline)
        raise AssertionError(f"run {run} did not reach {until}; seen: {self.kinds()}")

    def reopen(self, deadline: float) -> None:
        """Open again as soon as the server answers."""
        while True:
            try:
                self.open()
                return
            except (ConnectionError, ConnectionClosed, TimeoutError):
                assert time.monotonic() < deadline, "the server did not come back"

    def kinds(self, thread: str | None = None) -> list[str]:
        chosen = [self.events[str(thread)]] if thread else self.events.values()
        return [event["type"] for events in chosen for event in events]

    def assert_whole(self) -> None:
        """Every thread's events are 1, 2, 3 ... each once, whatever happened to the sockets."""
        for thread, events in self.events.items():
            numbers = [event["seq"] for event in events]
            assert numbers == list(range(1, len(numbers) + 1)), f"{thread}: {numbers}"
            assert all(event["thread"] == thread for event in events)
