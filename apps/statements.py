"""Statements that are prepared, for every floor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.models import Model

M = TypeVar("M", bound=Model)
Row = tuple[Any, ...]


def fetch(statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    """The rows that `statement` returns. It is prepared, so that it is planned once per connection.

    JSON comes as text.
    """
    with _executed(statement, parameters) as cursor:
        return cursor.fetchall()


def change(statement: str, parameters: Mapping[str, Any]) -> int:
    """Execute `statement`, prepared; answers how many rows it changed."""
    with _executed(statement, parameters) as cursor:
        return cursor.rowcount


@contextmanager
def _executed(statement: str, parameters: Mapping[str, Any]) -> "Iterator[psycopg.Cursor[Row]]":
    here = connections[DEFAULT_DB_ALIAS]
    here.ensure_connection()
    # Django's own cursor does not bind on the server; errors come as Django's all the same.
    with here.wrap_database_errors, psycopg.Cursor(here.connection) as cursor:
        try:
            cursor.execute(statement, parameters, prepare=True)
        except psycopg.errors.FeatureNotSupported as error:
            # A migration has changed a column since the statement was prepared here: the next connection plans it anew.
            here.connection.close()
            here.errors_occurred = True
            raise OperationalError("The connection was older than the last migration; it is replaced.") from error
        yield cursor


def loaded(model: type[M], values: Mapping[str, Any]) -> M:
    """The instance behind the columns of a row; those that were not asked for are read when somebody needs them."""
    known = [field.attname for field in model._meta.concrete_fields if field.attname in values]
    return model.from_db(DEFAULT_DB_ALIAS, known, [values[name] for name in known])
