"""What Netra itself asks of models: one row per call, from asked to answered, priced like everybody else's calls.

The rows are journal and bill in one. An answer is kept before anybody acts on it, so that a later attempt of the step
reads it instead of asking again; a call that was cut stays booked, and is asked again as a call of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import Now
from uuid6 import uuid7

from apps.accounts.tenancy import Principal
from apps.errors import NetraError
from apps.llm.models import ModelCall


@dataclass(frozen=True, kw_only=True)
class Asker:
    """On whose behalf a model is asked, and for which attempt of which step.

    `hold` locks that attempt until the transaction ends, and raises a NetraError if it is stale. `asked` counts equal
    questions of the attempt, so that the second gets an answer of its own.
    """

    principal: Principal
    run: UUID
    step: str
    attempt: int
    hold: Callable[[], None]
    asked: Counter[str] = field(default_factory=Counter, compare=False)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A booked call, and its answer if an attempt of the step has got one already."""

    call: UUID
    answer: str | None


# One statement, for every question goes through it. What an earlier attempt asked and never saw answered is cut.
_ASK = """
with answered as (
    select id, answer from llm_modelcall
    where run = %(run)s and step = %(step)s and key = %(key)s and state = 'answered'
), cut as (
    update llm_modelcall set state = 'cut'
    where run = %(run)s and step = %(step)s and attempt < %(attempt)s and state = 'asked'
), asked as (
    insert into llm_modelcall
        (id, organization_id, user_id, run, step, attempt, key, state, provider, model, started_at)
    select %(id)s, %(organization)s, %(user)s, %(run)s, %(step)s, %(attempt)s, %(key)s, 'asked',
        %(provider)s, %(model)s, clock_timestamp()
    where not exists (select from answered)
    returning id
)
select id, answer from answered union all select id, null from asked
"""


def ask(asker: Asker, *, key: str, provider: str, model: str) -> Asked:
    """The answer to this question from some attempt of the step, else a new call, booked as asked."""
    with connection.cursor() as cursor:
        cursor.execute(
            _ASK,
            {
                "id": uuid7(),
                "organization": asker.principal.organization_id,
                "user": asker.principal.user_id,
                "run": asker.run,
                "step": asker.step,
                "attempt": asker.attempt,
                "key": key,
                "provider": provider,
                "model": model,
            },
        )
        call, answer = cursor.fetchone()
    return Asked(call=call, answer=answer)


def answer(asker: Asker, call: UUID, *, answer: str, **known: Any) -> None:
    """Keep an answer, with its `seconds`, tokens and `cost_usd` (None where the price is unknown).

    Raises:
        NetraError: what `asker.hold` raises; the call is booked as cut, with what it cost, and its answer is not kept.
    """
    try:
        with transaction.atomic():
            asker.hold()
            ModelCall.objects.filter(pk=call).update(
                state=ModelCall.State.ANSWERED, answer=answer, finished_at=Now(), **known
            )
    except NetraError:
        cut(call, **known)
        raise


def cut(call: UUID, **known: Any) -> None:
    """Book that no answer of the call is kept; without effect on one that has answered."""
    _cut(ModelCall.objects.filter(pk=call), finished_at=Now(), **known)


def close_run(run: UUID) -> None:
    """Book what a run that ends has left open as cut."""
    _cut(ModelCall.objects.filter(run=run))


def _cut(calls: "QuerySet[ModelCall]", **known: Any) -> None:
    calls.filter(state=ModelCall.State.ASKED).update(state=ModelCall.State.CUT, **known)


def forget(runs: Iterable[UUID]) -> None:
    """Delete what models answered in these runs; what it cost stays booked."""
    ModelCall.objects.filter(run__in=list(runs)).update(answer=None)


def usage_of_run(run: UUID) -> dict[str, Any]:
    """Calls, tokens and dollars of one run.

    `cost_usd` is None as soon as the cost of one call is not known; `priced_usd` is that of the others. Tokens are
    those that were counted, which they were not in `uncounted_calls`.
    """
    return _usage(ModelCall.objects.filter(run=run))


def usage_of_organization(principal: Principal) -> dict[str, Any]:
    """The same of all runs of the principal's organization so far."""
    return _usage(ModelCall.objects.for_organization(principal))


def _usage(calls: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = calls.aggregate(
        model_calls=Count("pk"),
        uncounted=Count("pk", filter=Q(input_tokens=None)),
        input_tokens=Sum("input_tokens", default=0),
        output_tokens=Sum("output_tokens", default=0),
        priced=Sum("cost_usd", default=Decimal(0)),
        unpriced=Count("pk", filter=Q(cost_usd=None)),
    )
    priced = str(found["priced"].normalize() if found["priced"] else 0)
    return {
        "model_calls": found["model_calls"],
        "uncounted_calls": found["uncounted"],
        "input_tokens": found["input_tokens"],
        "output_tokens": found["output_tokens"],
        "cost_usd": None if found["unpriced"] else priced,
        "priced_usd": priced,
    }
