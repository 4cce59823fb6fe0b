"""Prices of the house's own, and the list of models over REST."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import IntegrityError

from apps.llm.models import Price
from apps.llm.services import catalogue_for

pytestmark = pytest.mark.django_db

MODELS = "/api/models/"
CHANGES = "/api/models/changes/"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def make_price():
    def make(**more):
        return Price.objects.create(
            **{"model": "gpt-4o", "input": 2, "output": 8, "effective_from": date(2026, 1, 1), "source": "contract"}
            | more
        )

    return make


def rates(organization, model="gpt-4o", at=NOW):
    return catalogue_for(organization_id=organization.pk).rates(model=model, at=at)


def test_without_own_prices_the_public_list_holds(acme):
    assert rates(acme).input == Decimal("2.5")


def test_an_organizations_price_is_its_own(make_price, acme, charlie):
    make_price(organization=acme)
    elsewhere = charlie.memberships.get().organization

    assert rates(acme).input == 2
    assert str(rates(acme).provenance) == "own price: contract"
    assert rates(elsewhere).input == Decimal("2.5")


def test_a_price_for_all_gives_way_to_the_organizations(make_price, acme):
    make_price(input=3)
    make_price(input=1, organization=acme)

    assert rates(acme).input == 1


def test_a_price_holds_from_its_first_day_until_before_its_last(make_price, acme):
    make_price(effective_from=date(2026, 3, 1), effective_to=date(2026, 4, 1))

    days = ("2026-02-28T23:59Z", "2026-03-01T00:00Z", "2026-03-31T23:59Z", "2026-04-01T00:00Z")
    assert [rates(acme, at=datetime.fromisoformat(day)).input for day in days] == [
        Decimal("2.5"),
        Decimal(2),
        Decimal(2),
        Decimal("2.5"),
    ]


def test_a_multiplier_makes_the_prices_of_a_tier_and_without_one_they_are_unknown(make_price, acme):
    make_price(batch_multiplier=Decimal("0.5"), priority_multiplier=Decimal("1.75"))

    paid = rates(acme).service
    assert {tier: (own.input, own.output) for tier, own in paid.items()} == {"batch": (1, 4), "priority": (3.5, 14)}
    assert str(paid["priority"].provenance) == "own price: contract, priority"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": -1},
        {"output": 10_001},
        {"output_audio": -1},
        {"cached_read": 10_001},
        {"priority_multiplier": 5},
        {"effective_to": date(2025, 1, 1)},
    ],
    ids=["negative", "too dear", "negative sound", "too dear to read", "no such multiplier", "ends before it starts"],
)
def test_an_impossible_price_is_refused_by_the_database(make_price, fields):
    with pytest.raises(IntegrityError, match="price_"):
        make_price(**fields)


def test_two_prices_cannot_start_on_one_day(make_price):
    make_price()

    with pytest.raises(IntegrityError, match="price_once_per_start"):
        make_price()


def test_a_change_of_a_price_is_remembered(make_price):
    price = make_price()
    price.input = 5
    price.save()

    assert [entry.input for entry in price.history.order_by("history_id")] == [2, 5]


def test_a_change_of_a_price_is_told_with_what_changed_and_by_whom(client_for, bob, alice, acme, make_price):
    price = make_price(organization=acme, effective_to=date(2026, 12, 1))
    price.input, price.output_audio = Decimal("2.5"), Decimal(64)
    price._history_user = alice
    price.save()
    price.delete()

    deleted, changed, created = client_for(bob).get(CHANGES).json()["results"]

    assert (created["change"], created["by"], created["everybody"]) == ("created", None, False)
    assert {"field": "input", "old": None, "new": "2"} in created["fields"]
    assert (changed["change"], changed["by"], changed["price"]) == ("changed", alice.email, created["price"])
    assert changed["fields"] == [
        {"field": "input", "old": "2", "new": "2.5"},
        {"field": "output_audio", "old": None, "new": "64"},
    ]
    assert deleted["change"] == "deleted"
    assert {"field": "effective_to", "old": "2026-12-01", "new": None} in deleted["fields"]


def test_changes_are_told_to_those_whose_prices_they_are(client_for, bob, charlie, alice, acme, make_price):
    make_price(organization=acme, model="llama-in-the-cellar")
    house = make_price(model="llama-for-all")
    house._history_user = alice
    house.save()

    models = {who: [row["model"] for row in client_for(who).get(CHANGES).json()["results"]] for who in (bob, charlie)}
    assert models == {bob: ["llama-for-all"] * 2 + ["llama-in-the-cellar"], charlie: ["llama-for-all"] * 2}
    # Who runs the house is nobody's business.
    assert {row["by"] for row in client_for(charlie).get(CHANGES).json()["results"]} == {None}
    assert client_for(None).get(CHANGES).status_code == 401


def test_telling_changes_asks_the_database_as_often_for_many_as_for_one(
    client_for, bob, acme, make_price, django_assert_max_num_queries
):
    for number in range(20):
        make_price(organization=acme, model=f"model-{number}")
    client = client_for(bob)
    client.get(CHANGES)

    with django_assert_max_num_queries(9):
        assert client.get(CHANGES).json()["count"] == 20


def test_models_are_listed_with_todays_prices_and_their_provenance(client_for, bob):
    found = client_for(bob).get(MODELS, {"search": "gpt-4o", "provider": "openai"}).json()

    row = next(row for row in found["results"] if row["model"] == "gpt-4o")
    assert (row["input"], row["output"], row["cached_read"]) == ("2.5", "10", "1.25")
    assert row["batch"]["input"] == "1.25"
    assert row["service"]["priority"]["output"] == "17"
    assert row["fallbacks"][:2] == ["cached_write", "cached_write_1h"]
    assert row["provenance"]["text"].startswith("genai-prices")
    assert (row["provenance"]["entry"], row["provenance"]["override"]) == ("openai/gpt-4o", None)


def test_an_own_price_is_listed_first(client_for, bob, acme, make_price):
    make_price(organization=acme, model="llama-in-the-cellar")

    assert client_for(bob).get(MODELS).json()["results"][0]["model"] == "llama-in-the-cellar"


def test_an_own_price_is_not_shown_to_strangers(client_for, charlie, acme, make_price):
    make_price(organization=acme, model="llama-in-the-cellar")

    assert client_for(charlie).get(MODELS, {"search": "llama-in-the-cellar"}).json()["count"] == 0


def test_the_list_comes_in_pages(client_for, bob):
    first = client_for(bob).get(MODELS, {"limit": 2}).json()
    second = client_for(bob).get(first["next"]).json()

    assert first["count"] > 1000
    assert len(first["results"]) == len(second["results"]) == 2
    assert first["results"] != second["results"]


@pytest.mark.parametrize("who", ["alice", "bob", "vera", "charlie", None])
def test_everybody_who_signed_in_sees_the_models(request, client_for, who):
    user = request.getfixturevalue(who) if who else None

    assert client_for(user).get(MODELS).status_code == (200 if who else 401)
