"""A measurement that takes too long is cut off, and its thread is free again."""

import asyncio
import time
from types import SimpleNamespace
from uuid import uuid4

import pytest

from apps.agents.measuring import OnDataset, measured
from apps.optimization import services
from apps.optimization.duck import confined

ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"


async def test_a_query_past_its_time_is_interrupted(monkeypatch, tmp_path):
    ended = []

    class opened:
        def __enter__(self):
            self.confined = confined(folders=(tmp_path,), scratch=tmp_path, memory_mib=64)
            return SimpleNamespace(connection=self.confined.__enter__())

        def __exit__(self, *error):
            self.confined.__exit__(None, None, None)
            ended.append(error[0])

    monkeypatch.setattr(services, "open_calls", lambda **_: opened())
    context = SimpleNamespace(principal=None)
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await measured(context, OnDataset(dataset=uuid4()), lambda calls: calls.connection.execute(ENDLESS))

    while not ended:
        assert time.monotonic() - began < 20
        await asyncio.sleep(0.05)
    assert "Interrupt" in ended[0].__name__
