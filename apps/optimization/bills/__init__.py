"""Bills: what a provider says it charged or counted, by day. One source per file here, found by what the file holds.

A bill is no record of calls: its rows are sums, and sums are never priced, because the price of a call depends on its
own size. Rows become `bill.parquet`, to be laid beside calls (`reconciliation.py`).
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

import duckdb

from apps.optimization.containers import unpacked
from apps.optimization.duck import confined, quoted
from apps.optimization.limits import MAX_SECONDS, Deadline
from apps.optimization.readers import Reject, UnusableFile, look
from apps.optimization.watching import Progress

# What was charged for. "tokens": tokens of a kind that is not said.
Charge = Literal[
    "input",
    "cached_read",
    "cached_write",
    "output",
    "tokens",
    "web_search",
    "code_execution",
    "storage",
    "tax",
    "credit",
    "commitment",
    "adjustment",
    "other",
]
TOKENS: frozenset[str] = frozenset({"input", "cached_read", "cached_write", "output", "tokens"})
KEPT_REJECTS = 100
SCRATCH = "netra-import-bill-"
MORE_PAGES = "The last page says that there are more: the bill is not complete."
MEMORY_MIB = 256
MOST_DOLLARS = Decimal(10) ** 15
MOST_COUNTED = 10**15  # tokens or requests of one row
LATEST = 10**11  # seconds since 1970; more are none
# The columns of `bill.parquet`. NULL is "the source does not say".
COLUMNS = {
    "day": "DATE",  # of the start of the charged period, UTC
    "provider": "VARCHAR",
    "model": "VARCHAR",
    "charge": "VARCHAR",
    "tokens": "BIGINT",
    "requests": "BIGINT",
    "amount": "DECIMAL(38,12)",  # in `currency`
    "currency": "VARCHAR",
    "description": "VARCHAR",
    "line": "BIGINT",  # of the file; of JSON pages the number of the result, from 1
}


class NoCharges(UnusableFile):
    """The bill has no row that can be used."""

    code = "bill.no_charges"

    def __init__(self, detail: str, rejects: tuple[Reject, ...] = (), rejected: int = 0) -> None:
        super().__init__(detail)
        self.rejects = rejects
        self.rejected = rejected


@dataclass(frozen=True, kw_only=True)
class Row:
    """One charge or count of a bill."""

    day: date
    provider: str
    model: str | None
    charge: Charge
    tokens: int | None = None
    requests: int | None = None
    amount: Decimal | None = None  # in `currency`; None: the source counts and does not charge
    currency: str = "USD"
    description: str = ""
    line: int


class Unreadable(ValueError):
    """A value of a row that cannot be understood: where it stands, and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


class Source(Protocol):
    """One opened bill."""

    kind: str
    notes: tuple[str, ...]  # what it assumes, in sentences

    def rows(self) -> Iterator[Row | Reject]:
        """Every row in order."""

    def assumed(self) -> Iterable[str]:
        """What turned out to be assumed while its rows were read, in sentences."""


Opener = Callable[[Path], Source | None]
_openers: list[Opener] = []


def bill_source(opener: Opener) -> Opener:
    """Register a function that opens a file if it is a bill of its source, and answers None otherwise."""
    _openers.append(opener)
    return opener


@dataclass(frozen=True, kw_only=True)
class BillConversion:
    """What came of a bill."""

    source: str
    rows: int
    rejected: int
    rejects: tuple[Reject, ...]  # the first KEPT_REJECTS
    notes: tuple[str, ...]
    first_day: date
    last_day: date


@dataclass(frozen=True, kw_only=True)
class KeptBill:
    """A bill as it was kept, and what its import said of it."""

    charges: Path  # `bill.parquet`
    notes: tuple[str, ...] = ()
    rejected: int = 0
    rejects: tuple[Reject, ...] = ()  # the first KEPT_REJECTS

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is known to be missing of it, in parts of a sentence; empty where nothing is."""
        rows = f"{self.rejected:,} {'row' if self.rejected == 1 else 'rows'} could not be read"
        pages = "its last page says that there are more"
        return (*([rows] if self.rejected else ()), *([pages] if MORE_PAGES in self.notes else ()))


def open_bill(path: Path) -> Source | None:
    """The bill at `path`; None if the file is none.

    Raises:
        UnusableFile: it is empty, binary or not UTF-8, or looks like a bill and cannot be read as one.
    """
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    look(path)
    return next((source for opener in _openers if (source := opener(path)) is not None), None)


def convert_bill(
    source: Path,
    target: Path,
    *,
    most: int,
    first: int | None = None,
    seconds: float = MAX_SECONDS,
    progress: Progress = lambda percent: None,
) -> BillConversion | None:
    """Write the bill in `source`, packed or not, as `target`; None if it is no bill, and nothing is written.

    Of its rows only the `first` are taken, or all.

    How far it is, nobody knows: `progress` hears 0 again and again, and may stop the work by an error.

    Raises:
        UnusableFile: nothing can be read from it, it unpacks to more than `most` bytes, or it takes more than
            `seconds`; nothing is written.
    """
    deadline = Deadline(seconds)
    with TemporaryDirectory(prefix=SCRATCH, dir=target.parent) as folder:
        scratch = Path(folder)
        bill = open_bill(unpacked(source, scratch, most=most))
        return None if bill is None else _written(bill, first, scratch, target, deadline, progress)


@dataclass
class _Tally:
    rows: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    days: set[date] = field(default_factory=set)

    def good(self, rows: Iterator[Row | Reject]) -> Iterator[Row]:
        for row in rows:
            if isinstance(row, Row):
                self.rows += 1
                self.days.add(row.day)
                yield row
                continue
            self.rejected += 1
            if len(self.rejects) < KEPT_REJECTS:
                self.rejects.append(row)


def _written(
    bill: Source, first: int | None, scratch: Path, target: Path, deadline: Deadline, progress: Progress
) -> BillConversion:
    tally, staged = _Tally(), scratch / "bill.csv"
    with staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for row in tally.good(_watched(islice(bill.rows(), first), deadline, progress)):
            writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    if not tally.rows:
        raise _no_charges(tally)
    shape = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in COLUMNS.items())
    unfinished = scratch / "bill.parquet"
    with (
        confined(folders=(scratch,), scratch=scratch, memory_mib=MEMORY_MIB) as connection,
        deadline.stopping(connection),
    ):
        connection.execute(
            f"""COPY (SELECT * FROM read_csv({quoted(str(staged.resolve()))}, columns = {{{shape}}},
                auto_detect = false, header = false, delim = ',', quote = '"', escape = '"', new_line = '\\r\\n',
                nullstr = '', allow_quoted_nulls = true, parallel = false))
                TO {quoted(str(unfinished.resolve()))} (FORMAT parquet, COMPRESSION zstd)"""  # noqa: S608
        )
    unfinished.replace(target)
    return BillConversion(
        source=bill.kind,
        rows=tally.rows,
        rejected=tally.rejected,
        rejects=tuple(tally.rejects),
        notes=(*bill.notes, *bill.assumed()),
        first_day=min(tally.days),
        last_day=max(tally.days),
    )


def _watched(rows: Iterator[Row | Reject], deadline: Deadline, progress: Progress) -> Iterator[Row | Reject]:
    for row in rows:
        deadline.check()
        progress(0.0)
        yield row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return format(value, "f") if isinstance(value, Decimal) else str(value).replace("\0", "")


def _no_charges(tally: _Tally) -> NoCharges:
    if not tally.rejects:
        return NoCharges("The bill has no rows. Ask for a period in which something was charged and export it again.")
    first = tally.rejects[0]
    where = f"row {first.line}" + (f", {first.column}" if first.column else "")
    return NoCharges(
        f"None of {tally.rejected:,} rows of the bill can be used. The first, {where}: {first.reason}",
        tuple(tally.rejects),
        tally.rejected,
    )


@dataclass(frozen=True, kw_only=True)
class Sum:
    """All rows of a bill with the same day, model, charge and currency."""

    day: date
    model: str | None
    charge: str
    currency: str
    tokens: int | None
    amount: Decimal | None
    rows: int


def sums_of(parquet: Path) -> tuple[Sum, ...]:
    """A kept bill, summed."""
    with (
        TemporaryDirectory(prefix="netra-bill-") as scratch,
        confined(folders=(parquet.parent,), scratch=Path(scratch), memory_mib=MEMORY_MIB) as connection,
    ):
        found = _summed(connection, parquet)
    return tuple(
        Sum(day=day, model=model, charge=charge, currency=currency, tokens=tokens, amount=amount, rows=rows)
        for day, model, charge, currency, tokens, amount, rows in found
    )


@dataclass(frozen=True, kw_only=True)
class BillPreview:
    """What an import would make of a bill, told by its first rows."""

    conversion: BillConversion
    sums: tuple[Sum, ...]
    whole: bool  # the bill has no more rows than were looked at


def preview_bill(source: Path, scratch: Path, *, first: int, seconds: float = MAX_SECONDS) -> BillPreview | None:
    """Read the `first` rows of a bill that is not packed and leave nothing in `scratch`; None if it is none.

    Raises:
        UnusableFile: as `convert_bill`.
    """
    with TemporaryDirectory(prefix=SCRATCH, dir=scratch) as folder:
        kept = Path(folder) / "bill.parquet"
        found = convert_bill(source, kept, most=source.stat().st_size, first=first, seconds=seconds)
        if found is None:
            return None
        return BillPreview(conversion=found, sums=sums_of(kept), whole=found.rows + found.rejected < first)


def _summed(connection: duckdb.DuckDBPyConnection, parquet: Path) -> list[tuple[Any, ...]]:
    source = f"read_parquet({quoted(str(parquet.resolve()))})"
    return connection.execute(
        f"""SELECT day, model, charge, currency, sum(tokens)::HUGEINT, sum(amount)::DECIMAL(38,12), count(*)
            FROM {source} GROUP BY ALL ORDER BY ALL"""  # noqa: S608
    ).fetchall()


# --- What the sources have in common ---------------------------------------------------------------------------------


def amount_of(value: Any, place: str, *, scale: int = 0) -> Decimal:
    """An amount times 10**scale, to a millionth of a millionth.

    Raises:
        Unreadable: it is no decimal number.

    >>> amount_of("123.45", "amount", scale=-2)
    Decimal('1.234500000000')
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Unreadable(place, f"{shown(value)} is no amount.")
    try:
        amount = Decimal(value.strip() if isinstance(value, str) else value).scaleb(scale)
    except ArithmeticError:
        raise Unreadable(place, f"{shown(value)} is no amount.") from None
    if not amount.is_finite() or abs(amount) >= MOST_DOLLARS:
        raise Unreadable(place, f"{shown(value)} is no amount.")
    return amount.quantize(Decimal("1e-12"))


def count_of(value: Any, place: str) -> int | None:
    """A count; None where nothing is said.

    Raises:
        Unreadable: it is not a whole number from 0 to MOST_COUNTED.
    """
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value))
        # Compared first: as a whole number, 1e9999999 has as many digits.
        if 0 <= number <= MOST_COUNTED and number == int(number):
            return int(number)
    except (ArithmeticError, ValueError):
        pass
    raise Unreadable(place, f"{shown(value)} is no count.")


def day_of(value: Any, place: str) -> date:
    """The UTC day of a moment: Unix seconds, or ISO 8601, which without an offset is UTC.

    Raises:
        Unreadable: it is neither.
    """
    try:
        if isinstance(value, str) and not value.strip().isdigit():
            moment = datetime.fromisoformat(value.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()
        if isinstance(value, str | int | Decimal) and not isinstance(value, bool) and abs(Decimal(value)) < LATEST:
            return datetime.fromtimestamp(int(value), tz=UTC).date()
    except (ArithmeticError, ValueError, OSError):
        pass
    raise Unreadable(place, f"{shown(value)} is no time.")


def text_of(value: Any) -> str:
    """What a source says in words; empty where it says nothing."""
    return value.encode(errors="replace").decode().strip()[:500] if isinstance(value, str) else ""


def shown(value: Any) -> str:
    """A value in the sentence of an error."""
    return repr(str(value)[:60])


_WORDS: tuple[tuple[str, Charge], ...] = (
    (r"web.?search", "web_search"),
    (r"code.?(execution|interpreter)|container", "code_execution"),
    (r"stor(age|ed)|gb.?day|vector", "storage"),
    (r"cache.?(creation|write)|ephemeral", "cached_write"),
    (r"(?<!un)cached?", "cached_read"),
    (r"output|completion", "output"),
    (r"input|prompt", "input"),
    (r"token", "tokens"),
)


def charge_in(text: str) -> Charge | None:
    """The kind of charge that a description names; None where it names none.

    >>> charge_in("gpt-4o-2024-08-06, cached input"), charge_in("web search tool calls"), charge_in("seats")
    ('cached_read', 'web_search', None)
    """
    return next((charge for words, charge in _WORDS if re.search(words, text, re.IGNORECASE)), None)
