"""Breakers on a Redis of the suite, or on one that a test may freeze, wipe and kill."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from apps.operations import embedded
from apps.resilience.breakers import Breakers
from apps.resilience.circuit import BreakerSettings

QUICK = BreakerSettings(open_seconds=0.05, longest_open_seconds=0.2)


@pytest.fixture
def name() -> str:
    return f"tool:{uuid4().hex}"


@pytest.fixture
def process() -> Iterator[Callable[..., Breakers]]:
    """Breakers as another process would have them: nothing shared but Redis."""
    with ExitStack() as opened:

        def make(url: str = "", settings: BreakerSettings = QUICK) -> Breakers:
            breakers = Breakers(url or os.environ["REDIS_URL"], settings)
            opened.callback(breakers.close)
            return breakers

        yield make


@dataclass
class OwnRedis:
    """A Redis that nobody else uses."""

    server: embedded.Redis
    life: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self.url = self.life.enter_context(embedded.running(self.server))

    def stop(self) -> None:
        self.life.close()

    def client(self) -> redis.Redis:
        return self.life.enter_context(redis.Redis.from_url(self.url, decode_responses=True))

    def pid(self) -> int:
        return self.client().info("server")["process_id"]


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    home = Path(tempfile.mkdtemp(prefix="netra-redis-"))
    server = OwnRedis(embedded.Redis(home=home, durable=False))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
