"""What Netra itself asks of models: one row per call, from asked to answered, priced like everybody else's calls.

The rows are journal and bill in one. An answer is kept before anybody acts on it, so that a later attempt of the step
reads it instead of asking again; a call that was cut stays booked, and is asked again as a call of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from uuid6 import uuid7

from apps.accounts.tenancy import Principal
from apps.errors import NetraError
from apps.llm.models import ModelCall
from apps.statements import Row, change, fetch


@dataclass(frozen=True, kw_only=True)
class Asker:
    """On whose behalf a model is asked, and for which attempt of which step.

    `asked` counts equal questions of the attempt, so that the second gets an answer of its own.
    """

    principal: Principal
    run: UUID
    step: str
    attempt: int
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

_ANSWERED = """
update llm_modelcall set state = 'answered', answer = %(answer)s, finished_at = clock_timestamp(),
    seconds = %(seconds)s, input_tokens = %(input_tokens)s, cached_read_tokens = %(cached_read_tokens)s,
    output_tokens = %(output_tokens)s, cost_usd = %(cost_usd)s
where id = %(id)s and state = 'asked'
"""
_NOTHING_KNOWN = dict.fromkeys(("seconds", "input_tokens", "cached_read_tokens", "output_tokens", "cost_usd"))


def ask(asker: Asker, *, key: str, provider: str, model: str) -> Asked:
    """The answer to this question from some attempt of the step, else a new call, booked as asked."""
    who = {"organization": asker.principal.organization_id, "user": asker.principal.user_id, "run": asker.run}
    what = {"id": uuid7(), "step": asker.step, "attempt": asker.attempt, "key": key}
    [(call, answer)] = fetch(_ASK, {**who, **what, "provider": provider, "model": model})
    return Asked(call=call, answer=answer)


def answer(call: UUID, *, answer: str, heard: Callable[[], None], **known: Any) -> None:
    """Keep an answer, with its `seconds`, tokens and `cost_usd` (None where the price is unknown), and with whatever
    `heard` writes.

    Raises:
        NetraError: what `heard` raises; the call is booked as cut, with what it cost, and its answer is not kept.
    """
    try:
        with transaction.atomic():
            heard()
            change(_ANSWERED, {"id": call, "answer": answer, **_NOTHING_KNOWN, **known})
    except NetraError:
        cut(call, **known)
        raise


def withdraw(call: UUID) -> None:
    """Unbook a call that was never made."""
    ModelCall.objects.filter(pk=call, state=ModelCall.State.ASKED).delete()


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
    return _usage(fetch(_USAGE_OF_RUN, {"run": run}))


def usage_of_organization(principal: Principal) -> dict[str, Any]:
    """The same of all runs of the principal's organization so far."""
    return _usage(fetch(_USAGE_OF_ORGANIZATION, {"organization": principal.organization_id}))


_USAGE = """
select count(*), count(*) filter (where input_tokens is null), coalesce(sum(input_tokens), 0)::bigint,
    coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(cost_usd), 0), count(*) filter (where cost_usd is null)
from llm_modelcall where """
_USAGE_OF_RUN = _USAGE + "run = %(run)s"
_USAGE_OF_ORGANIZATION = _USAGE + "organization_id = %(organization)s"


def _usage(rows: list[Row]) -> dict[str, Any]:
    [(calls, uncounted, tokens_in, tokens_out, priced, unpriced)] = rows
    dollars = str(priced.normalize() if priced else 0)
    return {
        "model_calls": calls,
        "uncounted_calls": uncounted,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cost_usd": None if unpriced else dollars,
        "priced_usd": dollars,
    }
