"""The event loop of a worker process. Celery hands it run ids; it admits, claims and runs steps side by side."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from uuid import UUID

import structlog
import uvloop
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from uuid6 import uuid7

from apps.execution import admission, claims, doorbell
from apps.execution.claims import Claim
from apps.execution.context import UserExecutionContext
from apps.execution.engine import ExecutionEngine
from apps.execution.heartbeat import Heartbeat
from apps.execution.models import WorkerProcess
from apps.execution.sweep import sweep
from apps.operations import periodic
from apps.operations.breakers import breakers
from apps.operations.database import in_database
from apps.statements import fetch

log = structlog.get_logger(__name__)

IN_FLIGHT = 200  # steps of one process at the same time
HAND_OVER = 3.0  # seconds for giving steps back when the process stops
LOOK_EVERY = 1.0  # seconds between two looks at what is still ours, and at what nobody looks after
STALLED_AFTER = 5.0  # seconds of a loop that stands still, after which the process falls silent

_HELD = """
select step.id, step.attempt from conversations_step step
join conversations_thread thread on thread.live_run = step.run_id
where step.worker = %(worker)s and step.state = 'running'
"""


class WorkerLoop:
    """One event loop on a thread of its own; many runs wait for models in it without costing a thread each."""

    def __init__(self) -> None:
        self.id = uuid7()
        self._loop = uvloop.new_event_loop()
        self._room = threading.BoundedSemaphore(IN_FLIGHT)
        self._work: set[asyncio.Task[None]] = set()
        self._draining = False
        self._strays: set[tuple[int, int]] = set()
        self._sweep = periodic.Duty(name="sweep", every=LOOK_EVERY, work=partial(sweep, ring=self._take_up))
        self._ticked_at = time.monotonic()
        self._heartbeat = Heartbeat(
            self.id, kind=WorkerProcess.Kind.AGENTS, status=ExecutionEngine.get_status, is_well=self._is_well
        )
        self._heartbeat.start()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runs", daemon=True)
        self._thread.start()
        self._duties = [
            asyncio.run_coroutine_threadsafe(duty, self._loop)
            for duty in (self._tick_forever(), self._look_after_forever())
        ]
        for duty in self._duties:
            duty.add_done_callback(_not_done)

    def wake(self, run_id: UUID) -> None:
        """Work on a run. Blocks while the process is full, so that the ring stays in Redis for another one."""
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._begin, run_id)

    def _take_up(self, run_id: UUID) -> None:
        """Work on a run that nobody looks after, or let another process do so when this one is full."""
        if self._room.acquire(blocking=False):
            self._loop.call_soon_threadsafe(self._begin, run_id)
        else:
            doorbell.ring(run_id)

    def _look_around(self) -> None:
        """See to another run that waits, without waiting for its ring: many at once are begun sooner."""
        if self._room.acquire(blocking=False):
            self._begin(None)

    def stop(self) -> None:
        """Let steps come to their end for a while, give the others back for another process, and end the loop."""
        self._draining = True
        try:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result(settings.DRAIN_SECONDS + HAND_OVER)
        except FutureTimeout:
            log.warning("Not every step could be given back in time", seconds=HAND_OVER)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        self._heartbeat.stop()
        breakers().close()
        if not self._thread.is_alive():
            self._loop.close()

    # --- Runs --------------------------------------------------------------------------------------------------------

    def _begin(self, run_id: UUID | None) -> None:
        task = self._loop.create_task(self._serve(run_id))
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._work.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Work on a run broke off; the sweep takes it up", exc_info=error)

    async def _serve(self, run_id: UUID | None) -> None:
        """Do this run's ready steps, one after the other, and then those of whatever run may start next."""
        if self._draining:
            return  # the sweep of another process takes it up
        while claim := await self._take(partial(admission.next_step, run_id, worker=self.id)):
            if self._draining:
                await self._hand_over(claim)
                return
            if claim.others_wait:
                self._look_around()
            more = await ExecutionEngine.for_user(claim.context).run_step(claim)
            if self._draining:
                if more:
                    doorbell.ring(claim.context.run_id)
                return
            run_id = claim.context.run_id if more else None

    async def _take(self, take: Callable[[], Claim | None]) -> Claim | None:
        """Take a step. A claim that commits while this is being cancelled is given back: nobody else knows of it."""
        taking = asyncio.ensure_future(in_database(take))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            claim = await taking
            if claim is not None:
                await in_database(claims.release, claim.context)
            raise

    async def _hand_over(self, claim: Claim) -> None:
        """Give a step back that was not begun, also when this is cancelled meanwhile."""
        giving = asyncio.ensure_future(in_database(claims.release, claim.context))
        try:
            await asyncio.shield(giving)
        except asyncio.CancelledError:
            await giving
            raise

    async def _drain(self) -> None:
        if self._work:
            await asyncio.wait(self._work, timeout=settings.DRAIN_SECONDS)
        for duty in self._duties:
            duty.cancel()
        await ExecutionEngine.shutdown()
        for task in self._work:  # who is about to take a step
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._loop.shutdown_asyncgens()  # closes the connections to models

    # --- Health ------------------------------------------------------------------------------------------------------

    def _is_well(self) -> bool:
        return time.monotonic() - self._ticked_at < STALLED_AFTER

    async def _tick_forever(self) -> None:
        """Show that the loop goes round."""
        while True:
            self._ticked_at = time.monotonic()
            await asyncio.sleep(LOOK_EVERY)

    async def _look_after_forever(self) -> None:
        """Drop what is not ours any more, and look after what is nobody's."""
        while True:
            try:
                await self._compare()
                await in_database(periodic.do_now, self._sweep)
            except (DatabaseError, InterfaceError) as error:
                log.warning("Cannot look after runs; trying again", reason=str(error))
            await asyncio.sleep(LOOK_EVERY)

    async def _compare(self) -> None:
        """Stop working on steps that are not ours any more, and give back those that are ours and not worked on."""
        before = {_name(engine.context): engine for engine in ExecutionEngine.running()}
        ours = await in_database(_held_by, self.id)
        held = {_name(engine.context) for engine in ExecutionEngine.running()}
        for name, engine in before.items():
            if name not in ours:
                engine.recall()  # rescued from us, or its run has ended: the money is better saved
        strays = ours - held
        for step_id, attempt in strays & self._strays:
            # A claim whose commit was cut off happened after all.
            await in_database(claims.release_held, step_id=step_id, attempt=attempt)
        self._strays = strays


def _not_done(duty: "Future[None]") -> None:
    """A duty goes on for as long as the process; without it, the process is better replaced."""
    if not duty.cancelled():
        log.critical("A duty of the worker broke off; ending the process", exc_info=duty.exception())
        os._exit(1)


def _held_by(worker: UUID) -> set[tuple[int, int]]:
    """Steps of live runs that `worker` holds, with their attempts."""
    return {(step_id, attempt) for step_id, attempt in fetch(_HELD, {"worker": worker})}


def _name(context: UserExecutionContext) -> tuple[int, int]:
    return context.step_id, context.attempt


_started = threading.Lock()
_loop: WorkerLoop | None = None


def worker_loop() -> WorkerLoop:
    """The process's loop, started at first use (after any fork)."""
    global _loop
    with _started:
        if _loop is None:
            _loop = WorkerLoop()
        return _loop


def stop_worker_loop() -> None:
    """Stop the loop if it was started."""
    if _loop is not None:
        _loop.stop()
