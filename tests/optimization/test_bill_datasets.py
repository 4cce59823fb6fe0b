"""Bills through the same door as calls, and who may lay them beside each other."""

import json
from uuid import uuid4

import pytest

from apps.optimization import services
from apps.optimization.datasets import NotCalls
from apps.optimization.models import Dataset
from tests.optimization.conftest import call, uploaded
from tests.optimization.test_bills import openai_cost, openai_page
from tests.optimization.test_commands import run

BILL = json.dumps(openai_page(openai_cost(1), openai_cost(0.5, "web search tool calls"), start=1790856000))
# One amount and one time are unreadable; what is left is less than the calls cost.
HALF_READ = json.dumps(
    {
        "data": [
            openai_page(openai_cost(0.001), openai_cost("much"))["data"][0] | {"start_time": 1790856000},
            openai_page(openai_cost(2))["data"][0] | {"start_time": "soon"},
        ],
        "has_more": False,
    }
)
# Of the same day, 2026-10-01: a thousand tokens in and a hundred out of gpt-4o.
CALLS = [call(), call(input_tokens=2000)]


@pytest.fixture
def both(import_dataset, alice):
    """(calls, bill) of Acme."""
    with_calls, bill = import_dataset(alice, CALLS), import_dataset(alice, BILL, "costs.json")
    assert (with_calls.state, bill.state) == ("ready", "ready"), (with_calls.error_detail, bill.error_detail)
    return with_calls, bill


def address(with_calls, bill):
    return f"/api/datasets/{getattr(with_calls, 'pk', with_calls)}/reconciliation/?bill={getattr(bill, 'pk', bill)}"


@pytest.mark.django_db
class TestOverRest:
    def test_a_bill_is_told_from_calls_by_what_it_holds(self, both):
        with_calls, bill = both

        assert (with_calls.kind, bill.kind, bill.source, bill.rows) == ("calls", "bill", "openai_costs", 2)
        assert (bill.first_call_at.isoformat(), bill.rejects) == ("2026-10-01T00:00:00+00:00", [])

    def test_a_preview_says_what_a_bill_is_and_keeps_nothing(self, client_for, alice, vera, settings):
        ask = lambda user, content: client_for(user).post(  # noqa: E731
            "/api/datasets/preview/", {"file": uploaded(content, "costs.json")}, format="multipart"
        )

        found = ask(alice, BILL).json()

        assert (found["kind"], found["source"], found["rows"], found["days"]) == ("bill", "openai_costs", 2, 1)
        assert (found["first_day"], found["last_day"]) == ("2026-10-01", "2026-10-01")
        assert found["amounts"] == {"USD": "1.500000000000"}
        assert ask(alice, json.dumps(openai_page(openai_cost("much")))).json()["code"] == "bill.no_charges"
        assert ask(vera, BILL).status_code == 403
        assert not Dataset.objects.exists()
        assert [path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()] == []

    def test_bills_are_listed_by_themselves(self, both, client_for, alice):
        with_calls, bill = both

        listed = [
            [one["id"] for one in client_for(alice).get(f"/api/datasets/{query}").json()["results"]]
            for query in ("", "?kind=bill")
        ]

        assert listed == [[str(with_calls.pk)], [str(bill.pk)]]

    @pytest.mark.parametrize("who", ["alice", "bob", "vera"])
    def test_everybody_of_the_organization_sees_what_differs(self, both, client_for, request, who):
        answer = client_for(request.getfixturevalue(who)).get(address(*both))

        assert answer.status_code == 200
        document = answer.json()
        assert (document["unit"], document["billed"]) == ("usd", "1.500000000000")
        # 3,000 tokens at 2.50 and 200 at 10.00 dollars a million.
        assert document["captured"] == "0.009500000000"
        assert [each["cause"] for each in document["differences"]] == ["not_tokens", "unexplained"]

    def test_rows_that_could_not_be_read_stand_beside_the_comparison(self, import_dataset, client_for, alice):
        with_calls, bill = import_dataset(alice, CALLS), import_dataset(alice, HALF_READ, "costs.json")

        document = client_for(alice).get(address(with_calls, bill)).json()

        assert document["rejected_rows"] == 2
        assert [row["column"] for row in document["rejects"]] == [
            "line 1: data[0].results[1].amount.value",
            "line 1: data[1].start_time",
        ]
        assert [each["cause"] for each in document["differences"]] == ["incomplete_bill", "unexplained"]
        assert "2 rows could not be read" in document["differences"][0]["sentence"]
        assert "nothing in the data says why" not in document["differences"][1]["sentence"]

    def test_pages_that_are_missing_stand_beside_the_comparison(self, import_dataset, client_for, alice):
        bill = import_dataset(alice, json.dumps(json.loads(BILL) | {"has_more": True}), "costs.json")

        document = client_for(alice).get(address(import_dataset(alice, CALLS), bill)).json()

        assert document["differences"][0]["sentence"].startswith(
            "Incomplete bill: its last page says that there are more."
        )
        assert set(bill.notes) <= set(document["assumptions"])

    def test_a_stranger_finds_neither_side(self, both, client_for, charlie, import_dataset):
        own_calls, own_bill = import_dataset(charlie, CALLS), import_dataset(charlie, BILL, "costs.json")

        for sides in (both, (both[0], own_bill), (own_calls, both[1])):
            assert client_for(charlie).get(address(*sides)).status_code == 404

    def test_nobody_sees_nothing(self, both, client_for):
        assert client_for(None).get(address(*both)).status_code in (401, 403)

    def test_calls_are_no_bill_and_a_bill_has_no_calls(self, both, client_for, alice):
        with_calls, bill = both

        swapped = client_for(alice).get(address(bill, with_calls))
        twice = client_for(alice).get(address(bill, bill))

        assert (swapped.status_code, swapped.json()["code"]) == (409, "dataset.is_no_bill")
        assert (twice.status_code, twice.json()["code"]) == (409, "dataset.is_a_bill")

    @pytest.mark.parametrize("query", ["", "?bill=", "?bill=mine"])
    def test_a_reconciliation_needs_the_id_of_a_bill(self, both, client_for, alice, query):
        assert client_for(alice).get(f"/api/datasets/{both[0].pk}/reconciliation/{query}").status_code == 400

    def test_an_unknown_bill_is_not_found(self, both, client_for, alice):
        assert client_for(alice).get(address(both[0], uuid4())).status_code == 404

    def test_a_bill_is_never_analysed_as_calls(self, both, as_principal, alice, client_for):
        with (
            pytest.raises(NotCalls),
            services.open_calls(principal=as_principal(alice), dataset_id=both[1].pk),
        ):
            pass
        for part in ("savings", "sufficiency", "breakdown", "prices"):
            answer = client_for(alice).get(f"/api/datasets/{both[1].pk}/{part}/")
            assert (answer.status_code, answer.json()["code"]) == (409, "dataset.is_a_bill")

    def test_the_page_of_a_bill_opens(self, both, client_for, alice):
        assert client_for(alice).get(f"/data/{both[1].pk}/").status_code == 200

    def test_a_bill_continues_no_calls(self, import_dataset, alice):
        first = import_dataset(alice, CALLS)

        later = import_dataset(alice, BILL, "costs.json", continues=first.pk)

        assert (later.state, later.error_code) == ("failed", "bill.continues_nothing")

    def test_a_bill_without_a_usable_row_fails_with_the_places(self, import_dataset, alice):
        failed = import_dataset(alice, json.dumps(openai_page(openai_cost("much"))), "costs.json")

        assert (failed.state, failed.error_code, failed.rejected_rows) == ("failed", "bill.no_charges", 1)
        assert failed.rejects[0]["column"].endswith("results[0].amount.value")
        assert Dataset.objects.get().kind == "calls"


# --- In a terminal ---------------------------------------------------------------------------------------------------


def test_analyze_lays_a_bill_beside_the_calls(write):
    status, out, _ = run("analyze", write("calls.csv", CALLS), "--bill", write("costs.json", BILL))

    assert status == 0
    assert "Bill: $1.50; calls: $0.0095" in out
    assert "$0.50 of the bill is web searches" in out


def test_analyze_says_what_of_a_bill_could_not_be_read(write):
    _, out, _ = run("analyze", write("calls.csv", CALLS), "--bill", write("costs.json", HALF_READ))

    assert "Incomplete bill: 2 rows could not be read." in out
    assert "Bill, row 2, line 1: data[0].results[1].amount.value: 'much' is no amount." in out
    assert "Bill, row 3, line 1: data[1].start_time: 'soon' is no time." in out
    assert "nothing in the data says why" not in out


def test_the_document_of_analyze_has_the_reconciliation(write):
    _, out, _ = run("analyze", write("calls.csv", CALLS), "--bill", write("costs.json", BILL), "--json")

    assert json.loads(out)["reconciliation"]["billed"] == "1.500000000000"


def test_a_file_that_is_no_bill_is_refused_with_what_would_work(write):
    status, _, err = run("analyze", write("calls.csv", CALLS), "--bill", write("more.csv", CALLS))

    assert status == 2
    assert "is no bill" in err
