"""What a file would become, told from its beginning: nothing is kept."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from apps.optimization.containers import unpacked
from apps.optimization.conversion import SCRATCH, Conversion, NoCalls, Order, convert
from apps.optimization.duck import confined, quoted
from apps.optimization.readers import Reject, open_table

HEAD = 8 * 1024**2  # bytes of a text file that are looked at
ROWS = 10_000  # rows of another
SHOWN = 20
_COLUMNS = """line, started_at, model, provider, input_tokens, cached_read_tokens, cached_write_tokens, output_tokens,
    cost_pico::DOUBLE / 1e12 AS cost_usd, status, feature, "user", session"""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How a file is understood."""

    names: tuple[str, ...]  # the columns that it has, at most a hundred
    conversion: Conversion | None  # of its beginning; None where no row of it is a usable call
    rejected: int
    rejects: tuple[Reject, ...]
    calls: tuple[dict[str, Any], ...]  # the first, as they would be kept; at most SHOWN
    whole: bool  # whether all of the file was looked at
    disk_bytes: int  # that the import needs while it runs, estimated


def preview(order: Order) -> Preview:
    """Read the beginning of `order.source` as an import would; `order.target` is not written.

    Raises:
        UnusableFile: nothing can be imported from it.
    """
    with TemporaryDirectory(prefix=SCRATCH, dir=order.target.parent) as folder:
        scratch = Path(folder)
        source = unpacked(order.source, scratch, most=order.staged_bytes)
        head, whole = _head(source, scratch, order.memory_mib)
        names = tuple(islice(open_table(head).places, 100))
        there = replace(order, source=head, target=scratch / "calls.parquet")
        disk = _disk_bytes(order.source, source)
        try:
            conversion = convert(there)
        except NoCalls as error:
            return Preview(
                names=names,
                conversion=None,
                rejected=error.rejected,
                rejects=error.rejects,
                calls=(),
                whole=whole,
                disk_bytes=disk,
            )
        return Preview(
            names=names,
            conversion=conversion,
            rejected=conversion.rejected,
            rejects=conversion.rejects,
            calls=_shown(there.target, order.memory_mib),
            whole=whole,
            disk_bytes=disk,
        )


def _disk_bytes(upload: Path, source: Path) -> int:
    """At worst, what is staged, checked and written is each as large as what is read; an archive is unpacked too."""
    size = source.stat().st_size
    return 3 * size + (size if source != upload else 0)


def _head(source: Path, scratch: Path, memory_mib: int) -> tuple[Path, bool]:
    """The beginning of a file as a file, whole rows only; and whether that is all of it."""
    if source.stat().st_size <= HEAD:
        return source, True
    with source.open("rb") as file:
        first = file.read(HEAD)
    if first.startswith(b"PAR1"):
        return _first_rows(source, scratch, memory_mib), False
    if first.lstrip()[:1] == b"[" or b"\n" not in first:
        return source, True  # one value that cannot be cut
    head = scratch / "head"
    head.write_bytes(first[: first.rfind(b"\n") + 1])
    return head, False


def _first_rows(source: Path, scratch: Path, memory_mib: int) -> Path:
    head = scratch / "head.parquet"
    with confined(folders=(source.parent,), scratch=scratch, memory_mib=memory_mib) as connection:
        try:
            connection.execute(
                f"""COPY (FROM read_parquet({quoted(str(source.resolve()))}) LIMIT {ROWS})
                    TO {quoted(str(head.resolve()))} (FORMAT parquet)"""
            )
        except duckdb.Error:
            return source  # it is damaged; its reader says how
    return head


def _shown(calls: Path, memory_mib: int) -> tuple[dict[str, Any], ...]:
    with confined(folders=(calls.parent,), scratch=calls.parent, memory_mib=memory_mib) as connection:
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM read_parquet({quoted(str(calls.resolve()))}) LIMIT {SHOWN}"  # noqa: S608
        )
        names = [column[0] for column in found.description or ()]
        return tuple(dict(zip(names, row, strict=True)) for row in found.fetchall())
