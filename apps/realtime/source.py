"""What a socket needs to know of events, without knowing where they come from."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from apps.accounts.tenancy import Principal

Envelope = Mapping[str, Any]


class EventSource(Protocol):
    """The seam between the post office and the journal; all methods block and are called on database threads."""

    def authorize(self, principal: Principal, thread: UUID) -> int:
        """The thread's last number.

        Raises:
            NotFound: the thread does not exist or is not the principal's to see.
        """

    def read(self, thread: UUID, after: int, limit: int) -> Sequence[Envelope]:
        """At most `limit` events numbered above `after`, in order and without gaps."""

    def positions(self, threads: Sequence[UUID]) -> Mapping[UUID, int]:
        """The last number of each thread that exists."""

    def live(self, thread: UUID) -> Envelope | None:
        """The `message_delta` that brings a newcomer up to the text being written now; None when nothing is."""
