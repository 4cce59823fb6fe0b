"""What a breakdown is measured beside makes the same figures, or nothing is measured."""

import pytest

from apps.optimization import benchmark_breakdown
from apps.optimization.benchmark_breakdown import WAYS, Differs, imported, installed, refuse_difference


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("month"), 2_000)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "Netra"])
def test_every_tool_makes_the_same_figures_of_a_month(month, way):
    if not installed(way):
        pytest.skip(f"{way} is not installed")
    with WAYS["Netra"](month) as ours, WAYS[way](month) as theirs:
        figures = {"Netra": ours(), way: theirs()}

    refuse_difference(figures)
    by_model, by_hour = figures["Netra"]
    assert sum(calls for calls, *_ in by_hour.values()) == 1_950
    assert by_model["own-model"][:2] == (40, 40)  # none of them has a price


def test_figures_that_differ_are_not_compared_in_time(month):
    with WAYS["Netra"](month) as ours:
        by_model, by_hour = ours()

    with pytest.raises(Differs, match="Polars breaks the calls down otherwise"):
        refuse_difference({"Netra": (by_model, by_hour), "Polars": (by_model, by_hour | {0: (1,) * 7})})


def test_a_tool_that_is_not_there_is_said_to_be_missing_and_has_no_bar(monkeypatch):
    monkeypatch.setattr(benchmark_breakdown, "find_spec", lambda name: None)

    assert [(row.name, row.budget) for row in benchmark_breakdown.benchmarks()] == [
        ("breakdown beside DuckDB", 1.5),
        ("breakdown alone (Polars is not installed)", None),
        ("breakdown alone (pandas is not installed)", None),
    ]
