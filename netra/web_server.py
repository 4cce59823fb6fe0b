"""`python -m netra.web_server`: Daphne by its own command line, except that a body above the limit is refused when it
is announced. Daphne alone would take all of it to disk before any code of ours is asked."""

import asyncio
import json
from typing import Any

import uvloop

# Daphne makes its event loop when it is imported.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

import daphne.http_protocol  # noqa: E402
from daphne.cli import CommandLineInterface  # noqa: E402
from twisted.internet import reactor  # noqa: E402

from netra.env import ENV  # noqa: E402

FORM_BYTES = 16 * 1024  # of a multipart body beside the file
OTHER_BYTES = 2 * 1024 * 1024  # of a body that is no upload
UPLOADS, TRACES = b"/api/datasets/", b"/v1/traces"
TRACES_BYTES = 8 * 1024 * 1024  # of one batch of an exporter, as the view says
LINGER = 3.0  # seconds for a client that is still sending to read why it is refused


class LimitedRequest(daphne.http_protocol.WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request that counts its body while it comes."""

    _received = 0  # bytes
    _limit = OTHER_BYTES
    _refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Twisted would take forms and uploads to pieces, in memory, before Django does so for the view that wants them.
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)

    def gotLength(self, length: int | None) -> None:  # Twisted's name
        # The request line is only the channel's until the body is there.
        limits = {UPLOADS: ENV.netra_max_upload_bytes + FORM_BYTES, TRACES: TRACES_BYTES}
        self._limit = limits.get(self.channel._path, OTHER_BYTES)
        if length is not None and length > self._limit:
            super().gotLength(0)
            self._refuse()
        else:
            super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:  # Twisted's name
        self._received += len(data)
        if self._received > self._limit:
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def process(self) -> Any:
        # Daphne lets whoever asks say below which path the site lies: what a proxy refuses would come in under another.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        return None if self._refused else super().process()

    def handle_exception(self, exception: BaseException) -> None:  # Daphne's name
        # Daphne would begin a second answer, fail at that, and never again clear away what has ended.
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None:
            self.channel.loseConnection()

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        self.channel.transport.write(_refusal(self._limit))
        # Closing at once would reset the connection before a client that is still sending has read the answer.
        timer: Any = reactor
        timer.callLater(LINGER, self.channel.loseConnection)


def _refusal(limit: int) -> bytes:
    detail = f"This may have at most {limit:,} bytes; NETRA_MAX_UPLOAD_BYTES limits uploads."
    problem = {"type": "about:blank", "title": "upload.too_large", "status": 413, "code": "upload.too_large"}
    body = json.dumps(problem | {"detail": detail}).encode()
    head = (
        "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Run Daphne with requests that keep the limit."""
    daphne.http_protocol.WebRequest = LimitedRequest
    # Twisted would put a line together for each answer, for a log that nobody keeps.
    daphne.http_protocol.HTTPFactory.log = lambda factory, request: None
    CommandLineInterface.entrypoint()


if __name__ == "__main__":
    main()
