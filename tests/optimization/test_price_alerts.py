"""Prices in use: where they are from, how much rests on assumed ones, and an alert when one changes."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from apps.errors import Forbidden
from apps.llm.models import Price
from apps.optimization.models import Dataset, PriceAlert, PriceWatch
from apps.optimization.prices import changes, listed, prices_in_use
from apps.optimization.services import dismiss_alert, watch_prices
from tests.optimization.conftest import call

ALERTS = "/api/models/alerts/"
TODAY = datetime(2026, 11, 20, 8, tzinfo=UTC)
LATER = datetime(2026, 11, 21, 8, tzinfo=UTC)
CALLS = [call(), call(model="gpt-4o-mini"), call(model="llama-in-the-cellar")]


def own(organization, **more):
    return Price.objects.create(
        organization=organization,
        **{"model": "gpt-4o", "input": 2, "output": 10, "cached_read": Decimal("1.25"), "source": "contract"}
        | {"cached_write": Decimal("2.5"), "input_audio": Decimal("2.5"), "effective_from": date(2026, 1, 1)}
        | more,
    )


def told():
    return [(a.model, a.kind, a.old, a.new, a.concerns) for a in PriceAlert.objects.order_by("id")]


@pytest.fixture
def dataset(import_dataset, alice):
    """Three calls of October; their prices were looked at on the 20th of November."""
    made = import_dataset(alice, CALLS)
    watch_prices(now=TODAY)
    return made


# --- In use ----------------------------------------------------------------------------------------------------------


def test_the_share_of_the_spend_that_rests_on_assumed_prices_is_said(write, calls_of):
    early, late = (
        call(timestamp="2024-06-01T12:00:00Z"),
        call(timestamp="2026-10-31T12:00:00Z", model="mistral-large-4"),
    )

    with calls_of(write("calls.csv", [early, late])) as calls:
        found = prices_in_use(calls)

    by_model = {price.model: price for price in found.prices}
    assert by_model["gpt-4o"].assumed_share == 1
    assert by_model["gpt-4o"].price_source.endswith("assumed, the list names no price of that day")
    assert by_model["mistral-large-4"].assumed_share == 0
    # 1,000 x 2.5 + 100 x 10 beside 1,000 x 0.7 + 100 x 2.1, in millionths of a dollar.
    assert found.assumed_share == pytest.approx(3500 / (3500 + 910), abs=1e-6)


@pytest.mark.django_db
def test_prices_in_use_are_told_with_their_source_and_an_unknown_one_is_unknown(dataset, client_for, bob):
    found = client_for(bob).get(f"/api/datasets/{dataset.pk}/prices/").json()

    assert [price["model"] for price in found["prices"]] == ["gpt-4o", "gpt-4o-mini", "llama-in-the-cellar"]
    dear, _, unknown = found["prices"]
    assert (dear["cost_usd"], dear["rates"]["output"], dear["tier"]) == ("0.0035", "10", "standard")
    assert (dear["provenance"]["source"], dear["provenance"]["entry"]) == ("genai-prices", "openai/gpt-4o")
    assert dear["price_source"].startswith("genai-prices")
    assert (unknown["cost_usd"], unknown["share"], unknown["rates"], unknown["provenance"]) == (None, None, {}, None)


def test_rates_that_price_alike_are_alike_and_each_difference_has_a_name(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        flat, tiered = (
            listed(calls.catalogue.rates(model=model, at=TODAY)) for model in ("claude-opus-4-5", "claude-sonnet-4-5")
        )

    assert changes(flat, flat) == []
    assert {change.kind: (change.old, change.new) for change in changes(flat, tiered)}.items() >= {
        "input": ("5", "3"),
        "output above 200,000 tokens": (None, "22.5"),
    }.items()


# --- Alerts ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_stays_as_it_was_raises_no_alert(dataset):
    assert [watch_prices(now=now) for now in (TODAY, LATER)] == [0, 0]
    assert PriceWatch.objects.get().seen_at == TODAY


@pytest.mark.django_db
def test_an_own_price_for_the_days_of_the_calls_and_for_today_concerns_both(dataset, acme):
    own(acme)

    watch_prices(now=LATER)

    [alert] = PriceAlert.objects.all()
    assert told() == [("gpt-4o", "input", "2.5", "2", "both")]
    assert (alert.provenance, alert.effective_from) == ("own price: contract", datetime(2026, 1, 1, tzinfo=UTC))
    # 0.0035 of 0.0035 + 0.00021 dollars.
    assert alert.share == pytest.approx(0.943396, abs=1e-6)


@pytest.mark.django_db
def test_an_own_price_that_ended_concerns_only_the_calls_and_one_that_is_new_only_those_to_come(dataset, acme):
    own(acme, effective_to=date(2026, 11, 1))
    own(acme, input=3, effective_from=date(2026, 11, 21))

    watch_prices(now=TODAY)
    assert told() == [("gpt-4o", "input", "2.5", "2", "past")]

    watch_prices(now=LATER)
    assert told()[1:] == [("gpt-4o", "input", "2.5", "3", "current")]


@pytest.mark.django_db
def test_a_price_that_goes_or_comes_is_told_as_unknown_before_or_after(dataset, acme):
    price = own(acme, model="llama-in-the-cellar", effective_from=date(2026, 11, 1))
    watch_prices(now=LATER)
    price.delete()
    watch_prices(now=LATER)

    inputs = [row[2:4] for row in told() if row[1] == "input"]
    assert inputs == [(None, "2"), ("2", None)]


@pytest.mark.django_db
def test_a_change_that_the_list_announced_is_told_on_its_day(import_dataset, alice):
    import_dataset(alice, [call(model="gemini-4-argon")])
    days = [datetime(2026, *day, 8, tzinfo=UTC) for day in ((11, 28), (11, 30), (12, 1), (12, 2))]

    assert [watch_prices(now=now) > 0 for now in days] == [False, False, True, False]
    first = PriceAlert.objects.order_by("id").first()
    assert (first.kind, first.old, first.new, first.concerns) == ("input", "2", "4", "current")
    assert first.effective_from == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.django_db
def test_a_model_that_is_cheaper_by_night_does_not_change_every_evening(import_dataset, alice):
    import_dataset(alice, [call(model="deepseek-chat", provider="deepseek", timestamp="2025-06-01T12:00:00Z")])
    hours = [datetime(2026, 11, 20, hour, 45, tzinfo=UTC) for hour in (2, 12, 20, 23)]

    assert [watch_prices(now=now) for now in hours] == [0] * 4
    assert PriceWatch.objects.get().prices[0]["now"]


@pytest.mark.django_db
def test_the_prices_of_others_alert_nobody(dataset, charlie):
    own(charlie.memberships.get().organization)

    assert watch_prices(now=LATER) == 0


@pytest.mark.django_db
def test_calls_that_came_later_are_watched_from_then_on(dataset, acme):
    Dataset.objects.filter(pk=dataset.pk).update(finished_at=LATER)
    own(acme, effective_from=date(2026, 11, 21))

    watch_prices(now=LATER)

    assert PriceWatch.objects.get().imported_at == LATER
    assert told() == [("gpt-4o", "input", "2.5", "2", "current")]
    assert watch_prices(now=LATER) == 0


@pytest.mark.django_db
def test_a_dataset_whose_calls_cannot_be_read_leaves_the_others_watched(import_dataset, alice, dataset, settings):
    PriceWatch.objects.all().delete()
    gone = import_dataset(alice, [call(model="gpt-4o-mini")])
    for file in settings.MEDIA_ROOT.rglob(f"{gone.pk}/*.parquet"):
        file.unlink()

    watch_prices(now=LATER)

    assert [seen.dataset_id for seen in PriceWatch.objects.all()] == [dataset.pk]


# --- Over REST -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_alert_is_shown_until_somebody_dismisses_it(dataset, acme, client_for, alice, bob, charlie):
    own(acme)
    watch_prices(now=LATER)
    [shown] = client_for(bob).get(ALERTS).json()["results"]

    assert (shown["dataset"], shown["dataset_name"], shown["new"]) == (str(dataset.pk), dataset.name, "2")
    assert client_for(charlie).get(ALERTS).json()["results"] == []

    first = client_for(bob).post(f"{ALERTS}{shown['id']}/dismiss/").json()
    again = client_for(alice).post(f"{ALERTS}{shown['id']}/dismiss/").json()

    assert first["dismissed_by"] == again["dismissed_by"] == str(bob.pk)
    assert first["dismissed_at"] == again["dismissed_at"] is not None
    assert client_for(bob).get(ALERTS).json()["results"] == []
    assert len(client_for(bob).get(ALERTS, {"dismissed": "true"}).json()["results"]) == 1


@pytest.mark.django_db
def test_a_viewer_and_a_stranger_dismiss_nothing(dataset, acme, client_for, as_principal, bob, vera, charlie):
    own(acme)
    watch_prices(now=LATER)
    path = f"{ALERTS}{PriceAlert.objects.get().pk}/dismiss/"

    assert client_for(vera).post(path).status_code == 403
    assert client_for(charlie).post(path).json()["code"] == "alert.not_found"
    assert client_for(bob).post(f"{ALERTS}{uuid4()}/dismiss/").json()["code"] == "alert.not_found"
    with pytest.raises(Forbidden, match="Viewers cannot"):
        dismiss_alert(principal=as_principal(vera), alert_id=PriceAlert.objects.get().pk, now=LATER)
    assert PriceAlert.objects.get().dismissed_at is None


@pytest.mark.django_db
def test_alerts_go_with_their_dataset(dataset, acme):
    own(acme)
    watch_prices(now=LATER)

    Dataset.objects.get(pk=dataset.pk).delete()

    assert not PriceAlert.objects.exists()
    assert not PriceWatch.objects.exists()
