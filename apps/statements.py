"""Statements that are prepared, for every floor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Model

M = TypeVar("M", bound=Model)
Row = tuple[Any, ...]


def fetch(statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    """The rows that `statement` returns. It is prepared, so that it is planned once per connection.

    JSON comes as text.
    """
    with _cursor() as cursor:
        return cursor.execute(statement, parameters, prepare=True).fetchall()


def loaded(model: type[M], values: Mapping[str, Any]) -> M:
    """The instance behind the columns of a row; those that were not asked for are read when somebody needs them."""
    known = [field.attname for field in model._meta.concrete_fields if field.attname in values]
    return model.from_db(DEFAULT_DB_ALIAS, known, [values[name] for name in known])


@contextmanager
def _cursor() -> "Iterator[psycopg.Cursor[Row]]":
    """A cursor that binds on the server, which Django's own does not; errors come as Django's."""
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        yield cursor
