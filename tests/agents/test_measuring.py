"""A measurement that takes too long is cut off, and its thread is free again."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from apps.agents.measuring import OnDataset, measured, which_bill
from apps.agents.tools import pareto
from apps.agents.tools.changes import latest_periods
from apps.optimization import services
from apps.optimization.duck import confined
from apps.optimization.models import Dataset, StoredAnalysis

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


@pytest.mark.parametrize(("first", "asked"), [(1.5, []), (None, ["ended_at"])])
def test_end_times_are_asked_for_where_not_even_today_has_them(first, asked):
    points = [
        {"stages": stages, "cost_usd": "1", "p95_seconds": p95, "quality": 1, "best": True}
        for stages, p95 in (([], first), (["route"], None))
    ]
    result = {"points": points, "strategies": {"route": ["routing"]}, "assumptions": []}

    found = pareto.measure(StoredAnalysis(id=uuid4(), parameters={}, result=result))

    assert [item.field for item in found.missing] == asked


DAY = timedelta(days=1)
START = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("files", "periods"),
    [
        pytest.param([(0, 28)], (14, 21, 21, 28), id="the last week and the one before"),
        pytest.param([(0, 4)], (0, 2, 2, 4), id="the halves of a short log"),
        pytest.param([(0, 28), (28, 31)], (25, 28, 28, 31), id="what the newest file brought, and as long before"),
        pytest.param([(0, 2), (2, 10)], (0, 2, 2, 4), id="no longer than there was before"),
        pytest.param([(None, None)], None, id="no times"),
    ],
)
def test_what_changed_is_asked_of_the_calls_since_last_time(acme, alice, as_principal, files, periods):
    rows = []
    for place, (first, last) in enumerate(files):
        span = (None, None) if first is None else (START + first * DAY, START + last * DAY)
        rows.append(
            Dataset.objects.create(
                organization=acme,
                continues=rows[0] if rows else None,
                name=f"file {place}",
                file_bytes=1,
                sha256=f"{place}",
                state="ready",
                first_call_at=span[0],
                last_call_at=span[1],
                created_by=alice.pk,
            )
        )

    found = latest_periods(as_principal(alice), rows[0].pk)

    wanted = None if periods is None else tuple(START + day * DAY for day in periods)
    edges = found and (found.before_from, found.before_until, found.after_from, found.after_until)
    assert edges == (wanted and pytest.approx(wanted, abs=timedelta(seconds=1)))


def test_without_a_bill_nothing_is_said_of_which_was_taken():
    assert list(which_bill([])) == []
