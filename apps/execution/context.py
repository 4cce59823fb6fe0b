"""Who a request acts for, on what, and until when; and the scope in which everything it opened is closed again."""

import hashlib
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from uuid6 import uuid7

from apps.accounts.tenancy import RANK, Principal
from apps.conversations.journal import Fence
from apps.errors import NetraError
from apps.operations.database import storable

DEEPEST = 10  # children of children
CALL_LENGTH = 100  # characters of the name of a call or question in the journal
PLACEHOLDERS = frozenset({"", "none", "null", "undefined", "placeholder"})
_NOBODY = frozenset({UUID(int=0), UUID(int=2**128 - 1)})


class InvalidContext(NetraError):
    """An id is missing or made up, or the context would go deeper or further than it may."""

    code = "context.invalid"
    status = 500


class ForeignContext(NetraError):
    """The context was used for something that belongs to somebody else."""

    code = "context.foreign"
    status = 404


@dataclass(frozen=True, kw_only=True)
class UserExecutionContext:
    """The immutable identity of one request: an attempt of a step, or a tool call within it.

    Agents and tools act with these rights and no others. Everything that they open is registered with `resources` and
    closed, the last first, when the scope ends.

    Raises:
        InvalidContext: an id is empty or a placeholder.
    """

    principal: Principal
    thread_id: UUID
    run_id: UUID
    step_id: int
    step: str
    attempt: int
    worker: UUID
    agent: str
    goal: str
    dataset_id: UUID | None
    deadline_at: datetime
    operator: bool = False  # staff
    effect_key: str | None = None  # of a tool call: names its one effect, whichever attempt brings it about
    request_id: UUID = field(default_factory=uuid7)
    depth: int = 0
    resources: AsyncExitStack = field(default_factory=AsyncExitStack, repr=False, compare=False)

    def __post_init__(self) -> None:
        principal = self.principal
        for name, value in (
            ("user", principal.user_id),
            ("organization", principal.organization_id),
            ("thread", self.thread_id),
            ("run", self.run_id),
            ("worker", self.worker),
            ("request", self.request_id),
        ):
            if not isinstance(value, UUID) or value in _NOBODY:
                raise InvalidContext(f"{name}: {value!r} is nobody's id.")
        for name, text in (("step", self.step), ("agent", self.agent), ("plan", principal.plan)):
            if text.strip().lower() in PLACEHOLDERS:
                raise InvalidContext(f"{name}: {text!r} is a placeholder, not a name.")
        if self.attempt < 1 or not 0 <= self.depth <= DEEPEST:
            raise InvalidContext(f"attempt {self.attempt}, depth {self.depth}: no such request.")

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, the same for everything that one run does (W3C Trace Context)."""
        return self.run_id.hex

    @property
    def fence(self) -> Fence:
        """What every write of this attempt must carry."""
        return Fence(thread=self.thread_id, run=self.run_id, step=self.step, attempt=self.attempt)

    @property
    def seconds_left(self) -> float:
        return (self.deadline_at - datetime.now(UTC)).total_seconds()

    def child(
        self, *, role: str | None = None, deadline_at: datetime | None = None, effect_key: str | None = None
    ) -> "UserExecutionContext":
        """A request within this one: the same user and run, no more rights, no more time, the same scope.

        Raises:
            InvalidContext: it would be too deep, or wants a role or a deadline that this one does not have.
        """
        if self.depth >= DEEPEST:
            raise InvalidContext(f"A request may go {DEEPEST} deep; this one would go further.")
        if role is not None and (role not in RANK or not self.principal.may(role)):
            raise InvalidContext(f"A {self.principal.role} cannot hand on the role {role}.")
        if deadline_at is not None and deadline_at > self.deadline_at:
            raise InvalidContext("A request within another cannot outlast it.")
        return replace(
            self,
            principal=self.principal if role is None else replace(self.principal, role=role),
            deadline_at=deadline_at or self.deadline_at,
            effect_key=effect_key or self.effect_key,
            request_id=uuid7(),
            depth=self.depth + 1,
        )

    def require_same(self, other: "UserExecutionContext") -> None:
        """Let only this run, acting for this user, pass.

        Raises:
            ForeignContext: `other` is another run's or another user's.
        """
        mine = (self.run_id, self.principal.user_id, self.principal.organization_id)
        if mine != (other.run_id, other.principal.user_id, other.principal.organization_id):
            raise ForeignContext("This belongs to another run.")

    def workspace(self) -> Path:
        """A new directory that is gone when the scope ends."""
        return Path(self.resources.enter_context(tempfile.TemporaryDirectory(prefix="netra-")))


def call_name(given: str) -> str:
    """The name of a call or question in the journal: as given or, where that is too long or cannot be stored, its
    beginning and a digest of all of it, so that different names stay different."""
    kept = storable(given)
    if kept == given and len(given) <= CALL_LENGTH:
        return given
    digest = hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()
    return f"{kept[: CALL_LENGTH - len(digest) - 1]}-{digest}"


@dataclass(kw_only=True)
class ScopeCounts:
    """What became of the scopes of this process.

    A request that was made and never came to work, such as one for a step that is not given another try, has no part in
    `active` and `cleaned`.
    """

    created: int = 0  # requests made by `context_for`
    refused: int = 0  # requests that it did not make
    creation_seconds: float = 0.0  # for all that were created
    active: int = 0  # open at this moment
    cleaned: int = 0  # closed, with all that was opened in them

    def as_json(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


scopes = ScopeCounts()
_counting = threading.Lock()  # requests are made on several threads; their scopes are opened and closed on one


def context_for(
    principal: Principal, *, owners: Iterable[tuple[UUID, UUID]], **identity: object
) -> UserExecutionContext:
    """The context of a request of `principal`, made from rows that were loaded for it.

    `owners` are the user and the organization of each of these rows.

    Raises:
        ForeignContext: a row belongs to another user or organization.
        InvalidContext: see `UserExecutionContext`.
    """
    began = time.perf_counter()
    try:
        if any(owner != (principal.user_id, principal.organization_id) for owner in owners):
            raise ForeignContext(f"A row of the run is not {principal.user_id}'s.")
        context = UserExecutionContext(principal=principal, **identity)  # type: ignore[arg-type]
    except NetraError:
        with _counting:
            scopes.refused += 1
        raise
    seconds = time.perf_counter() - began
    with _counting:
        scopes.created += 1
        scopes.creation_seconds += seconds
    return context


@asynccontextmanager
async def user_execution_scope(context: UserExecutionContext) -> AsyncIterator[UserExecutionContext]:
    """The one scope of a request: whatever registered with `context.resources` is closed at its end, the last first,
    also after an error."""
    scopes.active += 1
    try:
        async with context.resources:
            yield context
    finally:
        scopes.active -= 1
        scopes.cleaned += 1
