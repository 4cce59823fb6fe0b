"""`python -m apps.agents.benchmark.clients`: people at the front door, in a process of their own.

In a closed loop each client makes a thread, sends a message and reads the thread's event stream until the run has
ended; then it does so again. Reads `{"url", "keys", "clients", "runs", "text"}` on standard input and prints
`{"seconds", "first_event", "whole", "events"}`: the whole time, and per run the seconds from sending the message to
`agent_started` and to the terminal event, and the number of its events. Plain sockets, so that the clients take as
little as possible of the machine that is measured.
"""

import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 120.0  # seconds without a byte
TERMINAL = {"agent_completed", "agent_error", "run_cancelled"}


class BrokenRun(Exception):
    """A run that did not go as it must: a benchmark of failures is worth nothing."""


@dataclass
class Taken:
    """What the clients of one process saw; lists are per run."""

    seconds: float = 0.0
    first_event: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)


class Client:
    """One person with an API key, and a connection for short requests."""

    def __init__(self, url: str, key: str) -> None:
        target = urlsplit(url)
        self._address = (target.hostname, target.port)
        self._head = f"Host: {target.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._short = self._connect()

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """The answer to a POST.

        Raises:
            BrokenRun: it was refused.
        """
        body = json.dumps(document)
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._short.sendall(f"POST {path} HTTP/1.1\r\n{self._head}{length}\r\n{body}".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._received(self._short)
        head, _, content = answer.partition(b"\r\n\r\n")
        expected = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(content) < expected:
            content += self._received(self._short)
        if head.split(b" ", 2)[1] not in (b"200", b"201", b"202"):
            raise BrokenRun(f"POST {path}: {head!r} {content!r}")
        return dict(json.loads(content))

    def events(self, thread: str) -> Iterator[dict[str, Any]]:
        """The events of a thread from the first on, as they come."""
        with self._connect() as stream:
            request = f"GET /api/threads/{thread}/events/ HTTP/1.1\r\n{self._head}Accept: text/event-stream\r\n\r\n"
            stream.sendall(request.encode())
            buffered = b""
            while True:
                # Chunk sizes stand on lines of their own; only the `data:` lines count.
                buffered += self._received(stream)
                *lines, buffered = buffered.split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])

    def close(self) -> None:
        self._short.close()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _received(self, connection: socket.socket) -> bytes:
        received = connection.recv(65536)
        if not received:
            raise BrokenRun("The server hung up.")
        return received


def one_run(client: Client, text: str, taken: Taken) -> None:
    """A new thread with one run, read to its end.

    Raises:
        BrokenRun: it failed, or an event was missing or came twice.
    """
    thread = client.post("/api/threads/", {})["id"]
    sent_at = time.monotonic()
    client.post(f"/api/threads/{thread}/messages/", {"text": text})
    started = None
    for place, event in enumerate(client.events(thread), start=1):
        if event["seq"] != place:
            raise BrokenRun(f"Event {place} is missing: {event}")
        if event["type"] == "agent_started":
            started = time.monotonic() - sent_at
        if event["type"] in TERMINAL:
            break
    if event["type"] != "agent_completed" or started is None:
        raise BrokenRun(f"The run ended with {event}")
    taken.first_event.append(started)
    taken.whole.append(time.monotonic() - sent_at)
    taken.events.append(place)


def closed_loop(url: str, keys: list[str], clients: int, runs: int, text: str) -> Taken:
    """`runs` runs by `clients` clients at once.

    Raises:
        BrokenRun: one of them went wrong.
    """
    taken, wrong, left = Taken(), [], iter(range(runs))

    def go_on(client: Client) -> None:
        try:
            for _ in left:
                one_run(client, text, taken)
        except (BrokenRun, OSError) as error:
            wrong.append(error)
        finally:
            client.close()

    people = [Client(url, key) for key in itertools.islice(itertools.cycle(keys), clients)]
    threads = [threading.Thread(target=go_on, args=[person]) for person in people]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.seconds = time.monotonic() - began
    if wrong:
        raise BrokenRun(f"{len(wrong)} of {clients} clients broke off; the first: {wrong[0]!r}")
    return taken


if __name__ == "__main__":
    try:
        json.dump(asdict(closed_loop(**json.load(sys.stdin))), sys.stdout)
    except BrokenRun as broken:
        sys.exit(str(broken))
