"""One DuckDB connection per piece of work: capped in memory, confined to one folder, locked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

THREADS = 2


@contextmanager
def confined(*, folders: tuple[Path, ...], scratch: Path, memory_mib: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads and writes nothing outside `folders` and `scratch`, and spills into `scratch`."""
    connection = duckdb.connect(":memory:")
    try:
        for setting, value in _settings(folders, scratch, memory_mib):
            connection.execute(f"SET {setting} = {value}")
        yield connection
    finally:
        connection.close()


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _settings(folders: tuple[Path, ...], scratch: Path, memory_mib: int) -> tuple[tuple[str, str], ...]:
    allowed = ", ".join(quoted(f"{folder.resolve()}/") for folder in (*folders, scratch))
    # The order matters: once the doors are closed, the list of rooms cannot change.
    return (
        ("memory_limit", quoted(f"{memory_mib}MiB")),
        ("threads", str(THREADS)),
        ("TimeZone", "'UTC'"),
        # How far a statement is, is asked for, but not drawn on standard output, into the middle of a JSON document.
        ("enable_progress_bar", "true"),
        ("enable_progress_bar_print", "false"),
        ("preserve_insertion_order", "true"),
        # An analysis passes over the same files some thirty times; files that changed are looked at again.
        ("parquet_metadata_cache", "true"),
        ("temp_directory", quoted(str(scratch.resolve() / "spill"))),
        ("allowed_directories", f"[{allowed}]"),
        ("enable_external_access", "false"),
        ("autoinstall_known_extensions", "false"),
        ("lock_configuration", "true"),
    )
