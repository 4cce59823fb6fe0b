"""Whether the optimizer's numbers are right, where the truth is known: worked by hand, made up, or published.

Every row is computed anew, by the code that serves users. Rows about public traces need their files (`TRACES`).
"""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import Stage
from apps.optimization.calls import Calls, reading
from apps.optimization.coalitions import saved
from apps.optimization.conversion import Order, convert
from apps.optimization.duck import quoted
from apps.optimization.forecast import forecast
from apps.optimization.injection import recall
from apps.optimization.joint import joint
from apps.optimization.overview import overview
from apps.optimization.prefix.replay import Stream, replay
from apps.optimization.quality.policies import Pairs, Scores, scores_of, trial
from apps.optimization.sample import Truth, write_sample
from apps.optimization.simulators import DEFAULTS, Options, known, simulate
from apps.optimization.statistics.backtest import LEVELS, coverage, lasting
from apps.optimization.statistics.bootstrap import Ratio, cluster_interval, cluster_intervals
from apps.optimization.statistics.dependence import resembling
from apps.optimization.statistics.forecast import forecasted
from apps.optimization.statistics.realised import adopted
from apps.optimization.sufficiency import sufficiency

# Names of the public traces as they are published.
TRACES = {
    "Azure": "AzureLLMInferenceTrace_conv*.csv",  # Azure/AzurePublicDataset, data/
    "Mooncake": "*synthetic_trace.jsonl",  # kvcache-ai/Mooncake, FAST25-release/traces/
    "GSM8K": "*gsm8k_responses.csv",  # lm-sys/RouteLLM, routellm/evals/gsm8k/
}
STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"  # who answered GSM8K
FLOOR = 0.95  # share of the strong model's quality that a route has to keep
BLOCK_TOKENS = 512  # of a block of the Mooncake trace
WITHIN = 3.0  # standard errors by which a share may miss what was promised, and be luck
SEED = 7
FREELY = Options(answers_kept=None, answers_shared=True)  # so that the ways to save meet in the same calls
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row; `holds` is None where it was not measured, and `why` says why not."""

    name: str
    value: float | None
    unit: str
    expected: str
    holds: bool | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the rows are computed, and with what."""

    data: Path  # the folder of public traces; it need not be there
    scratch: Path  # a folder for files
    now: datetime  # aware
    memory_mib: int
    quick: bool = False

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue()

    @contextmanager
    def calls_of(self, source: Path, *, price_as: str | None = None) -> Iterator[Calls]:
        """Import a file as a user's is, once, and open its calls."""
        target = self.scratch / f"{source.stem}.parquet"
        if not target.exists():
            convert(
                Order(
                    source=source,
                    target=target,
                    catalogue=self.catalogue,
                    now=self.now,
                    memory_mib=self.memory_mib,
                    price_as=price_as,
                )
            )
        with reading(files=[target], catalogue=self.catalogue, memory_mib=self.memory_mib) as calls:
            yield calls

    @cached_property
    def month(self) -> tuple[Path, Truth]:
        """A made-up month whose prompts begin with the instructions of their feature, and the truth about it."""
        plain, path = self.scratch / "plain.csv", self.scratch / "month.csv"
        with plain.open("w", encoding="utf-8", newline="") as out:
            truth = write_sample(out=out, calls=3_000 if self.quick else 20_000, seed=SEED)
        _copy(plain, path, "* REPLACE (repeat('Instructions of ' || feature || '. ', 40) || prompt AS prompt)")
        return path, truth


def evaluate(bench: Bench) -> Iterator[Finding]:
    """All rows, one after the other."""
    for check in (_pricing, _truth, _shares, _coverage, _samples, _lasting, _outcomes, _forecasts, _anomalies, _masks):
        yield from check(bench)
    for name, about in (("Azure", _azure), ("Mooncake", _mooncake), ("GSM8K", _gsm8k)):
        files = sorted(bench.data.glob(TRACES[name]))
        if files:
            yield from about(bench, files[0])
        else:
            why = f"file absent: {bench.data / TRACES[name]}"
            yield Finding(name=f"{name} trace", value=None, unit="", expected="", holds=None, why=why)


# --- Worked by hand, and made up -------------------------------------------------------------------------------------


def _pricing(bench: Bench) -> Iterator[Finding]:
    """Ten calls together, and the call that their sums would be: above 200,000 tokens another price holds."""
    one = {"input_tokens": 100_000, "cached_read_tokens": 90_000, "cached_write_tokens": 5_000, "output_tokens": 10_000}
    summed = {name: 10 * count for name, count in one.items()}
    cases = (("ten calls, each priced", [one] * 10, "2.1075"), ("their sums priced as one call", [summed], "3.465"))
    for name, calls, expected in cases:
        about = {"timestamp": "2026-10-01T12:00:00Z", "model": "claude-sonnet-4-5"}
        path = _write(bench.scratch / f"{len(calls)} priced.csv", [about | call for call in calls])
        with bench.calls_of(path) as opened:
            yield _exactly(name, overview(opened).cost_usd, Decimal(expected), unit="USD")


def _truth(bench: Bench) -> Iterator[Finding]:
    """The month's own book-keeping, done call by call while it was made."""
    path, truth = bench.month
    made = truth.document()
    with bench.calls_of(path) as calls:
        yield _exactly("bill of a made-up month", overview(calls).cost_usd, Decimal(made["cost_usd"]), unit="USD")
        told = (
            ("exact_cache", DEFAULTS, "", made["exact_cache"]["own_hour"]),
            ("exact_cache", FREELY, ", shared for good", made["exact_cache"]["shared_for_good"]),
            ("batch_eligible", DEFAULTS, "", made["batch_eligible"]),
        )
        for name, options, how, expected in told:
            yield _exactly(
                f"saving of {name} there{how}",
                simulate(calls, name, options).saving_usd,
                Decimal(expected["saving_usd"]),
                unit="USD",
            )


def _shares(bench: Bench) -> Iterator[Finding]:
    """What all strategies save together, shared out: to the pico-dollar."""
    with bench.calls_of(bench.month[0]) as calls:
        found = joint(calls, [simulate(calls, name, FREELY) for name in known()])
        bill = _there(overview(calls).cost_usd)
    found = _there(found)
    saving, cost, parts = (_there(each) for each in (found.saving_usd, found.would_cost_usd, found.sum_of_parts_usd))
    shares = sum((_there(share) for share in found.shares.values()), Decimal(0))
    yield _exactly(f"Shapley shares of {len(found.shares)} strategies, summed", shares, saving, unit="USD")
    yield _exactly("bill less the cost under all of them", bill - cost, saving, unit="USD")
    yield _at_most("joint saving by the sum of its parts", float(saving / parts), 1.0)


# --- Intervals, forecasts and anomalies ------------------------------------------------------------------------------


def _coverage(bench: Bench) -> Iterator[Finding]:
    counts, trials = ((30,), 40) if bench.quick else ((30, 60, 120, 300), 400)
    for found in coverage(clusters=counts, trials=trials):
        yield _promised(f"intervals at {found.level:.0%}, {found.clusters} clusters", found.held, found.level, trials)


def _samples(bench: Bench) -> Iterator[Finding]:
    """Intervals of a hundred clusters of sessions, drawn from a month whose saved share is known from all of them."""
    treated: dict[Stage, str] = {"answer": "treatment_exact_cache", "batch": "treatment_batch_eligible"}
    with bench.calls_of(bench.month[0]) as calls:
        for table in treated.values():
            simulate(calls, table.removeprefix("treatment_"), FREELY)
        found = saved(calls, treated)
    sums = np.column_stack([found.of_clusters(frozenset(treated)), found.paid])[found.paid > 0]
    share, trials = Ratio(0, 1), 40 if bench.quick else 400
    truth = float(share(sums.sum(axis=0)))
    random = np.random.default_rng(SEED)
    drawn = [sums[random.choice(len(sums), 100, replace=False)] for _ in range(trials)]
    for level in LEVELS:
        held = np.mean([cluster_interval(part, share, level=level).contains(truth) for part in drawn])
        yield _promised(f"intervals at {level:.0%}, samples of a month", float(held), level, trials)


def _lasting(bench: Bench) -> Iterator[Finding]:
    """Intervals of sixty days of nobody's calls, where what is high in one hour is high in the next ones too."""
    share, trials = Ratio(0, 1), 20 if bench.quick else 200
    for memory in (0.0, 0.9, 0.98):
        random, held = np.random.default_rng(SEED), np.zeros((2, len(LEVELS)))
        for _ in range(trials):
            hours, truth = lasting(random, days=60, memory=memory)
            days = hours.reshape(-1, 24, 2).sum(axis=1)
            plain = cluster_intervals(days, share, levels=LEVELS)
            wider = [resembling(each, days, days, share) for each in plain]
            held += [[each.contains(truth) for each in some] for some in (plain, wider)]
        for level, before, after in zip(LEVELS, *held / trials, strict=True):
            luck = WITHIN * float(np.sqrt(level * (1 - level) / trials))
            about = f"intervals at {level:.0%}, hours alike by {memory:g} ({before:.0%} if days were independent)"
            yield _at_least(about, float(after), level - luck)


def _outcomes(bench: Bench) -> Iterator[Finding]:
    """Intervals of what was not paid since a way to save is used, where that is known from every call."""
    trials = 40 if bench.quick else 400
    for before, since, used in ((1000, 30, 1.0), (150, 150, 1.0), (150, 1000, 1.0), (1000, 60, 0.5), (1000, 60, 0.0)):
        random, held = np.random.default_rng(SEED), 0
        for _ in range(trials):
            realised, sums, truth = adopted(random, before=before, since=since, used=used)
            held += realised.interval(sums, sums[:0], since).contains(truth)
        luck = WITHIN * float(np.sqrt(0.95 * 0.05 / trials))
        about = f"outcomes at 95%, {before} clusters before and {since} since, used by {used:.0%}"
        yield _at_least(about, held / trials, 0.95 - luck)


def _forecasts(bench: Bench) -> Iterator[Finding]:
    """The week after eight made-up weeks, with errors scaled as in Hyndman and Koehler (2006), MASE; and four weeks."""
    random, errors = np.random.default_rng(SEED), []
    for _ in range(20 if bench.quick else 200):
        spend = _made_up_spend(random, "wandering", 63)
        seen, came = spend[:56], spend[56:]
        made = _there(forecasted(seen, horizon=7))
        scale = np.abs(seen[7:] - seen[:-7]).mean()
        errors.append([np.abs(said - came).mean() / scale for said in (made.values, seen[-7:])])
    ours, naive = np.mean(errors, axis=0)
    yield _at_most("MASE of a week's forecast, beside the seasonal naive's", float(ours), float(naive))
    for kind in (*KINDS_OF_SPEND, *(() if bench.quick else OTHER_KINDS)):
        yield from _four_weeks(bench, kind)
    with bench.calls_of(bench.month[0]) as calls:
        told = forecast(calls)
    error = float(_there(told.better_error_usd) / _there(told.baseline_error_usd))
    yield _at_most("error of totals in the made-up month, by the seasonal naive's", error, 1.0)


def _four_weeks(bench: Bench, kind: str) -> Iterator[Finding]:
    """How far off the total of four weeks after eight is, how often its interval holds, and how high it reaches."""
    random, trials, rows = np.random.default_rng(SEED), 20 if bench.quick else 200, []
    for _ in range(trials):
        spend = _made_up_spend(random, kind, 84)
        seen, came = spend[:56], spend[56:].sum()
        made = _there(forecasted(seen, horizon=28))
        low, high = _there(made.low), _there(made.high)
        rows.append([abs(made.total - came), abs(4 * seen[-7:].sum() - came), low <= came <= high, high / came])
    ours, naive, held, _ = np.mean(rows, axis=0)
    level = OTHER_KINDS.get(kind, 0.8)
    luck = WITHIN * float(np.sqrt(level * (1 - level) / trials))
    about = f"of four weeks of {kind} spend"
    yield _at_least(f"intervals at 80% {about}", float(held), level - luck)
    if kind in KINDS_OF_SPEND:
        yield _at_most(f"error of the forecast {about}, by the seasonal naive's", float(ours / naive), 1.0)
        yield _at_most(f"highest upper end {about}, by what came", float(np.max(rows, axis=0)[3]), 3.0)


# Kinds of daily spend, all with weekdays: those that a forecast is made for, and others, with how often its 80 %
# interval is known to hold there at least.
KINDS_OF_SPEND = (
    "calm",
    "wandering",  # its level, by 2 % a day
    "growing",  # by 2 % a day
    "once wild",  # one of the first 56 days a thousand times as dear
)
OTHER_KINDS = {
    "far wandering": 0.7,  # by 5 % a day
    "lasting": 0.8,  # what is high on a day is high on the next ones too (autocorrelation 0.8)
    "sparse": 0.8,  # three days in ten without
    "stepping": 0.8,  # three times as much from one of the first 56 days on
    "grown": 0.3,  # by 2 % a day until the log ends, and no more
}


def _made_up_spend(random: np.random.Generator, kind: str, days: int) -> Any:
    """Daily spend of a kind, of which a log holds the first 56 days."""
    spend = np.resize([10.0, 11.0, 12.0, 11.0, 10.0, 3.0, 2.0], days)
    if kind.endswith("wandering"):
        level = np.exp(np.cumsum(random.normal(0, 0.05 if kind == "far wandering" else 0.02, days)))
        return spend * level * random.lognormal(0, 0.2, days)
    if kind == "lasting":
        level = random.normal(0, 0.15, days)
        for day in range(1, days):
            level[day] = 0.8 * level[day - 1] + 0.6 * level[day]
        return spend * np.exp(level)
    spend *= random.lognormal(0, 0.1, days)
    if kind in ("growing", "grown"):
        spend *= 1.02 ** np.minimum(np.arange(days), days if kind == "growing" else 56)
    if kind == "once wild":
        spend[random.integers(56)] *= 1000
    if kind == "stepping":
        spend[random.integers(56) :] *= 3
    if kind == "sparse":
        spend[random.random(days) < 0.3] = 0
    return spend


def _anomalies(bench: Bench) -> Iterator[Finding]:
    with bench.calls_of(bench.month[0]) as calls:
        # In a small month, half a dollar is much of a day.
        sizes, spikes = ((0.6,), 5) if bench.quick else ((0.3, 0.6), 20)
        for found in recall(calls, sizes=sizes, spikes=spikes, minimum_usd=Decimal("0.5"), seed=SEED):
            about = f"of {found.spikes} spikes of {found.size:.0%} of a day's spend"
            yield _at_least(f"recall {about}", found.found, 0.9)
            yield _at_least(f"precision {about}", found.precision, 0.9)


def _masks(bench: Bench) -> Iterator[Finding]:
    """What loses points when a part of the log is taken away, and what must not."""
    path, _ = bench.month
    whole = _scores(bench, path)
    for what, columns, rows, lower, same in (
        ("cached tokens", "* REPLACE ('' AS cached_read_tokens, '' AS cached_write_tokens)", "", ("prefix_cache",), ()),
        ("prompts", "* REPLACE ('' AS prompt)", "", ("prefix_cache", "exact_cache"), ("spend_breakdown",)),
        (
            "half of the sessions",
            "*",
            "WHERE hash(session) % 2 = 0",
            ("prefix_cache", "exact_cache"),
            ("batch_eligible",),
        ),
    ):
        masked = _scores(bench, _copy(path, bench.scratch / f"without {what}.csv", columns, rows))
        for name in lower:
            yield _row(f"{name} without {what}", masked[name], f"< {whole[name]}", masked[name] < whole[name], "points")
        for name in same:
            yield _row(f"{name} without {what}", masked[name], f"{whole[name]}", masked[name] == whole[name], "points")


def _scores(bench: Bench, path: Path) -> Mapping[str, int]:
    with bench.calls_of(path) as calls:
        return {name: found.score for name, found in sufficiency(calls).items()}


# --- Published -------------------------------------------------------------------------------------------------------


def _azure(bench: Bench, path: Path) -> Iterator[Finding]:
    with bench.calls_of(path, price_as="gpt-4o") as calls:
        tokens = overview(calls).tokens
    yield _exactly("Azure conversations, in", tokens.input, 22_361_870, unit="tokens")
    yield _exactly("Azure conversations, out", tokens.output, 4_088_665, unit="tokens")


def _mooncake(bench: Bench, path: Path) -> Iterator[Finding]:
    """The trace as it is imported; what is written can be read at once, as in the published replay."""
    with bench.calls_of(path) as calls:
        rows = calls.connection.execute(
            "SELECT epoch(started_at) AS at, input_tokens, len(blocks) AS many FROM calls ORDER BY call"
        ).fetchnumpy()
        names = calls.connection.execute("SELECT unnest(blocks) AS name FROM calls ORDER BY call").fetchnumpy()["name"]
    start = np.concatenate([[0], np.cumsum(rows["many"])]).astype(np.int64)
    place = np.arange(start[-1]) - np.repeat(start[:-1], rows["many"])
    stream = Stream(
        at=np.asarray(rows["at"], dtype=np.float64),
        usable_at=np.zeros(len(rows["at"])),
        start=start,
        names=names,
        tokens=np.minimum(BLOCK_TOKENS, np.repeat(rows["input_tokens"], rows["many"]) - BLOCK_TOKENS * place),
    )
    policies: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("unbounded", {}, 65.12),
        ("50,000 blocks", {"capacity": 50_000}, 65.12),
        ("five minutes", {"ttl": 300.0}, 59.51),
        ("1,000 blocks", {"capacity": 1_000}, 8.4),
    )
    for name, policy, published in policies:
        rate = 100 * replay(stream, **policy).tokens.sum() / rows["input_tokens"].sum()
        yield _row(
            f"Mooncake prefix hits, {name}", float(rate), f"{published} ± 0.05", abs(rate - published) <= 0.05, "%"
        )


def _gsm8k(bench: Bench, path: Path) -> Iterator[Finding]:
    splits = 20 if bench.quick else 200
    found = trial(*gsm8k(path), floor=FLOOR, splits=splits)
    yield _at_most(f"GSM8K routes below the floor, {splits} splits", found.violations, 0.10)
    yield _row("GSM8K mean saving there", found.saving, "> 0", found.saving > 0)


def gsm8k(path: Path) -> tuple[Pairs, Scores]:
    """RouteLLM's answers to GSM8K as judged pairs; a token is taken for four characters."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def dollars(model: str, into: float, out: float) -> Any:
        return np.array([(len(r["prompt"]) * into + len(r[f"{model}_response"]) * out) / 4e6 for r in rows])

    pairs = Pairs(
        old=np.array([row[STRONG] == "True" for row in rows], dtype=np.float64),
        new=np.array([row[WEAK] == "True" for row in rows], dtype=np.float64),
        old_cost=dollars(STRONG, 10, 30),
        new_cost=dollars(WEAK, 0.6, 0.6),
        clusters=np.arange(len(rows)),
    )
    lengths = np.array([len(row["prompt"]) for row in rows])
    segments = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths)
    return pairs, scores_of(pairs, segments=segments, texts=[row["prompt"] for row in rows])


# --- Rows and files --------------------------------------------------------------------------------------------------


def _there(value: T | None) -> T:
    """What the made-up calls are made to have."""
    if value is None:
        raise LookupError("The made-up calls lost what they were made for.")
    return value


def _row(name: str, value: float, expected: str, holds: bool, unit: str = "") -> Finding:
    return Finding(name=name, value=value, unit=unit, expected=expected, holds=bool(holds))


def _exactly(name: str, value: Decimal | int | None, expected: Decimal | int, *, unit: str) -> Finding:
    if value is None:
        return Finding(name=name, value=None, unit=unit, expected=f"{expected:,}", holds=False)
    return _row(name, float(value), f"{expected:,}", value == expected, unit)


def _at_most(name: str, value: float, most: float) -> Finding:
    return _row(name, value, f"<= {most:.3g}", value <= most)


def _at_least(name: str, value: float, least: float) -> Finding:
    return _row(name, value, f">= {least:.3g}", value >= least)


def _promised(name: str, held: float, level: float, trials: int) -> Finding:
    error = WITHIN * float(np.sqrt(level * (1 - level) / trials))
    return _row(name, held, f"{level:.2f} ± {error:.3f}", abs(held - level) <= error)


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _copy(source: Path, target: Path, columns: str, rows: str = "") -> Path:
    """Write `columns` of the rows that meet `rows` into another file."""
    read = f"SELECT {columns} FROM read_csv({quoted(str(source))}, all_varchar = true) {rows}"  # noqa: S608
    duckdb.execute(f"COPY ({read}) TO {quoted(str(target))} (HEADER)")
    return target
