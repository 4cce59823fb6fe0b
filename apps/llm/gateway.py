"""The one door to a model. Imported where an agent runs and nowhere else: it loads the agent library.

With NETRA_LLM_* set, an OpenAI-compatible endpoint answers; else the agent's own offline planner does, and nothing
leaves the machine. Every call of an endpoint is booked, and its answer journaled before it is acted on.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from urllib.parse import urlsplit
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio
import httpx2
import structlog
from django.conf import settings
from django.db import DatabaseError
from openai import AsyncOpenAI
from pydantic_ai.exceptions import (
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from apps.errors import NetraError
from apps.llm import ledger, transcript
from apps.llm.catalogue import Catalogue
from apps.llm.ledger import Asker
from apps.llm.pricing import ImpossibleUsage, Usage, price
from apps.llm.services import catalogue_for
from apps.operations.breakers import breakers
from apps.operations.database import in_database
from apps.operations.debug_points import point
from apps.resilience.breaker import CircuitBreaker, Permit
from apps.resilience.circuit import BreakerSettings

log = structlog.get_logger(__name__)

PATIENCE = 100.0  # seconds for one answer; below the deadline of a step
CONNECT_PATIENCE = 5.0  # seconds
KEEP_ALIVE = 4.0  # seconds that an idle connection is kept; common servers hang up after 5
SLOW = 60.0  # seconds for one answer; an endpoint that is never quicker is out of order
PRICES_KEPT = 5.0  # seconds
MOST_TOKENS = 2**31 - 1  # in one row
HOST_LENGTH = 64  # characters of a host's name that are kept as the provider's


async def model_for(asker: Asker, *, offline: Model) -> Model:
    """The model for one agent's step: the configured endpoint, journaled, else `offline`, which asks nobody."""
    if settings.LLM_BASE_URL is None or settings.LLM_MODEL is None:
        return offline
    host = (urlsplit(settings.LLM_BASE_URL).hostname or "")[:HOST_LENGTH]
    return JournaledModel(await _endpoint(), asker, host=host)


_BREAKER = BreakerSettings(slow_seconds=SLOW)

# What the endpoint does not accept, and what breaks off here, says nothing about how it does.
_OUR_OWN_FAULT = (
    ModelAuthenticationError,
    ModelNotFoundError,
    ModelContextWindowExceededError,
    ModelRequestRejectedError,
    ModelQuotaExceededError,
    NetraError,
    DatabaseError,
)

# A client works on the loop that opened it and on no other. One per step would open a connection for each.
_endpoints: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Model, AsyncGenerator[None]]] = WeakKeyDictionary()


async def _endpoint() -> Model:
    """The configured endpoint, with the client of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _endpoints:
        http = httpx2.AsyncClient(
            verify=_tls(),
            timeout=httpx2.Timeout(PATIENCE, connect=CONNECT_PATIENCE),
            # As many calls at a time as there are steps.
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE),
        )
        closing = _closing(loop, http)
        _endpoints[loop] = _model(http), closing
        await anext(closing)
    return _endpoints[loop][0]


async def _closing(loop: asyncio.AbstractEventLoop, http: httpx2.AsyncClient) -> AsyncGenerator[None]:
    """Stands still until the loop ends and closes its generators, as `asyncio.run` makes it do."""
    try:
        yield
    finally:
        _endpoints.pop(loop, None)
        await http.aclose()


def _model(http: httpx2.AsyncClient) -> Model:
    # No retry here: the step is the one layer that is tried again.
    client = AsyncOpenAI(
        base_url=settings.LLM_BASE_URL, api_key=settings.LLM_API_KEY or "none", http_client=http, max_retries=0
    )
    return OpenAIChatModel(
        settings.LLM_MODEL or "", provider=OpenAICompatibleProvider("configured", openai_client=client)
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class JournaledModel(WrapperModel):
    """A model that is asked each question of a step once: its answer is kept before it is handed on."""

    def __init__(self, wrapped: Model, asker: Asker, *, host: str) -> None:
        super().__init__(wrapped)
        self._asker = asker
        self._host = host  # who offers the model is not known, only where it was asked

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The journaled answer, else the model's, journaled.

        Raises:
            NetraError: the attempt that asks is stale; its answer is not kept.
            BreakerOpen: the endpoint keeps failing; it is not asked now.
            ModelAPIError: the model did not answer.
        """
        async with self._breaker().guard(ignore=_OUR_OWN_FAULT) as permit:
            return await self._ask(messages, model_settings, model_request_parameters, permit)

    def _breaker(self) -> CircuitBreaker:
        return breakers().named(f"model:{self._host}:{self.model_name}", _BREAKER)

    async def _ask(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        permit: Permit,
    ) -> ModelResponse:
        key = self._key(transcript.digest(messages, model_request_parameters, model_settings))
        asked = await in_database(ledger.ask, self._asker, key=key, provider=self._host, model=self.model_name)
        if asked.answer is not None:
            permit.released()
            return transcript.load(asked.answer)
        began = time.monotonic()
        try:
            response = await super().request(messages, model_settings, model_request_parameters)
            answer = await in_database(self._keep, asked.call, response, time.monotonic() - began)
        except BaseException:
            with anyio.CancelScope(shield=True):  # what cancels the step must not cancel its booking
                await in_database(ledger.cut, asked.call, seconds=time.monotonic() - began)
            raise
        # As a later attempt will read it, to the letter.
        return transcript.load(answer)

    def _key(self, question: str) -> str:
        """The question's name within the step: equal ones are numbered in the order in which they are asked."""
        self._asker.asked[question] += 1
        return hashlib.sha256(f"{question} {self._asker.asked[question]}".encode()).hexdigest()

    def _keep(self, call: UUID, response: ModelResponse, seconds: float) -> str:
        point("model.answered")
        answer = transcript.dump(response)
        usage, cost = _counted(response.usage), self._cost(response.usage)
        ledger.answer(self._asker, call, answer=answer, seconds=seconds, cost_usd=cost, **usage)
        return answer

    def _cost(self, usage: RequestUsage) -> Decimal | None:
        organization_id = self._asker.principal.organization_id
        return _cost(usage, model=self.model_name, host=self._host, organization_id=organization_id)


def _counted(usage: RequestUsage) -> dict[str, int | None]:
    """Tokens as far as a row can hold them; all unknown where the endpoint does not count."""
    counts = {
        "input_tokens": usage.input_tokens,
        "cached_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    return {name: min(max(tokens, 0), MOST_TOKENS) if _counts(usage) else None for name, tokens in counts.items()}


def _counts(usage: RequestUsage) -> bool:
    return bool(usage.input_tokens or usage.output_tokens)


@lru_cache(maxsize=256)
def _catalogue(organization_id: UUID, moment: int) -> Catalogue:
    """The prices of an organization in one moment: they change by the day, and calls come by the second."""
    return catalogue_for(organization_id=organization_id)


def _cost(usage: RequestUsage, *, model: str, host: str, organization_id: UUID) -> Decimal | None:
    """Dollars, None where they are not known.

    A price that was entered for the endpoint's host comes first, then one for the model, then the list price of the
    model's name: what an endpoint really charges for a name, only an entered price can say.
    """
    if not _counts(usage):
        return None  # unknown, not free
    catalogue, now = _catalogue(organization_id, int(time.monotonic() // PRICES_KEPT)), datetime.now(UTC)
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
