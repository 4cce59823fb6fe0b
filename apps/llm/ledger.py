"""What Netra itself spends on models: one row per call, priced like everybody else's calls."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, Sum

from apps.accounts.tenancy import Principal
from apps.llm.models import ModelCall


def record(*, principal: Principal, run: UUID, step: str, attempt: int, **fields: Any) -> ModelCall:
    """Book one call: `model`, `provider`, tokens, `cost_usd` (None where the price is unknown) and `seconds`."""
    call: ModelCall = ModelCall.objects.create(
        organization_id=principal.organization_id,
        user_id=principal.user_id,
        run=run,
        step=step,
        attempt=attempt,
        **fields,
    )
    return call


def usage_of_run(run: UUID) -> dict[str, Any]:
    """Calls, tokens and dollars of one run; dollars are None as soon as one call has no known price."""
    return _usage(ModelCall.objects.filter(run=run))


def usage_of_organization(principal: Principal) -> dict[str, Any]:
    """Calls, tokens and dollars of the principal's organization so far."""
    return _usage(ModelCall.objects.for_organization(principal))


def _usage(calls: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = calls.aggregate(
        model_calls=Count("pk"),
        input_tokens=Sum("input_tokens", default=0),
        output_tokens=Sum("output_tokens", default=0),
        cost=Sum("cost_usd", default=Decimal(0)),
        unpriced=Count("pk", filter=Q(cost_usd=None)),
    )
    return {
        "model_calls": found["model_calls"],
        "input_tokens": found["input_tokens"],
        "output_tokens": found["output_tokens"],
        "cost_usd": None if found["unpriced"] else str(found["cost"].normalize() if found["cost"] else 0),
    }
