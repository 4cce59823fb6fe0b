"""A local server that speaks the OpenAI chat protocol: what it answers is decided by a function."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[dict], dict]  # request body -> the assistant's message


@contextmanager
def model_server(reply: Reply) -> Iterator[str]:
    """The base URL of a running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = reply(body)
            if "status" in message:
                self._send(message["status"], b'{"error": {"message": "no"}}', "application/json")
                return
            self._send(200, json.dumps(_completion(message)).encode(), "application/json")

        def _send(self, status, content, kind):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may be gone
                self.wfile.write(content)

        def log_message(self, *args):
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(message: dict) -> dict:
    calls = message.get("tool_calls")
    said = {"role": "assistant", "content": message.get("content")}
    said |= {"reasoning_content": message["thought"]} if "thought" in message else {}
    said |= {"tool_calls": calls} if calls else {}
    finish = message.get("finish", "tool_calls" if calls else "stop")
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120} | message.get("usage", {})
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini"}
    return head | {"choices": [{"index": 0, "message": said, "finish_reason": finish}], "usage": usage}


def tool_call(name: str, arguments: dict, call: str = "call_1") -> dict:
    """An assistant's message that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"id": call, "type": "function", "function": function}]}
