"""Prices inside DuckDB: rates resolved once per distinct key, then joined to calls by the one arithmetic of pricing."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from apps.llm.pricing import Band, Rates, band_sql
from apps.optimization.calls import Calls

_BAND = dict.fromkeys(Band.__dataclass_fields__, "BIGINT")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a price depends on, besides the size of the call."""

    model: str
    provider: str  # "" where the source does not say
    moment: datetime  # UTC, without an offset, as DuckDB keeps it
    batch: bool = False

    @property
    def at(self) -> datetime:
        return self.moment.replace(tzinfo=UTC)


def create_tariff(
    connection: duckdb.DuckDBPyConnection, table: str, keys: Iterable[Key], rates_of: Callable[[Key], Rates | None]
) -> None:
    """Create `table` with one row per key and band; keys without rates get no row, so their cost stays unknown.

    `table` is a name of ours, never a user's. Columns: model, provider, moment, batch, source, and those of `Band`.
    """
    shape = {"model": "VARCHAR", "provider": "VARCHAR", "moment": "TIMESTAMP", "batch": "BOOLEAN", "source": "VARCHAR"}
    rows = json.dumps([row for key in keys for row in _rows(key, rates_of(key))])
    connection.execute(
        f"CREATE TEMP TABLE {table} AS SELECT unnest(from_json(?::JSON, ?), recursive := true)",
        [rows, json.dumps([shape | _BAND])],
    )


def create_own_tariff(calls: Calls, table: str) -> None:
    """Create or replace `table` with the rates that the billed, priced calls have paid; join it by `joined_sql`."""
    keys = calls.rows(
        """SELECT DISTINCT model, coalesce(provider, ''), price_moment, coalesce(batch, false) FROM calls
           WHERE billed AND cost_pico IS NOT NULL AND model IS NOT NULL"""
    )
    calls.connection.execute(f"DROP TABLE IF EXISTS {table}")
    create_tariff(
        calls.connection,
        table,
        (Key(model=model, provider=provider, moment=moment, batch=batch) for model, provider, moment, batch in keys),
        lambda key: calls.catalogue.rates(model=key.model, provider=key.provider, at=key.at),
    )


def joined_sql(call: str, band: str) -> str:
    """The SQL condition under which `band` of an own tariff prices a call, or what is left of it."""
    return (
        f"{band}.model = {call}.model AND {band}.provider = coalesce({call}.provider, '') "
        f"AND {band}.moment = {call}.price_moment AND {band}.batch = coalesce({call}.batch, false) "
        f"AND {band_sql(call, band)}"
    )


def _rows(key: Key, rates: Rates | None) -> Iterator[dict[str, Any]]:
    if rates is None or (key.batch and rates.batch is None):
        return
    moment = key.moment.isoformat(sep=" ")
    for band in rates.bands(batch=key.batch):
        yield asdict(key) | {"moment": moment, "source": rates.provenance} | asdict(band)
