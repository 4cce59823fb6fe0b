"""Parquet: columns by name; the line is the number of the row."""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from apps.optimization.duck import confined, named, quoted
from apps.optimization.readers import (
    MAX_COLUMNS,
    MAX_FIELD,
    Head,
    MalformedFile,
    Record,
    Reject,
    TooLargeInside,
    reader,
    refuse_endless,
)
from apps.optimization.texts import Place

MEMORY_MIB = 256
AT_ONCE = 64 * 1024**2  # bytes of text in one answer: what DuckDB answers is copied outside its limit on memory
MOST_TEXT = 4 * 1024**3  # bytes in a file that is read at once
STEP = 16  # rows whose text is measured together
TELL_EVERY = 2000  # rows between two reports of progress
_NESTED = ("STRUCT", "MAP", "UNION")
_SHORT = re.compile(r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL.*|DATE|TIME.*|UUID")
_ROW = "file_row_number"  # as DuckDB calls it, from 0
_PATH = re.compile(r"""["']?(?:/[^\s"'/]+)+/?["']?""")


@reader(order=10)
def parquet(head: Head) -> "ParquetTable | None":
    """Parquet says so in its first four bytes."""
    return ParquetTable(head) if head.first.startswith(b"PAR1") else None


class ParquetTable:
    """Values as text: numbers plain, times as ISO, nested values as JSON."""

    kind = "parquet"
    first_line = 1
    shares_lines = False
    decimal_comma = False

    def __init__(self, head: Head) -> None:
        self._path, self._size = head.path, head.size
        with _opened(head.path) as connection, self._declared():
            described = connection.execute(f"DESCRIBE FROM {self._source}").fetchall()
            self._rows = connection.execute(f"FROM {self._source} SELECT count(*)").fetchall()[0][0]
        self._types = {name: kind for name, kind, *_ in described}
        self._columns = tuple(self._types)
        self.places = {name: Place(column=name) for name in self._columns}
        if len(self._columns) > MAX_COLUMNS:
            raise MalformedFile(f"The file has {len(self._columns):,} columns; at most {MAX_COLUMNS:,} can be read.")
        if _ROW in self._types:
            raise MalformedFile(f"The column {_ROW!r} is none that can be read. Rename or remove it.")
        refuse_endless(self._rows)

    def relation(self, columns: Collection[str]) -> str | None:
        if self._is_larger_inside():
            return None
        read = ", ".join(f"{_as_text(name, self._types[name])} AS {named(name)}" for name in columns)
        return f"(SELECT {read or '1 AS nothing'} FROM {self._source})"  # noqa: S608

    def lines(self, rows: Collection[int], read: Callable[[int], None]) -> dict[int, int]:
        return {row: row + 1 for row in rows}

    def _is_larger_inside(self) -> bool:
        """Whether so much text is in it, or in one row, that it must be read in portions."""
        with _opened(self._path) as connection, self._declared():
            longest, whole = connection.execute(
                f"SELECT max({self._length_sql()}), sum({self._length_sql()}) FROM {self._measured_sql()}"  # noqa: S608
            ).fetchall()[0]
        return (longest or 0) > MAX_FIELD or (whole or 0) > MOST_TEXT

    @property
    def _source(self) -> str:
        return f"read_parquet({quoted(str(self._path.resolve()))})"

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        with _opened(self._path) as connection:
            for first, end in list(self._portions(connection)):
                for line, overlong, *texts in self._fetched(connection, self._texts_sql(first, end)):
                    if line % TELL_EVERY == 0:
                        read(self._size * line // self._rows)
                    if overlong:
                        yield Reject(line=line, column=None, reason=f"The row is longer than {MAX_FIELD:,} bytes.")
                    else:
                        yield line, dict(zip(self._columns, texts, strict=True))

    def _fetched(self, connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, so that not all of an answer is in memory a second time."""
        with self._declared():
            rows = connection.execute(query)
            while row := rows.fetchone():
                yield row

    def _portions(self, connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, int]]:
        """Ranges of rows that follow each other, each with no more text than can be answered at once."""
        query = f"""SELECT {_ROW} // {STEP} AS step, sum(least({self._length_sql()}, {MAX_FIELD}))
                    FROM {self._measured_sql()} GROUP BY step ORDER BY step"""  # noqa: S608
        first, size = 0, 0
        for step, more in self._fetched(connection, query):
            if size and size + more > AT_ONCE:
                yield first, step * STEP
                first, size = step * STEP, 0
            size += more
        yield first, self._rows

    def _texts_sql(self, first: int, end: int) -> str:
        texts = ", ".join(f"CASE WHEN NOT overlong THEN {_text(number)} END" for number in range(len(self._columns)))
        measured = self._measured_sql(f"WHERE {_ROW} >= {first} AND {_ROW} < {end}")
        return f"""SELECT {_ROW} + 1, overlong, {texts}
                   FROM (SELECT *, {self._length_sql()} > {MAX_FIELD} AS overlong FROM {measured})"""  # noqa: S608

    def _measured_sql(self, where: str = "") -> str:
        texts = ", ".join(
            f"{_as_text(name, kind)} AS {_text(number)}" for number, (name, kind) in enumerate(self._types.items())
        )
        return f"(SELECT {_ROW}, {texts} FROM {self._source} {where})"  # noqa: S608

    def _length_sql(self) -> str:
        """Bytes of one row's text, apart from what is always short."""
        long = [number for number, kind in enumerate(self._types.values()) if not _is_short(kind)]
        return f"coalesce(list_sum([{', '.join(f'strlen({_text(number)})' for number in long)}]), 0)" if long else "0"

    @contextmanager
    def _declared(self) -> Iterator[None]:
        """Errors of DuckDB as errors of the file, without the places where this machine keeps it."""
        try:
            yield
        except duckdb.OutOfMemoryException:
            raise TooLargeInside(
                "The rows of the Parquet file take too much memory to be read together. Export the calls as JSON lines."
            ) from None
        except duckdb.Error as error:
            said = str(error).replace(str(self._path.resolve()), "the file")
            reason = _PATH.sub("the file", said).partition("\n")[0][:200]
            reason = "".join(c if c.isprintable() else " " for c in reason)
            raise MalformedFile(f"The Parquet file cannot be read ({reason}). Write it again, or export CSV.") from None


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        TemporaryDirectory(prefix="netra-parquet-") as scratch,
        confined(folders=(path.parent,), scratch=Path(scratch), memory_mib=MEMORY_MIB) as connection,
    ):
        yield connection


def _text(number: int) -> str:
    return f"text_{number}"


def _is_nested(kind: str) -> bool:
    return kind.startswith(_NESTED) or kind.endswith("]")


def _is_short(kind: str) -> bool:
    return _SHORT.fullmatch(kind) is not None and not _is_nested(kind)


def _as_text(name: str, kind: str) -> str:
    return f"to_json({named(name)})::VARCHAR" if _is_nested(kind) else f"{named(name)}::VARCHAR"
