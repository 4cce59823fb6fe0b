"""Named points at which a fault test can hold a process, to kill it exactly there.

While `NETRA_DEBUG_POINTS` names a directory, a process that reaches `point("tool.effect_done")` looks there for a file
of that name; if there is one, it leaves `tool.effect_done.reached` with its process id and waits until the file is
gone. Everywhere else a point costs one comparison.
"""

import asyncio
import os
import time
from pathlib import Path

from django.conf import settings

LOOK_EVERY = 0.01  # seconds

# Every point there is, and what has just happened there.
POINTS = {
    "event.committed": "events are stored, their hint has not been published",
    "run.committed": "a run is stored, the doorbell has not been rung",
    "tool.effect_done": "a tool has done its work, its result is not journaled",
    "model.answered": "a model has answered, its answer is not journaled",
    "step.claimed": "a step is claimed, its agent has not begun",
    "step.settling": "a step is about to be settled",
}


def point(name: str) -> None:
    """Wait here while a test holds this point; blocks, so that it stands still as a crash would find it."""
    folder: Path | None = settings.DEBUG_POINTS
    if folder is None:
        return
    if name not in POINTS:
        raise ValueError(f"No debug point is named {name!r}.")
    gate = folder / name
    if gate.exists():
        (folder / f"{name}.reached").write_text(str(os.getpid()))
    while gate.exists():
        time.sleep(LOOK_EVERY)


async def point_on_loop(name: str) -> None:
    """As `point`, for code on an event loop, which goes on meanwhile."""
    if settings.DEBUG_POINTS is not None:
        await asyncio.to_thread(point, name)
