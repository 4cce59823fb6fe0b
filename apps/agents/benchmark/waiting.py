"""`python -m apps.agents.benchmark.waiting`: many calls that wait for a model at once, on one event loop or on threads.

Reads `{"url", "calls", "milliseconds", "threads"}` on standard input and prints `{"seconds", "cpu_seconds", "mib"}`:
the whole time, the CPU, and what the calls added to the most memory that the process had resident. The same client
library both ways.
"""

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import AsyncOpenAI, OpenAI

from apps.operations.benchmarks import peak_mib


def on_threads(url: str, calls: int, request: dict[str, Any]) -> None:
    """A thread for each call."""
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client, ThreadPoolExecutor(calls) as pool:
        list(pool.map(lambda _: client.chat.completions.create(**request), range(calls)))


async def on_a_loop(url: str, calls: int, request: dict[str, Any]) -> None:
    """All calls on this thread."""
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        await asyncio.gather(*(client.chat.completions.create(**request) for _ in range(calls)))


def wait(url: str, calls: int, milliseconds: int, threads: bool) -> dict[str, float]:
    """What `calls` calls take that wait so long each, all at once."""
    request = _request(f"[wait {milliseconds} ms]")
    # What is imported at the first call is no part of it.
    OpenAI(base_url=url, api_key="none").chat.completions.create(**_request("Now."))
    memory, cpu, began = peak_mib(os.getpid()), time.process_time(), time.monotonic()
    if threads:
        on_threads(url, calls, request)
    else:
        asyncio.run(on_a_loop(url, calls, request))
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "mib": peak_mib(os.getpid()) - memory}


def _request(text: str) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    return {"model": "benchmark", "messages": [{"role": "user", "content": text}], "tools": [tool]}


if __name__ == "__main__":
    json.dump(wait(**json.load(sys.stdin)), sys.stdout)
