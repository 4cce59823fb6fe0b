"""Two people at once in a running house, each with data of their own, each trying to get at what is the other's.

They come in through the front doors, like everybody, and are served by the same workers. Whatever one of them is shown
is searched for signs of the other: ids, and a marker that is in the other's data and in each of their questions.
"""

import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from string import Template
from typing import Any
from uuid import UUID, uuid4

import httpx2
import stamina
from django.db import OperationalError, transaction
from django.db.models import Q, QuerySet
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from apps.accounts import services as accounts
from apps.accounts.models import ApiKey, Membership, Organization, User
from apps.accounts.tenancy import principal_for
from apps.conversations.lifecycle import UNFINISHED
from apps.conversations.models import Event, Message, Question, Run, Step, Thread, ToolCall
from apps.errors import NetraError
from apps.execution import services
from apps.llm.models import ModelCall
from apps.realtime.schema import TERMINAL

CONVERSATIONS = 3  # of each person, at the same time
TURNS = 2  # of each conversation at least: one by REST, one by the socket
PATIENCE = 60.0  # seconds for an answer, an import or the next frame
LOOK_EVERY = 0.1  # seconds between two looks at an import
ASKING = frozenset({"data_requested", "approval_requested"})

# What a person tries with ids of the other's; each is to look as if there were no such thing.
FOREIGN_REQUESTS: list[list[Any]] = [
    ["GET", "threads/$thread/"],
    ["PATCH", "threads/$thread/", {"title": "Mine now"}],
    ["DELETE", "threads/$thread/"],
    ["GET", "threads/$thread/messages/"],
    ["POST", "threads/$thread/messages/", {"text": "What do they spend?"}],
    ["GET", "threads/$thread/events/"],
    ["STREAM", "threads/$thread/events/"],
    ["GET", "runs/$run/"],
    ["GET", "runs/$run/trace/"],
    ["POST", "runs/$run/answer/", {"value": "approve"}],
    ["POST", "runs/$run/cancel/"],
    ["GET", "reports/$report/"],
    ["GET", "reports/$report.json"],
    ["GET", "reports/$report.md"],
    ["GET", "datasets/$dataset/"],
    ["GET", "datasets/$dataset/breakdown/"],
    ["GET", "datasets/$dataset/savings/"],
    ["GET", "datasets/$dataset/sufficiency/"],
    ["DELETE", "datasets/$dataset/"],
    ["POST", "threads/$own_thread/messages/", {"text": "What do they spend?", "dataset": "$dataset"}],
]
FOREIGN_MESSAGES: list[dict[str, Any]] = [
    {"type": "thread.subscribe", "thread": "$thread", "after": 0},
    {"type": "message.send", "thread": "$thread", "text": "What do they spend?", "key": "$key"},
    {"type": "message.send", "thread": "$own_thread", "text": "And now?", "key": "$key", "dataset": "$dataset"},
    {"type": "run.answer", "run": "$run", "value": "approve"},
    {"type": "run.cancel", "run": "$run"},
]
LISTS = ["threads/", "runs/", "datasets/", "usage/"]

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NotTried(NetraError):
    """The house did not do what there was to look at, so nothing is known about it."""

    code = "isolation.not_tried"


@dataclass(frozen=True, kw_only=True)
class Person:
    """One of the two, and everything by which what is theirs can be told from the other's."""

    name: str
    user: UUID
    organization: UUID
    key: str = field(repr=False)
    marker: str
    ids: set[str]
    latest: dict[str, str] = field(default_factory=dict)  # kind of thing -> id

    def owns(self, kind: str, id_: str) -> str:
        """Note that a thing is theirs."""
        self.ids.add(id_)
        self.latest[kind] = id_
        return id_


@dataclass(frozen=True)
class Findings:
    """What was tried, and what crossed; all threads of a trial write here."""

    tried: Counter[str] = field(default_factory=Counter)
    crossed: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.tried[what] += number

    def cross(self, who: Person, where: str, what: object) -> None:
        with self._lock:
            self.crossed.append({"who": who.name, "where": where, "what": what})

    def look(self, who: Person, other: Person, where: str, text: str, *, asked: str = "") -> None:
        """Search what `who` was shown for signs of `other`; an id that they named themselves says nothing."""
        signs = {id_ for id_ in _ID.findall(text) if id_ in other.ids and id_ not in asked}
        if other.marker in text:
            signs.add(other.marker)
        if signs:
            self.cross(who, where, sorted(signs))

    def refuse(self, who: Person, where: str, status: int, answer: Mapping[str, Any]) -> None:
        """Let nothing pass but "there is no such thing"."""
        code = str(answer.get("code"))
        if status != 404 or not code.endswith("not_found"):
            self.cross(who, where, f"answered {status} {answer.get('type', '')} {code}")


def try_isolation(*, url: str, seconds: float) -> Findings:
    """Let two people use the house at `url` for so long, and answer what each got to see of the other.

    The people are made for this, and removed afterwards with all that is theirs.

    Raises:
        NotTried: the house did not answer, or no tool worked on somebody's data, so that nothing could cross.
    """
    findings = Findings()
    with _two_people() as (first, second):
        try:
            _live([Visit(first, second, url, findings), Visit(second, first, url, findings)], seconds)
            _look_at_rows(first, second, findings)
            _look_at_rows(second, first, findings)
        except NotTried:
            # Where something crossed, that may be why something else was refused.
            if not findings.crossed:
                raise
    return findings


def _live(visits: "list[Visit]", seconds: float) -> None:
    try:
        for visit in visits:
            visit.bring_data()
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(CONVERSATIONS * len(visits)) as threads:
            lives = [threads.submit(visit.converse, until) for visit in visits for _ in range(CONVERSATIONS)]
        for life in lives:
            life.result()
        for visit in visits:
            visit.prowl()
    except (httpx2.HTTPError, WebSocketException, OSError) as error:
        raise NotTried(f"The house stopped answering ({type(error).__name__}: {error}).") from error
    finally:
        for visit in visits:
            visit.leave()


# --- Coming and going ------------------------------------------------------------------------------------------------


@contextmanager
def _two_people() -> Iterator[tuple[Person, Person]]:
    first = _make_person("first")
    try:
        second = _make_person("second")
        try:
            yield first, second
        finally:
            _remove(second)
    finally:
        _remove(first)


@transaction.atomic
def _make_person(name: str) -> Person:
    marker = f"isolation-{uuid4().hex[:12]}"
    user = User.objects.create_user(f"{marker}@netra.invalid", name=marker)
    organization = Organization.objects.create(name=marker)
    accounts.join(user=user, invitation=accounts.Invitation(organization=organization, role=Membership.Role.OWNER))
    _, key = accounts.create_api_key(principal_for(user=user), name=marker, scope=ApiKey.Scope.WRITE, days=1)
    ids = {str(user.pk), str(organization.pk)}
    return Person(name=name, user=user.pk, organization=organization.pk, key=key, marker=marker, ids=ids)


def _remove(person: Person) -> None:
    """Take the person away, with all that is theirs; a worker that still writes for them may be in the way once."""
    principal = principal_for(user=User.objects.get(pk=person.user))
    for run in Run.objects.filter(user_id=person.user, state__in=UNFINISHED):
        with suppress(services.RunFinished):
            services.cancel_run(principal=principal, run_id=run.pk)
    threads = list(Thread.objects.filter(user_id=person.user).values_list("pk", flat=True))
    for attempt in stamina.retry_context(on=OperationalError, attempts=5, timeout=PATIENCE):
        with attempt:
            Organization.objects.filter(pk=person.organization).delete()
            User.objects.filter(pk=person.user).delete()
    Event.objects.filter(thread_id__in=threads).delete()


# --- One person's life -----------------------------------------------------------------------------------------------


class Visit:
    """A person at the front doors, who asks about data of their own and tries for the other's."""

    def __init__(self, person: Person, other: Person, url: str, findings: Findings) -> None:
        self._person, self._other, self._findings = person, other, findings
        self._socket_url = url.replace("http", "ws", 1) + "/ws/"
        headers = {"Authorization": f"Bearer {person.key}"}
        self._http = httpx2.Client(base_url=f"{url}/api/", headers=headers, timeout=PATIENCE)

    def leave(self) -> None:
        self._http.close()

    def bring_data(self) -> None:
        """Upload calls that carry the marker, and wait until they are imported."""
        calls = [f"2026-01-0{day}T00:00:00Z,gpt-4o,1000,100,{self._person.marker}" for day in (1, 2, 3)]
        file = "\n".join(["timestamp,model,prompt_tokens,completion_tokens,feature", *calls]).encode()
        made = self._call("POST", "datasets/", files={"file": (f"{self._person.marker}.csv", file)})
        dataset = self._person.owns("dataset", made["id"])
        deadline = time.monotonic() + PATIENCE
        while (state := self._call("GET", f"datasets/{dataset}/")["state"]) != "ready":
            if state == "failed" or time.monotonic() > deadline:
                raise NotTried(f"The house did not import a small file; it is {state}.")
            time.sleep(LOOK_EVERY)

    def converse(self, until: float) -> None:
        """Ask, listen at each door, read what there is and try the other's doors, turn by turn."""
        thread = self._person.owns("thread", self._call("POST", "threads/", json={})["id"])
        with self._socket() as socket:
            socket.ask({"type": "thread.subscribe", "thread": thread, "after": 0})
            turn = 0
            while turn < TURNS or time.monotonic() < until:
                self._take_turn(thread, socket, turn)
                turn += 1

    def prowl(self) -> None:
        """Try every door once more, now that the other has everything that there can be."""
        with self._socket() as socket:
            self._prowl(self._person.latest["thread"], socket)

    @contextmanager
    def _socket(self) -> "Iterator[Socket]":
        ticket = self._call("POST", "ws-ticket/")["ticket"]
        with connect(self._socket_url, open_timeout=PATIENCE, close_timeout=1) as connection:
            socket = Socket(connection, partial(self._look, "socket"))
            socket.greet(ticket)
            yield socket

    def _take_turn(self, thread: str, socket: "Socket", turn: int) -> None:
        known = self._call("GET", f"threads/{thread}/")["last_seq"]
        by_socket = turn % 2 == 1
        run = self._ask(thread, socket if by_socket else None)
        self._prowl(thread, socket)
        if turn % 3 == 2:
            self._cancel(run, socket if by_socket else None)
        if not by_socket:
            self._follow_stream(thread, run, after=known)
        socket.follow(run, when_asked=partial(self._cancel, run, None))
        self._read_back(thread, run, after=known)

    def _ask(self, thread: str, socket: "Socket | None") -> str:
        said = {"text": f"What do I spend, by model and feature? {self._person.marker}"}
        said["dataset"] = self._person.latest["dataset"]
        if socket is None:
            started = self._call("POST", f"threads/{thread}/messages/", json=said)
        else:
            started = socket.ask({"type": "message.send", "thread": thread, "key": uuid4().hex, **said})
            if started["type"] == "error":
                raise NotTried(f"A question was refused: {started['detail']}")
        self._findings.count("runs")
        self._person.owns("message", started["message"])
        return self._person.owns("run", started["run"])

    def _cancel(self, run: str, socket: "Socket | None") -> None:
        """Stop a run of one's own, unless it has ended meanwhile."""
        self._findings.count("cancels")
        if socket is None:
            self._look("POST runs/", self._http.post(f"runs/{run}/cancel/").text)
        else:
            socket.ask({"type": "run.cancel", "run": run})

    def _follow_stream(self, thread: str, run: str, *, after: int) -> None:
        """Server-sent events, until the run ends or asks something."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self._http.stream("GET", f"threads/{thread}/events/", headers=headers) as stream:
            for line in stream.iter_lines():
                self._look("event stream", line)
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if event["run"] == run and event["type"] in TERMINAL | ASKING:
                        return

    def _read_back(self, thread: str, run: str, *, after: int) -> None:
        """What REST says of the run, and of everything else that is the person's."""
        for path in (f"threads/{thread}/messages/", f"runs/{run}/", *LISTS):
            self._call("GET", path)
        for event in self._call("GET", f"threads/{thread}/events/?after={after}")["events"]:
            if report := event["data"].get("report"):
                self._call("GET", f"reports/{self._person.owns('report', report)}/")

    def _prowl(self, thread: str, socket: "Socket") -> None:
        """Try every door with what the other has at this moment."""
        ids = self._other.latest | {"own_thread": thread, "key": uuid4().hex}
        for request in FOREIGN_REQUESTS:
            if filled := _filled(request, ids):
                self._knock(f"{request[0]} {request[1]}", *filled)
        for message in FOREIGN_MESSAGES:
            if filled := _filled(message, ids):
                self._findings.count("foreign_messages")
                reply = socket.ask(filled)
                status = 404 if reply["type"] == "error" else 200
                self._findings.refuse(self._person, f"socket {message['type']}", status, reply)

    def _knock(self, where: str, method: str, path: str, body: Any = None) -> None:
        self._findings.count("foreign_requests")
        headers = {"Accept": "text/event-stream"} if method == "STREAM" else {}
        with self._http.stream(method.replace("STREAM", "GET"), path, json=body, headers=headers) as answer:
            # A stream that is opened to a stranger is refused below; it would not end.
            text = "" if answer.is_success else answer.read().decode()
        self._look(where, text, asked=f"{path} {body}")
        problem = json.loads(text) if answer.headers.get("Content-Type") == "application/problem+json" else {}
        self._findings.refuse(self._person, where, answer.status_code, problem)

    def _call(self, method: str, path: str, **more: Any) -> Any:
        """Do something of one's own.

        Raises:
            NotTried: it is refused.
        """
        answer = self._http.request(method, path, **more)
        self._look(f"{method} {path.split('/')[0]}/", answer.text)
        if not answer.is_success:
            raise NotTried(f"{method} /api/{path} was refused: {answer.status_code} {answer.text[:200]}")
        return answer.json()

    def _look(self, where: str, text: str, *, asked: str = "") -> None:
        self._findings.count({"socket": "frames", "event stream": "stream_lines"}.get(where, "answers"))
        self._findings.look(self._person, self._other, where, text, asked=asked)


class Socket:
    """A person's socket; every frame is shown to `look` before anything else is done with it."""

    def __init__(self, connection: ClientConnection, look: Callable[..., None]) -> None:
        self._connection, self._look = connection, look
        self._last: dict[str, str] = {}  # run -> the last event that says how it stands: an end, or a question

    def greet(self, ticket: str) -> None:
        """Say hello.

        Raises:
            NotTried: the ticket does not count.
        """
        self._connection.send(json.dumps({"type": "hello", "ticket": ticket}))
        frame = self._receive()
        if frame["type"] != "ready":
            raise NotTried(f"The socket did not open: {frame}")

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a message."""
        asked = json.dumps({**message, "id": uuid4().hex})
        self._connection.send(asked)
        while (frame := self._receive(asked)).get("reply_to") != json.loads(asked)["id"]:
            pass
        return frame

    def follow(self, run: str, *, when_asked: Callable[[], None]) -> None:
        """Read until the run ends; where it asks something, `when_asked` has to end it."""
        told = ""
        while self._last.get(run) not in TERMINAL:
            if told != self._last.get(run, ""):
                told = self._last[run]
                when_asked()
            self._receive()

    def _receive(self, asked: str = "") -> dict[str, Any]:
        text = str(self._connection.recv(PATIENCE))
        frame: dict[str, Any] = json.loads(text)
        reply = frame.get("reply_to")
        self._look(text, asked=asked if reply and reply in asked else "")
        if frame["type"] in TERMINAL | ASKING:
            self._last[frame["run"]] = frame["type"]
            self._connection.send(json.dumps({"type": "ack", "thread": frame["thread"], "seq": frame["seq"]}))
        return frame


def _filled(template: Any, ids: Mapping[str, str]) -> Any:
    """A request with ids in the place of names; None while the other has no such thing."""
    try:
        return json.loads(Template(json.dumps(template)).substitute(ids))
    except KeyError:
        return None


# --- What stands in the database -------------------------------------------------------------------------------------


def _look_at_rows(person: Person, other: Person, findings: Findings) -> None:
    """Search everything that is stored for a person.

    Raises:
        NotTried: no tool has worked on their data.
    """
    for table, rows in _tables(person).items():
        for row in rows.values():
            findings.count("rows")
            findings.look(person, other, table, json.dumps(row, default=str))
    results = defaultdict(set)
    for tool, arguments, result in _results(person):
        findings.count("tool_results")
        results[tool, json.dumps(arguments)].add(json.dumps(result, sort_keys=True))
    for (tool, _), answers in results.items():
        if len(answers) > 1:
            findings.cross(person, "tool results", f"{tool} gave {len(answers)} answers to the same question")
    if not any(person.marker in answer for answers in results.values() for answer in answers):
        raise NotTried(
            "No tool has worked on the data that was brought, so nothing could cross. Give it more --seconds."
        )


def _tables(person: Person) -> Mapping[str, QuerySet[Any]]:
    mine = Thread.objects.filter(user_id=person.user)
    runs = Run.objects.filter(Q(user_id=person.user) | Q(thread__in=mine))
    return {
        "threads": mine,
        "runs": runs,
        "messages": Message.objects.filter(thread__in=mine),
        "steps": Step.objects.filter(run__in=runs),
        "tool calls": ToolCall.objects.filter(Q(user_id=person.user) | Q(run__in=runs)),
        "questions": Question.objects.filter(run__in=runs),
        "events": Event.objects.filter(thread_id__in=mine.values("pk")),
        "model calls": ModelCall.objects.filter(Q(user_id=person.user) | Q(run__in=runs.values("pk"))),
    }


def _results(person: Person) -> QuerySet[Any, Any]:
    succeeded = ToolCall.objects.filter(run__user_id=person.user, state=ToolCall.State.SUCCEEDED)
    return succeeded.values_list("tool", "arguments", "result")
