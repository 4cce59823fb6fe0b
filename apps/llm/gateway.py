"""The one door to a model. Imported where an agent runs and nowhere else: it loads the agent library.

With NETRA_LLM_* set, an OpenAI-compatible endpoint answers; else the agent's own offline planner does, and nothing
leaves the machine. Every call of an endpoint is booked, and its answer journaled before it is acted on.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, cached_property, lru_cache, partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio
import httpx2
import structlog
from django.conf import settings
from openai import NOT_GIVEN, AsyncOpenAI, NotGiven, Omit, RequestOptions
from openai.resources.chat import AsyncChat, AsyncCompletions
from openai.types.chat import ChatCompletion
from pydantic_ai.direct import model_request
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
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.usage import RequestUsage

from apps.llm import ledger, transcript
from apps.llm.catalogue import Catalogue
from apps.llm.ledger import Asker
from apps.llm.pricing import ImpossibleUsage, Usage, price
from apps.llm.services import catalogue_for
from apps.operations.breakers import breakers
from apps.operations.database import in_database
from apps.operations.debug_points import point
from apps.resilience.breaker import BreakerOpen
from apps.resilience.circuit import BreakerSettings

log = structlog.get_logger(__name__)

PATIENCE = 100.0  # seconds for one answer; below the deadline of a step
CONNECT_PATIENCE = 5.0  # seconds
KEPT = 20  # idle connections
KEEP_ALIVE = 4.0  # seconds that an idle connection is kept; common servers hang up after 5
SLOW = 60.0  # seconds for one answer; an endpoint that is never quicker is out of order
PRICES_KEPT = 5.0  # seconds
MOST_TOKENS = 2**31 - 1  # in one row
HOST_LENGTH = 64  # characters of a host's name that are kept as the provider's


Heard = Callable[[ModelResponse], None]


async def ask(
    asker: Asker,
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    offline: Model,
    heard: Heard,
) -> ModelResponse:
    """The next answer in a conversation: the journaled one, else the configured endpoint's, journaled; without an
    endpoint, `offline` is asked, and nobody else.

    `heard(answer)` is called on a database thread, in the transaction that keeps the answer: what it writes is stored
    with the answer or not at all, and once. It raises a NetraError if whoever asks is stale.

    Raises:
        NetraError: as `heard`; the answer is not kept.
        BreakerOpen: the endpoint keeps failing; it is not asked now.
        ModelAPIError: the model did not answer.
    """
    if settings.LLM_BASE_URL is None or settings.LLM_MODEL is None:
        response = await model_request(offline, messages, model_request_parameters=parameters)
        await in_database(heard, response)
        return response
    return await _ask_endpoint(asker, messages, parameters, heard)


async def _ask_endpoint(
    asker: Asker, messages: Sequence[ModelMessage], parameters: ModelRequestParameters, heard: Heard
) -> ModelResponse:
    model, host = _names()
    key = _key(asker, transcript.digest(messages, parameters))
    asked = await in_database(ledger.ask, asker, key=key, provider=host, model=model)
    if asked.answer is not None:
        return transcript.load(asked.answer)
    began = time.monotonic()
    try:
        async with breakers().named(f"model:{host}:{model}", _BREAKER).guard(ignore=_OUR_OWN_FAULT):
            response = await model_request(await _endpoint(), messages, model_request_parameters=parameters)
        answer = await in_database(_keep, asker, asked.call, response, heard, time.monotonic() - began)
    except BreakerOpen:
        await in_database(ledger.withdraw, asked.call)
        raise
    except BaseException:
        with anyio.CancelScope(shield=True):  # what cancels the step must not cancel its booking
            await in_database(ledger.cut, asked.call, seconds=time.monotonic() - began)
        raise
    # As a later attempt will read it, to the letter.
    return transcript.load(answer)


def _names() -> tuple[str, str]:
    """The configured model, and the host that is asked for it: who really offers it is not known."""
    return settings.LLM_MODEL or "", (urlsplit(settings.LLM_BASE_URL or "").hostname or "")[:HOST_LENGTH]


def _key(asker: Asker, question: str) -> str:
    """The question's name within the step: equal ones are numbered in the order in which they are asked."""
    asker.asked[question] += 1
    return hashlib.sha256(f"{question} {asker.asked[question]}".encode()).hexdigest()


def _keep(asker: Asker, call: UUID, response: ModelResponse, heard: Heard, seconds: float) -> str:
    point("model.answered")
    answer = transcript.dump(response)
    model, host = _names()
    cost = _cost(response.usage, model=model, host=host, organization_id=asker.principal.organization_id)
    known = {"seconds": seconds, "cost_usd": cost, **_counted(response.usage)}
    ledger.answer(call, answer=answer, heard=partial(heard, response), **known)
    return answer


# --- The configured endpoint -----------------------------------------------------------------------------------------


_BREAKER = BreakerSettings(slow_seconds=SLOW)

# What the endpoint does not accept says nothing about how it does.
_OUR_OWN_FAULT = (
    ModelAuthenticationError,
    ModelNotFoundError,
    ModelContextWindowExceededError,
    ModelRequestRejectedError,
    ModelQuotaExceededError,
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
            # As many calls at a time as there are steps; each call looks at every connection that is kept.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT, keepalive_expiry=KEEP_ALIVE),
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


class _Completions(AsyncCompletions):
    """The SDK's chat completions for a request that is JSON already, as the agent library's are: the SDK would look
    through all of it for values to convert, which takes longer than asking."""

    async def create(
        self, *, extra_headers: Any = None, extra_body: Any = None, timeout: Any = NOT_GIVEN, **asked: Any
    ) -> Any:
        body = {name: value for name, value in asked.items() if not isinstance(value, Omit | NotGiven)}
        options: RequestOptions = {"headers": extra_headers or {}, "extra_json": extra_body or {}}
        if not isinstance(timeout, NotGiven):
            options["timeout"] = timeout
        return await self._client.post("/chat/completions", cast_to=ChatCompletion, body=body, options=options)


class _Chat(AsyncChat):
    @cached_property
    def completions(self) -> _Completions:
        return _Completions(self._client)


class _Client(AsyncOpenAI):
    @cached_property
    def chat(self) -> _Chat:
        return _Chat(self)


def _model(http: httpx2.AsyncClient) -> Model:
    # No retry here: the step is the one layer that is tried again.
    client = _Client(
        base_url=settings.LLM_BASE_URL, api_key=settings.LLM_API_KEY or "none", http_client=http, max_retries=0
    )
    return OpenAIChatModel(
        settings.LLM_MODEL or "", provider=OpenAICompatibleProvider("configured", openai_client=client)
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


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
