"""Files as rows, one format per file here, chosen by what the bytes are and never by the name.

A reader promises rows of `column -> text` with their line numbers, in constant memory. A row that cannot be read is a
`Reject` and stops nothing; a file that cannot be read is an `UnusableFile` with what would work instead.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol

from apps.errors import NetraError
from apps.optimization.texts import Place

HEAD = 256 * 1024  # bytes that are looked at to tell a format
MAX_FIELD = 8 * 1024 * 1024  # characters of one value; above it, something is wrong with the quotes
MAX_COLUMNS = 2000
MAX_ROWS = 50_000_000
MAX_NAME = 1000  # characters of a column's name that anything is read from

Row = dict[str, str | None]


class UnusableFile(NetraError):
    """Nothing can be imported from the file; the detail says why and what would work."""

    code = "file.unusable"
    status = 422


class EmptyFile(UnusableFile):
    """There is nothing in it."""

    code = "file.empty"


class BinaryFile(UnusableFile):
    """It is neither text nor Parquet."""

    code = "file.binary"


class WrongEncoding(UnusableFile):
    """It is text, but not UTF-8."""

    code = "file.encoding"


class MalformedFile(UnusableFile):
    """It breaks the rules of its own format in a way that leaves no rows to trust."""

    code = "file.malformed"


class TooLargeInside(UnusableFile):
    """It holds far more than its size says, or more than can be imported at once."""

    code = "file.too_large_inside"


def refuse_endless(rows: int) -> None:
    """Raises TooLargeInside if a file with so many rows is never read to its end."""
    if rows > MAX_ROWS:
        raise TooLargeInside(f"The file has more than {MAX_ROWS:,} rows. Split it and import the parts.")


def is_storable(text: str) -> bool:
    """Whether a database takes the text: NUL and half a character are none that it knows."""
    return _UNSTORABLE.search(text) is None


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row that is not imported, and why."""

    line: int  # of the file, from 1
    column: str | None  # as the file calls it; None where the whole row is meant
    reason: str


Record = tuple[int, Row] | Reject


@dataclass(frozen=True, kw_only=True)
class Head:
    """The beginning of a file: enough to tell what it is."""

    path: Path
    size: int  # bytes
    first: bytes  # at most HEAD
    text: str  # the whole lines of `first`; empty where it is not text


class Table(Protocol):
    """An opened file."""

    kind: str
    places: Mapping[str, Place]  # name -> where its text is, for every name that is known from the beginning
    decimal_comma: bool
    first_line: int  # of the first row
    shares_lines: bool  # rows are elements of an array, several of them on one line, so that a line tells none

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        """Every row in order; `read` is told the bytes read so far, now and then."""

    def relation(self, columns: Collection[str]) -> str | None:
        """SQL for the rows with these `columns` of `places` as text, in order; it fails at the first damaged row.

        None where only `records` can be trusted with the file.
        """

    def lines(self, rows: Collection[int], read: Callable[[int], None]) -> dict[int, int]:
        """Row of `relation`, from 0 -> its line in the file; `read` is told the bytes read so far, now and then."""


def lines_of(records: Iterable[Record], rows: Collection[int]) -> dict[int, int]:
    """Row, from 0 -> its line, of `rows` of a file without damaged ones."""
    return found_among(
        ((number, record[0]) for number, record in enumerate(records) if isinstance(record, tuple)), rows
    )


def found_among(lines: Iterable[tuple[int, int]], rows: Collection[int]) -> dict[int, int]:
    """The (row, line) of `lines` whose row is one of `rows`, of which no more are taken than it needs."""
    wanted = frozenset(rows)
    return dict(islice((found for found in lines if found[0] in wanted), len(wanted)))


Opener = Callable[[Head], Table | None]
_openers: list[tuple[int, Opener]] = []


def reader(*, order: int) -> Callable[[Opener], Opener]:
    """Register a function that opens a file if its format is the function's; lower orders are asked first."""

    def register(opener: Opener) -> Opener:
        _openers.append((order, opener))
        return opener

    return register


def open_table(path: Path) -> Table:
    """The file at `path` as a table.

    Raises:
        UnusableFile: see its subclasses.
    """
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    head = look(path)
    for _, opener in sorted(_openers, key=lambda entry: entry[0]):
        if (table := opener(head)) is not None:
            return table
    raise MalformedFile("The file is text, but no table can be read from it. CSV, JSON lines and Parquet work.")


def look(path: Path) -> Head:
    """The head of the file at `path`.

    Raises:
        EmptyFile, BinaryFile, WrongEncoding: it is that.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(HEAD)
    if first.startswith(b"PAR1"):
        return Head(path=path, size=size, first=first, text="")
    if not first.strip():
        raise EmptyFile("The file is empty. Export it again and look that it has rows.")
    _refuse_known_binaries(first)
    text = _decoded(first, whole=size <= HEAD)
    if not text.strip():
        raise EmptyFile("The file holds nothing but a byte order mark. Export it again and look that it has rows.")
    return Head(path=path, size=size, first=first, text=text)


_KNOWN_BINARIES = (
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet: save it as CSV"),
    (b"%PDF", "a PDF: export the calls as CSV, JSON lines or Parquet"),
    (b"SQLite format 3", "a SQLite database: export the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
)
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def _refuse_known_binaries(first: bytes) -> None:
    if first.startswith(_WIDE):
        raise WrongEncoding("The file is UTF-16. Save it as UTF-8 (in Excel: “CSV UTF-8”) and upload it again.")
    for magic, what in _KNOWN_BINARIES:
        if first.startswith(magic):
            raise BinaryFile(f"The file is {what}.")
    if b"\0" in first:
        raise BinaryFile("The file holds binary data. CSV, JSON lines (as UTF-8 text) and Parquet work.")


def _decoded(first: bytes, *, whole: bool) -> str:
    """The text of `first`, cut at its last line end unless it is the whole file."""
    end = len(first) if whole else first.rfind(b"\n") + 1
    try:
        return first[: end or len(first)].decode("utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        if not end and len(first) - error.start < 4:  # a character cut in two by the end of the head
            return first[: error.start].decode("utf-8-sig")
        raise not_utf8(first[: error.start].count(b"\n") + 1) from None


def not_utf8(line: int) -> WrongEncoding:
    """The error for bytes on `line` that are not UTF-8."""
    return WrongEncoding(
        f"Line {line} is not UTF-8 text, so its characters cannot be told. Save the file as UTF-8 and upload it again."
    )
