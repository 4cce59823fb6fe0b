"""`python -m apps.agents.benchmark.model_server`: a local model that speaks the OpenAI chat protocol.

Its answers are always the same: it thinks and calls the first tool it is offered; once it has seen a result it thinks
and hands in the typed output. It prints its port. A prompt that holds `[wait 2000 ms]` delays the first answer of its
run by that much. It answers in one piece, or in frames where it is asked to stream.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

LONG_THOUGHT = (
    "The question names a key, and the tool looks up values by key. Nothing else in the request bears on the answer: "
    "no unit is asked for, no date, and no comparison with an earlier value. A guess would be worth nothing here, "
    "since the value is known to the tool and to nobody else. So the next thing to do is to look the key up, once, "
    "and to read what comes back."
)
SHORT_THOUGHT = "The tool has answered. Its value is what was asked for, so that is the answer."
PIECES = 4  # frames of one thought
USAGE = {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180}
_WAIT = re.compile(r"\[wait (\d+) ms\]")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


def answer(request: dict[str, Any]) -> tuple[bytes, float]:
    """The bytes that answer a request, and the seconds to wait before them."""
    messages = request["messages"]
    said = _streamed if request.get("stream") else _whole
    if any(message["role"] == "tool" for message in messages):
        return said(SHORT_THOUGHT, "final_result", {"value": 6, "reason": "looked up"}), 0.0
    found = _WAIT.search(json.dumps(messages[-1]["content"]))
    name = request["tools"][0]["function"]["name"]
    return said(LONG_THOUGHT, name, {"key": "margin"}), int(found[1]) / 1000 if found else 0.0


def _call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{tool}", "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}


# --- In one piece ----------------------------------------------------------------------------------------------------


def _whole(thought: str, tool: str, arguments: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": None, "reasoning_content": thought}
    choice = {"index": 0, "message": message | {"tool_calls": [_call(tool, arguments)]}, "finish_reason": "tool_calls"}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "benchmark"}
    body = json.dumps(head | {"choices": [choice], "usage": USAGE}).encode()
    return _WHOLE % (len(body), body)


# --- In frames -------------------------------------------------------------------------------------------------------


def _streamed(thought: str, tool: str, arguments: dict[str, Any]) -> bytes:
    return _STREAM + b"".join(_chunk(frame) for frame in _frames(thought, tool, arguments)) + b"0\r\n\r\n"


def _chunk(frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _frames(thought: str, tool: str, arguments: dict[str, Any]) -> Iterator[bytes]:
    length = -(-len(thought) // PIECES)
    for start in range(0, len(thought), length):
        yield _frame({"role": "assistant", "content": None, "reasoning_content": thought[start : start + length]})
    yield _frame({"tool_calls": [{"index": 0} | _call(tool, arguments)]})
    yield _frame({}, finish="tool_calls")
    yield _line({"choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def _frame(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    return _line({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _line(more: dict[str, Any]) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "benchmark"}
    return f"data: {json.dumps(head | more)}\n\n".encode()


# --- The server ------------------------------------------------------------------------------------------------------


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of one connection, one after the other, until the client hangs up."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            said, seconds = answer(json.loads(await reader.readexactly(int(length[1]) if length else 0)))
            if seconds:
                await asyncio.sleep(seconds)
            writer.write(said)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Listen on a free port, say which, and answer until the process is ended."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  # whoever started it reads the port
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
