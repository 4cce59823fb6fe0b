"""The event loop of a worker process. Celery hands it run ids; it admits, claims and runs steps side by side."""

import asyncio
import threading
from concurrent.futures import TimeoutError as FutureTimeout
from uuid import UUID

import structlog
from uuid6 import uuid7

from apps.execution import admission, claims, doorbell
from apps.execution.context import UserExecutionContext
from apps.execution.engine import ExecutionEngine
from apps.operations.database import in_database

log = structlog.get_logger(__name__)

IN_FLIGHT = 200  # steps of one process at the same time
HAND_OVER = 3.0  # seconds for giving steps back when the process stops


class WorkerLoop:
    """One event loop on a thread of its own; many runs wait for models in it without costing a thread each."""

    def __init__(self) -> None:
        self.id = uuid7()
        self._loop = asyncio.new_event_loop()
        self._room = threading.BoundedSemaphore(IN_FLIGHT)
        self._work: set[asyncio.Task[None]] = set()
        self._draining = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="runs", daemon=True)
        self._thread.start()

    def wake(self, run_id: UUID) -> None:
        """Work on a run. Blocks while the process is full, so that the ring stays in Redis for another one."""
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._begin, run_id)

    def stop(self) -> None:
        """Give every step back, for another process to go on with, and end the loop."""
        self._draining = True
        try:
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(HAND_OVER)
        except FutureTimeout:
            log.warning("Not every step could be given back in time", seconds=HAND_OVER)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()

    def _begin(self, run_id: UUID) -> None:
        task = self._loop.create_task(self._serve(run_id))
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._work.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Work on a run broke off; the sweep takes it up", exc_info=error)

    async def _serve(self, run_id: UUID) -> None:
        """Start what may start, then do this run's ready steps, one after the other, until none is left."""
        await self._admit(but=run_id)
        while not self._draining:
            context = await self._claim(run_id)
            if context is None:
                return
            await ExecutionEngine.for_user(context).run_step()

    async def _claim(self, run_id: UUID) -> UserExecutionContext | None:
        """Take a step. A claim that commits while this is being cancelled is given back: nobody else knows of it."""
        claim = asyncio.ensure_future(in_database(claims.claim_step, run_id, worker=self.id))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            context = await claim
            if context is not None:
                await in_database(claims.release, context)
            raise

    async def _admit(self, *, but: UUID) -> None:
        """Start what may start; a failure here is nobody's reason not to work on a run that was rung for."""
        try:
            while not self._draining and (admitted := await in_database(admission.admit_one)) is not None:
                if admitted != but:
                    await in_database(doorbell.ring, admitted)
        except Exception as error:
            log.error("Admission failed; the sweep rings again", exc_info=error)

    async def _cancel_all(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)


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
