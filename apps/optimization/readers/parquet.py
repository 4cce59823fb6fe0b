"""Parquet: columns by name; the line is the number of the row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from apps.optimization.duck import confined, named, quoted
from apps.optimization.readers import MAX_COLUMNS, Head, MalformedFile, Record, reader

MEMORY_MIB = 256
FETCH = 2000  # rows at once
_NESTED = ("STRUCT", "MAP", "UNION")


@reader(order=10)
def parquet(head: Head) -> "ParquetTable | None":
    """Parquet says so in its first four bytes."""
    return ParquetTable(head) if head.first.startswith(b"PAR1") else None


class ParquetTable:
    """Values as text: numbers plain, times as ISO, nested values as JSON."""

    kind = "parquet"
    decimal_comma = False

    def __init__(self, head: Head) -> None:
        self._path, self._size = head.path, head.size
        with _opened(head.path) as connection:
            described = _run(connection, f"DESCRIBE FROM {self._source}").fetchall()
        self._types = {name: kind for name, kind, *_ in described}
        self.columns = tuple(self._types)
        if len(self.columns) > MAX_COLUMNS:
            raise MalformedFile(f"The file has {len(self.columns):,} columns; at most {MAX_COLUMNS:,} can be read.")

    @property
    def _source(self) -> str:
        return f"read_parquet({quoted(str(self._path.resolve()))})"

    def records(self, read: Callable[[int], None]) -> Iterator[Record]:
        selected = ", ".join(_as_text(name, kind) for name, kind in self._types.items())
        with _opened(self._path) as connection:
            total = _run(connection, f"FROM {self._source} SELECT count(*)").fetchall()[0][0]
            rows = _run(connection, f"FROM {self._source} SELECT {selected}")
            line = 0
            while batch := _fetch(rows):
                for values in batch:
                    line += 1
                    yield line, dict(zip(self.columns, values, strict=True))
                read(self._size * line // max(total, 1))


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        TemporaryDirectory(prefix="netra-parquet-") as scratch,
        confined(folders=(path.parent,), scratch=Path(scratch), memory_mib=MEMORY_MIB) as connection,
    ):
        yield connection


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
    try:
        return connection.execute(query)
    except duckdb.Error as error:
        raise _malformed(error) from None


def _fetch(rows: duckdb.DuckDBPyConnection) -> list[tuple[str | None, ...]]:
    try:
        return rows.fetchmany(FETCH)
    except duckdb.Error as error:
        raise _malformed(error) from None


def _malformed(error: duckdb.Error) -> MalformedFile:
    reason = str(error).splitlines()[0][:200]
    return MalformedFile(f"The Parquet file cannot be read ({reason}). Write it again, or export CSV.")


def _as_text(name: str, kind: str) -> str:
    nested = kind.startswith(_NESTED) or kind.endswith("]")
    return f"to_json({named(name)})::VARCHAR" if nested else f"{named(name)}::VARCHAR"
