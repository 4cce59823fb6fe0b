"""A file of calls becomes `calls.parquet`: read, understood, checked, priced. All of it, or an error and nothing.

Without Django: works in a worker, in a terminal and in a test alike. Memory stays constant in the size of the file.
"""

import csv
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from apps.errors import Invalid
from apps.llm.catalogue import Catalogue
from apps.llm.pricing import band_sql, cost_sql
from apps.optimization import checks
from apps.optimization.calls import COLUMNS, QUARTER
from apps.optimization.containers import UNPACKED, unpacked
from apps.optimization.conventions import Verdict, decide
from apps.optimization.duck import confined, named, quoted
from apps.optimization.importers import FIELDS, HASHED, Importer, importer_for
from apps.optimization.limits import (
    MAX_LINE,
    MAX_SECONDS,
    MAX_STAGED,
    BoundedFile,
    Deadline,
    OverlongRow,
    require_room,
)
from apps.optimization.readers import (
    MAX_FIELD,
    Reject,
    Row,
    Table,
    TooLargeInside,
    UnusableFile,
    open_table,
    refuse_endless,
)
from apps.optimization.tariffs import Key, create_tariff, tier_sql
from apps.optimization.texts import LINE, MACROS, ROW, Texts
from apps.optimization.watching import Progress, execute

SCRATCH = "netra-import-"  # how the working folder beside the target begins; gone when the work is done
KEPT_REJECTS = 100
BLOCK = 512  # characters of a block of a prompt, about 128 tokens
MOST_BLOCKS = 128  # of one prompt; what comes after them is never taken for a repeat
PEEKED = 1_000  # rows that are asked first what kind of times the file has
MAX_MODELS = 2000  # of one file; more are no models but ids
CHECKED = 85  # percent of the work that is done once the rows are read and checked
NUMBERED = 88  # once the lines of rejected rows are known
PREVIEWED = 10_000  # rows that a preview looks at
PREVIEWED_PROMPT = 200
# Rows of a Parquet row group, in whole vectors: bounds what a writer holds, also with long prompts and their blocks.
# Rows without them are read faster in larger groups.
ROW_GROUP, ROW_GROUP_OF_METADATA = 20_480, 61_440
_TEXT = tuple(name for name in FIELDS if name not in HASHED)


class NoCalls(UnusableFile):
    """Every row was rejected."""

    code = "file.no_calls"

    def __init__(self, detail: str, rejects: tuple[Reject, ...] = (), rejected: int = 0) -> None:
        super().__init__(detail)
        self.rejects = rejects
        self.rejected = rejected


class TooManyModels(UnusableFile):
    """What was taken for the model cannot be one."""

    code = "file.too_many_models"


class UnknownModel(Invalid):
    """No price is known for the model that was asked for."""

    code = "model.unknown"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be converted, and how."""

    source: Path
    target: Path  # the Parquet file; written last and whole
    catalogue: Catalogue
    now: datetime  # aware
    memory_mib: int
    mapping: Mapping[str, str | None] = field(default_factory=dict)
    metadata_only: bool = False
    price_as: str | None = None  # price every call as this model, at today's list price
    hash_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))  # of prompts; kept per dataset, or nowhere
    known: Sequence[Path] = ()  # Parquet files of the same dataset: their calls are not taken a second time
    staged_bytes: int = MAX_STAGED  # that the calls may take on the way
    seconds: float = MAX_SECONDS  # after which the conversion is stopped


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came of it."""

    source: str  # the importer that understood the file
    columns: Mapping[str, str]  # field -> column it was read from
    rows: int
    rejected: int
    rejects: tuple[Reject, ...]  # the first KEPT_REJECTS, by line
    not_calls: int  # rows of the source that are none: spans of other work, for example
    repeated: int  # rows with the id and the time of an earlier row
    reused: int  # calls with the id of an earlier one at another time; each counts
    nested: int  # calls that another, inner instrumentation reports as well
    known: int  # calls that an earlier file of the dataset had brought
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]  # what was assumed, in sentences
    first_call_at: datetime | None
    last_call_at: datetime | None
    prices: str  # version of the catalogue


def check_price_as(model: str, catalogue: Catalogue, now: datetime) -> None:
    """Refuse to price calls as a model without a price; an empty name asks for nothing.

    Raises:
        UnknownModel: no price is known for it.
    """
    if model and not catalogue.rates(model=model, at=now):
        raise UnknownModel(f"No price is known for {model!r}; `models/` lists the models whose price is known.")


def convert(order: Order, progress: Progress = lambda percent: None) -> Conversion:
    """Convert one file.

    Raises:
        UnusableFile: nothing can be imported from it, or not within the limits; nothing was written.
        DiskFull: there is no room to work in; nothing was written.
        UnknownModel: `price_as` has no known price.
    """
    with (
        _opened(order, progress) as work,
        _workbench(order, work.scratch) as connection,
        work.deadline.stopping(connection),
    ):
        return _settle(connection, work, _examine(connection, work))


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an import would make of a file, told by its first rows."""

    conversion: Conversion  # of the first PREVIEWED rows; without a usable call among them it has no rows
    calls: tuple[Mapping[str, Any], ...]  # the first ones; of a prompt the first PREVIEWED_PROMPT characters
    whole: bool  # the file has no more rows than were looked at
    disk_bytes: int | None  # that the import would take while it works, as these rows do; None if it cannot be told


def preview(order: Order, rows: int = 20) -> Preview:
    """Convert the first rows of a file and keep nothing. A packed file is unpacked whole first.

    Raises:
        UnusableFile, DiskFull, UnknownModel: as `convert`, but rows that are all rejected are an answer.
    """
    with _opened(order, lambda percent: None) as opened:
        target = opened.scratch / "preview.parquet"
        work = replace(opened, order=replace(order, target=target), first=PREVIEWED)
        with _workbench(work.order, work.scratch) as connection, work.deadline.stopping(connection):
            tally = _examine(connection, work)
            conversion = _settle(connection, work, tally)
            shown = connection.execute(
                f"""SELECT * REPLACE (left(prompt, {PREVIEWED_PROMPT}) AS prompt)
                    FROM read_parquet({quoted(str(target.resolve()))}) LIMIT ?""",  # noqa: S608
                [rows],
            )
            names = [column[0] for column in shown.description or ()]
            calls = tuple(dict(zip(names, row, strict=True)) for row in shown.fetchall())
            read = connection.execute("SELECT count(*) FROM examined").fetchall()[0][0]
        whole = read + tally.rejected < PREVIEWED
        return Preview(conversion=conversion, calls=calls, whole=whole, disk_bytes=_disk_need(work, whole=whole))


def _disk_need(work: "_Work", *, whole: bool) -> int | None:
    """Bytes on disk at the peak of an import, if all rows take what those in the scratch folder took."""
    sizes = {file: file.stat().st_size for file in work.scratch.iterdir() if file.is_file()}
    packed = sizes.pop(work.scratch / UNPACKED, 0)
    taken = sum(sizes.values())
    if whole:
        return packed + taken
    read = 0

    def reach(told: int) -> None:
        nonlocal read
        read = max(read, told)

    # One more, because a reader tells how far it is before it gives a row.
    for _ in islice(work.table.records(reach), PREVIEWED + 1):
        pass
    size = packed or work.order.source.stat().st_size
    return packed + round(taken * size / read) if read else None


@contextmanager
def _opened(order: Order, progress: Progress) -> Iterator["_Work"]:
    """The file, unpacked and understood, with a folder to work in that is gone afterwards."""
    check_price_as(order.price_as or "", order.catalogue, order.now)
    deadline = Deadline(order.seconds)
    with TemporaryDirectory(prefix=SCRATCH, dir=order.target.parent) as folder:
        scratch = Path(folder)
        table = open_table(unpacked(order.source, scratch, most=order.staged_bytes))
        texts = Texts(table.places)
        importer = importer_for(texts, order.mapping)
        yield _Work(
            order=order,
            table=table,
            texts=texts,
            importer=importer,
            scratch=scratch,
            progress=progress,
            deadline=deadline,
        )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One conversion under way."""

    order: Order
    table: Table
    texts: Texts
    importer: Importer
    scratch: Path
    progress: Progress
    deadline: Deadline
    first: int | None = None  # rows of the file that are looked at; None for all

    @property
    def limit(self) -> str:
        return "" if self.first is None else f"LIMIT {self.first}"

    def telling(self, start: float, end: float) -> Callable[[int], None]:
        """What a reader tells the bytes it has read: the progress, and whether there is time for more."""
        size = max(1, self.order.source.stat().st_size)

        def told(read: int) -> None:
            self.deadline.check()
            self.progress(start + (end - start) * min(1.0, read / size))

        return told

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a call that the file may say."""
        return tuple(name for name in _TEXT if name in self.importer.sql)


@dataclass
class _Tally:
    """Rows that could not even be read."""

    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    careful: bool = False  # the file was read row by row, and every line is known
    unit: float | None = None  # seconds of one step of times that count from the start of the trace

    def add(self, reject: Reject) -> None:
        self.rejected += 1
        if len(self.rejects) < KEPT_REJECTS:
            self.rejects.append(reject)


@contextmanager
def _workbench(order: Order, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    folders = tuple({file.parent for file in (order.source, order.target, *order.known)})
    with confined(folders=folders, scratch=scratch, memory_mib=order.memory_mib) as connection:
        for macro in (*MACROS, *checks.MACROS):
            connection.execute(macro)
        yield connection


# --- From the file to rows that were looked at -----------------------------------------------------------------------


def _examine(connection: duckdb.DuckDBPyConnection, work: _Work) -> _Tally:
    """Write every row, understood and checked, to a file that the view `examined` shows.

    The file is read by DuckDB at once; if a row is damaged, it is read again row by row, which is slower and loses
    nothing but that row.
    """
    require_room(work.scratch)
    relation = work.table.relation(tuple(work.texts.needed))
    if relation:
        try:
            numbers = ", ".join(f"NULL::BIGINT AS {named(name)}" for name in (ROW, LINE))
            rows = f"(SELECT {numbers}, * FROM {relation} {work.limit})"  # noqa: S608
            return _check(connection, work, rows, _Tally())
        except (duckdb.InvalidInputException, duckdb.ConversionException):
            pass
    tally = _repair(work)
    return _check(connection, work, _repaired(work), tally)


def _check(connection: duckdb.DuckDBPyConnection, work: _Work, source: str, tally: _Tally) -> _Tally:
    """Read, understand and check all rows in one statement: writing them between would cost as much as all of it.

    Columns that are the same for all rows are not written: that would take a sixth of the time.
    """
    order, examined = work.order, work.scratch / "examined.parquet"
    _show_texts(connection, work, source)
    tally.unit = _unit(connection, work)
    query = checks.checked_sql(
        set(work.fields), now=order.now, decimal_comma=work.table.decimal_comma, unit=tally.unit, longest=MAX_FIELD
    )
    same = _same(work, tally)
    execute(
        connection,
        f"""COPY (SELECT * EXCLUDE ({", ".join(map(named, same))}) FROM ({query}))
            TO {quoted(str(examined.resolve()))} (FORMAT parquet, COMPRESSION lz4)""",  # noqa: S608
        work.progress,
        start=CHECKED / 2 if tally.careful else 0.0,
        end=CHECKED,
    )
    if examined.stat().st_size > order.staged_bytes:
        raise TooLargeInside(
            f"The calls in the file take more than {order.staged_bytes:,} bytes. Split the file, or import it without "
            "prompts."
        )
    rows = f"read_parquet({quoted(str(examined.resolve()))}, file_row_number = true)"
    columns = ", ".join(f"{sql} AS {named(name)}" for name, sql in same.items())
    connection.execute(
        f"""CREATE VIEW examined AS
            SELECT * EXCLUDE (file_row_number), {columns}, file_row_number AS number FROM {rows}"""  # noqa: S608
    )
    refuse_endless(connection.execute("SELECT count(*) FROM examined").fetchall()[0][0])
    return tally


def _show_texts(connection: duckdb.DuckDBPyConnection, work: _Work, source: str) -> None:
    """Show the rows of `source` as `texts`: `place`, `line`, `is_call`, the text of each field, the prompt's hash."""
    order = work.order
    raw = [named(f"raw_{name}") for name in work.fields]
    columns = [f"({work.importer.sql[name]})::VARCHAR AS {text}" for name, text in zip(work.fields, raw, strict=True)]
    prompt = work.importer.sql.get("prompt", "NULL")
    kept = "NULL" if order.metadata_only else f"replace({prompt}, chr(0), '')"
    columns += [
        f"{_hash_sql(order.hash_key, prompt)} AS prompt_hash",
        f"{_hash_sql(order.hash_key, work.importer.sql.get('parameters', 'NULL'))} AS parameters_hash",
        f"{_hash_sql(order.hash_key, _plain_sql(work.importer.sql.get('answer', 'NULL')))} AS answer_hash",
        f"length({prompt}) AS prompt_characters",
        f"{_blocks_sql(order.hash_key, prompt, work.importer.sql.get('blocks'))} AS blocks",
        f"({kept})::VARCHAR AS prompt",
        f"({work.importer.is_call}) AS is_call",
    ]
    columns = [f"{named(ROW)} AS place", f"{named(LINE)} AS line", *columns]
    untrimmed = [name for name in work.fields if not work.texts.is_trimmed(work.importer.sql[name])]
    said = ", ".join(f"said({text}) AS {text}" for text in (named(f"raw_{name}") for name in untrimmed))
    trimmed = f"* REPLACE ({said})" if said else "*"
    connection.execute(
        f"""CREATE OR REPLACE VIEW texts AS SELECT {trimmed}
            FROM (SELECT {", ".join(columns)} FROM {work.texts.relation(source)})"""  # noqa: S608
    )


def _same(work: _Work, tally: _Tally) -> dict[str, str]:
    """What need not be read from the rows: columns that are the same for all of them, and rows that can be counted."""
    said = work.importer.sql.keys()
    counted = {"place": f"file_row_number + {work.table.first_line}", "line": "NULL::BIGINT"}
    columns = {} if tally.careful else counted
    columns |= {"is_call": "true"} if work.importer.is_call == "true" else {}
    columns |= {} if "prompt" in said else {"prompt_hash": "NULL::UUID", "prompt_characters": "NULL::BIGINT"}
    columns |= {} if said & {"prompt", "blocks"} else {"blocks": "NULL::UBIGINT[]"}
    columns |= {} if "prompt" in said and not work.order.metadata_only else {"prompt": "NULL::VARCHAR"}
    columns |= {f"{name}_hash": "NULL::UUID" for name in ("parameters", "answer") if name not in said}
    return columns | checks.unsaid(set(work.fields))


def _unit(connection: duckdb.DuckDBPyConnection, work: _Work) -> float | None:
    """Seconds of one step if times are counted from the start of the trace; None if they are calendar times.

    Numbers below a billion would all be before 2002: whole ones are taken for milliseconds, others for seconds. One
    other time decides, so the first rows are asked before all are; a text that is no time at all decides nothing.
    """
    if "started_at" not in work.fields:
        return None
    unit: float | None = None
    for limit in (f"LIMIT {PEEKED}", ""):
        dated, largest, whole = connection.execute(
            f"""SELECT count(*) FILTER (NOT is_number(t) AND calendar(t) IS NOT NULL),
                       max(try_cast(t AS DOUBLE)) FILTER (is_number(t)),
                       bool_and(NOT contains(t, '.')) FILTER (is_number(t))
                FROM (SELECT raw_started_at AS t FROM texts WHERE is_call {limit})"""  # noqa: S608
        ).fetchall()[0]
        if dated or (largest or 0) >= 1e9:
            return None
        unit = None if largest is None else 1e-3 if whole else 1.0
    return unit


def _hash_sql(key: bytes, text: str) -> str:
    """A keyed hash of a text (UUID), NULL where there is none. Nobody without the key can test what was among the
    prompts by guessing it."""
    return f"CASE WHEN ({text}) <> '' THEN sha256({quoted(key.hex())} || ({text}))[:32]::UUID END"


def _plain_sql(text: str) -> str:
    """A text as it is compared: what only looks different is the same."""
    return f"trim(regexp_replace(lower({text}), '\\s+', ' ', 'g'))"


def _blocks_sql(key: bytes, prompt: str, given: str | None) -> str:
    """Names of a prompt's blocks, each of which stands for all that comes before it too; NULL where nothing is known.

    Names that the source gives are chained by it. Of a text, block n is its first n * BLOCK characters.
    """
    secret = quoted(key.hex())
    if given:
        return f"list_transform(try(from_json({given}, '[\"VARCHAR\"]')), lambda name: hash({secret} || name))"
    return f"""CASE WHEN length({prompt}) >= {BLOCK} THEN list_transform(
        range(1, least(length({prompt}) // {BLOCK}, {MOST_BLOCKS}) + 1),
        lambda n: hash({secret} || left({prompt}, n * {BLOCK}))) END"""


def _repair(work: _Work) -> _Tally:
    """Write the needed columns of every readable row to a well-formed file, with their numbers and lines."""
    tally, order = _Tally(careful=True), work.order
    needed = tuple(work.texts.needed)
    with _repaired_path(work).open("wb") as file:
        # Every value in quotes, so that what a value looks like never matters to who reads it.
        writer = csv.writer(BoundedFile(file, work.scratch, order.staged_bytes), quoting=csv.QUOTE_NONNUMERIC)
        records = work.table.records(work.telling(0.0, CHECKED / 2))
        for number, record in enumerate(islice(records, work.first)):
            work.deadline.check()
            refuse_endless(number + 1)
            if isinstance(record, Reject):
                tally.add(replace(record, reason=_which(work.table, number) + record.reason))
                continue
            line, row = record
            try:
                writer.writerow((number + work.table.first_line, line, *_texts(row, needed)))
            except OverlongRow:
                reason = f"{_which(work.table, number)}The row is longer than {MAX_FIELD:,} characters."
                tally.add(Reject(line=line, column=None, reason=reason))
    return tally


def _which(table: Table, row: int) -> str:
    """What begins the reason for which a row, from 0, is turned away, where its line does not tell which it is."""
    return f"Element {row + 1}: " if table.shares_lines else ""


def _texts(row: Row, needed: tuple[str, ...]) -> list[str]:
    texts = [(row.get(name) or "").replace("\0", "") for name in needed]
    if sum(map(len, texts)) > MAX_FIELD:
        raise OverlongRow
    return texts


def _repaired_path(work: _Work) -> Path:
    return work.scratch / "repaired.csv"


def _repaired(work: _Work) -> str:
    """The repaired file as a relation."""
    needed = tuple(work.texts.needed)
    shape = {"place": "BIGINT", "line": "BIGINT"} | {f"c{number}": "VARCHAR" for number in range(len(needed))}
    columns = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in shape.items())
    ours = (f"place AS {named(ROW)}", f"line AS {named(LINE)}")
    read = ", ".join([*ours, *(f"c{number} AS {named(name)}" for number, name in enumerate(needed))])
    size = MAX_LINE + 1024**2  # bytes of one line
    return f"""(SELECT {read} FROM read_csv({quoted(str(_repaired_path(work).resolve()))}, columns = {{{columns}}},
        auto_detect = false, header = false, delim = ',', quote = '"', escape = '"', new_line = '\\r\\n',
        nullstr = '', allow_quoted_nulls = true, max_line_size = {size}, buffer_size = {2 * size}, parallel = false))"""  # noqa: S608


# --- From text to calls ----------------------------------------------------------------------------------------------


def _settle(connection: duckdb.DuckDBPyConnection, work: _Work, tally: _Tally) -> Conversion:
    """Check, decide the conventions, price and write."""
    order, importer = work.order, work.importer
    _show_read(connection, work, tally.unit)
    counts = _leave_out(connection, work)
    verdicts = decide(connection, order.catalogue, documented=importer.documented)
    _apply(connection, verdicts)
    rejected, rejects = _rejects(connection, tally, work)
    _price_list(connection, order)
    unfinished = work.scratch / "calls.parquet"
    execute(
        connection,
        f"COPY ({_priced_sql(ordered=counts.any)}) TO {quoted(str(unfinished.resolve()))} {_format(work)}",
        work.progress,
        start=NUMBERED,
        end=100.0,
    )
    rows, first, last = _written(connection, unfinished)
    reused = _reused(connection, unfinished, order.known)
    if not rows and not counts.known and work.first is None:
        raise _no_calls(rejected, rejects, counts)
    unfinished.replace(order.target)
    return Conversion(
        source=importer.kind,
        columns=dict(importer.columns),
        rows=rows,
        rejected=rejected,
        rejects=rejects,
        not_calls=counts.not_calls,
        repeated=counts.repeated,
        nested=counts.nested,
        known=counts.known,
        verdicts=tuple(verdicts),
        reused=reused.calls,
        notes=(
            *importer.notes,
            *_notes(order, importer, verdicts, tally.unit),
            *_half_told(connection, work),
            *counts.notes(),
            *reused.notes(),
        ),
        first_call_at=first and first.replace(tzinfo=UTC),
        last_call_at=last and last.replace(tzinfo=UTC),
        prices=order.catalogue.version,
    )


@dataclass(frozen=True, kw_only=True)
class _LeftOut:
    """Rows that were read and are no calls, or no new ones."""

    not_calls: int
    repeated: int
    nested: int
    known: int

    @property
    def any(self) -> bool:
        """Whether rows that are calls were left out."""
        return self.repeated + self.nested + self.known > 0

    def notes(self) -> Iterator[str]:
        if self.not_calls:
            yield f"{self.not_calls:,} rows are no calls of a model and were left out."
        if self.repeated:
            yield f"{self.repeated:,} rows repeat the id and time of an earlier row and were left out."
        if self.nested:
            yield f"{self.nested:,} rows report calls that rows inside of them report as well; the inner ones count."
        if self.known:
            yield f"{self.known:,} calls had come with an earlier file and were left out."


@dataclass(frozen=True, kw_only=True)
class _Reused:
    """Calls with the id of an earlier one at another time."""

    calls: int
    unpriced: int  # of them
    cost_usd: Decimal  # of the others

    def notes(self) -> Iterator[str]:
        if self.calls:
            priced = f", {self.unpriced:,} of them at an unknown price" if self.unpriced else ""
            yield (
                f"{self.calls:,} calls have the id of an earlier one at another time. Each counts, together "
                f"${self.cost_usd:,.2f}{priced}: if they tell of the same calls again, leave them out of the file."
            )


_FORMAT = "(FORMAT parquet, COMPRESSION lz4_raw, ROW_GROUP_SIZE {rows})"
FORMAT = _FORMAT.format(rows=ROW_GROUP)


def _format(work: _Work) -> str:
    long = work.importer.sql.keys() & {"prompt", "blocks"}
    return FORMAT if long else _FORMAT.format(rows=ROW_GROUP_OF_METADATA)


def _show_read(connection: duckdb.DuckDBPyConnection, work: _Work, unit: float | None) -> None:
    """Show the calls as `checked`, and those without a fault as `read`, with the moment whose price holds."""
    order = work.order
    connection.execute("CREATE VIEW checked AS SELECT * FROM examined WHERE is_call")
    if not order.price_as:
        _refuse_many_models(connection)
    model = quoted(order.price_as) if order.price_as else "model"
    provider = "NULL" if order.price_as else "provider"
    today = unit is not None or order.price_as is not None
    connection.execute(
        f"""CREATE VIEW read AS SELECT * REPLACE ({model} AS model, {provider}::VARCHAR AS provider),
            {_moment(connection, order, today=today)} AS price_moment FROM checked WHERE reason IS NULL"""  # noqa: S608
    )


def _leave_out(connection: duckdb.DuckDBPyConnection, work: _Work) -> _LeftOut:
    """Show as `parsed` the rows of `read` that are calls, each once, none of which an earlier file had brought."""
    connection.execute("CREATE TEMP TABLE shared (call_id VARCHAR)")
    connection.execute("CREATE TEMP TABLE repeated (number BIGINT)")
    connection.execute("CREATE TEMP TABLE nested (number BIGINT)")
    connection.execute("CREATE TEMP TABLE known (number BIGINT)")
    if {"trace_id", "span_id", "parent_id"} <= set(work.fields):
        connection.execute(_NESTED)
    if "call_id" in work.fields:
        connection.execute(_SHARED)
        connection.execute(_REPEATED)
        for file in work.order.known:
            connection.execute(
                f"""INSERT INTO known SELECT DISTINCT r.number FROM read r
                    JOIN read_parquet({quoted(str(file.resolve()))}) k
                      ON k.call_id = r.call_id AND k.started_at IS NOT DISTINCT FROM r.started_at
                    ANTI JOIN nested n ON n.number = r.number ANTI JOIN repeated p ON p.number = r.number"""  # noqa: S608
            )
    not_calls, repeated, nested, known = connection.execute(
        """SELECT (SELECT count(*) FROM examined WHERE NOT is_call), (SELECT count(*) FROM repeated),
                  (SELECT count(*) FROM nested), (SELECT count(*) FROM known)"""
    ).fetchall()[0]
    gone = {"repeated": repeated, "nested": nested, "known": known}
    # A join may change the order of rows, so there is one only where something is left out.
    joins = " ".join(f"ANTI JOIN {name} USING (number)" for name, count in gone.items() if count)
    connection.execute(f"CREATE VIEW parsed AS SELECT read.* FROM read {joins}")  # noqa: S608
    return _LeftOut(not_calls=not_calls, **gone)


# A call that has another call below it, through spans of whatever kind, was reported by an outer instrumentation too.
# One that is turned away pushes none out: else nothing would be left of the two.
_NESTED = """
    INSERT INTO nested
    WITH RECURSIVE above AS (
        SELECT raw_trace_id AS trace, raw_parent_id AS span, 1 AS height FROM examined
        WHERE is_call AND reason IS NULL AND raw_parent_id <> ''
        UNION
        SELECT a.trace, s.raw_parent_id, a.height + 1 FROM above a
        JOIN examined s ON s.raw_trace_id = a.trace AND s.raw_span_id = a.span
        WHERE s.raw_parent_id <> '' AND a.height < 64
    )
    SELECT DISTINCT s.number FROM above a JOIN examined s ON s.raw_trace_id = a.trace AND s.raw_span_id = a.span
    WHERE s.is_call AND s.reason IS NULL
"""
# Few rows share an id, and only they have to be put in order.
_SHARED = """
    INSERT INTO shared
    SELECT call_id FROM read ANTI JOIN nested USING (number)
    WHERE call_id IS NOT NULL GROUP BY call_id HAVING count(*) > 1
"""
_REPEATED = """
    INSERT INTO repeated
    SELECT number FROM (SELECT number, call_id, started_at FROM read ANTI JOIN nested USING (number))
    SEMI JOIN shared USING (call_id)
    QUALIFY row_number() OVER (PARTITION BY call_id, started_at ORDER BY number) > 1
"""


def _reused(connection: duckdb.DuckDBPyConnection, parquet: Path, known: Sequence[Path]) -> _Reused:
    """The calls in `parquet`, none of which is a repeat, that have the id of one before it or of an earlier file."""
    connection.execute("CREATE TEMP TABLE before (call_id VARCHAR)")
    source = f"read_parquet({quoted(str(parquet.resolve()))}, file_row_number = true)"
    for file in known:
        connection.execute(
            f"""INSERT INTO before SELECT DISTINCT call_id FROM {source} written
                SEMI JOIN read_parquet({quoted(str(file.resolve()))}) earlier USING (call_id)"""  # noqa: S608
        )
    calls, unpriced, pico = connection.execute(
        f"""SELECT count(*), count(*) - count(cost_pico), coalesce(sum(cost_pico), 0) FROM (
              SELECT call_id, cost_pico, row_number() OVER (PARTITION BY call_id ORDER BY file_row_number) AS nth
              FROM {source} SEMI JOIN (FROM shared UNION FROM before) USING (call_id))
            WHERE nth > 1 OR call_id IN (FROM before)"""  # noqa: S608
    ).fetchall()[0]
    return _Reused(calls=calls, unpriced=unpriced, cost_usd=Decimal(pico) / 10**12)


def _refuse_many_models(connection: duckdb.DuckDBPyConnection) -> None:
    """Each model is judged and priced by itself, so their number must be that of models."""
    models = connection.execute("SELECT count(DISTINCT model) FROM checked WHERE reason IS NULL").fetchall()[0][0]
    if models > MAX_MODELS:
        raise TooManyModels(
            f"The calls name {models:,} models; at most {MAX_MODELS:,} can be. Say in the mapping which column is the "
            "model, or that none is."
        )


def _moment(connection: duckdb.DuckDBPyConnection, order: Order, *, today: bool) -> str:
    """The day of the call, or its half hour for models priced by time of day; the import's moment without a time."""
    now = f"TIMESTAMP '{order.now.astimezone(UTC):%Y-%m-%d %H:%M:00}'"
    if today:
        return now
    models = connection.execute(
        "SELECT DISTINCT model, coalesce(provider, '') FROM checked WHERE model IS NOT NULL AND reason IS NULL"
    )
    by_hour = [
        f"(model = {quoted(model)} AND coalesce(provider, '') = {quoted(provider)})"
        for model, provider in models.fetchall()
        if order.catalogue.priced_by_time_of_day(model=model, provider=provider)
    ]
    half_hour = f"WHEN {' OR '.join(by_hour)} THEN time_bucket(INTERVAL 30 minutes, started_at)" if by_hour else ""
    return f"CASE WHEN started_at IS NULL THEN {now} {half_hour} ELSE date_trunc('day', started_at) END::TIMESTAMP"


def _apply(connection: duckdb.DuckDBPyConnection, verdicts: list[Verdict]) -> None:
    """Show `parsed` as `counted`: input tokens with the cached ones in them, whatever the source does."""
    outside = [verdict.model for verdict in verdicts if verdict.convention == "exclusive"]
    said = ", ".join(quoted(model) for model in outside if model is not None)
    tests = ([f"model IN ({said})"] if said else []) + (["model IS NULL"] if None in outside else [])
    added = f"CASE WHEN {' OR '.join(tests)} THEN cached_read_tokens + cached_write_tokens ELSE 0 END" if tests else "0"
    connection.execute(
        f"CREATE VIEW counted AS SELECT * REPLACE (input_tokens + {added} AS input_tokens) FROM parsed"  # noqa: S608
    )


_CONTRADICTS = "cached_read_tokens + cached_write_tokens > input_tokens"


def _rejects(connection: duckdb.DuckDBPyConnection, tally: _Tally, work: _Work) -> tuple[int, tuple[Reject, ...]]:
    """How many rows were turned away in all, and the first of them."""
    found = connection.execute(
        f"""SELECT number, place, line, bad_column, reason, count(*) OVER () FROM (
              SELECT number, place, line, bad_column, reason FROM checked WHERE reason IS NOT NULL UNION ALL
              SELECT number, place, line, 'cached_read_tokens', 'More cached tokens than input tokens.' FROM counted
              WHERE {_CONTRADICTS}) ORDER BY number LIMIT {KEPT_REJECTS}"""  # noqa: S608
    ).fetchall()
    lines = {}
    if found and not tally.careful:  # else blank lines and line ends in quotes come between
        lines = work.table.lines([number for number, *_ in found], work.telling(CHECKED, NUMBERED))
    rejects = [
        Reject(
            line=lines.get(number, line),
            column=work.importer.columns.get(bad, bad),
            reason=_which(work.table, place - work.table.first_line) + reason,
        )
        for number, place, line, bad, reason, _ in found
    ]
    total = tally.rejected + (found[0][-1] if found else 0)
    return total, tuple(sorted([*tally.rejects, *rejects], key=lambda reject: reject.line)[:KEPT_REJECTS])


def _price_list(connection: duckdb.DuckDBPyConnection, order: Order) -> None:
    keys = connection.execute(
        f"""SELECT DISTINCT model, coalesce(provider, ''), price_moment, {tier_sql("counted")}
            FROM counted WHERE model IS NOT NULL"""  # noqa: S608
    ).fetchall()
    create_tariff(
        connection,
        "tariff",
        (Key(model=model, provider=place, moment=moment, tier=tier) for model, place, moment, tier in keys),
        lambda key: order.catalogue.rates(model=key.model, provider=key.provider, at=key.at),
    )


def _priced_sql(*, ordered: bool) -> str:
    """The final rows, in the order and types of COLUMNS; `ordered` where a join may have changed that of the file."""
    derived = {
        "line": "c.place",
        "ended_at": "coalesce(c.ended_at, c.started_at + to_microseconds((c.latency_ms * 1000)::BIGINT))",
        "cached_answer": "coalesce(c.cached_answer, false)",
        "billed": _BILLED,
        "cost_pico": f"CASE WHEN {_BILLED} THEN {cost_sql('c', 't')} ELSE 0 END",
        "price_source": "t.source",
        "quarter": QUARTER.format(started_at="c.started_at"),
    }
    selected = ", ".join(
        f"({derived.get(name, f'c.{named(name)}')})::{kind} AS {named(name)}" for name, kind in COLUMNS.items()
    )
    return f"""
        SELECT {selected} FROM counted c LEFT JOIN tariff t
          ON t.model = c.model AND t.provider = coalesce(c.provider, '') AND t.moment = c.price_moment
         AND t.tier = {tier_sql("c")} AND {band_sql("c", "t")}
        WHERE NOT ({_CONTRADICTS}) {"ORDER BY c.number" if ordered else ""}"""  # noqa: S608


# A failed call is billed only where the source recorded a cost for it.
_BILLED = (
    "NOT coalesce(c.cached_answer, false) "
    "AND NOT (c.status IS NOT DISTINCT FROM 'failed' AND coalesce(c.recorded_cost, 0) = 0)"
)


def _written(connection: duckdb.DuckDBPyConnection, parquet: Path) -> tuple[int, datetime | None, datetime | None]:
    source = f"read_parquet({quoted(str(parquet.resolve()))})"
    rows, first, last = connection.execute(
        f"FROM {source} SELECT count(*), min(started_at), max(started_at)"
    ).fetchall()[0]
    return rows, first, last


def _no_calls(rejected: int, rejects: tuple[Reject, ...], counts: _LeftOut) -> NoCalls:
    if not rejects and counts.not_calls:
        return NoCalls(f"None of {counts.not_calls:,} rows is a call of a model; all tell of other work.")
    if not rejects:
        return NoCalls("The file has a header but no rows. Export it again and look that it has calls.")
    first = rejects[0]
    where = f"line {first.line}" + (f", column {first.column!r}" if first.column else "")
    return NoCalls(f"None of {rejected:,} rows is a usable call. The first, {where}: {first.reason}", rejects, rejected)


def _half_told(connection: duckdb.DuckDBPyConnection, work: _Work) -> Iterator[str]:
    """That an empty count was taken for 0, which it is where an embedding writes nothing, and else a guess."""
    for name, column in checks.untold_counts(set(work.fields)).items():
        calls = connection.execute(
            f"SELECT count(*) FROM counted WHERE {column} AND NOT ({_CONTRADICTS})"  # noqa: S608
        ).fetchall()[0][0]
        told, untold = ("wrote", "read") if name == "input_tokens" else ("read", "wrote")
        if calls:
            said = f"say how many tokens they {told} and not how many they {untold}"
            yield f"{calls:,} calls {said}; those are taken for none."


def _notes(order: Order, importer: Importer, verdicts: list[Verdict], unit: float | None) -> Iterator[str]:
    if order.price_as:
        yield f"Every call is priced as {order.price_as} at the list price of {order.now:%Y-%m-%d}, whatever it cost."
    if unit is not None:
        step = "milliseconds" if unit < 1 else "seconds"
        yield f"Times count {step} from the start of the trace; calls are priced at the list of {order.now:%Y-%m-%d}."
    if "started_at" not in importer.columns:
        yield f"The file has no times; calls are priced at the list of {order.now:%Y-%m-%d}."
    for verdict in verdicts:
        counted = "include" if verdict.convention == "inclusive" else "leave out"
        yield f"{verdict.model or 'Calls without a model'}: input counts {counted} cached tokens. {verdict.because}"
