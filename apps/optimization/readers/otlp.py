"""OTLP as JSON: `{"resourceSpans": [...]}`, one object or a line each; every span is a row.

The shape is the JSON mapping of `opentelemetry/proto/trace/v1`: 64-bit numbers are strings, ids are hex.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from apps.optimization.readers import (
    MAX_FIELD,
    MAX_NAME,
    Head,
    MalformedFile,
    Record,
    Reject,
    Row,
    TooLargeInside,
    lines_of,
    not_utf8,
    reader,
)
from apps.optimization.texts import Place

SAMPLE = 2000  # spans that are looked at for the names of attributes
TELL_EVERY = 500  # lines between two reports of progress
MOST_BYTES = 64 * 1024**2  # of one document: all of its spans are in memory at once, eight times as large
_OF_A_SPAN = ("traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "endTimeUnixNano")
_KEYS = ("resourceSpans", "resource_spans")


@reader(order=15)
def otlp(head: Head) -> "OtlpTable | None":
    """JSON whose first object holds spans of resources."""
    start = head.text.lstrip()[:200].replace(" ", "")
    return OtlpTable(head) if start.startswith("{") and any(f'"{key}"' in head.text[:2000] for key in _KEYS) else None


class OtlpTable:
    """Spans with their attributes and those of their resource, by their names."""

    kind = "otlp"
    decimal_comma = False
    first_line = 1
    shares_lines = False

    def __init__(self, head: Head) -> None:
        self._path = head.path
        sample = islice((record for record in self.records(lambda _: None) if isinstance(record, tuple)), SAMPLE)
        names = dict.fromkeys([*_OF_A_SPAN, "status.code", *(name for _, row in sample for name in row)])
        self.places = {name: Place(column=name) for name in names if len(name) <= MAX_NAME}

    def relation(self, columns: Collection[str]) -> str | None:
        return None  # spans are nested in what they are rows of

    def lines(self, rows: Collection[int], read: Callable[[int], None]) -> dict[int, int]:
        return lines_of(self.records(read), rows)

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        for line, document in _documents(self._path.open("rb"), read):
            if isinstance(document, Reject):
                yield document
            else:
                yield from _spans(line, document)


def _documents(file: Any, read: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
    """Each line, or the whole file where its first line is no document of its own; with the number of its line.

    Raises:
        MalformedFile: the whole file breaks off or is not JSON.
    """
    with file:
        first = file.readline(MAX_FIELD)
        whole = not _is_document(first)
        file.seek(0)
        if whole:
            yield 1, _whole(_text(_bounded(file.read(MOST_BYTES + 1)), 1))
            return
        number = 0
        while line := _bounded(file.readline(MOST_BYTES + 1)):
            number += 1
            if number % TELL_EVERY == 0:
                read(file.tell())
            if line.strip():
                yield number, _parsed(number, _text(line, number))


def _whole(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedFile(f"The JSON document breaks off or is not JSON near line {error.lineno}.") from None
    except (ValueError, RecursionError):
        raise MalformedFile("The JSON document holds a number too long or values nested too deeply.") from None


def _parsed(line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Reject(line=line, column=None, reason="The line is not a JSON object.")


def _bounded(data: bytes) -> bytes:
    """Raises TooLargeInside for a document of more than MOST_BYTES."""
    if len(data) > MOST_BYTES:
        raise TooLargeInside(
            f"One document of the file has more than {MOST_BYTES:,} bytes. Export the spans as JSON lines: one request "
            "of the exporter on each."
        )
    return data


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _text(data: bytes, line: int) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise not_utf8(line) from None


def _spans(line: int, document: Any) -> Iterator[Record]:
    for resource in _list(document, *_KEYS):
        around = _attributes(_dict(resource, "resource"))
        for scope in _list(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            for span in _list(scope, "spans"):
                yield _record(line, around, span)


def _record(line: int, around: Row, span: Any) -> Record:
    if not isinstance(span, dict):
        return Reject(line=line, column="spans", reason="A span is not an object.")
    try:
        return line, around | flat_span(span)
    except RecursionError:
        return Reject(line=line, column="spans", reason="The values are nested too deeply.")


def flat_span(span: Mapping[str, Any]) -> Row:
    """A span as a row: its own names, and its attributes by theirs; attributes of events add what is missing."""
    row: Row = {name: _said(span.get(name, span.get(_snake(name)))) for name in _OF_A_SPAN}
    row["status.code"] = _said(_dict(span, "status").get("code"))
    for event in _list(span, "events"):
        row |= _attributes(event)
    return row | _attributes(span)


def _attributes(holder: Any) -> Row:
    """Attributes as names and texts; a list keeps its JSON."""
    found: Row = {}
    for entry in _list(holder, "attributes"):
        if isinstance(entry, dict) and isinstance(entry.get("key"), str):
            found[entry["key"]] = _said(_value(entry.get("value")))
    return found


def _value(value: Any) -> Any:
    """The plain value of an `AnyValue`."""
    if not isinstance(value, dict) or not value:
        return None
    [(kind, inner), *_] = value.items()
    if kind in ("arrayValue", "array_value"):
        return [_value(each) for each in _list(inner, "values")]
    if kind in ("kvlistValue", "kvlist_value"):
        pairs = [each for each in _list(inner, "values") if isinstance(each, dict)]
        return {each["key"]: _value(each.get("value")) for each in pairs if isinstance(each.get("key"), str)}
    return inner


def _said(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _list(holder: Any, *names: str) -> list[Any]:
    for name in names:
        if isinstance(holder, dict) and isinstance(holder.get(name), list):
            return list(holder[name])
    return []


def _dict(holder: Any, name: str) -> dict[str, Any]:
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, dict) else {}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
