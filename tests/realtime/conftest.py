"""Hubs belong to the event loop of a test, and end with it."""

import pytest

from apps.realtime import hub


@pytest.fixture
async def no_hub_left_behind():
    yield
    for each in hub._hubs.values():
        await each.close()
    hub._hubs.clear()
