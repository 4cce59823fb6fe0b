"""Four measures of use, and calls that grow too old."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from apps.agents.models import Report
from apps.conversations.models import Question, Run, Thread
from apps.optimization import retention, services
from apps.optimization.metrics import business_metrics
from apps.optimization.models import Dataset, Outcome, Recommendation, StoredAnalysis
from tests.optimization.conftest import call

NOW = timezone.now()


@pytest.fixture
def measured(acme):
    return lambda: business_metrics(organization_id=acme.pk)


@pytest.fixture
def asks(acme):
    def asks(user, *, answered=None, at=NOW):
        thread = Thread.objects.create(organization=acme, user=user)
        run = Run.objects.create(organization=acme, user=user, thread=thread, workflow="w", key=str(uuid4()))
        Question.objects.create(
            run=run, step="s", call="data", reason="data", asked_at=at, expires_at=at, answered_at=answered
        )

    return asks


@pytest.fixture
def adopted(acme):
    def adopted(dataset, *, confidence=0.9, held=()):
        analysis = StoredAnalysis.objects.create(
            organization=acme, dataset=dataset, created_by=uuid4(), kind="savings", inputs=str(uuid4())
        )
        made = Recommendation.objects.create(
            organization=acme,
            dataset=dataset,
            analysis=analysis,
            strategy=str(uuid4())[:20],
            saving_usd=1,
            sufficiency=90,
            confidence=confidence,
            adopted_at=NOW,
        )
        for number, true in enumerate(held):
            Outcome.objects.create(
                recommendation=made,
                from_at=NOW,
                to_at=NOW + timedelta(days=number),
                calls=1,
                predicted_usd=1,
                realised_usd=1,
                held=true,
            )
        return made

    return adopted


def test_where_nothing_happened_nothing_is_said(measured):
    found = measured()

    assert (found.conversion_rate.value, found.value_delivery_rate.value) == (None, None)
    assert (found.confidence_accuracy.value, found.confidence_accuracy.brier) == (None, None)
    assert found.time_to_value.first_recommendation is None


def test_conversion_counts_people_who_answered_or_uploaded_after_they_were_asked(
    measured, asks, import_dataset, alice, bob, vera, charlie
):
    import_dataset(bob, [call()])
    asks(alice, answered=NOW)
    asks(alice)
    asks(bob, at=NOW + timedelta(hours=1))  # his file came before he was asked

    assert (measured().conversion_rate.of, measured().conversion_rate.out_of) == (1, 2)

    Dataset.objects.update(created_at=NOW + timedelta(hours=2))
    assert measured().conversion_rate.value == 1


def test_value_is_delivered_where_incomplete_data_proved_a_saving(measured, acme, import_dataset, alice):
    dataset = import_dataset(alice, [call()])

    def analysed(state, saving, up_to):
        StoredAnalysis.objects.all().delete()
        StoredAnalysis.objects.create(
            organization=acme,
            dataset=dataset,
            created_by=alice.pk,
            kind="savings",
            inputs=str(uuid4()),
            state="ready",
            result={
                "sufficiency": {"overall": {"state": state}},
                "strategies": [{"saving_usd": saving, "up_to": up_to}],
            },
        )
        return measured().value_delivery_rate

    assert analysed("minimal", "2", False).value == 1
    assert analysed("minimal", "2", True).value == 0
    assert analysed("minimal", None, False).value == 0
    assert analysed("sufficient", "2", False).out_of == 0


def test_confidence_is_compared_with_what_came_true(measured, adopted, import_dataset, alice):
    dataset = import_dataset(alice, [call()])
    for _ in range(5):
        adopted(dataset, confidence=1.0, held=[True])
    assert (measured().confidence_accuracy.value, measured().confidence_accuracy.brier) == (None, 0)

    for _ in range(5):
        adopted(dataset, confidence=0.5, held=[False])
    found = measured().confidence_accuracy
    assert (found.value, found.brier, found.stated, found.came_true) == (1, 0.125, 0.75, 0.5)


def test_time_to_value_begins_with_the_upload(measured, adopted, import_dataset, alice):
    dataset = import_dataset(alice, [call()])
    Dataset.objects.update(created_at=NOW - timedelta(hours=2))
    adopted(dataset, held=[True])

    found = measured().time_to_value

    assert found.first_adoption == pytest.approx(7200)
    assert found.first_recommendation == pytest.approx(7200, abs=900)


def test_measures_are_those_of_the_own_organization(client_for, asks, alice, charlie):
    asks(alice)
    of = lambda user: client_for(user).get("/api/metrics/").json()["business"]["conversion_rate"]["out_of"]  # noqa: E731

    assert (of(alice), of(charlie)) == (1, 0)
    assert client_for(None).get("/api/metrics/").status_code == 401


# --- Retention -------------------------------------------------------------------------------------------------------


def test_calls_that_are_too_old_leave_the_files_and_the_count(import_dataset, as_principal, alice):
    old, young = "2026-09-01T12:00:00Z", "2026-10-30T12:00:00Z"
    dataset = import_dataset(alice, [call(timestamp=old), call(timestamp=young)])
    later = import_dataset(alice, [call(timestamp=old, model="gpt-5")], continues=dataset.pk)
    Dataset.objects.filter(pk=dataset.pk).update(keep_days=30)
    now = timezone.datetime.fromisoformat("2026-11-01T00:00:00+00:00")

    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk):
        assert retention.remove_old_calls(now) == 0  # an analysis reads the files many times
    assert retention.remove_old_calls(now) == 2
    assert retention.remove_old_calls(now) == 0

    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert calls.rows("SELECT strftime(started_at, '%Y-%m-%d') FROM calls") == [("2026-10-30",)]
    dataset.refresh_from_db()
    later.refresh_from_db()
    assert (dataset.rows, later.rows, dataset.first_call_at.day) == (1, 0, 30)


def test_without_a_limit_everything_stays(import_dataset, alice):
    import_dataset(alice, [call(timestamp="2020-01-01T00:00:00Z")])

    assert retention.remove_old_calls(NOW) == 0


def test_with_a_dataset_go_the_reports_about_it(import_dataset, client_for, acme, alice):
    mine, other = import_dataset(alice, [call()]), import_dataset(alice, [call(), call()])
    for dataset in (mine, other):
        body = {"title": "t", "dataset_id": str(dataset.pk)}
        Report.objects.create(organization=acme, user_id=alice.pk, run=uuid4(), body=body)

    client_for(alice).delete(f"/api/datasets/{mine.pk}/")

    assert [report.body["dataset_id"] for report in Report.objects.all()] == [str(other.pk)]
