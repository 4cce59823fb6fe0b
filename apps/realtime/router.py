"""From a decoded frame to the one handler that answers it."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import structlog

from apps.accounts.tenancy import Principal
from apps.errors import NetraError
from apps.operations.database import in_database
from apps.operations.problems import UnexpectedError, new_support_id
from apps.realtime.schema import ClientMessage, UnknownMessage

log = structlog.get_logger(__name__)

# A handler blocks on a database thread and returns what `accepted` shall say.
Handler = Callable[[Principal, Any], Mapping[str, UUID | None]]


class MessageRouter:
    """Finds the handler of a client message in the table that `netra/routing.py` gives."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def answer(self, principal: Principal, message: ClientMessage) -> dict[str, Any]:
        """The `accepted` or `error` frame for `message`; a failing handler never costs the socket."""
        name: str = message.type  # type: ignore[attr-defined]
        try:
            if name not in self._handlers:
                raise UnknownMessage(f"No handler for {name!r}.")
            said = await in_database(self._handlers[name], principal, message)
        except NetraError as error:
            return error_frame(error, reply_to=message.id)
        except Exception as error:
            return unexpected_frame(error, reply_to=message.id, message=name)
        return {"type": "accepted", "reply_to": message.id} | {key: str(value) for key, value in said.items() if value}


def error_frame(error: NetraError, *, reply_to: Any = None) -> dict[str, Any]:
    """An anticipated failure, as the client sees it."""
    frame = {"type": "error", "code": error.code, "detail": error.detail}
    if reply_to is not None:
        frame["reply_to"] = reply_to
    if error.retry_after is not None:
        frame["retry_after"] = error.retry_after  # type: ignore[assignment]
    return frame


def unexpected_frame(error: Exception, *, reply_to: Any, message: str) -> dict[str, Any]:
    """A bug, as the client sees it: a support id; the rest is in the log."""
    support_id = new_support_id()
    log.error("Socket message failed", message=message, support_id=support_id, exc_info=error)
    detail = "Something went wrong on our side. Quote the support id if it happens again."
    return error_frame(UnexpectedError(detail), reply_to=reply_to) | {"support_id": support_id}
