"""The real OpenAI model class against a local server: many threads, each with its own loop, and every call booked."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import connection
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from apps.llm import gateway
from apps.llm.gateway import _cost
from apps.llm.ledger import Asker
from apps.llm.models import ModelCall, Price
from tests.agents.model_server import model_server

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asker(alice, as_principal):
    return Asker(principal=as_principal(alice), run=uuid4(), step="one", attempt=1)


async def ask(asker):
    question = [ModelRequest.user_text_prompt("?")]
    heard = []
    answer = await gateway.ask(asker, question, ModelRequestParameters(), offline=TestModel(), heard=heard.append)
    assert [said.text for said in heard] == [answer.text]
    return answer.text


def test_two_hundred_questions_from_eight_threads_are_all_answered_and_booked(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL, settings.LLM_API_KEY = url, "gpt-4o-mini", "k"
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda step: asyncio.run(ask(replace(asker, step=str(step)))), range(200)))

    assert answers == ["Hello!"] * 200
    assert ModelCall.objects.filter(run=asker.run, input_tokens=100, output_tokens=20).count() == 200


def test_a_call_is_priced_like_everybody_elses(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "gpt-4o-mini"
        asyncio.run(ask(asker))

    booked = ModelCall.objects.get()
    assert booked.cost_usd == Decimal("0.000027")
    assert booked.provider == "127.0.0.1"


@pytest.mark.parametrize("provider", ["", "127.0.0.1"])
def test_the_organizations_own_price_is_the_one_that_counts(asker, alice, settings, provider):
    own_price(asker, provider=provider)
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "gpt-4o-mini"
        asyncio.run(ask(asker))

    assert ModelCall.objects.get().cost_usd == Decimal("0.0014")


def test_what_is_written_to_a_cache_has_its_own_price(asker):
    own_price(asker, cached_write=20)
    usage = RequestUsage(input_tokens=100, cache_write_tokens=50, output_tokens=0)

    cost = _cost(usage, model="gpt-4o-mini", host="h", organization_id=asker.principal.organization_id)

    assert cost == Decimal("0.0015")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**10},
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 50}},
        {"prompt_tokens": 0, "completion_tokens": 0},
    ],
)
def test_token_counts_that_cannot_be_cost_the_bill_and_not_the_answer(asker, settings, usage):
    with model_server(lambda body: {"content": "Hello!", "usage": usage}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "gpt-4o-mini"
        assert asyncio.run(ask(asker)) == "Hello!"

    booked = ModelCall.objects.get()
    assert (booked.state, booked.cost_usd) == ("answered", None)


def own_price(asker, **more):
    Price.objects.create(
        organization_id=asker.principal.organization_id,
        model="gpt-4o-mini",
        input=10,
        output=20,
        effective_from=date(2020, 1, 1),
        source="contract",
        **more,
    )


def test_a_model_without_a_price_costs_unknown_and_never_zero(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "our-own-model"
        asyncio.run(ask(asker))

    assert ModelCall.objects.get().cost_usd is None


def test_without_an_endpoint_the_offline_model_answers_and_nothing_is_booked(asker):
    assert connection.vendor == "postgresql"
    assert asyncio.run(ask(asker))
    assert not ModelCall.objects.exists()
