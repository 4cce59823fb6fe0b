"""Client messages about runs; named in `netra/routing.py`."""

from collections.abc import Mapping
from uuid import UUID

from apps.accounts.tenancy import Principal
from apps.execution import services
from apps.realtime.schema import AnswerRun, CancelRun, SendMessage


def send_message(principal: Principal, message: SendMessage) -> Mapping[str, UUID | None]:
    started = services.start_run(
        principal=principal,
        thread_id=message.thread,
        text=message.text,
        key=message.key,
        dataset=message.dataset,
    )
    return {"run": started.run, "message": started.message}


def cancel_run(principal: Principal, message: CancelRun) -> Mapping[str, UUID | None]:
    return {"run": services.cancel_run(principal=principal, run_id=message.run).pk}


def answer_run(principal: Principal, message: AnswerRun) -> Mapping[str, UUID | None]:
    run = services.answer_run(principal=principal, run_id=message.run, call=message.call, value=message.value)
    return {"run": run.pk}
