"""What one call costs. The only arithmetic that prices tokens, in Python and in SQL, and both are exactly equal.

Rates are dollars per 1,000,000 tokens, kept as whole micro-dollars, so that tokens times rate is a whole number of
pico-dollars (10**-12 dollars) and no rounding happens anywhere. A call is priced by itself, never a sum of calls: the
long-context tier depends on the one call's input.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from apps.errors import NetraError

PICO = 10**12  # pico-dollars in a dollar
MICRO = 10**6  # micro-dollars in a dollar
# Together they keep the cost of any one call inside 64 bits.
MAX_TOKENS = 100_000_000  # tokens of one kind in one call
MAX_RATE = Decimal(10_000)  # dollars per 1,000,000 tokens
KINDS = ("input", "cached_read", "cached_write", "cached_write_1h", "output")
DOLLARS = Decimal("0.000001")  # the finest rate that is kept, per 1,000,000 tokens


class ImpossibleRate(NetraError):
    """A rate is negative, not a number, or beyond what the arithmetic holds."""

    code = "price.impossible"


class ImpossibleUsage(NetraError):
    """The token counts of a call contradict each other or cannot be counted."""

    code = "usage.impossible"


class BatchPriceUnknown(NetraError):
    """The model has no known batch price, so the cost of a batch call is unknown."""

    code = "price.batch_unknown"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The tokens of one call. The cached kinds are parts of `input_tokens`, whatever the source's convention was.

    Raises:
        ImpossibleUsage: a count is negative, above MAX_TOKENS, or a part is larger than its whole.
    """

    input_tokens: int  # all input, cached included
    output_tokens: int
    cached_read: int = 0
    cached_write: int = 0  # all that was written to the provider's cache
    cached_write_1h: int = 0  # the part of `cached_write` that is kept for an hour instead of five minutes

    def __post_init__(self) -> None:
        counts = (self.input_tokens, self.output_tokens, self.cached_read, self.cached_write, self.cached_write_1h)
        if not all(0 <= count <= MAX_TOKENS for count in counts):
            raise ImpossibleUsage(f"Token counts must lie between 0 and {MAX_TOKENS:,}; got {counts}.")
        if self.cached_read + self.cached_write > self.input_tokens or self.cached_write_1h > self.cached_write:
            raise ImpossibleUsage(f"More cached tokens than there are in all: {self}.")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The rates that the whole call pays once its input exceeds `above` tokens; None falls back like in `Rates`."""

    above: int
    input: Decimal
    output: Decimal
    cached_read: Decimal | None = None
    cached_write: Decimal | None = None
    cached_write_1h: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class Band:
    """The five rates, in micro-dollars per 1,000,000 tokens, for calls with `above < input_tokens <= up_to`."""

    above: int
    up_to: int
    input: int
    cached_read: int
    cached_write: int
    cached_write_1h: int
    output: int


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a model charges, in dollars per 1,000,000 tokens.

    A missing rate for cached tokens is not zero: a missing read or write pays the input rate, a missing one-hour write
    pays the five-minute one; `fallbacks` names them.

    Raises:
        ImpossibleRate: a rate is negative, not finite, or above MAX_RATE.
    """

    input: Decimal
    output: Decimal
    cached_read: Decimal | None = None
    cached_write: Decimal | None = None  # kept for five minutes
    cached_write_1h: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    batch: "Rates | None" = None  # None where no batch price is known
    provenance: str = ""
    effective_from: datetime | None = None  # None where the source does not say
    effective_to: datetime | None = None  # the first moment at which it no longer holds

    def __post_init__(self) -> None:
        for step in (self, *self.tiers):
            for kind in KINDS:
                _check_rate(kind, getattr(step, kind))

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The kinds of tokens that have no rate of their own."""
        return tuple(kind for kind in KINDS if any(getattr(step, kind) is None for step in (self, *self.tiers)))

    def bands(self, *, batch: bool = False) -> tuple[Band, ...]:
        """The rates as whole numbers, one band per range of input sizes; together they cover every call.

        Raises:
            BatchPriceUnknown: `batch` is asked for and no batch price is known.
        """
        if batch and self.batch is None:
            raise BatchPriceUnknown(f"No batch price is known ({self.provenance or 'no source'}).")
        rates = self.batch if batch and self.batch else self
        steps: list[Rates | Tier] = [rates, *sorted(rates.tiers, key=lambda tier: tier.above)]
        starts = [-1, *(tier.above for tier in steps[1:] if isinstance(tier, Tier))]
        ends = [*starts[1:], MAX_TOKENS]
        return tuple(_band(step, above, up_to) for step, above, up_to in zip(steps, starts, ends, strict=True))

    def scaled(self, factor: Decimal) -> "Rates":
        """The same rates times `factor`, for example 0.5 for a batch discount."""
        tiers = tuple(_scaled(tier, factor) for tier in self.tiers)
        return replace(_scaled(self, factor), tiers=tiers, batch=None)


Step = TypeVar("Step", Rates, Tier)


def price(usage: Usage, rates: Rates, *, batch: bool = False) -> Decimal:
    """Dollars for one call, exact to the pico-dollar.

    >>> gpt_4o = Rates(input=Decimal("2.5"), output=Decimal(10), cached_read=Decimal("1.25"))
    >>> price(Usage(input_tokens=1000, cached_read=400, output_tokens=100), gpt_4o)
    Decimal('0.003')

    Raises:
        BatchPriceUnknown: `batch` is asked for and no batch price is known.
    """
    return dollars(cost_pico(usage, rates, batch=batch))


def cost_pico(usage: Usage, rates: Rates, *, batch: bool = False) -> int:
    """Like `price`, in pico-dollars."""
    band = next(b for b in rates.bands(batch=batch) if b.above < usage.input_tokens <= b.up_to)
    counts = {
        "input_tokens": usage.input_tokens,
        "cached_read_tokens": usage.cached_read,
        "cached_write_tokens": usage.cached_write,
        "cached_write_1h_tokens": usage.cached_write_1h,
        "output_tokens": usage.output_tokens,
    }
    return sum(sum(sign * counts[name] for sign, name in tokens) * getattr(band, kind) for kind, tokens in _BILLED)


def cost_sql(call: str, band: str) -> str:
    """The same arithmetic as an SQL expression over a call's columns and a joined band's, in pico-dollars (BIGINT)."""
    return " + ".join(f"({_signed(tokens, call)}) * {band}.{kind}" for kind, tokens in _BILLED)


def band_sql(call: str, band: str) -> str:
    """The SQL condition under which `band` is the one that prices `call`."""
    return f"{call}.input_tokens > {band}.above AND {call}.input_tokens <= {band}.up_to"


def dollars(pico: int) -> Decimal:
    """Pico-dollars as dollars, without trailing zeros.

    >>> dollars(2_107_500_000_000), dollars(10 * PICO), dollars(0)
    (Decimal('2.1075'), Decimal('10'), Decimal('0'))
    """
    whole, rest = divmod(abs(pico), PICO)
    digits = f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
    return Decimal(f"-{digits}" if pico < 0 else digits)


# Which tokens pay which rate: the arithmetic itself, read by Python and by SQL.
_BILLED: tuple[tuple[str, tuple[tuple[int, str], ...]], ...] = (
    ("input", ((1, "input_tokens"), (-1, "cached_read_tokens"), (-1, "cached_write_tokens"))),
    ("cached_read", ((1, "cached_read_tokens"),)),
    ("cached_write", ((1, "cached_write_tokens"), (-1, "cached_write_1h_tokens"))),
    ("cached_write_1h", ((1, "cached_write_1h_tokens"),)),
    ("output", ((1, "output_tokens"),)),
)


def _signed(tokens: tuple[tuple[int, str], ...], call: str) -> str:
    return " ".join(f"{'+' if sign > 0 else '-'} {call}.{name}" for sign, name in tokens).removeprefix("+ ")


def _check_rate(kind: str, rate: Decimal | None) -> None:
    if rate is not None and not (rate.is_finite() and 0 <= rate <= MAX_RATE):
        raise ImpossibleRate(f"The {kind} rate must lie between 0 and {MAX_RATE:,} dollars; got {rate}.")


def _band(step: Rates | Tier, above: int, up_to: int) -> Band:
    write = step.input if step.cached_write is None else step.cached_write
    return Band(
        above=above,
        up_to=up_to,
        input=_micro(step.input),
        cached_read=_micro(step.input if step.cached_read is None else step.cached_read),
        cached_write=_micro(write),
        cached_write_1h=_micro(write if step.cached_write_1h is None else step.cached_write_1h),
        output=_micro(step.output),
    )


def _micro(rate: Decimal) -> int:
    return int(rate.quantize(DOLLARS) * MICRO)


def _scaled(step: Step, factor: Decimal) -> Step:
    return replace(
        step,
        input=step.input * factor,
        output=step.output * factor,
        cached_read=None if step.cached_read is None else step.cached_read * factor,
        cached_write=None if step.cached_write is None else step.cached_write * factor,
        cached_write_1h=None if step.cached_write_1h is None else step.cached_write_1h * factor,
    )
