"""The beginning of a file as a file of its own: what is looked at while somebody's request waits.

A small file may hold a large one, and a few bytes of JSON may take a hundred times as many of memory. What is looked at
is small, whatever was uploaded.
"""

import json
from codecs import getincrementaldecoder
from dataclasses import dataclass
from pathlib import Path

import duckdb

from apps.optimization.containers import is_packed, opened, refuse_archive
from apps.optimization.duck import confined, quoted
from apps.optimization.limits import Deadline
from apps.optimization.readers import MalformedFile, UnusableFile, not_utf8
from apps.optimization.readers.json_records import ARRAY_BEGINS, BETWEEN_ELEMENTS

MOST_BYTES = 8 * 1024**2  # of text, or of a packed Parquet file
MOST_ROWS = 20_000  # of a Parquet file, a JSON array or a bill
MEMORY_MIB = 256
BEGINNING = "beginning"  # the name of its file
_PARQUET = b"PAR1"


class TooLargeToLookAt(UnusableFile):
    """It can only be read whole, and is too large for that while a request waits."""

    code = "preview.too_large"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first rows of a file."""

    path: Path
    whole: bool  # there are no others
    packed: bool  # an import unpacks the file first
    size: int | None  # bytes that `path` would have with all rows, as the file says itself; None if that cannot be

    def of_all(self, disk_bytes: int | None) -> int | None:
        """The room for the import of all rows, if that of these takes `disk_bytes`; None if it cannot be told."""
        if disk_bytes is None or self.size is None:
            return None
        return (self.size if self.packed else 0) + round(disk_bytes * self.size / self.path.stat().st_size)


def beginning_of(path: Path, into: Path, *, deadline: Deadline) -> Beginning:
    """The first whole rows of the file at `path`, packed or not, below `into`.

    Raises:
        TooLargeToLookAt: it has more than MOST_BYTES and no rows that could be read without the others.
        UnusableFile: it is a damaged archive, or no UTF-8.
        TookTooLong: the deadline has come.
    """
    target, packed = into / BEGINNING, is_packed(path)
    if packed:
        with opened(path) as inside:
            data, said = inside.start(MOST_BYTES + 1), inside.said
        refuse_archive(data)
    else:
        with path.open("rb") as file:
            data, said = file.read(MOST_BYTES + 1), path.stat().st_size
    whole = len(data) <= MOST_BYTES
    if data.startswith(_PARQUET):
        if packed and not whole:
            raise _too_large()
        if packed:
            target.write_bytes(data)
        return _first_rows(target if packed else path, into, packed=packed, deadline=deadline)
    kept = data if whole else _whole_rows(data)
    target.write_bytes(kept)
    size = len(data) if whole else said
    return Beginning(path=target, whole=whole, packed=packed, size=size if size >= len(data) else None)


def _too_large() -> TooLargeToLookAt:
    return TooLargeToLookAt(
        f"A file of this kind is looked at only if it has at most {MOST_BYTES:,} bytes unpacked: it cannot be read in "
        "part. Import it."
    )


def _first_rows(path: Path, into: Path, *, packed: bool, deadline: Deadline) -> Beginning:
    """The first rows of a Parquet file: a small one may have millions, and any number of bytes in each."""
    target, source = into / f"{BEGINNING}.parquet", f"read_parquet({quoted(str(path.resolve()))})"
    with confined(folders=(path.parent,), scratch=into, memory_mib=MEMORY_MIB) as connection:
        try:
            with deadline.stopping(connection):
                rows = connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0]  # noqa: S608
                if rows <= MOST_ROWS:
                    return Beginning(path=path, whole=True, packed=packed, size=path.stat().st_size)
                connection.execute(
                    f"""COPY (FROM {source} LIMIT {MOST_ROWS}) TO {quoted(str(target.resolve()))}
                        (FORMAT parquet, ROW_GROUP_SIZE 2048)"""
                )
        except duckdb.Error:
            raise MalformedFile("The Parquet file cannot be read. Write it again, or export CSV.") from None
    size = target.stat().st_size * rows // MOST_ROWS
    return Beginning(path=target, whole=False, packed=packed, size=size)


def _whole_rows(data: bytes) -> bytes:
    """The beginning of a text, cut behind its last whole row.

    Raises:
        TooLargeToLookAt: it is one document, or no row is whole.
    """
    first, _, _ = data.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if first[:1] == b"{" and _is_object(first):
        kept = data[: data.rfind(b"\n") + 1]
    elif first[:1] in (b"{", b"["):
        kept = _whole_elements(data)
    else:
        kept = data[: _end_of_lines(data)]
    if not kept:
        raise _too_large()
    return kept


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _end_of_lines(data: bytes) -> int:
    """Where the last line ends that is not inside of quotation marks; they come in pairs before it."""
    last = end = data.rfind(b"\n") + 1
    marks = data.count(b'"', 0, end)
    while end and marks % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        marks -= data.count(b'"', before, end)
        end = before
    return end or last


def _whole_elements(data: bytes) -> bytes:
    """The first elements of an array, closed behind them; empty where it is no array."""
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(data)  # the last character may be cut in two
    except UnicodeDecodeError as error:
        raise not_utf8(data[: error.start].count(b"\n") + 1) from None
    found = ARRAY_BEGINS.match(text)
    if not found:
        return b""
    at = end = found.end()
    decoder = json.JSONDecoder()
    for _ in range(MOST_ROWS):
        try:
            _, at = decoder.raw_decode(text, BETWEEN_ELEMENTS.match(text, at).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError):
            break
        if at >= len(text):  # a number that may go on
            break
        end = at
    closing = "]}" if found[1] else "]"
    return (text[:end] + closing).encode(errors="surrogatepass") if end > found.end() else b""
