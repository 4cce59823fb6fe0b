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
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import structlog
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
from apps.llm.pricing import ImpossibleUsage, Usage, price
from apps.llm.services import catalogue_for
from apps.operations.database import in_database

log = structlog.get_logger(__name__)

PATIENCE = 100.0  # seconds for one answer; below the deadline of a step
CONNECT_PATIENCE = 5.0  # seconds
MOST_TOKENS = 2**31 - 1  # in one row
HOST_LENGTH = 64  # characters of a host's name that are kept as the provider's


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
        host = (urlsplit(settings.LLM_BASE_URL).hostname or "")[:HOST_LENGTH]
        yield BookedModel(OpenAIChatModel(settings.LLM_MODEL, provider=provider), asker, host=host)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class BookedModel(WrapperModel):
    """A model whose every answer is written into the ledger, also one that was cut short."""

    def __init__(self, wrapped: Model, asker: Asker, *, host: str) -> None:
        super().__init__(wrapped)
        self._asker = asker
        self._host = host  # who offers the model is not known, only where it was asked

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
        await in_database(_record, self._asker, self._host, self.wrapped.model_name, usage, seconds)


def _record(asker: Asker, host: str, model: str, usage: RequestUsage, seconds: float) -> None:
    ledger.record(
        principal=asker.principal,
        run=asker.run,
        step=asker.step,
        attempt=asker.attempt,
        provider=host,
        model=model,
        input_tokens=_countable(usage.input_tokens),
        cached_read_tokens=_countable(usage.cache_read_tokens),
        output_tokens=_countable(usage.output_tokens),
        cost_usd=_cost(usage, model=model, host=host, organization_id=asker.principal.organization_id),
        seconds=seconds,
    )


def _cost(usage: RequestUsage, *, model: str, host: str, organization_id: UUID) -> Decimal | None:
    """Dollars, None where they are not known.

    A price that was entered for the endpoint's host comes first, then one for the model, then the list price of the
    model's name: what an endpoint really charges for a name, only an entered price can say.
    """
    if not usage.input_tokens and not usage.output_tokens:
        return None  # the endpoint does not count; that is unknown, not free
    catalogue, now = catalogue_for(organization_id=organization_id), datetime.now(UTC)
    rates = catalogue.rates(model=model, provider=host, at=now) or catalogue.rates(model=model, at=now)
    try:
        tokens = Usage(
            input_tokens=usage.input_tokens,
            cached_read=usage.cache_read_tokens,
            cached_write=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
        )
    except ImpossibleUsage as error:
        # The answer is good even if its bill is not: the call is booked, its cost is unknown.
        log.warning("A model's token counts cannot be priced", model=model, host=host, detail=error.detail)
        return None
    return price(tokens, rates) if rates is not None else None


def _countable(tokens: int) -> int:
    """A provider's count, as far as a row can hold it."""
    return min(max(tokens, 0), MOST_TOKENS)
