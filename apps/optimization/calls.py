"""The calls of one dataset: the columns every analysis can rely on, and the connection that reads them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from apps.llm.catalogue import Catalogue
from apps.optimization.duck import confined, named, quoted

ROW_BITS = 40  # of `call` that name the row; the others name the file

# The columns of `calls.parquet`. NULL is "the source does not say". Times are UTC without an offset.
COLUMNS: Mapping[str, str] = {
    "line": "BIGINT",  # the row of the source file, from 1, a header counted; its line where each row is one
    "call_id": "VARCHAR",
    "trace_id": "VARCHAR",  # one request of a user: its retries and its nested spans share it
    "started_at": "TIMESTAMP",
    "ended_at": "TIMESTAMP",
    "first_token_at": "TIMESTAMP",
    "model": "VARCHAR",
    "provider": "VARCHAR",
    "input_tokens": "BIGINT",  # all input, cached included
    "cached_read_tokens": "BIGINT",
    "cached_write_tokens": "BIGINT",  # all writes
    "cache_told": "BOOLEAN",  # the source says how many tokens were read from a cache, be it none
    "cached_write_1h_tokens": "BIGINT",  # the part kept for an hour
    "output_tokens": "BIGINT",  # all output, reasoning included
    "reasoning_tokens": "BIGINT",  # the part of the output that nobody reads
    "input_audio_tokens": "BIGINT",  # the part of the input that is sound
    "output_audio_tokens": "BIGINT",
    "system_tokens": "BIGINT",  # parts of the input, where the source tells them apart
    "history_tokens": "BIGINT",
    "retrieved_tokens": "BIGINT",
    "max_output_tokens": "BIGINT",  # the limit that the caller set
    "recorded_cost": "DECIMAL(20,12)",  # dollars, as the source says
    "status": "VARCHAR",  # succeeded or failed
    "error": "VARCHAR",  # what kind of failure
    "finish_reason": "VARCHAR",  # as the source says: stop, length, tool_calls ...
    "user": "VARCHAR",
    "feature": "VARCHAR",
    "session": "VARCHAR",
    "api_key": "VARCHAR",  # the name or the hash of it, never the key: whose provider cache a call meets
    "service_tier": "VARCHAR",  # standard, batch, flex, priority; NULL where not said
    "batch": "BOOLEAN",  # already sent through a batch API
    "interactive": "BOOLEAN",  # somebody waits for the answer
    "deadline_seconds": "DOUBLE",  # how long the caller can wait
    "temperature": "DOUBLE",
    "stream": "BOOLEAN",
    "tools": "BOOLEAN",  # the call offers tools
    "quality": "DOUBLE",  # of the answer, 0-1, where somebody or something judged it
    "prompt_hash": "UUID",  # keyed with a secret that is thrown away after the import
    "parameters_hash": "UUID",
    "answer_hash": "UUID",  # of the answer in lower case, its white space as single blanks; keyed alike
    "prompt_characters": "BIGINT",
    "blocks": "UBIGINT[]",  # chained names of the prompt's blocks, from its start; of one dataset only
    "prompt": "VARCHAR",  # always NULL when only metadata is kept
    "cached_answer": "BOOLEAN",  # the caller's own response cache answered
    "billed": "BOOLEAN",
    "price_moment": "TIMESTAMP",  # the moment whose list price holds for this call
    "cost_pico": "BIGINT",  # 10**-12 dollars; 0 where not billed, NULL where the price is unknown
    "price_source": "VARCHAR",
    "quarter": "INTEGER",  # quarters of an hour from 1970 to `started_at`
}
# The clocks of all zones are whole quarters apart since 1979, and change at whole quarters since 2012 (but for a polar
# station's), so days and hours are told from `quarter`, which is read faster than microseconds that are never the same.
QUARTER = "epoch_us(time_bucket(INTERVAL 15 minutes, {started_at})) // 900_000_000"
QUARTER_BEGAN = "make_timestamp(({quarter}) * 900_000_000::BIGINT)"


@dataclass(frozen=True, kw_only=True)
class Calls:
    """One dataset, open for reading. Close it by leaving its context.

    The view `calls` has COLUMNS, and `call`: a number that names each call of the dataset.
    """

    connection: duckdb.DuckDBPyConnection
    catalogue: Catalogue
    notes: tuple[str, ...] = field(default=())  # what the import assumed, in sentences
    time_zone: str = "UTC"  # of the days and hours by which spend is broken down; everything else is UTC
    _known: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, query: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of `query`."""
        return self.connection.execute(query, parameters).fetchall()

    def known(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a `query` about the calls alone. They never change while they are open, so it is asked once."""
        if query not in self._known:
            self._known[query] = self.rows(query)
        return self._known[query]

    def row(self, query: str, parameters: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """The one row of an aggregate."""
        return self.rows(query, parameters)[0]


@contextmanager
def reading(
    *,
    files: Sequence[Path],
    catalogue: Catalogue,
    memory_mib: int,
    notes: tuple[str, ...] = (),
    time_zone: str = "UTC",
    scratch_in: Path | None = None,
) -> Iterator[Calls]:
    """The calls kept in `files`; spills into a folder of its own below `scratch_in` (else the system's temporary)."""
    with (
        TemporaryDirectory(prefix="netra-analysis-", dir=scratch_in) as scratch,
        confined(
            folders=tuple(file.parent for file in files), scratch=Path(scratch), memory_mib=memory_mib
        ) as connection,
    ):
        parts = [_part(connection, number, file) for number, file in enumerate(files)]
        connection.execute(f"CREATE VIEW calls AS {' UNION ALL '.join(parts)}")
        yield Calls(connection=connection, catalogue=catalogue, notes=notes, time_zone=time_zone)


def _part(connection: duckdb.DuckDBPyConnection, number: int, file: Path) -> str:
    """One file of a dataset; the upper bits of `call` are its number, the lower ones the row.

    A file that was written before a column existed does not say what it holds, but for what follows from others.
    """
    rows = f"read_parquet({quoted(str(file.resolve()))}, file_row_number = true)"
    held = {name for name, *_ in connection.execute(f"DESCRIBE FROM {rows}").fetchall()}
    follows = {"quarter": QUARTER.format(started_at="started_at")}
    columns = ", ".join(
        named(name) if name in held else f"({follows.get(name, 'NULL')})::{kind} AS {named(name)}"
        for name, kind in COLUMNS.items()
    )
    return f"SELECT ({number}::BIGINT << {ROW_BITS}) | file_row_number AS call, {columns} FROM {rows}"  # noqa: S608
