"""A file of calls becomes `calls.parquet`: read, understood, checked, priced. All of it, or an error and nothing.

Without Django: works in a worker, in a terminal and in a test alike. Memory stays constant in the size of the file.
"""

import csv
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from apps.errors import Invalid
from apps.llm.catalogue import Catalogue
from apps.llm.pricing import band_sql, cost_sql
from apps.optimization import checks
from apps.optimization.calls import COLUMNS
from apps.optimization.conventions import Verdict, decide
from apps.optimization.duck import confined, named, quoted
from apps.optimization.importers import FIELDS, Importer, importer_for
from apps.optimization.limits import MAX_LINE, MAX_SECONDS, MAX_STAGED, BoundedFile, Deadline, OverlongRow
from apps.optimization.readers import MAX_FIELD, Reject, Table, UnusableFile, open_table, refuse_endless
from apps.optimization.tariffs import Key, create_tariff, tier_sql

SCRATCH = "netra-import-"  # how the working folder beside the target begins; gone when the work is done
KEPT_REJECTS = 100
MAX_MODELS = 2000  # of one file; more are no models but ids
STAGED = 70  # percent of the work that is done once the file is read
CHECKED = 85
ROW_GROUP = 20_000  # rows of one Parquet row group: bounds what a writer holds, also with long prompts
_HASHED = ("prompt", "parameters")
_TEXT = tuple(name for name in FIELDS if name not in _HASHED)


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
    staged_bytes: int = MAX_STAGED  # of text that the calls may take on the way
    seconds: float = MAX_SECONDS  # after which the conversion is stopped


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came of it."""

    source: str  # the importer that understood the file
    columns: Mapping[str, str]  # field -> column it was read from
    rows: int
    rejected: int
    rejects: tuple[Reject, ...]  # the first KEPT_REJECTS, by line
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]  # what was assumed, in sentences
    first_call_at: datetime | None
    last_call_at: datetime | None
    prices: str  # version of the catalogue


Progress = Callable[[float], None]  # percent, 0-100


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
    check_price_as(order.price_as or "", order.catalogue, order.now)
    deadline = Deadline(order.seconds)
    table = open_table(order.source)
    importer = importer_for(table.columns, order.mapping)
    with TemporaryDirectory(prefix=SCRATCH, dir=order.target.parent) as scratch:
        staged = Path(scratch) / "staged.csv"
        tally = _stage(table, importer, staged, order, deadline, progress)
        progress(STAGED)
        with _workbench(order, Path(scratch)) as connection, deadline.stopping(connection):
            return _settle(connection, staged, order, table, importer, tally, progress)


@dataclass
class _Tally:
    """Rows that could not even be read."""

    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)

    def add(self, reject: Reject) -> None:
        self.rejected += 1
        if len(self.rejects) < KEPT_REJECTS:
            self.rejects.append(reject)


@contextmanager
def _workbench(order: Order, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with confined(folders=(order.target.parent,), scratch=scratch, memory_mib=order.memory_mib) as connection:
        for macro in checks.MACROS:
            connection.execute(macro)
        yield connection


def _stage(
    table: Table, importer: Importer, staged: Path, order: Order, deadline: Deadline, progress: Progress
) -> _Tally:
    """Write the fields of every readable row to `staged`, prompts hashed, in the order line, _TEXT, hashes, prompt."""
    tally, size = _Tally(), max(1, order.source.stat().st_size)
    hashed = _hasher(keep_prompt=not order.metadata_only)
    with staged.open("wb") as file:
        # Every value in quotes, so that what a value looks like never matters to who reads it.
        writer = csv.writer(BoundedFile(file, staged.parent, order.staged_bytes), quoting=csv.QUOTE_NONNUMERIC)
        records = table.records(lambda read: progress(STAGED * min(1.0, read / size)))
        for number, record in enumerate(records, start=1):
            deadline.check()
            refuse_endless(number)
            if isinstance(record, Reject):
                tally.add(record)
                continue
            line, row = record
            try:
                writer.writerow((line, *hashed(importer.values(row))))
            except OverlongRow:
                tally.add(Reject(line=line, column=None, reason=f"The row is longer than {MAX_FIELD:,} characters."))
    return tally


def _hasher(*, keep_prompt: bool) -> Callable[[list[str | None]], list[str]]:
    """Replaces prompt and parameters of a call by hashes, the prompt's text at the end if it is kept.

    The key of the hash is made for one import and kept nowhere: nobody, in this organization or another, can test
    whether a text they guess was among the prompts.
    """
    key = secrets.token_bytes(32)
    prompt, parameters = FIELDS.index("prompt"), FIELDS.index("parameters")
    texts = [FIELDS.index(name) for name in _TEXT]

    def hashed(values: list[str | None]) -> list[str]:
        call = [(values[index] or "").replace("\0", "") for index in texts]
        text = values[prompt] or ""
        kept = text.replace("\0", "") if keep_prompt else ""
        if sum(map(len, call)) + len(kept) > MAX_FIELD:
            raise OverlongRow
        return [*call, _hash(key, text), _hash(key, values[parameters] or ""), kept]

    return hashed


def _hash(key: bytes, text: str) -> str:
    if not text:
        return ""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()


def _settle(
    connection: duckdb.DuckDBPyConnection,
    staged: Path,
    order: Order,
    table: Table,
    importer: Importer,
    tally: _Tally,
    progress: Progress,
) -> Conversion:
    """Check, decide the conventions, price and write."""
    _open_staged(connection, staged)
    unit = _unit(connection)
    _check(connection, staged.with_name("checked.parquet"), order, table, unit)
    progress(CHECKED)
    verdicts = decide(connection, order.catalogue, documented=importer.documented)
    _apply(connection, verdicts)
    rejected, rejects = _rejects(connection, tally, importer)
    _price_list(connection, order)
    unfinished = staged.with_name("calls.parquet")
    connection.execute(f"COPY ({_priced_sql()}) TO {quoted(str(unfinished.resolve()))} {_FORMAT}")
    rows, first, last = _written(connection, unfinished)
    if not rows:
        raise _no_calls(rejected, rejects)
    unfinished.replace(order.target)
    progress(100)
    return Conversion(
        source=importer.kind,
        columns=dict(importer.columns),
        rows=rows,
        rejected=rejected,
        rejects=rejects,
        verdicts=tuple(verdicts),
        notes=(*importer.notes, *_notes(order, importer, verdicts, unit)),
        first_call_at=first and first.replace(tzinfo=UTC),
        last_call_at=last and last.replace(tzinfo=UTC),
        prices=order.catalogue.version,
    )


_FORMAT = f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
_STAGED = ("prompt_hash", "parameters_hash", "prompt")


def _open_staged(connection: duckdb.DuckDBPyConnection, staged: Path) -> None:
    columns = {"line": "BIGINT"} | {f"raw_{name}": "VARCHAR" for name in _TEXT} | dict.fromkeys(_STAGED, "VARCHAR")
    shape = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    size = MAX_LINE + 1024**2  # bytes of one line
    connection.execute(
        f"""CREATE VIEW staged AS SELECT * FROM read_csv({quoted(str(staged.resolve()))}, columns = {{{shape}}},
            auto_detect = false, header = false, delim = ',', quote = '"', escape = '"', new_line = '\\r\\n',
            nullstr = '', allow_quoted_nulls = true, max_line_size = {size}, parallel = false)"""  # noqa: S608
    )


def _unit(connection: duckdb.DuckDBPyConnection) -> float | None:
    """Seconds of one step if times are counted from the start of the trace; None if they are calendar times.

    Numbers below a billion would all be before 2002: whole ones are taken for milliseconds, others for seconds.
    """
    said, numbers, largest, whole = connection.execute(
        """SELECT count(t), count(*) FILTER (is_number(t)), max(try_cast(t AS DOUBLE)), bool_and(NOT contains(t, '.'))
           FROM (SELECT said(raw_started_at) AS t FROM staged)"""
    ).fetchall()[0]
    if not said or said != numbers or largest >= 1e9:
        return None
    return 1e-3 if whole else 1.0


def _check(
    connection: duckdb.DuckDBPyConnection, checked: Path, order: Order, table: Table, unit: float | None
) -> None:
    """Write the typed rows to `checked` and show the good ones as `parsed`, with the moment whose price holds."""
    query = checks.checked_sql(now=order.now, decimal_comma=table.decimal_comma, unit=unit)
    connection.execute(f"COPY ({query}) TO {quoted(str(checked.resolve()))} {_FORMAT}")
    source = f"read_parquet({quoted(str(checked.resolve()))})"
    connection.execute(f"CREATE VIEW checked AS SELECT * FROM {source}")  # noqa: S608
    if not order.price_as:
        _refuse_many_models(connection)
    model = quoted(order.price_as) if order.price_as else "model"
    provider = "NULL" if order.price_as else "provider"
    today = unit is not None or order.price_as is not None
    connection.execute(
        f"""CREATE VIEW parsed AS SELECT * REPLACE ({model} AS model, {provider}::VARCHAR AS provider),
            {_moment(connection, order, today=today)} AS price_moment FROM checked WHERE reason IS NULL"""  # noqa: S608
    )


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


def _rejects(
    connection: duckdb.DuckDBPyConnection, tally: _Tally, importer: Importer
) -> tuple[int, tuple[Reject, ...]]:
    """How many rows were turned away in all, and the first of them."""
    found = connection.execute(
        f"""SELECT line, bad_column, reason, count(*) OVER () FROM (
              SELECT line, bad_column, reason FROM checked WHERE reason IS NOT NULL UNION ALL
              SELECT line, 'cached_read_tokens', 'More cached tokens than input tokens.' FROM counted
              WHERE {_CONTRADICTS}) ORDER BY line LIMIT {KEPT_REJECTS}"""  # noqa: S608
    ).fetchall()
    rejects = [
        Reject(line=line, column=importer.columns.get(bad, bad), reason=reason) for line, bad, reason, _ in found
    ]
    total = tally.rejected + (found[0][3] if found else 0)
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


def _priced_sql() -> str:
    """The final rows, in the order and types of COLUMNS."""
    derived = {
        "ended_at": "coalesce(c.ended_at, c.started_at + to_microseconds((c.latency_ms * 1000)::BIGINT))",
        "cached_answer": "coalesce(c.cached_answer, false)",
        "billed": _BILLED,
        "cost_pico": f"CASE WHEN {_BILLED} THEN {cost_sql('c', 't')} ELSE 0 END",
        "price_source": "t.source",
    }
    selected = ", ".join(
        f"({derived.get(name, f'c.{named(name)}')})::{kind} AS {named(name)}" for name, kind in COLUMNS.items()
    )
    return f"""
        SELECT {selected} FROM counted c LEFT JOIN tariff t
          ON t.model = c.model AND t.provider = coalesce(c.provider, '') AND t.moment = c.price_moment
         AND t.tier = {tier_sql("c")} AND {band_sql("c", "t")}
        WHERE NOT ({_CONTRADICTS})"""  # noqa: S608


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


def _no_calls(rejected: int, rejects: tuple[Reject, ...]) -> NoCalls:
    if not rejects:
        return NoCalls("The file has a header but no rows. Export it again and look that it has calls.")
    first = rejects[0]
    where = f"line {first.line}" + (f", column {first.column!r}" if first.column else "")
    return NoCalls(f"None of {rejected:,} rows is a usable call. The first, {where}: {first.reason}", rejects, rejected)


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
