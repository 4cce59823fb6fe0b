"""One repeat of a case: the people in it, what they asked, who watched, and the time it took to recover."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import requests

from tests.faults.scene import Scene
from tests.faults.script import STEPS, Act, Kind, Script
from tests.faults.spectator import Spectator
from tests.houses import Person
from tests.socket_client import TERMINAL

PATIENCE = 45.0  # seconds for what a fault has delayed
ASK_AGAIN_AFTER = 0.1  # seconds
LOOK_EVERY = 0.03  # seconds
NOTHING = Script()


class NothingHappened(AssertionError):
    """The fault hit nothing, or what was waited for never came."""


@dataclass
class Asked:
    """A message of somebody, and the run that it became."""

    person: Person
    thread: str
    run: str
    ends: frozenset[str]  # the terminal events that are right
    answers: dict[str, list[str]] = field(default_factory=dict)  # by call: what its person decided


class Play:
    """What a case works with."""

    def __init__(self, scene: Scene, *, random: Random, repeat: int = 0, nightly: bool = False) -> None:
        self.scene, self.random, self.repeat, self.nightly = scene, random, repeat, nightly
        self.asked: list[Asked] = []
        self.refusals: list[requests.Response] = []  # answers other than 202 to messages
        self._spectators: dict[str, list[Spectator]] = {}
        self._calls_before = len(scene.tools.calls())

    # --- People ------------------------------------------------------------------------------------------------------

    @property
    def spectators(self) -> list[Spectator]:
        return [spectator for group in self._spectators.values() for spectator in group]

    def person(self, name: str) -> Person:
        """Somebody who watches in two tabs, one of them restless."""
        person = self.scene.person(name)
        if person.email not in self._spectators:
            self._spectators[person.email] = [
                Spectator(person, random=Random(self.random.random()), restless=restless) for restless in (False, True)
            ]
        return person

    def new_thread(self, person: Person) -> str:
        """A thread that is watched from its first event on."""
        thread = person.new_thread()
        self.watch(person, thread)
        return thread

    def thread_of(self, name: str) -> str:
        """A new thread of somebody: made before a fault, since only messages can be sent again and again."""
        return self.new_thread(self.person(name))

    def watch(self, person: Person, thread: str) -> None:
        for spectator in self._spectators[person.email]:
            spectator.follow(thread)

    def steady_tab(self, person: Person) -> Spectator:
        """The tab that its person never reloads."""
        return self._spectators[person.email][0]

    def ask(
        self,
        script: Script = NOTHING,
        *,
        person: str = "alice",
        thread: str | None = None,
        ends: frozenset[str] = frozenset({"agent_completed"}),
    ) -> Asked:
        """Send a message, with the same key again and again until it is taken."""
        who = self.person(person)
        thread = thread or self.new_thread(who)
        run = self.send(who, thread, script.as_text(), key=uuid4().hex)
        return self.note(who, thread, run, ends=ends)

    def note(
        self, person: Person, thread: str, run: str, *, ends: frozenset[str] = frozenset({"agent_completed"})
    ) -> Asked:
        """Hold a run to what must hold of all."""
        self.asked.append(Asked(person, thread, run, ends))
        return self.asked[-1]

    def send(self, person: Person, thread: str, text: str, *, key: str) -> str:
        """The run that a message became."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = person.call(
                    "POST", f"threads/{thread}/messages/", json={"text": text}, headers={"Idempotency-Key": key}
                )
            except requests.RequestException:
                answer = None
            if answer is not None and answer.status_code == 202:
                return answer.json()["run"]
            if answer is not None:
                self.refusals.append(answer)
                assert answer.status_code >= 500, f"a message was refused: {answer.status_code} {answer.text}"
            assert time.monotonic() < deadline, "the house took no message any more"
            time.sleep(ASK_AGAIN_AFTER)

    def crowd(self, *, people: int = 2, threads: int = 4, **how: Any) -> list[Asked]:
        """Several people ask in several threads each, at once."""
        names = [f"crowd{number}" for number in range(people)]
        return [self.ask(self.script(**how), person=name) for _ in range(threads) for name in names]

    def script(
        self,
        *,
        seconds: tuple[float, float] = (0.2, 0.8),
        kinds: tuple[Kind, ...] = ("pure", "idempotent", "queryable", "unsafe"),
    ) -> Script:
        """One or two calls in each step, at random."""

        def acts() -> list[Act]:
            return [
                Act(tool=self.random.choice(kinds), seconds=round(self.random.uniform(*seconds), 3))
                for _ in range(self.random.randint(1, 2))
            ]

        return Script(**{step: acts() for step in STEPS})

    # --- What happens ------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], *, within: float = PATIENCE, what: str = "") -> Any:
        """The first true answer of `condition`."""
        deadline = time.monotonic() + within
        while not (answer := condition()):
            self.scene.keep_workers()
            if time.monotonic() > deadline:
                raise NothingHappened(f"not within {within:g} s: {what or condition}")
            time.sleep(LOOK_EVERY)
        return answer

    def calls(self, asked: Asked | None = None) -> list[dict[str, Any]]:
        """What the tool server was called for since the case began, or for one run."""
        calls = self.scene.tools.calls()[self._calls_before :]
        return [call for call in calls if asked is None or call["run"] == asked.run]

    def in_the_middle(self, *, left: float = 0.3) -> dict[str, Any]:
        """A call that will go on for at least `left` seconds."""

        def found() -> dict[str, Any] | None:
            now = time.time()
            return next((call for call in self.calls() if call["at"] + call["seconds"] > now + left), None)

        return self.until(found, what="a call in the middle of its work")

    def events(self, asked: Asked) -> list[dict[str, Any]]:
        """The stored events of a run."""
        return self.scene.rows(
            "select seq, type, step, attempt, data, at from conversations_event where run_id = %(run)s order by seq",
            run=asked.run,
        )

    def kinds(self, asked: Asked) -> set[str]:
        return {event["type"] for event in self.events(asked)}

    def time_of(self, asked: Asked, kind: str | None = None, *, after: float = 0.0) -> float:
        """When the first event of a run, or the first of one type, was stored after a time; all in Unix time."""
        found = (e["at"].timestamp() for e in self.events(asked) if kind in (None, e["type"]))
        return next(at for at in found if at > after)

    def last_end(self) -> float:
        """When the last run ended, in Unix time."""
        return max(self.events(asked)[-1]["at"].timestamp() for asked in self.asked)

    def finish(self, *, within: float = PATIENCE) -> None:
        """Wait until every run has ended; people decide about calls whose effect is unknown."""
        try:
            self.until(self._all_have_ended, within=within)
        except NothingHappened:
            left = [
                f"{asked.run} after {self.events(asked)[-1]['type']}" for asked in self.asked if not self._ended(asked)
            ]
            raise NothingHappened(f"after {within:g} s these runs have not ended: {', '.join(left)}") from None

    def _ended(self, asked: Asked) -> bool:
        return bool(self.kinds(asked) & TERMINAL)

    def _all_have_ended(self) -> bool:
        try:
            rows = self.scene.rows(
                "select run_id, type, data from conversations_event where run_id = any(%(runs)s::uuid[]) "
                "and type in ('approval_requested', 'agent_completed', 'agent_error', 'run_cancelled')",
                runs=[asked.run for asked in self.asked],
            )
        except psycopg.OperationalError:
            return False  # the database is away
        ended = {str(row["run_id"]) for row in rows if row["type"] in TERMINAL}
        for row in rows:
            if row["type"] == "approval_requested" and str(row["run_id"]) not in ended:
                self._decide(str(row["run_id"]), row["data"]["call"])
        return ended >= {asked.run for asked in self.asked}

    def _decide(self, run: str, call: str) -> None:
        asked = next(asked for asked in self.asked if asked.run == run)
        if call in asked.answers:
            return
        value = self.random.choice(["retry", "skip"])
        answer = asked.person.call("POST", f"runs/{run}/answer/", json={"call": call, "value": value})
        if answer.status_code >= 500:
            return  # again at the next look
        assert answer.ok, f"the answer about {call} was refused: {answer.status_code} {answer.text}"
        asked.answers.setdefault(call, []).append(value)

    def seconds_to_recovery(self, hurt_at: float) -> float:
        """The longest time from the fault to the first event of the next attempt, over all steps that it hit.

        Raises:
            NothingHappened: no step had to be taken up again; the fault proved nothing.
        """
        recovered = [
            event["at"].timestamp()
            for asked in self.asked
            for event in self.events(asked)
            if event["type"] == "run_recovering" and event["at"].timestamp() > hurt_at
        ]
        if not recovered:
            raise NothingHappened("no step had to be taken up again: the fault came when nothing was at work")
        return max(recovered) - hurt_at

    def end(self) -> None:
        """Send the spectators home."""
        for spectator in self.spectators:
            spectator.stop()
