"""Every page of the admin opens: a model without a row here fails."""

import pytest
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from apps.accounts import services as accounts
from apps.accounts.models import User
from apps.agents.models import Report
from apps.conversations import services as conversations
from apps.conversations.models import Message, Question, Run, Step, ToolCall
from apps.execution import services as execution
from apps.execution.models import WorkerProcess
from apps.llm.models import ModelCall, Price
from apps.operations.models import CircuitBreaker, FeatureFlag, FlagOutcome, ReleaseStop
from apps.optimization.models import Dataset, PriceAlert, Recommendation, StoredAnalysis

REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
WITHOUT_ROWS = {CircuitBreaker}  # they are in Redis, and have one page
labelled = pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)


@pytest.fixture
def rows(alice, acme, as_principal, monkeypatch):
    """One row of every model that the admin shows, each with whatever its page lists beside it."""
    monkeypatch.setattr("apps.execution.doorbell._ring", lambda run: None)
    principal = as_principal(alice)
    key, _ = accounts.create_api_key(principal, name="script", scope="read", days=1)
    thread = conversations.create_thread(principal=principal, title="Mine")
    run = Run.objects.get(pk=execution.start_run(principal=principal, thread_id=thread.pk, text="Where?").run)
    step = Step.objects.create(run=run, name="data", agent="data", position=0)
    ToolCall.objects.create(run=run, step=step.name, call="one", tool="spend_breakdown", effect="pure")
    Question.objects.create(run=run, step=step.name, call="one", reason="data", expires_at=timezone.now())
    Message.objects.create(thread=thread, run=run, role="assistant", text="There.")
    flag = FeatureFlag.objects.create(name="new-team", stage=FeatureFlag.Stage.CANARY)
    owned = {"organization": acme, "user_id": alice.pk, "run": run.pk}
    attempt = {"username": "eve@example.com", "ip_address": "127.0.0.1", "user_agent": "x", "path_info": "/"}
    dataset = Dataset.objects.create(organization=acme, created_by=alice.pk, name="calls", file_bytes=1)
    price = Price.objects.create(model="gpt-4o", input=1, output=2, effective_from="2026-01-01", source="contract")
    made = [
        *(alice, acme, acme.plan, key, thread, run, flag),
        FlagOutcome.objects.create(flag=flag, round=0, user=alice, run_id=run.pk, succeeded=True),
        ReleaseStop.objects.create(disabled_by=alice),
        price,
        price.history.get(),
        ModelCall.objects.create(**owned, step="data", attempt=1, key="k", provider="openai", model="gpt-4o"),
        dataset,
        PriceAlert.objects.create(organization=acme, dataset=dataset, model="gpt-4o", kind="input", new="3"),
        StoredAnalysis.objects.create(
            organization=acme, dataset=dataset, created_by=acme.pk, kind="savings", inputs="x"
        ),
        Recommendation.objects.create(
            organization=acme, dataset=dataset, strategy="routing", saving_usd=1, sufficiency=90, confidence=0.9
        ),
        Report.objects.create(**owned, body={"title": "Savings"}),
        WorkerProcess.objects.create(kind="agents", host="basement", pid=1),
        AccessAttempt.objects.create(**attempt, get_data="", post_data="", failures_since_start=1),
        AccessFailureLog.objects.create(**attempt),
        AccessLog.objects.create(**attempt),
    ]
    return {type(row): row for row in made}


@pytest.fixture
def operator(plans):
    return User.objects.create_superuser("operator@example.com", "correct horse battery")


@pytest.fixture
def desk(client_for, operator):
    return client_for(operator)


def address(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_every_model_of_the_admin_has_a_row_here(rows):
    assert set(rows) | WITHOUT_ROWS == set(REGISTERED)


@labelled
def test_every_list_opens(desk, rows, model):
    assert desk.get(address(model, "changelist")).status_code == 200
    assert desk.get(address(model, "changelist"), {"q": "a"}).status_code == 200


@labelled
def test_every_form_for_a_new_row_opens(desk, rows, rf, operator, model):
    request = rf.get("/")
    request.user = operator
    allowed = admin.site._registry[model].has_add_permission(request)

    assert desk.get(address(model, "add")).status_code == (200 if allowed else 403)


@labelled
def test_every_row_opens_with_its_history(desk, rows, model):
    if model in WITHOUT_ROWS:
        return
    for page in ("change", "history"):
        assert desk.get(address(model, page, rows[model].pk)).status_code == 200, page


def test_the_index_opens(desk):
    assert desk.get("/admin/").status_code == 200


# --- What it says ----------------------------------------------------------------------------------------------------


def words(answer):
    return " ".join(strip_tags(answer.content.decode()).split())


def test_the_admin_is_called_netra_and_names_its_sections_in_words(desk, client):
    for answer in (desk.get("/admin/"), client.get("/admin/login/")):
        assert "Netra" in words(answer)
        assert "Django" not in words(answer)

    sections = [section["name"] for section in desk.get("/admin/").context["available_apps"]]
    assert {"Models", "Sign-ins"} <= set(sections)
    assert not {"Llm", "Axes"} & set(sections)


def test_who_is_signed_in_and_no_operator_is_told_why_the_admin_stays_closed(client_for, alice):
    shown = words(client_for(alice).get("/admin/", follow=True))

    assert "You are signed in as alice@example.com, who is not an operator." in shown


def test_who_is_not_signed_in_is_just_asked_to(client):
    assert "You are signed in" not in words(client.get("/admin/login/"))
