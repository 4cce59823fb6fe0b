"""Statements of our own are planned once per connection."""

import os
from uuid import uuid4

import psycopg
import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from apps.statements import change, fetch

pytestmark = pytest.mark.django_db

SUM = "select %(one)s::int + %(two)s::int"


def prepared(statement):
    with connection.cursor() as cursor:
        cursor.execute(
            "select generic_plans, custom_plans from pg_prepared_statements where statement like %s", [statement]
        )
        return cursor.fetchall()


def test_a_statement_is_prepared_at_its_first_use_and_never_planned_for_its_parameters():
    for number in range(7):
        assert fetch(SUM, {"one": number, "two": 1}) == [(number + 1,)]

    assert prepared("select $1::int + $2::int") == [(7, 0)]


def test_a_change_tells_how_many_rows_it_changed_and_is_prepared():
    assert change(
        "update accounts_plan set max_running_runs = %(most)s where code = %(plan)s", {"most": 5, "plan": "free"}
    )
    assert (
        change("update accounts_plan set max_running_runs = %(most)s where code = %(plan)s", {"most": 5, "plan": "x"})
        == 0
    )

    assert prepared("update accounts_plan set max_running_runs%") == [(2, 0)]


@pytest.mark.django_db(transaction=True)
def test_a_column_that_another_process_has_changed_costs_one_try():
    statement = "select name from accounts_organization where id = %(id)s"
    fetch(statement, {"id": uuid4()})
    with psycopg.connect(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"]) as other:
        other.execute("alter table accounts_organization alter column name type varchar(201)")
    try:
        with pytest.raises(OperationalError):
            fetch(statement, {"id": uuid4()})
        connection.close()

        assert fetch(statement, {"id": uuid4()}) == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("alter table accounts_organization alter column name type varchar(200)")


def test_an_error_comes_as_djangos():
    with pytest.raises(IntegrityError), transaction.atomic():
        change("update accounts_plan set code = %(code)s", {"code": "free"})
