"""The real OpenAI model class against a local server: many threads, each with its own loop, and every call booked."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import connection
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from apps.llm.gateway import Asker, model_for
from apps.llm.models import ModelCall
from tests.agents.model_server import model_server

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asker(alice, as_principal):
    return Asker(principal=as_principal(alice), run=uuid4(), step="one", attempt=1)


async def ask(asker):
    async with model_for(asker, offline=TestModel()) as model, Agent().run_stream_events("?", model=model) as events:
        return [event async for event in events][-1].result.output


def test_two_hundred_questions_from_eight_threads_are_all_answered_and_booked(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL, settings.LLM_API_KEY = url, "gpt-4o-mini", "k"
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: asyncio.run(ask(asker)), range(200)))

    assert answers == ["Hello!"] * 200
    assert ModelCall.objects.filter(run=asker.run, input_tokens=100, output_tokens=20).count() == 200


def test_a_call_is_priced_like_everybody_elses(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "gpt-4o-mini"
        asyncio.run(ask(asker))

    assert ModelCall.objects.get().cost_usd == Decimal("0.000027")


def test_a_model_without_a_price_costs_unknown_and_never_zero(asker, settings):
    with model_server(lambda body: {"content": "Hello!"}) as url:
        settings.LLM_BASE_URL, settings.LLM_MODEL = url, "our-own-model"
        asyncio.run(ask(asker))

    assert ModelCall.objects.get().cost_usd is None


def test_without_an_endpoint_the_offline_model_answers_and_nothing_is_booked(asker):
    assert connection.vendor == "postgresql"
    assert asyncio.run(ask(asker))
    assert not ModelCall.objects.exists()
