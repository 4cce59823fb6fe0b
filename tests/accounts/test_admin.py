"""The operators' pages of people, plans and keys."""

import pytest

from apps.accounts import services
from apps.accounts.models import Plan, User


@pytest.fixture
def operator(client_for, db):
    return client_for(User.objects.create_superuser("operator@example.com", "correct horse battery"))


@pytest.mark.parametrize("model", ["plan", "organization", "user", "apikey"])
def test_lists_and_forms_open(operator, alice, as_principal, model):
    key, _ = services.create_api_key(as_principal(alice), name="k", scope="read", days=1)
    pk = {"plan": "free", "organization": key.organization_id, "user": alice.pk, "apikey": key.pk}[model]

    assert operator.get(f"/admin/accounts/{model}/?q=a").status_code == 200
    assert operator.get(f"/admin/accounts/{model}/{pk}/change/").status_code == 200


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_owners_of_organizations_are_no_operators(request, client_for, who):
    answer = client_for(request.getfixturevalue(who)).get("/admin/accounts/user/")

    assert answer.status_code == 302


def test_a_password_set_by_an_operator_is_hashed(operator, alice):
    form = {
        "email": "eve@example.com",
        "name": "Eve",
        "password1": "a fine long phrase",
        "password2": "a fine long phrase",
    }
    inline = {"memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    operator.post("/admin/accounts/user/add/", form | inline | {"usable_password": "true"}, format="multipart")
    assert User.objects.get(email="eve@example.com").check_password("a fine long phrase")

    new = {"password1": "another fine phrase", "password2": "another fine phrase", "usable_password": "true"}
    operator.post(f"/admin/accounts/user/{alice.pk}/password/", new, format="multipart")
    assert User.objects.get(pk=alice.pk).check_password("another fine phrase")


def test_a_changed_plan_keeps_its_history(operator):
    unchanged = {"max_run_seconds": 600, "tool_calls_per_minute": 120, "tool_calls_per_day": 10000}
    changed = {"max_running_runs": 2, "max_queued_runs": 3, "max_datasets": 7, "max_stored_mib": 8}
    operator.post("/admin/accounts/plan/free/change/", changed | unchanged, format="multipart")

    free = Plan.objects.get(pk="free")
    assert (free.max_running_runs, free.max_queued_runs, free.max_datasets) == (2, 3, 7)
    assert free.history.first().max_datasets == 7
    assert operator.get("/admin/accounts/plan/free/history/").status_code == 200


def test_plans_are_listed_and_offered_from_the_least_to_the_most(operator, acme):
    listed = operator.get("/admin/accounts/plan/").context["cl"].result_list
    offered = operator.get(f"/admin/accounts/organization/{acme.pk}/change/").context["adminform"].form.fields["plan"]

    assert [plan.code for plan in listed] == ["free", "early", "mid", "enterprise"]
    assert [plan.code for plan in offered.queryset] == ["free", "early", "mid", "enterprise"]
