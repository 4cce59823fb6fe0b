"""What one call costs. The only arithmetic that prices tokens, in Python and in SQL, and both are exactly equal.

Rates are dollars per 1,000,000 tokens, kept as whole micro-dollars, so that tokens times rate is a whole number of
pico-dollars (10**-12 dollars) and no rounding happens anywhere. A call is priced by itself, never a sum of calls: the
long-context tier depends on the one call's input.

The arithmetic is written once, over numbers that are known (`int`) or that only the database knows (`Term`): done with
terms it writes the SQL that does the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, get_args
from uuid import UUID

from apps.errors import NetraError

PICO = 10**12  # pico-dollars in a dollar
MICRO = 10**6  # micro-dollars in a dollar
# Together they keep the cost of any one call inside 64 bits.
MAX_TOKENS = 100_000_000  # tokens of one kind in one call
MAX_RATE = Decimal(40_000)  # dollars per 1,000,000 tokens
MAX_FEE = Decimal(1_000)  # dollars for the call itself
DOLLARS = Decimal("0.000001")  # the finest rate that is kept, per 1,000,000 tokens

KINDS = (
    "input",  # neither read from the provider's cache nor written to it
    "cached_read",
    "cached_write",  # kept for five minutes
    "cached_write_1h",
    "output",
    "input_audio",
    "cached_audio_read",
    "output_audio",
    "reasoning",
)
# Whose rate a kind pays that has none of its own: unknown is never free.
FALLBACKS = {
    "cached_read": "input",
    "cached_write": "input",
    "cached_write_1h": "cached_write",
    "input_audio": "input",
    "cached_audio_read": "cached_read",
    "output_audio": "output",
    "reasoning": "output",
}
STANDARD = "standard"  # the service tier of a call that says nothing else
BATCH = "batch"
# In causal order: what an earlier stage takes away, a later one cannot save again.
Stage = Literal["drop", "answer", "route", "trim", "prefix", "batch"]
STAGES: tuple[Stage, ...] = get_args(Stage)
UNTOUCHED: frozenset[Stage] = frozenset()


class ImpossibleRate(NetraError):
    """A rate is negative, not a number, or beyond what the arithmetic holds."""

    code = "price.impossible"


class ImpossibleUsage(NetraError):
    """The token counts of a call contradict each other or cannot be counted."""

    code = "usage.impossible"


class TierPriceUnknown(NetraError):
    """The model has no known price in the service tier, so what a call costs there is unknown."""

    code = "price.tier_unknown"


# --- Numbers, known or not -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A whole number that only the database knows. Arithmetic with terms writes SQL."""

    sql: str

    def __add__(self, other: "Term") -> "Term":
        return Term(f"({self.sql} + {other.sql})")

    def __sub__(self, other: "Term") -> "Term":
        return Term(f"({self.sql} - {other.sql})")

    def __mul__(self, other: "Term") -> "Term":
        return Term(f"{self.sql} * {other.sql}")


Number = TypeVar("Number", int, Term)


def _lesser(one: Number, other: Number) -> Number:
    if isinstance(one, Term):
        return Term(f"least({one.sql}, {other.sql})")
    return min(one, other)


def _choose(yes: Number, one: Number, other: Number) -> Number:
    """`one` if `yes` (1 or 0, a term of truth), else `other`."""
    if isinstance(yes, Term):
        return Term(f"CASE WHEN {yes.sql} THEN {one.sql} ELSE {other.sql} END")
    return one if yes else other


# --- Tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens(Generic[Number]):
    """The tokens of one call, in numbers or in terms."""

    input_tokens: Number  # all input, cached and sound included
    output_tokens: Number  # all output, reasoning and sound included
    cached_read: Number
    cached_write: Number  # all that was written to the provider's cache
    cached_write_1h: Number  # the part of `cached_write` that is kept for an hour instead of five minutes
    reasoning: Number  # the part of the output that nobody reads
    input_audio: Number  # the part of the input that is sound; it counts as uncached as far as it can
    output_audio: Number


@dataclass(frozen=True, kw_only=True)
class Usage(Tokens[int]):
    """The tokens of one call. Cached kinds, sound and reasoning are parts, whatever the source's convention was.

    Raises:
        ImpossibleUsage: a count is negative, above MAX_TOKENS, or a part is larger than its whole.
    """

    cached_read: int = 0
    cached_write: int = 0
    cached_write_1h: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0

    def __post_init__(self) -> None:
        counts = tuple(vars(self).values())
        if not all(0 <= count <= MAX_TOKENS for count in counts):
            raise ImpossibleUsage(f"Token counts must lie between 0 and {MAX_TOKENS:,}; got {counts}.")
        if self.cached_read + self.cached_write > self.input_tokens or self.cached_write_1h > self.cached_write:
            raise ImpossibleUsage(f"More cached tokens than there are in all: {self}.")
        if self.input_audio > self.input_tokens or max(self.reasoning, self.output_audio) > self.output_tokens:
            raise ImpossibleUsage(f"More tokens of sound or reasoning than there are in all: {self}.")


def _by_kind(call: Tokens[Number]) -> dict[str, Number]:
    """The tokens of each of KINDS: every token of the call is in exactly one."""
    fresh = call.input_tokens - call.cached_read - call.cached_write
    sound = _lesser(call.input_audio, fresh)
    cached_sound = _lesser(call.input_audio - sound, call.cached_read)
    spoken = _lesser(call.output_audio, call.output_tokens)
    thought = _lesser(call.reasoning, call.output_tokens - spoken)
    return {
        "input": fresh - sound,
        "cached_read": call.cached_read - cached_sound,
        "cached_write": call.cached_write - call.cached_write_1h,
        "cached_write_1h": call.cached_write_1h,
        "output": call.output_tokens - spoken - thought,
        "input_audio": sound,
        "cached_audio_read": cached_sound,
        "output_audio": spoken,
        "reasoning": thought,
    }


def _cost(tokens: Mapping[str, Number], rates: Mapping[str, Number]) -> Number:
    cost = rates["fee"]
    for kind in KINDS:
        cost = cost + tokens[kind] * rates[kind]
    return cost


# --- Rates -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a price is from. As text it is what `price_source` of a call says."""

    source: str  # the public list, or who says what the house pays: a contract, an invoice
    version: str = ""  # of the list
    entry: str = ""  # provider/model, as the list names it
    tier: str = STANDARD
    remark: str = ""  # what else there is to say
    assumed: bool = False  # the list does not say that the price held on that day
    override: UUID | None = None  # the own price

    def __str__(self) -> str:
        if self.override or not self.version:
            said = f"own price: {self.source}"
        else:
            said = f"{self.source} {self.version}: {self.entry}"
        tier = "" if self.tier == STANDARD else self.tier
        assumed = "assumed, the list names no price of that day" if self.assumed else ""
        return ", ".join(filter(None, (said, " ".join(filter(None, (tier, self.remark))), assumed)))


@dataclass(frozen=True, kw_only=True)
class Charges:
    """Dollars per 1,000,000 tokens of each kind; None pays the rate that FALLBACKS names.

    Raises:
        ImpossibleRate: a rate is negative, not finite, or above MAX_RATE.
    """

    input: Decimal
    output: Decimal
    cached_read: Decimal | None = None
    cached_write: Decimal | None = None
    cached_write_1h: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio_read: Decimal | None = None
    output_audio: Decimal | None = None
    reasoning: Decimal | None = None

    def __post_init__(self) -> None:
        for kind in KINDS:
            _check_rate(f"{kind} rate", getattr(self, kind), MAX_RATE)

    def rate(self, kind: str) -> Decimal:
        """What tokens of `kind` pay."""
        own: Decimal | None = getattr(self, kind)
        return self.rate(FALLBACKS[kind]) if own is None else own


@dataclass(frozen=True, kw_only=True)
class Tier(Charges):
    """The rates that the whole call pays once its input exceeds `above` tokens.

    So Anthropic, Google and OpenAI charge: the threshold counts cached tokens, and the output pays more too. OpenAI of
    GPT-5.4: "prompts with >272K input tokens are priced at 2x input and 1.5x output for the full session for standard,
    batch, and flex" (developers.openai.com/api/docs/models).
    """

    above: int


@dataclass(frozen=True, kw_only=True)
class Band:
    """The rates, in micro-dollars per 1,000,000 tokens, for calls with `above < input_tokens <= up_to`."""

    above: int
    up_to: int
    input: int
    cached_read: int
    cached_write: int
    cached_write_1h: int
    output: int
    input_audio: int
    cached_audio_read: int
    output_audio: int
    reasoning: int
    fee: int  # pico-dollars for the call itself


@dataclass(frozen=True, kw_only=True)
class Rates(Charges):
    """What a model charges, in dollars.

    Raises:
        ImpossibleRate: a rate is negative, not finite, or above MAX_RATE; the fee above MAX_FEE.
    """

    tiers: tuple[Tier, ...] = ()
    fee: Decimal = Decimal(0)  # dollars for each call, whatever its size
    service: Mapping[str, "Rates"] = field(default_factory=dict)  # by service tier, where a price is known
    provenance: Provenance | None = None
    effective_from: datetime | None = None  # None where the source does not say
    effective_to: datetime | None = None  # the first moment at which it no longer holds

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rate("fee", self.fee, MAX_FEE)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The kinds of tokens that have no rate of their own."""
        return tuple(kind for kind in KINDS if any(getattr(step, kind) is None for step in (self, *self.tiers)))

    def at_tier(self, tier: str) -> "Rates":
        """The rates of a service tier.

        Raises:
            TierPriceUnknown: no price is known for it.
        """
        if tier == STANDARD:
            return self
        if tier not in self.service:
            raise TierPriceUnknown(f"No {tier} price is known ({self.provenance or 'no source'}).")
        return self.service[tier]

    def bands(self) -> tuple[Band, ...]:
        """The rates as whole numbers, one band per range of input sizes; together they cover every call."""
        return self._bands

    @cached_property
    def _bands(self) -> tuple[Band, ...]:
        steps: list[Rates | Tier] = [self, *sorted(self.tiers, key=lambda tier: tier.above)]
        starts = [-1, *(tier.above for tier in steps[1:] if isinstance(tier, Tier))]
        ends = [*starts[1:], MAX_TOKENS]
        return tuple(
            _band(step, above=above, up_to=up_to, fee=self.fee)
            for step, above, up_to in zip(steps, starts, ends, strict=True)
        )

    def scaled(self, factor: Decimal) -> "Rates":
        """The same rates times `factor`, for example 0.5 for a batch discount; the fee stays."""
        tiers = tuple(replace(tier, **_scaled(tier, factor)) for tier in self.tiers)
        return replace(self, **_scaled(self, factor), tiers=tiers, service={})


def _band(step: Charges, *, above: int, up_to: int, fee: Decimal) -> Band:
    return Band(above=above, up_to=up_to, fee=int(fee * PICO), **{kind: _micro(step.rate(kind)) for kind in KINDS})


def _check_rate(name: str, rate: Decimal | None, most: Decimal) -> None:
    if rate is not None and not (rate.is_finite() and 0 <= rate <= most):
        raise ImpossibleRate(f"The {name} must lie between 0 and {most:,} dollars; got {rate}.")


def _micro(rate: Decimal) -> int:
    return int(rate.quantize(DOLLARS) * MICRO)


def _scaled(step: Charges, factor: Decimal) -> dict[str, Any]:
    return {kind: own * factor for kind in KINDS if (own := getattr(step, kind)) is not None}


# --- Treatments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What strategies would have changed about one call, one field per stage. Nothing changes by default.

    Raises:
        ImpossibleUsage: a count is negative.
    """

    dropped: bool = False  # it would not have been made
    answered: bool = False  # a cache of answers would have answered it
    rates: Rates | None = None  # of the model that would have been asked instead
    less_input: int = 0  # tokens it would have had less
    less_output: int = 0
    prefix: "Prefix | None" = None
    batched: bool = False  # it would have gone through the batch API, if the model asked has a known batch price

    def __post_init__(self) -> None:
        if min(self.less_input, self.less_output) < 0:
            raise ImpossibleUsage(f"A call cannot be trimmed by less than nothing: {self}.")


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The tokens that the provider's prefix cache would have read and written instead of those it did."""

    cached_read: int = 0
    cached_write: int = 0
    cached_write_1h: int = 0  # the part of `cached_write` that is kept for an hour

    def __post_init__(self) -> None:
        if min(self.cached_read, self.cached_write, self.cached_write_1h) < 0:
            raise ImpossibleUsage(f"A cache cannot hold less than nothing: {self}.")


# A row of treatments in SQL, as the joint saving joins it to a call. NULL: the call is not changed in this respect.
TREATMENT: Mapping[str, str] = {
    "dropped": "BOOLEAN",
    "answered": "BOOLEAN",
    "model": "VARCHAR",  # who would have been asked
    "provider": "VARCHAR",
    "less_input": "BIGINT",
    "less_output": "BIGINT",
    "cached_read_tokens": "BIGINT",
    "cached_write_tokens": "BIGINT",
    "cached_write_1h_tokens": "BIGINT",
    "batched": "BOOLEAN",
}
_SPARED: tuple[tuple[Stage, str], ...] = (("drop", "dropped"), ("answer", "answered"))  # such a call costs nothing


@dataclass(frozen=True, kw_only=True)
class _Change(Generic[Number]):
    """What route, trim and prefix do to the tokens of one call."""

    nothing: Number  # zero
    routed: Number  # whether
    less_input: Number
    less_output: Number
    prefixed: Number  # whether
    cached_read: Number
    cached_write: Number
    cached_write_1h: Number


def _treated(call: Tokens[Number], change: _Change[Number], stages: frozenset[Stage]) -> Tokens[Number]:
    """The tokens that are left to pay, by the stages in their causal order."""
    size, output = call.input_tokens, call.output_tokens
    read, write, write_1h = call.cached_read, call.cached_write, call.cached_write_1h
    if "route" in stages:
        # The old model's cache is no use to the new one: all of its input is uncached, until the prefix stage.
        read = _choose(change.routed, change.nothing, read)
        write = _choose(change.routed, change.nothing, write)
        write_1h = _choose(change.routed, change.nothing, write_1h)
    if "prefix" in stages:
        read = _choose(change.prefixed, change.cached_read, read)
        write = _choose(change.prefixed, change.cached_write, write)
        write_1h = _choose(change.prefixed, change.cached_write_1h, write_1h)
    if "trim" in stages:
        size -= _lesser(change.less_input, size)
        output -= _lesser(change.less_output, output)
        # What is trimmed is history, which is what caches hold: it was read as far as it can be, then written.
        from_read = _lesser(change.less_input, read)
        read -= from_read
        write -= _lesser(change.less_input - from_read, write)
    read = _lesser(read, size)
    write = _lesser(write, size - read)
    return replace(
        call,
        input_tokens=size,
        output_tokens=output,
        cached_read=read,
        cached_write=write,
        cached_write_1h=_lesser(write_1h, write),
        input_audio=_lesser(call.input_audio, size),
        reasoning=_lesser(call.reasoning, output),
        output_audio=_lesser(call.output_audio, output),
    )


_ON_TOKENS: frozenset[Stage] = frozenset({"route", "trim", "prefix"})


# --- The cost in Python ----------------------------------------------------------------------------------------------


def price(
    usage: Usage,
    rates: Rates,
    *,
    tier: str = STANDARD,
    treatment: Treatment | None = None,
    stages: frozenset[Stage] = UNTOUCHED,
) -> Decimal:
    """Dollars for one call, exact to the pico-dollar, in its service tier, under those `stages` of its treatment.

    >>> gpt_4o = Rates(input=Decimal("2.5"), output=Decimal(10), cached_read=Decimal("1.25"))
    >>> price(Usage(input_tokens=1000, cached_read=400, output_tokens=100), gpt_4o)
    Decimal('0.003')

    Raises:
        TierPriceUnknown: the model asked has no known price in `tier`.
    """
    return dollars(cost_pico(usage, rates, tier=tier, treatment=treatment, stages=stages))


def cost_pico(
    usage: Usage,
    rates: Rates,
    *,
    tier: str = STANDARD,
    treatment: Treatment | None = None,
    stages: frozenset[Stage] = UNTOUCHED,
) -> int:
    """Like `price`, in pico-dollars. Causal order: drop, answer, route, trim, prefix, batch."""
    change = treatment or Treatment()
    if any(stage in stages and getattr(change, flag) for stage, flag in _SPARED):
        return 0
    asked = change.rates if "route" in stages and change.rates else rates
    batched = "batch" in stages and change.batched and BATCH in asked.service
    call = _treated(usage, _in_numbers(change), stages) if stages & _ON_TOKENS else usage
    bands = asked.at_tier(BATCH if batched else tier).bands()
    paid: dict[str, int] = vars(next(band for band in bands if band.above < call.input_tokens <= band.up_to))
    return _cost(_by_kind(call), paid)


def _in_numbers(treatment: Treatment) -> _Change[int]:
    prefix = treatment.prefix or Prefix()
    return _Change(
        nothing=0,
        routed=treatment.rates is not None,
        less_input=treatment.less_input,
        less_output=treatment.less_output,
        prefixed=treatment.prefix is not None,
        cached_read=prefix.cached_read,
        cached_write=prefix.cached_write,
        cached_write_1h=prefix.cached_write_1h,
    )


# --- The same in SQL -------------------------------------------------------------------------------------------------


# The columns of a call that hold its tokens.
COLUMNS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_read": "cached_read_tokens",
    "cached_write": "cached_write_tokens",
    "cached_write_1h": "cached_write_1h_tokens",
    "reasoning": "reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "output_audio": "output_audio_tokens",
}
_SELDOM = ("reasoning", "input_audio", "output_audio")  # may be NULL


def cost_sql(call: str, band: str) -> str:
    """The same as an SQL expression over a call's columns and a joined band's, in pico-dollars (BIGINT).

    Which rates apply, those of the model that is asked in the tier that is paid, is for the join of the band to say.
    """
    return _cost(_by_kind(_columns(call)), {name: Term(f"{band}.{name}") for name in (*KINDS, "fee")}).sql


def band_sql(call: str, band: str) -> str:
    """The SQL condition under which `band` is the one that prices `call`."""
    return f"{call}.input_tokens > {band}.above AND {call}.input_tokens <= {band}.up_to"


def treated_sql(call: str, treatment: str, stages: frozenset[Stage]) -> str:
    """What route, trim and prefix leave of a call's tokens to pay: a STRUCT that `cost_sql` takes for the call.

    `treatment` is a row, or a STRUCT, of TREATMENT. The other stages change no tokens: see `spared_sql`, and the tier.
    """
    tokens = _treated(_columns(call), _in_terms(treatment), stages)
    return f"struct_pack({', '.join(f'{COLUMNS[name]} := {term.sql}' for name, term in vars(tokens).items())})"


def spared_sql(treatment: str, stages: frozenset[Stage]) -> str:
    """The SQL condition under which `stages` leave nothing of a call to pay; empty where none of them could."""
    return " OR ".join(f"{treatment}.{flag}" for stage, flag in _SPARED if stage in stages)


def tokens_sql(call: str) -> dict[str, str]:
    """The tokens of each of KINDS as SQL expressions over a call's columns."""
    return {kind: term.sql for kind, term in _by_kind(_columns(call)).items()}


def _columns(call: str) -> Tokens[Term]:
    # Sources that say nothing of sound and reasoning know no other rate for them either.
    return Tokens(
        **{
            name: Term(f"coalesce({call}.{column}, 0)") if name in _SELDOM else Term(f"{call}.{column}")
            for name, column in COLUMNS.items()
        }
    )


def _in_terms(treatment: str) -> _Change[Term]:
    read, write, write_1h = (f"{treatment}.cached_{name}_tokens" for name in ("read", "write", "write_1h"))
    return _Change(
        nothing=Term("0"),
        routed=Term(f"{treatment}.model IS NOT NULL"),
        less_input=Term(f"coalesce({treatment}.less_input, 0)"),
        less_output=Term(f"coalesce({treatment}.less_output, 0)"),
        prefixed=Term(f"coalesce({read}, {write}) IS NOT NULL"),
        cached_read=Term(f"coalesce({read}, 0)"),
        cached_write=Term(f"coalesce({write}, 0)"),
        cached_write_1h=Term(f"coalesce({write_1h}, 0)"),
    )


def dollars(pico: int) -> Decimal:
    """Pico-dollars as dollars, without trailing zeros.

    >>> dollars(2_107_500_000_000), dollars(10 * PICO), dollars(0)
    (Decimal('2.1075'), Decimal('10'), Decimal('0'))
    """
    whole, rest = divmod(abs(pico), PICO)
    digits = f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
    return Decimal(f"-{digits}" if pico < 0 else digits)
