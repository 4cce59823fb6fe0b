"""An independent tool server: the far side of every tool call, which remembers what really happened.

It shares nothing with the house that calls it. Every call stands in an append-only file, forced to the disk, before its
effect is acknowledged, so that an oracle can compare what the house believes with what was done.

    PUT /effects/<key>  {"run", "step", "call", "kind", "pid", "seconds"}   one call; answers after `seconds`
    GET /effects/<key>                                                      200 if the effect happened, else 404
    PUT /mode           {"mode": "ok" | "error" | "slow", "seconds"}        how `flaky` calls fare from now on

Which calls are effects depends on their kind: a `pure` call never is one; of calls under one `idempotent` key only the
first is; every `queryable` or `unsafe` call is one more.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ONCE_PER_KEY = {"idempotent", "flaky"}


class Record:
    """What was called and what was done, in memory to answer from and on the disk to be believed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()
        self._effects: Counter[str] = Counter()

    def take(self, key: str, call: dict[str, Any], *, refused: bool) -> int:
        """Write a call down with its effect; answers how many effects the key has had."""
        with self._lock:
            repeated = call["kind"] in ONCE_PER_KEY and self._effects[key] > 0
            effect = not refused and not repeated and call["kind"] != "pure"
            self._effects[key] += effect
            line = {"at": time.time(), "key": key, "effect": effect, "refused": refused, **call}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._effects[key]

    def effects(self, key: str) -> int:
        with self._lock:
            return self._effects[key]


class ToolServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, record: Record) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.record = record
        self.mode: dict[str, Any] = {"mode": "ok", "seconds": 0.0}


class Handler(BaseHTTPRequestHandler):
    server: ToolServer

    def do_PUT(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/mode":
            self.server.mode = said
            return self._answer(200, said)
        mode = self.server.mode if said["kind"] == "flaky" else {"mode": "ok"}
        refused = mode["mode"] == "error"
        # The effect comes first: whoever is killed while waiting for the answer has caused it.
        effects = self.server.record.take(self._key(), said, refused=refused)
        time.sleep(mode["seconds"] if mode["mode"] == "slow" else said["seconds"])
        return self._answer(503 if refused else 200, {"effects": effects})

    def do_GET(self) -> None:
        effects = self.server.record.effects(self._key())
        self._answer(200 if effects else 404, {"effects": effects})

    def _key(self) -> str:
        return self.path.removeprefix("/effects/")

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            return  # whoever asked was killed meanwhile, which is what this server is for

    def log_message(self, format: str, *args: Any) -> None:
        """The record says it all."""


if __name__ == "__main__":
    server = ToolServer(Record(Path(sys.argv[1])))
    print(server.server_address[1], flush=True)
    server.serve_forever()
