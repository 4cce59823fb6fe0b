"""A made-up company's month of LLM calls, seeded, with what is true about it known in advance.

Five features with their own models and habits: conversations whose prefix is cached, questions over documents, triage
that gets the same questions again and again, nightly reports and catalogue texts that nobody waits for. Two in a
hundred calls fail and are tried again. Everything follows from the seed; nothing is taken from anybody.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from random import Random
from typing import Any, TextIO

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import BATCH, Rates, Usage, cost_pico, dollars

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
DAYS = 28
FAILS = 0.02
DAY = 24 * 3600.0  # seconds
# Share of a day's interactive calls in each hour, UTC: quiet nights, two humps in working hours.
HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 19, 17, 13, 16, 18, 17, 14, 10, 7, 5, 4, 3, 2, 1)
WEEKEND = 0.35  # of a weekday's calls


@dataclass(frozen=True, kw_only=True)
class Feature:
    """How one part of the product uses models."""

    name: str
    model: str
    provider: str
    share: float  # of all calls
    prompt_tokens: int  # median of the part that is new in each call
    answer_tokens: int  # median
    prefix_tokens: int = 0  # instructions and documents that stay the same within a session
    turns: int = 1  # at most, of a session
    writes_cache: bool = False  # pays for writing the prefix to the provider's cache
    temperature: float = 0.0
    interactive: bool = True
    deadline_seconds: float = 30.0
    known_questions: int = 0  # size of the pool that repeats are drawn from
    repeats: float = 0.0  # share of calls that ask a question of the pool
    night: bool = False  # runs between 01:00 and 05:00


FEATURES = (
    Feature(
        name="support_chat",
        model="gpt-4.1",
        provider="openai",
        share=0.42,
        prompt_tokens=350,
        answer_tokens=220,
        prefix_tokens=1800,
        turns=6,
        temperature=0.7,
    ),
    Feature(
        name="document_questions",
        model="claude-sonnet-4-5",
        provider="anthropic",
        share=0.14,
        prompt_tokens=900,
        answer_tokens=420,
        prefix_tokens=14000,
        turns=4,
        writes_cache=True,
        temperature=0.2,
    ),
    Feature(
        name="ticket_triage",
        model="gpt-4o",
        provider="openai",
        share=0.26,
        prompt_tokens=1400,
        answer_tokens=120,
        known_questions=40,
        repeats=0.3,
    ),
    Feature(
        name="nightly_report",
        model="gpt-4o",
        provider="openai",
        share=0.08,
        prompt_tokens=5200,
        answer_tokens=900,
        interactive=False,
        deadline_seconds=DAY,
        night=True,
    ),
    Feature(
        name="catalogue_texts",
        model="claude-haiku-4-5",
        provider="anthropic",
        share=0.10,
        prompt_tokens=1500,
        answer_tokens=500,
        temperature=0.5,
        interactive=False,
        deadline_seconds=2 * DAY,
        night=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class SampleCall:
    """One call; the fields are the columns of the file."""

    call_id: str
    started_at: str
    ended_at: str
    first_token_at: str
    model: str
    provider: str
    input_tokens: int  # all input, cached included
    cached_read_tokens: int
    cached_write_tokens: int
    output_tokens: int
    cost_usd: str
    status: str
    user: str
    feature: str
    session: str
    interactive: str
    deadline_seconds: float
    temperature: float
    prompt: str


@dataclass
class CacheTruth:
    """What a cache of answers would have served: for each user apart or shared by all, each answer kept so long."""

    shared: bool = False
    kept: float = inf  # seconds
    repeats: int = 0
    pico: int = 0
    _ends: dict[tuple[str, ...], datetime] = field(default_factory=dict)  # question -> when the kept answer ended

    def count(self, question: tuple[str, ...], user: str, started_at: datetime, ended_at: datetime, cost: int) -> None:
        """One successful call; they come in the order of their starts."""
        key = question if self.shared else (*question, user)
        end = self._ends.get(key)
        if end is None or (started_at - end).total_seconds() > self.kept:
            self._ends[key] = ended_at
        elif started_at > end:
            self.repeats += 1
            self.pico += cost
        else:
            self._ends[key] = min(end, ended_at)


@dataclass
class Truth:
    """What must come out of an analysis of the sample, counted while it was made, without SQL."""

    seed: int
    calls: int = 0
    failed_calls: int = 0
    tokens: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("input", "output", "cached_read", "cached_write"), 0)
    )
    cost_pico: int = 0
    by_feature: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_model: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    caches: dict[str, "CacheTruth"] = field(
        default_factory=lambda: {"own_hour": CacheTruth(kept=3600.0), "shared_for_good": CacheTruth(shared=True)}
    )
    batch_calls: int = 0
    batch_saving_pico: int = 0

    def document(self) -> dict[str, Any]:
        """The truth as it is written beside a sample; dollars as decimal strings."""
        return {
            "synthetic": True,
            "seed": self.seed,
            "calls": self.calls,
            "failed_calls": self.failed_calls,
            "tokens": self.tokens,
            "cost_usd": _usd(self.cost_pico),
            "by_feature_usd": {name: _usd(cost) for name, cost in sorted(self.by_feature.items())},
            "by_model_usd": {name: _usd(cost) for name, cost in sorted(self.by_model.items())},
            "exact_cache": {
                name: {"repeats": found.repeats, "saving_usd": _usd(found.pico)} for name, found in self.caches.items()
            },
            "batch_eligible": {"calls": self.batch_calls, "saving_usd": _usd(self.batch_saving_pico)},
        }


def write_sample(*, out: TextIO, calls: int, seed: int, as_json: bool = False) -> Truth:
    """Write about `calls` synthetic calls as CSV (or JSON lines) and answer the truth about them."""
    sample = Sample(calls=calls, seed=seed)
    names = [each.name for each in fields(SampleCall)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    if not as_json:
        writer.writeheader()
    for call in sample:
        row = asdict(call)
        if as_json:
            out.write(json.dumps(row) + "\n")
        else:
            writer.writerow(row)
    return sample.truth


def truth_of_sample(*, calls: int, seed: int) -> Truth:
    """The truth alone."""
    sample = Sample(calls=calls, seed=seed)
    for _ in sample:
        pass
    return sample.truth


def write_sample_files(*, path: Path, calls: int, seed: int) -> Truth:
    """Write a sample to `path` (JSON lines if it ends so, else CSV) and its truth beside it as `<name>.truth.json`."""
    with path.open("w", encoding="utf-8", newline="") as out:
        truth = write_sample(out=out, calls=calls, seed=seed, as_json=path.suffix == ".jsonl")
    path.with_suffix(".truth.json").write_text(json.dumps(truth.document(), indent=2) + "\n", encoding="utf-8")
    return truth


class Sample:
    """Iterating makes the calls, day by day in the order of their starts, and fills `truth`."""

    def __init__(self, *, calls: int, seed: int) -> None:
        self.truth = Truth(seed=seed)
        self._calls = calls
        self._random = Random(seed)  # noqa: S311
        catalogue = Catalogue()
        self._rates = {f.model: _rates(catalogue, f) for f in FEATURES}

    def __iter__(self) -> Iterator[SampleCall]:
        weights = [WEEKEND if day % 7 >= 5 else 1.0 for day in range(DAYS)]
        made = 0
        for day in range(DAYS):
            wanted = round(self._calls * sum(weights[: day + 1]) / sum(weights)) - made
            drafts = sorted(self._day(FIRST_DAY + timedelta(days=day), wanted), key=lambda draft: draft.started_at)
            for draft in drafts[:wanted]:
                made += 1
                yield self._finished(draft, made)

    def _day(self, midnight: datetime, wanted: int) -> Iterator["_Draft"]:
        for feature in FEATURES:
            # One more than its share: the day is cut to size once it is sorted.
            missing = int(wanted * feature.share) + 1
            while missing > 0:
                session = list(self._session(feature, midnight))[:missing]
                missing -= len(session)
                yield from session

    def _session(self, feature: Feature, midnight: datetime) -> Iterator["_Draft"]:
        random, at = self._random, self._start(feature, midnight)
        session, user = f"s-{random.getrandbits(40):010x}", f"user-{int(random.paretovariate(1.1)) % 400:03d}"
        context = 0
        for turn in range(random.randint(1, feature.turns)):
            draft = self._turn(feature, at, session, user, turn, context)
            if draft.ended_at >= midnight + timedelta(days=1):
                return
            yield draft
            if draft.status == "failed":
                draft = self._retry(draft)
                yield draft
            context += draft.fresh + draft.output
            at = draft.ended_at + timedelta(seconds=random.uniform(5, 90))

    def _start(self, feature: Feature, midnight: datetime) -> datetime:
        hour = self._random.randint(1, 4) if feature.night else self._random.choices(range(24), HOURS)[0]
        return midnight + timedelta(hours=hour, seconds=self._random.uniform(0, 3000))

    def _turn(self, feature: Feature, at: datetime, session: str, user: str, turn: int, context: int) -> "_Draft":
        random = self._random
        question, fresh = self._question(feature)
        output = max(1, int(random.lognormvariate(0, 0.5) * feature.answer_tokens))
        prefix = feature.prefix_tokens + context if feature.prefix_tokens else 0
        failed = random.random() < FAILS
        return _Draft(
            feature=feature,
            started_at=at,
            ended_at=at + timedelta(milliseconds=int(400 + 18 * output)),
            session=session,
            user=user,
            prompt=question or f"{feature.name} {session} turn {turn}",
            fresh=fresh,
            prefix=prefix,
            # What earlier turns of the session sent is in the provider's cache by now.
            read=prefix if turn and feature.prefix_tokens else 0,
            output=0 if failed else output,
            status="failed" if failed else "succeeded",
        )

    def _question(self, feature: Feature) -> tuple[str, int]:
        """A question of the pool, or "" for one that nobody asked before; with its tokens."""
        random = self._random
        if random.random() < feature.repeats:
            number = random.randrange(feature.known_questions)
            return f"{feature.name} known question {number}", 600 + 37 * number
        return "", max(20, int(random.lognormvariate(0, 0.6) * feature.prompt_tokens))

    def _retry(self, failed: "_Draft") -> "_Draft":
        at = failed.ended_at + timedelta(seconds=2)
        output = max(1, int(self._random.lognormvariate(0, 0.5) * failed.feature.answer_tokens))
        ended = at + timedelta(milliseconds=int(400 + 18 * output))
        return _Draft(**{**vars(failed), "started_at": at, "ended_at": ended, "output": output, "status": "succeeded"})

    def _finished(self, draft: "_Draft", number: int) -> SampleCall:
        usage = draft.usage()
        cost = cost_pico(usage, self._rates[draft.feature.model]) if draft.status == "succeeded" else 0
        self._count(draft, usage, cost)
        return SampleCall(
            call_id=f"sample-{number:07d}",
            started_at=_iso(draft.started_at),
            ended_at=_iso(draft.ended_at),
            first_token_at=_iso(draft.started_at + timedelta(milliseconds=350)),
            model=draft.feature.model,
            provider=draft.feature.provider,
            input_tokens=usage.input_tokens,
            cached_read_tokens=usage.cached_read,
            cached_write_tokens=usage.cached_write,
            output_tokens=usage.output_tokens,
            cost_usd=_usd(cost),
            status=draft.status,
            user=draft.user,
            feature=draft.feature.name,
            session=draft.session,
            interactive=str(draft.feature.interactive).lower(),
            deadline_seconds=draft.feature.deadline_seconds,
            temperature=draft.feature.temperature,
            prompt=draft.prompt,
        )

    def _count(self, draft: "_Draft", usage: Usage, cost: int) -> None:
        truth = self.truth
        truth.calls += 1
        if draft.status == "failed":
            truth.failed_calls += 1
            return
        truth.cost_pico += cost
        truth.by_feature[draft.feature.name] += cost
        truth.by_model[draft.feature.model] += cost
        truth.tokens["input"] += usage.input_tokens
        truth.tokens["output"] += usage.output_tokens
        truth.tokens["cached_read"] += usage.cached_read
        truth.tokens["cached_write"] += usage.cached_write
        for cache in truth.caches.values():
            cache.count((draft.feature.model, draft.prompt), draft.user, draft.started_at, draft.ended_at, cost)
        self._count_batch(draft, usage, cost)

    def _count_batch(self, draft: "_Draft", usage: Usage, cost: int) -> None:
        if not draft.feature.interactive and draft.feature.deadline_seconds >= DAY:
            self.truth.batch_calls += 1
            self.truth.batch_saving_pico += cost - cost_pico(usage, self._rates[draft.feature.model], tier=BATCH)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A call before it is numbered and priced."""

    feature: Feature
    started_at: datetime
    ended_at: datetime
    session: str
    user: str
    prompt: str
    fresh: int  # tokens that no earlier turn sent
    prefix: int  # tokens that earlier turns sent, or the instructions
    read: int  # of the prefix, from the provider's cache
    output: int
    status: str

    def usage(self) -> Usage:
        written = self.prefix - self.read if self.feature.writes_cache else 0
        return Usage(
            input_tokens=self.prefix + self.fresh,
            cached_read=self.read,
            cached_write=written,
            output_tokens=self.output,
        )


def _rates(catalogue: Catalogue, feature: Feature) -> Rates:
    rates = catalogue.rates(model=feature.model, provider=feature.provider, at=FIRST_DAY)
    if rates is None:
        raise LookupError(f"The catalogue lost {feature.model}; choose another model for {feature.name}.")
    return rates


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _usd(pico: int) -> str:
    return format(dollars(pico), "f")
