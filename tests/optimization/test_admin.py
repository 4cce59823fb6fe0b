"""Operators see what was imported and set prices; they never see calls."""

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.llm.models import Price
from apps.optimization.models import Dataset
from tests.optimization.conftest import call

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator():
    user = User.objects.create_superuser("operator@example.com", "correct horse battery")
    client = Client()
    client.force_login(user)
    return client


def test_a_dataset_is_shown_without_its_calls(operator, import_dataset, alice):
    dataset = import_dataset(alice, [call(prompt="a very secret question")])

    page = operator.get(f"/admin/optimization/dataset/{dataset.pk}/change/")

    assert operator.get("/admin/optimization/dataset/").status_code == 200
    assert dataset.sha256 in page.content.decode()
    assert "secret question" not in page.content.decode()


@pytest.mark.parametrize(
    "page", ["optimization/dataset/{dataset.pk}", "accounts/organization/{dataset.organization_id}"]
)
def test_the_files_of_a_dataset_go_with_it_and_with_its_organization(
    operator, import_dataset, alice, settings, page, django_capture_on_commit_callbacks
):
    dataset = import_dataset(alice, [call()])

    with django_capture_on_commit_callbacks(execute=True):
        operator.post(f"/admin/{page.format(dataset=dataset)}/delete/", {"post": "yes"})

    assert not Dataset.objects.exists()
    assert not list(settings.MEDIA_ROOT.rglob("*.parquet"))


def test_a_price_is_set_in_the_admin_and_an_impossible_one_is_refused(operator):
    form = {"model": "gpt-4o", "input": "2", "output": "8", "effective_from": "2026-01-01", "source": "contract"}

    refused = operator.post("/admin/llm/price/add/", form | {"input": "-2"})
    operator.post("/admin/llm/price/add/", form)

    assert refused.status_code == 200
    assert [str(price) for price in Price.objects.all()] == ["gpt-4o from 2026-01-01"]


def test_netras_own_calls_can_be_read_and_not_changed(operator):
    assert operator.get("/admin/llm/modelcall/").status_code == 200
    assert operator.get("/admin/llm/modelcall/add/").status_code == 403


@pytest.mark.parametrize("who", ["alice", "bob", "vera", "charlie"])
def test_members_have_no_business_in_the_admin(request, client_for, who):
    response = client_for(request.getfixturevalue(who)).get("/admin/optimization/dataset/")

    assert response.status_code == 302
