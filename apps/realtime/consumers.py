"""One open socket: says who is there, forwards each thread's events in order, and hands messages to the router."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, assert_never
from uuid import UUID, uuid4

import structlog
from django.db.utils import Error as DatabaseError
from redis.exceptions import RedisError

from apps.accounts.tenancy import Holder, Principal, principal_now
from apps.errors import NetraError, NotFound
from apps.operations.database import in_database
from apps.realtime import authentication, schema
from apps.realtime.cursor import Cursor
from apps.realtime.hub import Hub, hub_for
from apps.realtime.notifier import CONTROL, thread_channel, user_channel
from apps.realtime.router import MessageRouter, error_frame, unexpected_frame
from apps.realtime.source import Envelope, EventSource

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

UNAUTHENTICATED, BAD_ORIGIN, SLOW_HELLO = 4401, 4403, 4408
SLOW_CONSUMER, TOO_MANY, RESTART = 4008, 4029, 4012

HELLO_PATIENCE = 10.0  # seconds
HEARTBEAT = 25.0  # seconds between two pings of the client
RECHECK = 10.0  # seconds between two looks at whether the client may still listen
CREDIT_EVENTS, CREDIT_BYTES = 500, 256 * 1024  # unacknowledged at most; Daphne itself knows no back-pressure
CREDIT_PATIENCE = 30.0  # seconds without an acknowledgement while credit is used up
READ_AT_ONCE = 200  # events per read of the table
SUBSCRIPTIONS = 200  # threads per socket
SOCKETS = 50  # of one user in one process
MESSAGES, MESSAGES_PER_SECOND = 200, 20  # burst and steady rate of a client


class Closed(Exception):
    """The socket is to be closed with `code`, or the client has left (None)."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class NetraConsumer:
    """The ASGI application of `/ws/`, told at the top which handlers and which events it serves."""

    def __init__(self, *, router: MessageRouter, source: EventSource) -> None:
        self._router, self._source = router, source

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        # Accept first: a socket refused in the handshake tells its client only 1006.
        await send({"type": "websocket.accept"})
        connection = Connection(scope, receive, send, self._router, self._source)
        try:
            await connection.serve()
        except Closed as closed:
            if closed.code is not None:
                await send({"type": "websocket.close", "code": closed.code})
        except (DatabaseError, RedisError) as error:
            # The client comes back by itself and says the last number it has.
            log.warning("Socket closed: a store is away", connection=str(connection.id), reason=repr(error))
            await send({"type": "websocket.close", "code": RESTART})


class Connection:
    """The state of one socket."""

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, router: MessageRouter, source: EventSource
    ) -> None:
        self.id = uuid4()
        self._scope, self._receive, self._send = scope, receive, send
        self._router, self._source = router, source
        self._cursors: dict[UUID, Cursor] = {}
        self._frames: list[Mapping[str, Any]] = []
        self._dirty = asyncio.Event()
        self._allowance, self._counted_at = float(MESSAGES), time.monotonic()
        self._acknowledged_at = time.monotonic()
        self._principal: Principal
        self._holder: Holder | None = None  # of the ticket that opened the socket; None: a session did
        self._channels: set[str] = set()
        self._hub: Hub

    # --- From hello to goodbye ---------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Until somebody closes.

        Raises:
            Closed: always, at the end.
        """
        if not authentication.origin_is_ours(self._scope):
            raise Closed(BAD_ORIGIN)
        self._principal = await self._welcome()
        self._hub = hub_for(self._source)
        if self._hub.count(user_channel(self._principal.user_id)) >= SOCKETS:
            raise Closed(TOO_MANY)
        try:
            for channel in (CONTROL, user_channel(self._principal.user_id)):
                await self._join(channel)
            await self._say(self._ready())
            await self._work()
        finally:
            for channel in self._channels:
                await self._hub.leave(channel, self)

    async def _join(self, channel: str) -> None:
        self._channels.add(channel)
        await self._hub.join(channel, self)

    async def _welcome(self) -> Principal:
        try:
            async with asyncio.timeout(HELLO_PATIENCE):
                message = await self._next_message()
                principal = await self._identify(message)
        except TimeoutError:
            raise Closed(SLOW_HELLO) from None
        except NetraError as error:
            await self._say(error_frame(error))
            raise Closed(UNAUTHENTICATED) from error
        if principal is None:
            raise Closed(UNAUTHENTICATED)
        return principal

    async def _identify(self, message: schema.ClientMessage) -> Principal | None:
        if not isinstance(message, schema.Hello):
            return None
        if message.ticket is not None:
            self._holder = await authentication.holder_of_ticket(message.ticket)
            if self._holder is None:
                return None
        return await self._current_principal()

    async def _current_principal(self) -> Principal | None:
        if self._holder is not None:
            return await in_database(principal_now, self._holder)
        return await authentication.principal_of_session(self._scope)

    async def _recheck(self) -> None:
        """Take on the rights that the client has now.

        Raises:
            Closed: it has none any more, or those of another organization.
        """
        try:
            principal = await self._current_principal()
        except NetraError as error:
            raise Closed(UNAUTHENTICATED) from error
        if principal is None or principal.organization_id != self._principal.organization_id:
            raise Closed(UNAUTHENTICATED)
        self._principal = principal

    def _ready(self) -> dict[str, Any]:
        return {
            "type": "ready",
            "connection": str(self.id),
            "heartbeat_seconds": HEARTBEAT,
            "limits": {
                "frame_bytes": schema.FRAME_LIMIT,
                "text_characters": schema.TEXT_LIMIT,
                "subscriptions": SUBSCRIPTIONS,
                "unacknowledged_events": CREDIT_EVENTS,
                "unacknowledged_bytes": CREDIT_BYTES,
                "messages_per_second": MESSAGES_PER_SECOND,
            },
        }

    async def _work(self) -> None:
        """Listen, forward and watch, until the first of the three ends."""
        tasks = [asyncio.create_task(work()) for work in (self._listen, self._forward, self._watch)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- What the client says ----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._next_message()
            except NetraError as error:
                await self._say(error_frame(error, reply_to=getattr(error, "reply_to", None)))
                continue
            try:
                await self._handle(message)
            except NetraError as error:
                await self._say(error_frame(error, reply_to=message.id))
            except Closed:
                raise
            except Exception as error:
                await self._say(unexpected_frame(error, reply_to=message.id, message=type(message).__name__))

    async def _next_message(self) -> schema.AnyClientMessage:
        frame = await self._receive()
        if frame["type"] == "websocket.disconnect":
            raise Closed(None)
        self._count_message()
        text = frame.get("text")
        if text is None or len(text) > schema.FRAME_LIMIT or len(text.encode()) > schema.FRAME_LIMIT:
            raise schema.InvalidMessage(f"Send text frames of at most {schema.FRAME_LIMIT} bytes.")
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError):
            raise schema.InvalidMessage("The frame is not JSON.") from None
        return schema.client_message(decoded)

    def _count_message(self) -> None:
        """A token bucket; a client that empties it is closed.

        Raises:
            Closed: with 4029.
        """
        now = time.monotonic()
        self._allowance = min(MESSAGES, self._allowance + (now - self._counted_at) * MESSAGES_PER_SECOND) - 1
        self._counted_at = now
        if self._allowance < 0:
            raise Closed(TOO_MANY)

    async def _handle(self, message: schema.AnyClientMessage) -> None:
        match message:
            case schema.Hello():
                raise schema.InvalidMessage("hello: it was said already.")
            case schema.Subscribe():
                await self._subscribe(message)
            case schema.Unsubscribe():
                await self._unsubscribe(message)
            case schema.Ack():
                self._acknowledge(message)
            case schema.Ping():
                await self._say({"type": "pong", "at": message.at, "reply_to": message.id})
            case schema.SendMessage() | schema.AnswerRun() | schema.CancelRun():
                await self._recheck()
                await self._say(await self._router.answer(self._principal, message))
            case _:
                assert_never(message)

    async def _subscribe(self, message: schema.Subscribe) -> None:
        if len(self._cursors) >= SUBSCRIPTIONS and message.thread not in self._cursors:
            raise TooManySubscriptions(f"At most {SUBSCRIPTIONS} threads per socket; unsubscribe from one first.")
        await self._recheck()
        last_seq = await in_database(self._source.authorize, self._principal, message.thread)
        if message.after > last_seq:
            raise ThreadBehind(
                f"The thread has {last_seq} events, fewer than {message.after}; start over with after 0."
            )
        # Join first, then replay: an event in between arrives twice and is dropped by number, never zero times.
        await self._join(thread_channel(message.thread))
        await self._say({"type": "accepted", "reply_to": message.id})
        self._cursors[message.thread] = Cursor(message.after)
        self._dirty.set()

    async def _unsubscribe(self, message: schema.Unsubscribe) -> None:
        if self._cursors.pop(message.thread, None) is None:
            raise NotFound(f"Not subscribed to {message.thread}.")
        self._channels.discard(thread_channel(message.thread))
        await self._hub.leave(thread_channel(message.thread), self)
        await self._say({"type": "accepted", "reply_to": message.id})

    def _acknowledge(self, message: schema.Ack) -> None:
        self._acknowledged_at = time.monotonic()
        if message.thread in self._cursors:
            self._cursors[message.thread].acknowledge(message.seq)
            self._dirty.set()

    # --- What the hub says (on the event loop, never blocking) -------------------------------------------------------

    def heard(self, channel: str, payload: Mapping[str, Any]) -> None:
        if "frame" in payload:
            self._frames.append(payload["frame"])
        cursor = self._cursors.get(_thread_of(channel))
        if cursor is not None:
            cursor.hear(payload.get("events", ()))
            cursor.hear_number(payload.get("last_seq", 0))
            if "delta" in payload:
                cursor.hear_delta(payload["delta"])
        self._dirty.set()

    def positions(self) -> Mapping[UUID, int]:
        return {thread: cursor.known for thread, cursor in self._cursors.items()}

    def fell_behind(self, thread: UUID) -> None:
        if thread in self._cursors:
            self._cursors[thread].behind = True
            self._dirty.set()

    def services_changed(self, *, down: list[str]) -> None:
        for cursor in self._cursors.values():
            # Whatever was said while Redis was away was not heard.
            cursor.behind = cursor.wants_text = True
        self._frames.append({"type": "degraded", "level": "slower" if down else "none", "services": down})
        self._dirty.set()

    # --- What the client is told -------------------------------------------------------------------------------------

    async def _forward(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            frames, self._frames = self._frames, []
            for frame in frames:
                await self._say(frame)
            for thread, cursor in list(self._cursors.items()):
                await self._deliver(thread, cursor)

    async def _deliver(self, thread: UUID, cursor: Cursor) -> None:
        """Send what the cursor lacks, as far as credit goes: the table first, then what was heard, then live text."""
        while cursor.behind and self._may_send(thread, cursor):
            cursor.behind = False
            events = await in_database(self._source.read, thread, cursor.sent, READ_AT_ONCE)
            await self._send_events(thread, cursor, events)
            cursor.behind = cursor.behind or len(events) == READ_AT_ONCE
        if not cursor.behind:
            await self._send_events(thread, cursor, cursor.take_heard())
        if not cursor.behind and self._may_send(thread, cursor):
            await self._send_text(thread, cursor)

    async def _send_events(self, thread: UUID, cursor: Cursor, events: Sequence[Envelope]) -> None:
        for event in events:
            if not self._may_send(thread, cursor):
                cursor.behind = True  # what is left stands in the table
                return
            text = json.dumps(event)
            await self._send({"type": "websocket.send", "text": text})
            cursor.was_sent(event["seq"], len(text))

    async def _send_text(self, thread: UUID, cursor: Cursor) -> None:
        if cursor.wants_text:
            cursor.wants_text = False
            snapshot = await in_database(self._source.live, thread)
            if snapshot is not None:
                cursor.text_begins(snapshot)
                await self._say(snapshot)
        for delta in cursor.take_deltas():
            await self._say(delta)

    def _may_send(self, thread: UUID, cursor: Cursor) -> bool:
        """Whether the client still follows the thread by this cursor, and has credit left."""
        return self._cursors.get(thread) is cursor and self._has_credit()

    def _has_credit(self) -> bool:
        used = [cursor.unacknowledged for cursor in self._cursors.values()]
        return sum(events for events, _ in used) < CREDIT_EVENTS and sum(size for _, size in used) < CREDIT_BYTES

    async def _say(self, frame: Mapping[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(frame)})

    # --- What is looked at from time to time -------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Close a client that takes nothing any more, or that may not listen any more."""
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            if self._has_credit():
                self._acknowledged_at = now
            elif now - self._acknowledged_at > CREDIT_PATIENCE:
                raise Closed(SLOW_CONSUMER)
            if now - checked_at > RECHECK:
                checked_at = now
                await self._recheck()


class TooManySubscriptions(NetraError):
    """One socket follows only so many threads."""

    code = "subscription.too_many"
    status = 429


class ThreadBehind(NetraError):
    """The client has seen more of the thread than the house knows, for example after a restore from backup."""

    code = "thread.behind"


def _thread_of(channel: str) -> UUID:
    tail = channel.rsplit(":", 1)[-1]
    return UUID(tail) if len(tail) == 36 else UUID(int=0)
