"""`manage.py benchmark` measures, and says what it measured beside what was wanted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from apps.operations import benchmarks
from apps.operations.benchmarks import Benchmark, Measured
from tests.operations.houses import ROOT, environment, short_directory

FIELDS = {"name", "value", "unit", "budget", "floor", "ratio", "holds"}


@pytest.fixture(scope="module")
def home() -> Iterator[dict[str, str]]:
    """The environment of somebody who has no house yet."""
    with short_directory() as folder:
        yield environment(folder / "home")


def benchmark(variables: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "manage.py", "benchmark", "--json", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def test_each_row_says_what_was_measured_and_whether_it_holds(home):
    done = benchmark(home, "--quick", "--only", "event validation")

    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == [f"event validation {what}" for what in ("latency", "rate", "memory")]
    assert all(set(row) == FIELDS and row["value"] > 0 for row in rows)
    assert [row["budget"] for row in rows] == [5, 20_000, None]
    assert rows[2]["holds"] is None
    assert done.returncode == (0 if rows[0]["holds"] and rows[1]["holds"] else 1)


@pytest.mark.long
def test_what_needs_stores_is_measured_in_a_house_of_its_own_that_is_gone_afterwards(home):
    done = benchmark(home | {"TMPDIR": os.path.dirname(home["NETRA_HOME"])}, "--quick", "--only", "stored tool calls")

    [row] = json.loads(done.stdout)["rows"]
    assert row["ratio"] == pytest.approx(row["value"] / row["floor"])
    assert (row["budget"], row["holds"], done.returncode) == (None, None, 0)
    assert not os.path.exists(home["NETRA_HOME"])
    assert not [name for name in os.listdir(os.path.dirname(home["NETRA_HOME"])) if name.startswith("netra-bench-")]


def test_an_unknown_row_is_a_sentence(home):
    done = benchmark(home, "--only", "nothing of that name")

    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "benchmark.unknown"
    assert "event validation latency" in done.stderr


@pytest.mark.parametrize(
    ("measured", "budget", "better", "holds"),
    [
        (Measured(value=9), 10, "lower", True),
        (Measured(value=11), 10, "lower", False),
        (Measured(value=9), 10, "higher", False),
        (Measured(value=40, floor=100), 0.5, "higher", False),
        (Measured(value=60, floor=100), 0.5, "higher", True),
        (Measured(value=60, floor=100), None, "higher", None),
    ],
)
def test_a_budget_bounds_the_ratio_where_there_is_a_floor(measured, budget, better, holds):
    row = benchmarks.take(
        Benchmark(name="x", unit="s", measure=lambda quick: measured, budget=budget, better=better), quick=True
    )

    assert row.holds is holds
    assert row.ratio == (None if measured.floor is None else measured.value / measured.floor)
