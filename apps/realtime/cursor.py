"""How far one socket has read one thread. A cursor, not a queue: what does not fit is read from the table again."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

HELD = 100  # events kept for a socket that is busy; beyond, they are read from the table


class Cursor:
    """What was sent, what is acknowledged, and what was heard but not sent yet."""

    def __init__(self, after: int) -> None:
        self.sent = after
        self.behind = True  # the table may hold more than was heard
        self.wants_text = True  # live text shall start over from offset 0
        self._heard: list[Mapping[str, Any]] = []
        self._deltas: list[Mapping[str, Any]] = []
        self._text_ends: dict[tuple[str, int], int] = {}  # message and attempt -> characters that were passed on
        self._unacknowledged: deque[tuple[int, int]] = deque()  # seq, bytes

    @property
    def known(self) -> int:
        """The last number that was sent or is held for sending."""
        return max(self.sent, self._heard[-1]["seq"]) if self._heard else self.sent

    def hear(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep what comes next; a gap, or too much, means reading the table."""
        for event in events:
            if event["seq"] == self.known + 1 and len(self._heard) < HELD and not self.behind:
                self._heard.append(event)
            elif event["seq"] > self.known:
                self.behind = True

    def hear_number(self, last_seq: int) -> None:
        """A hint without the events."""
        self.behind = self.behind or last_seq > self.known

    def text_begins(self, snapshot: Mapping[str, Any]) -> None:
        """The socket has the live text as far as `snapshot` goes."""
        self._text_ends = {_text_of(snapshot): len(snapshot["data"]["text"])}

    def hear_delta(self, frame: Mapping[str, Any]) -> None:
        """Keep a piece of live text; after a hole, or when there are too many, the text starts over."""
        if self.wants_text:
            return
        offset, end = frame["data"]["offset"], frame["data"]["offset"] + len(frame["data"]["text"])
        if offset > self._text_ends.get(_text_of(frame), 0) or len(self._deltas) >= HELD:
            self._deltas.clear()
            self.wants_text = True
            return
        self._text_ends = {_text_of(frame): end}
        self._deltas.append(frame)

    def take_heard(self) -> list[Mapping[str, Any]]:
        """What comes next, in order; what a read of the table has sent meanwhile is dropped."""
        heard, self._heard = self._heard, []
        return [event for event in heard if event["seq"] > self.sent]

    def take_deltas(self) -> list[Mapping[str, Any]]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def was_sent(self, seq: int, size: int) -> None:
        self.sent = seq
        self._unacknowledged.append((seq, size))

    def acknowledge(self, seq: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= seq:
            self._unacknowledged.popleft()

    @property
    def unacknowledged(self) -> tuple[int, int]:
        """Events and bytes that the client has not acknowledged."""
        return len(self._unacknowledged), sum(size for _, size in self._unacknowledged)


def _text_of(frame: Mapping[str, Any]) -> tuple[str, int]:
    """Which text a frame belongs to: a later attempt writes another one."""
    return frame["data"]["message"], frame["attempt"]
