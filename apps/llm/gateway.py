"""The one door to a model. Imported where an agent runs and nowhere else: it loads the agent library.

With NETRA_LLM_* set, an OpenAI-compatible endpoint answers; else the agent's own offline planner does, and nothing
leaves the machine. Every call of an endpoint is booked.
"""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import httpx2
from django.conf import settings
from openai import AsyncOpenAI
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from apps.accounts.tenancy import Principal
from apps.llm import ledger
from apps.llm.catalogue import Catalogue
from apps.llm.pricing import Usage, price
from apps.operations.database import in_database

PATIENCE = 100.0  # seconds for one answer; below the deadline of a step
CONNECT_PATIENCE = 5.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Asker:
    """On whose behalf a model is asked, and for which attempt of which step."""

    principal: Principal
    run: UUID
    step: str
    attempt: int


@asynccontextmanager
async def model_for(asker: Asker, *, offline: Model) -> AsyncIterator[Model]:
    """The model for one agent's step: the configured endpoint, else `offline`.

    Client and model are built per step: a client shared between event loops fails. What is dear to build, the TLS
    context, is shared.
    """
    if settings.LLM_BASE_URL is None or settings.LLM_MODEL is None:
        yield offline
        return
    patience = httpx2.Timeout(PATIENCE, connect=CONNECT_PATIENCE)
    async with httpx2.AsyncClient(verify=_tls(), timeout=patience) as http:
        # No retry here: the step is the one layer that is tried again.
        client = AsyncOpenAI(
            base_url=settings.LLM_BASE_URL, api_key=settings.LLM_API_KEY or "none", http_client=http, max_retries=0
        )
        provider = OpenAICompatibleProvider("configured", openai_client=client)
        yield BookedModel(OpenAIChatModel(settings.LLM_MODEL, provider=provider), asker)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class BookedModel(WrapperModel):
    """A model whose every answer is written into the ledger, also one that was cut short."""

    def __init__(self, wrapped: Model, asker: Asker) -> None:
        super().__init__(wrapped)
        self._asker = asker

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        began = time.monotonic()
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as response:
            try:
                yield response
            finally:
                await self._book(response.usage, time.monotonic() - began)

    async def _book(self, usage: RequestUsage, seconds: float) -> None:
        await in_database(
            ledger.record,
            principal=self._asker.principal,
            run=self._asker.run,
            step=self._asker.step,
            attempt=self._asker.attempt,
            provider=self.wrapped.system,
            model=self.wrapped.model_name,
            input_tokens=usage.input_tokens,
            cached_read_tokens=usage.cache_read_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=_cost(self.wrapped.model_name, usage),
            seconds=seconds,
        )


def _cost(model: str, usage: RequestUsage) -> Decimal | None:
    """Dollars, None where the model has no known price."""
    rates = Catalogue().rates(model=model, at=datetime.now(UTC))
    if rates is None:
        return None
    tokens = Usage(
        input_tokens=usage.input_tokens, cached_read=usage.cache_read_tokens, output_tokens=usage.output_tokens
    )
    return price(tokens, rates)
