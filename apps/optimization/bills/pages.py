"""Answers of the providers' cost and usage APIs, saved as they came: one page, a list of pages, or JSON lines of pages.

Both providers answer `{"data": [bucket ...], "has_more": ...}` with `results` in each bucket.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from apps.optimization.bills import MORE_PAGES, Row, Unreadable, day_of, shown
from apps.optimization.readers import MalformedFile, Reject, TooLargeInside, look, not_utf8

MOST_BYTES = 64 * 1024**2  # of a file of pages: a year of days by model is a hundredth of it


@dataclass(frozen=True, kw_only=True)
class Result:
    """One entry of a bucket's `results`."""

    number: int  # in the file, from 1
    place: str  # its JSON path
    day: date
    values: Mapping[str, Any]

    def at(self, *names: str) -> tuple[Any, str]:
        """The value at a nested name, None where it is not there, and its path for errors."""
        value: Any = self.values
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value, ".".join((self.place, *names))


@dataclass(kw_only=True)
class Pages:
    """A bill in pages; `read` turns one result into its rows."""

    kind: str
    notes: tuple[str, ...]
    begins: str  # the name of a bucket's start
    pages: list[tuple[str, Any]]  # with the place of each
    read: Callable[[Result], Iterable[Row]]

    def rows(self) -> Iterator[Row | Reject]:
        number = 0
        for place, bucket in self._buckets():
            results = bucket.get("results") if isinstance(bucket, dict) else None
            if not isinstance(results, list):
                number += 1
                yield Reject(line=number, column=place, reason="The bucket has no list of results.")
                continue
            for index, values in enumerate(results):
                number += 1
                yield from self._read(number, place, bucket, f"{place}.results[{index}]", values)

    def assumed(self) -> Iterable[str]:
        if self.pages and isinstance(last := self.pages[-1][1], dict) and last.get("has_more"):
            yield MORE_PAGES

    def _buckets(self) -> Iterator[tuple[str, Any]]:
        for place, page in self.pages:
            data = page.get("data") if isinstance(page, dict) else None
            buckets = data if isinstance(data, list) else [None]
            for index, bucket in enumerate(buckets):
                yield f"{place}data[{index}]", bucket

    def _read(
        self, number: int, outer: str, bucket: Mapping[str, Any], place: str, values: Any
    ) -> Iterator[Row | Reject]:
        try:
            if not isinstance(values, dict):
                raise Unreadable(place, f"{shown(values)} is no result.")
            day = day_of(bucket.get(self.begins), f"{outer}.{self.begins}")
            # All rows of a result or none: a part of one would be a smaller bill.
            yield from tuple(self.read(Result(number=number, place=place, day=day, values=values)))
        except Unreadable as error:
            yield Reject(line=number, column=error.place, reason=error.reason)


def pages_in(path: Path, *, begins: str, telling: str) -> list[tuple[str, Any]] | None:
    """The pages in a file and their places, if its beginning has buckets that start with `begins`, and `telling`.

    Raises:
        MalformedFile: it begins so and is not JSON.
        TooLargeInside: it is far larger than answers of these APIs are.
    """
    head = look(path)
    shape = (r'"data"\s*:\s*\[', r'"results"\s*:', rf'"{begins}"\s*:', telling)
    if head.text.lstrip()[:1] not in ("{", "[") or not all(re.search(one, head.text) for one in shape):
        return None
    if head.size > MOST_BYTES:
        raise TooLargeInside(f"Pages of a cost or usage report may have {MOST_BYTES:,} bytes together. Split the file.")
    found = list(_values(path.read_bytes()))
    return found if all(isinstance(page, dict) and isinstance(page.get("data"), list) for _, page in found) else None


def _values(data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(data[: error.start].count(b"\n") + 1) from None
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            raise MalformedFile(f"The page that begins on line {line} breaks off or is not JSON.") from None
        if isinstance(value, list):
            yield from ((f"[{index}].", page) for index, page in enumerate(value))
        else:
            yield f"line {line}: ", value
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]


_SPACE = re.compile(r"\s*")


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("The number has too many digits.")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON.")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_no_constant)
