"""Calls that were booked before answers were journaled stay on the bill, and the way back is open."""

from decimal import Decimal
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.llm import ledger
from apps.llm.models import ModelCall

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE, AFTER = "0002_price", "0003_journal_of_answers"


@pytest.fixture(autouse=True)
def _latest():
    yield
    call_command("migrate", "llm", verbosity=0)


def booked(acme, alice, run):
    """Two calls of one step as the release before wrote them."""
    old = MigrationExecutor(connection).loader.project_state([("llm", BEFORE)]).apps.get_model("llm", "ModelCall")
    tokens = {"input_tokens": 10, "output_tokens": 5, "cost_usd": Decimal("0.5")}
    for _ in range(2):
        old.objects.create(
            organization_id=acme.pk,
            user_id=alice.pk,
            run=run,
            step="data",
            attempt=1,
            provider="p",
            model="m",
            seconds=2.5,
            **tokens,
        )


def test_calls_booked_earlier_are_answered_ones_that_answer_nobody(acme, alice, as_principal):
    run = uuid4()
    call_command("migrate", "llm", BEFORE, verbosity=0)
    booked(acme, alice, run)

    call_command("migrate", "llm", AFTER, verbosity=0)

    usage = ledger.usage_of_run(run)
    assert (usage["model_calls"], usage["input_tokens"], usage["cost_usd"]) == (2, 20, "1")
    for call in ModelCall.objects.all():
        assert (call.state, call.answer) == ("answered", None)
        assert (call.finished_at - call.started_at).total_seconds() == 2.5


def test_a_cut_call_can_be_taken_back_to_the_release_before(acme, alice, as_principal):
    asker = ledger.Asker(principal=as_principal(alice), run=uuid4(), step="data", attempt=1)
    ledger.cut(ledger.ask(asker, key="k", provider="p", model="m").call)

    call_command("migrate", "llm", BEFORE, verbosity=0)

    with connection.cursor() as cursor:
        cursor.execute("select input_tokens, seconds, cost_usd from llm_modelcall")
        assert cursor.fetchall() == [(0, 0.0, None)]
