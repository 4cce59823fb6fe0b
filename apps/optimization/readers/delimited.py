"""CSV and its relatives: comma, semicolon, tab or bar between values, also with a decimal comma."""

import csv
import re
from collections.abc import Callable, Collection, Iterator
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from apps.optimization.duck import named, quoted
from apps.optimization.readers import (
    MAX_COLUMNS,
    MAX_FIELD,
    Head,
    MalformedFile,
    Record,
    Reject,
    found_among,
    not_utf8,
    reader,
)
from apps.optimization.texts import Place

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 200  # rows that are looked at to tell the dialect
TELL_EVERY = 5000  # rows between two reports of progress
_UNCLOSED, _OVERLONG = "unexpected end of data", "field larger than field limit"
_BLANK = ("\n", "\r\n", "\r")
_DECIMAL_COMMA = re.compile(r"-?\d*,\d+")

csv.field_size_limit(MAX_FIELD)


class DuplicateColumns(MalformedFile):
    """Two columns have one name, so a value's meaning cannot be told."""

    code = "file.duplicate_columns"


@reader(order=90)
def delimited(head: Head) -> "DelimitedTable | None":
    """Any text is CSV if it is nothing else; whether its columns mean anything is for the importer to say."""
    if not head.text or "\0" in head.text:
        return None
    delimiter = max(DELIMITERS, key=lambda d: _fit(head.text, d))
    sample = _sample(head.text, delimiter)
    columns = tuple(name.strip() for name in sample[0])
    _refuse_duplicates(columns)
    comma = delimiter != "," and any(_DECIMAL_COMMA.fullmatch(value.strip()) for row in sample[1:] for value in row)
    return DelimitedTable(head, delimiter, columns, decimal_comma=comma)


class DelimitedTable:
    """Rows by the names of the first line."""

    kind = "csv"
    first_line = 2
    shares_lines = False

    def __init__(self, head: Head, delimiter: str, columns: tuple[str, ...], *, decimal_comma: bool) -> None:
        self._path = head.path
        self._delimiter = delimiter
        self.places = {name: Place(column=name) for name in columns}
        self._columns = columns
        self.decimal_comma = decimal_comma

    def relation(self, columns: Collection[str]) -> str | None:
        if len({name.casefold() for name in self._columns}) < len(self._columns):
            return None  # to DuckDB, two of them would be one
        if _has_overlong_line(self._path):
            return None  # DuckDB leaves such a line out without a word where it is the last
        shape = ", ".join(f"{quoted(f'c{number}')}: 'VARCHAR'" for number, _ in enumerate(self._columns))
        # Its own buffers would be sixteen lines long: too large to be kept, so that the file is read three times.
        read = ", ".join(f"c{number} AS {named(name)}" for number, name in enumerate(self._columns) if name in columns)
        return f"""(SELECT {read or "1 AS nothing"} FROM read_csv({quoted(str(self._path.resolve()))},
            columns = {{{shape}}}, auto_detect = false, header = true, delim = {quoted(self._delimiter)},
            quote = '"', escape = '"', max_line_size = {MAX_FIELD}, buffer_size = {2 * MAX_FIELD},
            strict_mode = true))"""  # noqa: S608

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        with self._path.open("rb") as raw, _as_text(raw) as text:
            lines = csv.reader(_bounded_lines(text), delimiter=self._delimiter, strict=True)
            records = self._rows(lines)
            next(records, None)  # the header
            for number, record in enumerate(records):
                if number % TELL_EVERY == 0:
                    read(raw.tell())
                yield record

    def lines(self, rows: Collection[int], read: Callable[[int], None]) -> dict[int, int]:
        with self._path.open("rb") as raw, _as_text(raw) as text:
            return found_among(enumerate(self._ends(text, lambda: read(raw.tell())), start=-1), rows)

    def _ends(self, text: TextIOWrapper, tell: Callable[[], None]) -> Iterator[int]:
        """The last line of each row, the header's first. Only rows with a line of unpaired quotation marks are parsed:
        they may go on, or have such a mark as a character."""
        number = 0
        for line in text:
            number += 1
            if line.count('"') % 2:
                row = csv.reader(chain([line], text), delimiter=self._delimiter, strict=True)
                next(row)
                number += row.line_num - 1
            elif line in _BLANK:
                continue
            if number % TELL_EVERY == 0:
                tell()
            yield number

    def _rows(self, lines: "Reader") -> Iterator[Record]:
        while True:
            first = lines.line_num + 1
            try:
                row = next(lines)
            except StopIteration:
                return
            except UnicodeDecodeError:
                raise not_utf8(first) from None
            except csv.Error as error:
                if _UNCLOSED in str(error) or _OVERLONG in str(error):
                    raise MalformedFile(
                        f"Line {first}: a quotation mark is opened and never closed. Correct it and upload again."
                    ) from None
                # The reader goes on with the next line, so only these are lost, and it is said which.
                reason = f"The quotation marks on lines {first} to {lines.line_num} do not match."
                yield Reject(line=first, column=None, reason=reason)
            else:
                if row:
                    yield self._record(lines.line_num, row)

    def _record(self, line: int, row: list[str]) -> Record:
        if len(row) != len(self._columns):
            reason = f"The row has {len(row)} values, the header {len(self._columns)}."
            return Reject(line=line, column=None, reason=reason)
        return line, dict(zip(self._columns, row, strict=True))


def _bounded_lines(text: TextIOWrapper) -> Iterator[str]:
    """The lines of a file, none of which is ever in memory if it is longer than a value may be.

    Raises:
        MalformedFile: one is.
    """
    number = 0
    while line := text.readline(MAX_FIELD + 1):
        number += 1
        if len(line) > MAX_FIELD and not line.endswith(("\n", "\r")):
            raise MalformedFile(f"Line {number} is longer than {MAX_FIELD:,} characters. Correct it and upload again.")
        yield line


def _has_overlong_line(path: Path) -> bool:
    """Whether a line may be longer than a value may be: half of that many bytes without a line end."""
    step, piece = MAX_FIELD // 2, 64 * 1024
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size - step + 1, step):
            file.seek(start)
            if not any(b"\n" in chunk or b"\r" in chunk for chunk in _pieces(file, step, piece)):
                return True
    return False


def _pieces(file: BinaryIO, size: int, each: int) -> Iterator[bytes]:
    return (file.read(min(each, size - read)) for read in range(0, size, each))


def _as_text(raw: BinaryIO) -> TextIOWrapper:
    return TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline="")


def _sample(text: str, delimiter: str) -> list[list[str]]:
    lines = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        rows = [row for row in islice(lines, SAMPLE) if row]
    except csv.Error as error:
        raise MalformedFile(f"Line {lines.line_num} is no CSV: {error}.") from None
    if not rows:
        raise MalformedFile("The file has no header line. The first line must name the columns.")
    if len(rows[0]) > MAX_COLUMNS:
        raise MalformedFile(f"The header names {len(rows[0]):,} columns; at most {MAX_COLUMNS:,} can be read.")
    return rows


def _fit(text: str, delimiter: str) -> tuple[float, int]:
    """How well `delimiter` explains the rows: the share as wide as the header, then the width; 0 for one column."""
    rows = _sample(text, delimiter)
    width = len(rows[0])
    if width == 1:
        return 0.0, 1
    return sum(len(row) == width for row in rows) / len(rows), width


def _refuse_duplicates(columns: tuple[str, ...]) -> None:
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise DuplicateColumns(f"The header names {repeated[0]!r} more than once. Rename or remove one of the columns.")
