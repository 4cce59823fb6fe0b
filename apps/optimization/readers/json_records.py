"""JSON: one object per line, or one array of objects. Nested objects become columns with dotted names."""

import json
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from itertools import islice
from typing import Any, BinaryIO, TextIO

from apps.optimization.readers import (
    MAX_COLUMNS,
    MAX_FIELD,
    MAX_NAME,
    Head,
    MalformedFile,
    Record,
    Reject,
    Row,
    not_utf8,
    reader,
)

SAMPLE = 200  # objects that are looked at for the names of columns
TELL_EVERY = 5000  # objects between two reports of progress
CHUNK = 256 * 1024  # characters read at once from an array
MAX_DEPTH = 4  # levels of nesting that become columns; deeper objects stay JSON text
MAX_DIGITS = 400  # digits of one number; more is refused, because reading them takes quadratic time


@reader(order=20)
def json_records(head: Head) -> "JsonTable | None":
    """JSON lines and arrays begin with a brace or a bracket."""
    start = head.text.lstrip()[:1]
    if start == "{":
        return JsonTable(head, _lines)
    return JsonTable(head, _array) if start == "[" else None


class JsonTable:
    """Objects as rows; a key that appears late is a column from there on."""

    kind = "json"
    decimal_comma = False

    def __init__(self, head: Head, objects: "Callable[[TextIO], Iterator[Record]]") -> None:
        self._path = head.path
        self._objects = objects
        sample = islice(self.records(lambda _: None), SAMPLE)
        names = dict.fromkeys(name for record in sample for name in _names(record))
        self.columns = tuple(islice(names, MAX_COLUMNS))

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        with self._path.open("rb") as raw, _as_text(raw) as text:
            line = 0
            try:
                for number, record in enumerate(self._objects(text)):
                    if number % TELL_EVERY == 0:
                        read(raw.tell())
                    line = record.line if isinstance(record, Reject) else record[0]
                    yield record
            except UnicodeDecodeError:
                raise not_utf8(line + 1) from None


def _as_text(raw: BinaryIO) -> TextIOWrapper:
    return TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline="\n")


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
    buffer, at, line = text.read(CHUNK).lstrip(), 1, 1
    while True:
        start = _SEPARATORS.match(buffer, at).end()  # type: ignore[union-attr]
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
            yield _row(line, value)
            line += buffer.count("\n", at, end)
            at = end
        elif len(buffer) - at > MAX_FIELD or not (more := text.read(CHUNK)):
            raise MalformedFile(f"The JSON array breaks off or is not JSON near line {line}.")
        else:
            buffer, at = buffer[at:] + more, 0


_SEPARATORS = re.compile(r"[ \t\r\n,]*")


def _row(line: int, value: Any) -> Record:
    if not isinstance(value, dict):
        return Reject(line=line, column=None, reason="The line is not a JSON object.")
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
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("The number has too many digits.")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)
