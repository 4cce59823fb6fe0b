"""Where the reader of a report is: the zone of its days and hours, and the currency of its amounts."""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones

from apps.llm.amounts import spell_money
from apps.optimization.options import ImpossibleOption


class Chosen(Protocol):
    """What keeps the choice: a dataset."""

    time_zone: str
    currency: str
    currency_rate: Decimal


@dataclass(frozen=True, kw_only=True)
class Local:
    """A zone and a currency."""

    time_zone: str = "UTC"
    currency: str = "USD"
    rate: Decimal = Decimal(1)  # units of the currency for one dollar

    def money(self, usd: Decimal | str | float | None) -> str:
        """Dollars as an amount of the currency, for reading."""
        return spell_money(None if usd is None else Decimal(str(usd)) * self.rate, self.currency)

    def time(self, moment: datetime) -> datetime:
        """A moment on the clocks of the zone; a trace that counts from its own start has none, and stays as it is."""
        return moment if is_trace(moment) else moment.astimezone(ZoneInfo(self.time_zone))

    @property
    def note(self) -> str:
        """What is to be known of converted amounts; empty where nothing is converted."""
        if self.currency == "USD":
            return ""
        return (
            f"Amounts are in {self.currency}, at {self.rate.normalize():f} for one dollar; "
            "those with a $ inside of sentences are dollars."
        )


UTC = Local()
EPOCH_YEAR = 1970
QUARTER = 900  # seconds
A_DAY = 96  # quarters


def is_trace(moment: datetime) -> bool:
    """Whether a time counts from the start of a trace: such times are in 1970, before any tokens."""
    return moment.year <= EPOCH_YEAR


def shifts(zone: str, first: int, last: int) -> list[tuple[int, int]]:
    """(Quarter of an hour since 1970, quarters that clocks are ahead of UTC from then on), from `first` to `last`.

    Only changes that are a day apart are found; there are no others.
    """
    place = ZoneInfo(zone)

    def ahead(quarter: int) -> int:
        moment = datetime.fromtimestamp(quarter * QUARTER, place)
        return int((moment.utcoffset() or timedelta()).total_seconds()) // QUARTER

    found = [(first, ahead(first))]
    for day in range(first, last, A_DAY):
        quarters = range(day, min(day + A_DAY, last) + 1)
        if ahead(quarters[-1]) != found[-1][1]:
            before = found[-1][1]
            since = quarters[bisect_left(quarters, True, key=lambda quarter: ahead(quarter) != before)]
            found.append((since, ahead(since)))
    return found


def local_of(dataset: Chosen) -> Local:
    """What was chosen for the reports of a dataset."""
    return Local(time_zone=dataset.time_zone, currency=dataset.currency, rate=dataset.currency_rate)


def local_from(*, time_zone: str = "UTC", currency: str = "USD") -> Local:
    """What a person writes: a zone as in Europe/Berlin, and a currency with its rate as in EUR=0.92.

    Raises:
        ImpossibleOption: there is no such zone, or the currency has no rate.

    >>> local_from(time_zone="Europe/Berlin", currency="EUR=0.92").money(10)
    '9.20 EUR'
    """
    if not is_time_zone(time_zone):
        raise ImpossibleOption(f"There is no time zone {time_zone!r}; write it as Europe/Berlin or UTC.")
    name, _, rate = currency.partition("=")
    if name == "USD" and not rate:
        return Local(time_zone=time_zone)
    if not (len(name) == 3 and name.isascii() and name.isupper() and _is_rate(rate)):
        raise ImpossibleOption(
            f"{currency!r} is no currency with its rate for one dollar. Write it as EUR=0.92; nothing is fetched."
        )
    return Local(time_zone=time_zone, currency=name, rate=Decimal(rate))


def is_time_zone(name: str) -> bool:
    """Whether it names a zone; "localtime" is whatever this machine has, and "Factory" says that none was chosen."""
    return name not in ("localtime", "Factory") and name in available_timezones()


def _is_rate(text: str) -> bool:
    try:
        rate = Decimal(text)
    except ArithmeticError:
        return False
    return rate.is_finite() and rate > 0
