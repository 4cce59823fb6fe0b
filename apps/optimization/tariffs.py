"""Prices inside DuckDB: rates resolved once per distinct key, then joined to calls by the one arithmetic of pricing."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from apps.llm.pricing import Band, Rates

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


def _rows(key: Key, rates: Rates | None) -> Iterator[dict[str, Any]]:
    if rates is None or (key.batch and rates.batch is None):
        return
    moment = key.moment.isoformat(sep=" ")
    for band in rates.bands(batch=key.batch):
        yield asdict(key) | {"moment": moment, "source": rates.provenance} | asdict(band)
