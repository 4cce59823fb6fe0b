"""Let the provider read what prompts have in common from its cache.

The calls are replayed through the cache of their provider, by its rules. What they read from it already counts: the
saving is what the simulated cache costs less than what was paid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from typing import Any

import numpy as np

from apps.llm.pricing import Rates
from apps.optimization.calls import Calls
from apps.optimization.coalitions import saved
from apps.optimization.conversion import BLOCK
from apps.optimization.latency import latency
from apps.optimization.overview import FIELDS, part_of, share, spend
from apps.optimization.prefix.replay import Integers, Stream, replay
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, strategy, taught_before

GIVEN_TOKENS = 512  # of a block that the source names
KNOWN = 0.95  # share of the spend whose calls must say what they read from a cache already
LEARNT = 0.5  # of the calls, from which is learnt how deep a prompt is worth writing; the saving is of the others
LATENCY = "Long prompts begin to be answered sooner, by how much these calls cannot show; what comes after stays."


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a provider caches prompts."""

    minimum: int  # tokens of a prompt below which nothing is cached
    step: int  # tokens in which a prefix is read
    ttl: float  # seconds since the last use
    source: str
    long_ttl: float | None = None  # for writes at the price of `cached_write_1h`
    minimums: Mapping[str, int] = field(default_factory=dict)  # of models whose name has this part, else `minimum`

    def of(self, model: str) -> "Rules":
        """The same for one model."""
        name = model.lower().replace(".", "-")
        own = (tokens for part, tokens in self.minimums.items() if part in name)
        return replace(self, minimum=next(own, self.minimum))


# Where sources disagree (Sonnet 4.6: 1,024 or 2,048), the larger one, which saves less.
_CLAUDE: Mapping[str, int] = {
    "opus-4-5": 4096,
    "opus-4-6": 4096,
    "haiku-4-5": 4096,
    "sonnet-4-6": 2048,
    "3-5-haiku": 2048,
    "3-haiku": 2048,
}

# By the catalogue's name of the provider. Prices are the catalogue's.
PROVIDERS: Mapping[str, Rules] = {
    "openai": Rules(minimum=1024, step=128, ttl=300, source="OpenAI, prompt caching guide: 1,024 tokens, steps of 128"),
    "azure": Rules(minimum=1024, step=128, ttl=300, source="Azure OpenAI, prompt caching: as OpenAI"),
    "anthropic": Rules(
        minimum=1024,
        step=1,
        ttl=300,
        long_ttl=3600,
        minimums=_CLAUDE,
        source="Anthropic, prompt caching: 1,024 to 4,096 tokens by model, 5 minutes or an hour",
    ),
    "aws": Rules(
        minimum=1024,
        step=1,
        ttl=300,
        minimums=_CLAUDE,
        source="Amazon Bedrock, prompt caching: 1,024 to 4,096 tokens by model, 5 minutes",
    ),
    "google": Rules(minimum=2048, step=1, ttl=300, source="Gemini API, implicit caching: 2,048 tokens"),
    "deepseek": Rules(minimum=64, step=64, ttl=3600, source="DeepSeek, context caching: units of 64 tokens"),
}
_CALLS = """
    SELECT call, model, coalesce(provider, '') AS provider, coalesce(api_key, '') AS key, input_tokens,
           cached_read_tokens,
           epoch(started_at) AS began, epoch(coalesce(first_token_at, ended_at, started_at)) AS usable_at,
           blocks,
           CASE WHEN prompt_characters > 0 THEN input_tokens * {characters} / prompt_characters
                ELSE greatest({given}, input_tokens / len(blocks)) END AS block_tokens
    FROM calls WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL AND model IS NOT NULL
      AND len(blocks) > 0 AND input_tokens > 0 AND {free}
"""


def _replayed(calls: Calls, remaining: str, table: str) -> None:
    """Make `table` of what the caches would read and write for the calls of `remaining` at the models it names."""
    # What another model's cache held says nothing of this one's.
    stayed = "r.model = m.model AND coalesce(r.provider, '') = m.provider"
    query = f"""SELECT m.* REPLACE (r.model AS model, coalesce(r.provider, '') AS provider,
                                    CASE WHEN {stayed} THEN m.cached_read_tokens ELSE 0 END AS cached_read_tokens)
                FROM met m JOIN ({remaining}) r ON r.call = m.call
                WHERE {_MODEL.format(of="r.")} NOT IN (SELECT model FROM dearer)"""  # noqa: S608
    _simulate(calls, query, table)


@strategy(stage="prefix", replay=_replayed)
def prefix_cache(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """What calls would have cost if their provider's cache had been used as far as it can be."""
    query = _CALLS.format(characters=BLOCK, given=GIVEN_TOKENS, free=free_sql(options))
    calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE met AS {query}")
    met = calls.row("SELECT count(*) FROM met")[0]
    if not met:
        return _strategy(
            saving_usd=None,
            **_unknown(calls),
        )
    since = _simulate(calls, "SELECT * FROM met", "treatment_prefix_cache", taught_before(options))
    _leave_dearer(calls)
    found = saved(calls, {"prefix": "treatment_prefix_cache"})
    covered, told = calls.row(
        f"""SELECT sum(cost_pico), sum(cost_pico) FILTER ({FIELDS["cached_tokens"]}) FROM calls
            WHERE call IN (SELECT call FROM met)"""  # noqa: S608
    )
    known = share(told, covered) >= KNOWN
    read, achieved, changed = calls.row(
        """SELECT sum(t.cached_read_tokens), sum(c.cached_read_tokens), count(*) FROM treatment_prefix_cache t
           JOIN calls c USING (call)"""
    )
    saving = max(0, found.total(frozenset({"prefix"})))
    return _strategy(
        known=known,
        missing=() if known else ("cached_tokens",),
        saving_usd=in_dollars(saving),
        why=None if saving else _nothing(int(read or 0), int(achieved or 0), part_of(covered, spend(calls))),
        latency=latency(
            calls,
            changed="""SELECT call FROM treatment_prefix_cache t JOIN calls USING (call)
                       WHERE t.cached_read_tokens > calls.cached_read_tokens""",
        ),
        detail={
            "calls": met,
            "changed_calls": changed,
            "read_tokens": int(read or 0),
            "read_tokens_achieved": int(achieved or 0),
            "counted_since": None if since is None else datetime.fromtimestamp(since, tz=UTC).isoformat(),
            "covered_usd": usd(covered),
            "covered_share_of_spend": part_of(covered, spend(calls)),
            "rules": {provider: rules.source for provider, rules in PROVIDERS.items()},
        },
    )


def _nothing(read: int, achieved: int, looked_at: float | None) -> str:
    """Why nothing would be saved, of tokens that would be `read` and were."""
    part = "what was looked at" if looked_at is None else f"{looked_at:.1%} of the spend, where prompts are long enough"
    if not read:
        return f"On {part}, no prompt begins as an earlier one that a provider's cache would still hold."
    if achieved >= read:
        return f"On {part}, the provider's caches hold already what they can."
    return f"On {part}, what could be read costs more to write."


def _unknown(calls: Calls) -> dict[str, Any]:
    """Why no call could be replayed, and the fields that are missing."""
    blocks, texts, times = calls.row(
        """SELECT count(*) FILTER (len(blocks) > 0), count(*) FILTER (prompt_characters > 0), count(started_at)
           FROM calls WHERE billed"""
    )
    missing = (() if blocks or texts else ("prompt",)) + (() if times else ("started_at",))
    if texts and not blocks:
        why = f"No prompt has {BLOCK} characters; what shorter ones have in common is not looked at."
    elif blocks:
        why = "No call with the blocks of its prompt has a time and a known price."
    else:
        why = "No call shows its prompt or the blocks of it, so what prompts have in common cannot be told."
    return {"missing": missing, "why": why}


_MODEL = "hash({of}model, coalesce({of}provider, ''))"


def _leave_dearer(calls: Calls) -> None:
    """Leave as they are the calls of models whose replay costs more than what was paid: nobody would do that there.

    They stay `dearer` in what is replayed of other calls.
    """
    model = _MODEL.format(of="")
    saved(calls, {"prefix": "treatment_prefix_cache"}, cluster=model)
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE dearer AS SELECT cluster AS model FROM cluster_saved WHERE coalition = 1
           GROUP BY 1 HAVING sum(pico) < 0"""
    )
    calls.connection.execute(
        f"""DELETE FROM treatment_prefix_cache WHERE call IN (SELECT call FROM calls WHERE {model} IN (FROM dearer))"""  # noqa: S608
    )


def _simulate(calls: Calls, query: str, table: str, until: float = inf) -> float | None:
    """Replay the calls of `query` through the caches of their providers into `table`. What is learnt first is learnt on
    the first half of those that began before `until`, in seconds since 1970.

    Answers since when the calls of every model count, in seconds since 1970; None where nothing was learnt first.
    """
    calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE asked AS {query} ORDER BY began, call")
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE {table} (call BIGINT, cached_read_tokens BIGINT, cached_write_tokens BIGINT,
            cached_write_1h_tokens BIGINT)"""
    )
    since: list[float] = []
    for model, provider, moment in calls.rows(
        "SELECT model, provider, max(began) FROM asked GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        known = calls.catalogue.identify(model=model, provider=provider)
        rules = PROVIDERS.get(known.provider) if known else None
        rates = calls.catalogue.rates(model=model, provider=provider, at=datetime.fromtimestamp(moment, tz=UTC))
        if rules and rates and rates.cached_read is not None and rates.cached_read < rates.input:
            counted = _one_model(calls, table, model, provider, rules.of(model), rates, until)
            since += [] if counted is None else [counted]
    return max(since, default=None)


def _one_model(
    calls: Calls, table: str, model: str, provider: str, rules: Rules, rates: Rates, until: float
) -> float | None:
    """Add to `table` what one model's cache would do; since when its calls count, where not all of them do."""
    of_model, named = "FROM asked WHERE model = ? AND provider = ?", [model, provider]
    rows = calls.connection.execute(
        f"""SELECT call, began, usable_at, input_tokens, cached_read_tokens, len(blocks) AS many, block_tokens
            {of_model}""",
        named,
    ).fetchnumpy()
    names = calls.connection.execute(f"SELECT hash(unnest(blocks), key) AS name {of_model}", named).fetchnumpy()["name"]
    stream, offsets = _stream(rows, names)
    learnt = 0
    if rates.cached_write is not None and rates.cached_write > rates.input:
        learnt = int(LEARNT * np.count_nonzero(stream.at < until))
        read, written, long = _paid_writes(stream, offsets, rows["input_tokens"], rules, rates, learnt)
    else:
        live = replay(stream, ttl=rules.ttl).tokens
        read = np.maximum(_readable(live, rows["input_tokens"], rules), rows["cached_read_tokens"])
        written, long = np.zeros_like(read), False
    changed = (np.arange(len(read)) >= learnt) & (read + written > 0)
    columns = {
        "call": rows["call"][changed],
        "read": read[changed],
        "written": written[changed],
        "of_hour": (written if long else np.zeros_like(written))[changed],
    }
    calls.connection.register("replayed", columns)  # not as parameters: millions of them would be objects of Python
    calls.connection.execute(f"INSERT INTO {table} SELECT call, read, written, of_hour FROM replayed")  # noqa: S608
    calls.connection.unregister("replayed")
    return float(rows["began"][learnt]) if learnt else None


def _paid_writes(
    stream: Stream, ends: Integers, whole: Any, rules: Rules, rates: Rates, first: int
) -> tuple[Integers, Integers, bool]:
    """What calls read and write, and whether for an hour: life and depth are what paid best in the `first` calls."""
    short = replay(stream, ttl=rules.ttl).tokens
    gain, depth = _depth(stream, short, ends, rules, rates, rates.cached_write, first)
    if rules.long_ttl and rates.cached_write_1h is not None:
        longer = replay(stream, ttl=rules.long_ttl).tokens
        more, deeper = _depth(stream, longer, ends, rules, rates, rates.cached_write_1h, first)
        if more > gain:
            return *_down_to(deeper, stream, longer, ends, whole, rules), True
    return *_down_to(depth, stream, short, ends, whole, rules), False


def _stream(rows: Mapping[str, Any], names: Any) -> tuple[Stream, Integers]:
    """Calls in time order as the replay takes them, and for each block how many tokens stand before its end."""
    many = np.asarray(rows["many"], dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(many)]).astype(np.int64)
    place = np.arange(start[-1]) - np.repeat(start[:-1], many)
    size, whole = (
        np.repeat(np.asarray(rows[name], dtype=np.float64), many) for name in ("block_tokens", "input_tokens")
    )
    ends = np.minimum((place + 1) * size, whole).astype(np.int64)
    begins = np.minimum(place * size, whole).astype(np.int64)
    stream = Stream(
        at=np.asarray(rows["began"], dtype=np.float64),
        usable_at=np.asarray(rows["usable_at"], dtype=np.float64),
        start=start,
        names=np.asarray(names),
        tokens=ends - begins,
    )
    return stream, ends


def _readable(tokens: Integers, whole: Any, rules: Rules) -> Integers:
    """Of a live prefix, what the provider reads: whole steps, from its minimum on."""
    stepped = tokens // rules.step * rules.step
    long_enough = (stepped >= rules.minimum) & (np.asarray(whole) >= rules.minimum)
    found: Integers = np.where(long_enough, stepped, 0)
    return found


def _depth(
    stream: Stream, live: Integers, ends: Integers, rules: Rules, rates: Rates, write: Decimal | None, first: int
) -> tuple[float, int]:
    """What writing at the price `write` saved in the `first` calls, and the tokens of a prompt to which it paid best.

    Both are 0 where it did not pay.

    A written block costs more than a plain one and pays if it is read in time: more than (write - input) /
    (input - read) times on average, 0.28 at 1.25 and 0.1 times the input's price.
    """
    if not first:
        return 0.0, 0
    reach = ends[: stream.start[first]]
    choices = np.unique(np.quantile(reach, np.linspace(0, 1, 33)).astype(np.int64))
    gain, loss = float(rates.input - (rates.cached_read or rates.input)), float((write or 0) - rates.input)
    longest = _longest(stream, ends)[:first]
    best, best_depth = 0.0, 0
    for depth in choices[choices >= rules.minimum].tolist():
        read = _readable(np.minimum(live[:first], depth), longest, rules)
        written = np.where(longest >= rules.minimum, np.minimum(longest, depth), 0) - read
        paid = gain * float(read.sum()) - loss * float(np.maximum(written, 0).sum())
        if paid > best:
            best, best_depth = paid, depth
    return best, best_depth


def _down_to(
    depth: int, stream: Stream, live: Integers, ends: Integers, whole: Any, rules: Rules
) -> tuple[Integers, Integers]:
    """What calls read and write if their prompts are marked at `depth` tokens."""
    read = _readable(np.minimum(live, depth), whole, rules)
    longest = _longest(stream, ends)
    written = np.where((longest >= rules.minimum) & (depth > 0), np.minimum(longest, depth), 0) - read
    return read, np.maximum(written, 0)


def _longest(stream: Stream, ends: Integers) -> Integers:
    """Tokens of each call that its blocks cover."""
    found: Integers = ends[stream.start[1:] - 1]
    return found


def _strategy(*, known: bool = True, **more: Any) -> Strategy:
    """`known` is whether the calls say what was read from caches already; else the saving is a ceiling."""
    return Strategy(
        name="prefix_cache",
        title="Let the provider read common prefixes from its cache",
        evidence="E2" if known else "E0",
        up_to=not known,
        assumptions=(
            *(() if known else ("What was read from caches already is not told, and taken for nothing.",)),
            "Caches are kept apart by model and key, and forget after five minutes without use (DeepSeek: an hour; "
            "Anthropic: an hour where that paid better in the first half).",
            "A prefix can be read once the call that wrote it has begun to answer; where that is not told, has ended, "
            "and where that is not told either, has begun.",
            "Where writing costs more, how deep to write is learnt from the first half; only the second half counts.",
            "Nothing is evicted earlier; providers may.",
        ),
        latency_effect=LATENCY,
        **more,
    )
