"""JSON: one object per line, or one array of objects. Nested objects become columns with dotted names."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TextIO

import duckdb

from apps.optimization.duck import confined, quoted
from apps.optimization.readers import (
    MAX_COLUMNS,
    MAX_FIELD,
    MAX_NAME,
    Head,
    MalformedFile,
    Record,
    Reject,
    Row,
    found_among,
    is_storable,
    lines_of,
    not_utf8,
    reader,
)
from apps.optimization.texts import Place

SAMPLE = 200  # objects that are looked at for the names of columns
TELL_EVERY = 5000  # objects between two reports of progress
LOOKED_THROUGH = 64 * 1024**2  # bytes of a file whose objects are all looked at for names
LOOKED_AT = 30_000  # objects of a larger one
MAX_NAMES = 50_000
MEMORY_MIB = 512
CHUNK = 256 * 1024  # characters read at once from an array
MAX_DEPTH = 4  # levels of nesting that become columns; deeper objects stay JSON text
MAX_DIGITS = 400  # digits of one number; more is refused, because reading them takes quadratic time
ARRAY_BEGINS = re.compile(r'\s*(\{\s*"data"\s*:\s*)?\[')
BETWEEN_ELEMENTS = re.compile(r"[ \t\r\n,]*")


@reader(order=20)
def json_records(head: Head) -> "JsonTable | None":
    """JSON lines and arrays begin with a brace or a bracket; the answer of an API is an array in an object."""
    start = head.text.lstrip()[:1]
    if start == "{" and _is_envelope(head):
        return JsonTable(head, _array, enveloped=True)
    if start == "{":
        return JsonTable(head, _lines)
    return JsonTable(head, _array) if start == "[" else None


def _is_envelope(head: Head) -> bool:
    """Whether the file is `{"data": [...], ...}` as one object, and not a line of such a shape before others."""
    if not ARRAY_BEGINS.match(head.text or ""):
        return False
    first, _, others = head.text.strip().partition("\n")
    return not others or isinstance(_parsed(1, first), Reject)


class JsonTable:
    """Objects as rows; a key that appears late is a column from there on."""

    kind = "json"
    first_line = 1
    decimal_comma = False

    def __init__(self, head: Head, objects: "Callable[[TextIO], Iterator[Record]]", *, enveloped: bool = False) -> None:
        self._path, self._size, self._enveloped = head.path, head.size, enveloped
        self._objects = objects
        self._format = "array" if objects is _array else "newline_delimited"
        names: dict[str, None] = {}
        lines = set()
        rows = 0
        for record in islice(self.records(lambda _: None), SAMPLE):
            names |= dict.fromkeys(_names(record))
            lines.add(_line(record))
            rows += 1
        self.shares_lines = len(lines) < rows
        self.places = {name: Place(column=name) for name in self._late_names()}
        self.places = {name: _place(name, names) for name in islice(names, MAX_COLUMNS)} | self.places

    def relation(self, columns: Collection[str]) -> str | None:
        if self._enveloped or len({name.casefold() for name in columns}) < len(columns):
            return None  # DuckDB would take all calls for one row, or two names for one
        shape = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in columns) or "'nothing': 'VARCHAR'"
        return f"""(SELECT * FROM read_json({quoted(str(self._path.resolve()))}, format = {quoted(self._format)},
            records = true, columns = {{{shape}}}, maximum_object_size = {MAX_FIELD}))"""  # noqa: S608

    def lines(self, rows: Collection[int], read: Callable[[int], None]) -> dict[int, int]:
        if self._objects is _array:
            return lines_of(self.records(read), rows)
        with self._path.open("rb") as raw:
            said = (number for number, line in enumerate(_told(raw, read), start=1) if not line.isspace())
            return found_among(enumerate(said), rows)

    def _late_names(self) -> tuple[str, ...]:
        """Keys of the objects that the sample may not have shown: of all of a small file, of the start of a large one.

        None of a damaged file: what is said there is read row by row, by the names of the sample.
        """
        if self._enveloped:
            return ()
        objects = f"""read_json_objects({quoted(str(self._path.resolve()))}, format = {quoted(self._format)},
            maximum_object_size = {MAX_FIELD})"""
        rows = "" if self._size <= LOOKED_THROUGH else f"LIMIT {LOOKED_AT}"
        with (
            TemporaryDirectory(prefix="netra-json-") as scratch,
            confined(folders=(self._path.parent,), scratch=Path(scratch), memory_mib=MEMORY_MIB) as connection,
        ):
            try:
                found = connection.execute(
                    f"""SELECT DISTINCT unnest(json_keys(json)) FROM (SELECT json FROM {objects} {rows})
                        LIMIT {MAX_NAMES}"""  # noqa: S608
                ).fetchall()
            except duckdb.Error:
                return ()
        return tuple(name for (name,) in found if len(name) <= MAX_NAME and is_storable(name))

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        with self._path.open("rb") as raw, _as_text(raw) as text:
            line = 0
            try:
                for number, record in enumerate(self._objects(text)):
                    if number % TELL_EVERY == 0:
                        read(raw.tell())
                    line = _line(record)
                    yield record
            except UnicodeDecodeError:
                raise not_utf8(line + 1) from None


def _told(raw: BinaryIO, read: Callable[[int], None]) -> Iterator[bytes]:
    """The lines of a file, while `read` is told the bytes read so far."""
    size = 0
    for number, line in enumerate(raw):
        size += len(line)
        if number % TELL_EVERY == 0:
            read(size)
        yield line


def _as_text(raw: BinaryIO) -> TextIOWrapper:
    return TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline="\n")


def _place(name: str, names: Mapping[str, None]) -> Place:
    """A dotted name that stands beside the name of its object is inside of it; any other is a key as it is."""
    outer, dot, inner = name.rpartition(".")
    if not dot or outer not in names:
        return Place(column=name)
    place = _place(outer, names)
    return Place(column=place.column, keys=(*place.keys, inner))


def _line(record: Record) -> int:
    return record.line if isinstance(record, Reject) else record[0]


def _names(record: Record) -> tuple[str, ...]:
    return () if isinstance(record, Reject) else tuple(record[1])


def _lines(text: TextIO) -> Iterator[Record]:
    number = 0
    while line := text.readline(MAX_FIELD):
        number += 1
        if not line.endswith("\n") and len(line) >= MAX_FIELD:
            _skip_line(text)
            yield Reject(line=number, column=None, reason=f"The line is longer than {MAX_FIELD:,} characters.")
        elif line.strip():
            yield _parsed(number, line)


def _skip_line(text: TextIO) -> None:
    while (rest := text.readline(MAX_FIELD)) and not rest.endswith("\n"):
        pass


def _parsed(number: int, line: str) -> Record:
    try:
        return _row(number, _DECODER.decode(line))
    except (ValueError, RecursionError):
        return Reject(line=number, column=None, reason="The line is not a JSON object.")


def _array(text: TextIO) -> Iterator[Record]:
    """The elements of one array, decoded one at a time.

    Raises:
        MalformedFile: the array breaks off or is not JSON.
    """
    buffer = text.read(CHUNK)
    at = ARRAY_BEGINS.match(buffer).end()  # type: ignore[union-attr]
    line = 1 + buffer.count("\n", 0, at)
    while True:
        start = BETWEEN_ELEMENTS.match(buffer, at).end()  # type: ignore[union-attr]
        line += buffer.count("\n", at, start)
        at = start
        if buffer.startswith("]", at):
            return
        try:
            value, end = _DECODER.raw_decode(buffer, at)
            # A number at the end of the buffer may go on in the next chunk.
            complete = end < len(buffer)
        except (ValueError, RecursionError):
            complete = False
        if complete:
            yield _row(line, value, "element")
            line += buffer.count("\n", at, end)
            at = end
        elif len(buffer) - at > MAX_FIELD or not (more := text.read(CHUNK)):
            raise MalformedFile(f"The JSON array breaks off or is not JSON near line {line}.")
        else:
            buffer, at = buffer[at:] + more, 0


def _row(line: int, value: Any, what: str = "line") -> Record:
    if not isinstance(value, dict):
        return Reject(line=line, column=None, reason=f"The {what} is not a JSON object.")
    row: Row = {}
    try:
        _flatten(value, "", row, MAX_DEPTH)
    except RecursionError:
        return Reject(line=line, column=None, reason="The values are nested too deeply.")
    except _TooManyNames:
        return Reject(line=line, column=None, reason=f"The object has more than {MAX_COLUMNS:,} names.")
    return line, row


class _TooManyNames(Exception):
    """One object alone has more columns than a table may have."""


def _flatten(value: dict[str, Any], prefix: str, row: Row, depth: int) -> None:
    if len(row) + len(value) > MAX_COLUMNS:
        raise _TooManyNames
    for key, inner in value.items():
        # Below an overlong name nothing is looked for: every name inside would repeat it.
        if isinstance(inner, dict) and inner and depth > 1 and len(key) <= MAX_NAME:
            _flatten(inner, f"{prefix}{key}.", row, depth - 1)
        row[f"{prefix}{key}"] = _text(inner)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # As DuckDB writes it, so that a prompt has one hash whichever way its file is read.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("The number has too many digits.")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)
