"""A cheaper model may answer only where pairs of judged answers show that it is good enough."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.optimization.evaluation import gsm8k
from apps.optimization.management.commands.evaluate import PUBLIC
from apps.optimization.options import ImpossibleOption, Options
from apps.optimization.quality.bounds import non_inferior
from apps.optimization.quality.policies import Pairs, choose, halves, scores_of, trial
from apps.optimization.quality.scoring import by_segment, by_text, folds_of, hashed
from apps.optimization.simulators import simulate
from tests.optimization.conftest import call

GSM8K = PUBLIC / "routellm_gsm8k_responses.csv"


def pairs_of(old, new, clusters=None, ratio=0.1):
    old, new = np.array(old, dtype=float), np.array(new, dtype=float)
    numbers = np.arange(len(old)) if clusters is None else np.array(clusters)
    return Pairs(old=old, new=new, old_cost=np.ones(len(old)), new_cost=np.full(len(old), ratio), clusters=numbers)


# --- The bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pairs", "proven"), [(30, False), (50, False), (70, True)])
def test_no_difference_in_a_small_sample_proves_nothing(pairs, proven):
    right = np.ones(pairs)

    assert non_inferior(right, right, np.arange(pairs), floor=0.95).holds is proven


def test_calls_of_one_session_are_not_counted_as_many():
    rng = np.random.default_rng(3)
    by_session = rng.random(60) < 0.97
    new, sessions = np.repeat(by_session, 20).astype(float), np.repeat(np.arange(60), 20)
    old = np.ones(1200)

    alone = non_inferior(new, old, np.arange(1200), floor=0.95)
    together = non_inferior(new, old, sessions, floor=0.95)

    assert alone.mean == pytest.approx(together.mean)
    assert together.lower < alone.lower - 0.02


def test_a_model_exactly_at_the_floor_passes_at_most_as_often_as_was_promised():
    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(1000):
        old = (rng.random(400) < 0.8).astype(float)
        new = (rng.random(400) < 0.8 * 0.95).astype(float)
        passed += non_inferior(new, old, np.arange(400), floor=0.95).holds

    assert passed <= 70  # 50 are expected, give or take 7


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=50), st.floats(0, 0.99))
def test_a_lower_floor_never_makes_it_harder(scores, floor):
    old, new = (np.array(each) for each in zip(*scores, strict=True))
    numbers = np.arange(len(old))

    easier = non_inferior(new, old, numbers, floor=0.0).mean

    assert easier >= non_inferior(new, old, numbers, floor=floor).mean
    assert (
        non_inferior(new, old, numbers, floor=floor).lower <= non_inferior(new, old, numbers, floor=floor).mean + 1e-9
    )


# --- Scores and policies ---------------------------------------------------------------------------------------------


def test_no_session_has_a_part_in_its_own_score():
    clusters = np.repeat(np.arange(50), 3)
    folds = folds_of(clusters)
    segments = np.zeros(150, dtype=int)
    difference = np.random.default_rng(0).normal(size=150)

    scores = by_segment(segments, difference, folds)

    assert all(len(set(folds[clusters == each])) == 1 for each in range(50))
    for fold in range(5):
        assert scores[folds == fold] == pytest.approx(difference[folds != fold].mean())


def test_words_that_tell_the_hard_questions_are_learned():
    rng = np.random.default_rng(5)
    hard = rng.random(400) < 0.5
    texts = [f"{'prove the theorem' if each else 'what is the capital'} number {n}" for n, each in enumerate(hard)]

    scores = by_text(hashed(texts), (~hard).astype(float), folds_of(np.arange(400)))

    assert scores[~hard].min() > scores[hard].max()


def test_the_simplest_policy_that_saves_as_much_is_preferred():
    pairs = pairs_of(np.ones(400), np.ones(400))
    chosen = choose(pairs, scores_of(pairs, segments=np.arange(400) % 4, texts=["same"] * 400), floor=0.95)

    assert (chosen.policy, chosen.saving) == ("task", pytest.approx(0.9))


def test_where_one_segment_is_hard_only_the_others_move():
    segments = np.arange(2000) % 4
    new = np.where(segments == 0, 0.0, 1.0)
    pairs = pairs_of(np.ones(2000), new)

    chosen = choose(pairs, scores_of(pairs, segments=segments, texts=["same"] * 2000), floor=0.95)

    assert (chosen.policy, round(chosen.saving, 3)) == ("segments", 0.675)


def test_a_worse_model_is_never_chosen():
    pairs = pairs_of(np.ones(300), np.zeros(300))

    assert choose(pairs, scores_of(pairs, segments=np.zeros(300, dtype=int), texts=["x"] * 300), floor=0.95) is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 5))
def test_a_session_is_in_one_half_only(clusters, seed):
    numbers = np.array(clusters)
    first, second = halves(numbers, seed=seed)

    assert not set(numbers[first]) & set(numbers[second])
    assert (first ^ second).all()


@pytest.mark.skipif(not GSM8K.exists(), reason=f"the public GSM8K answers are not in {PUBLIC}")
def test_on_public_answers_the_kept_quality_holds_on_calls_that_were_not_seen():
    pairs, scores = gsm8k(GSM8K)

    found = trial(pairs, scores, floor=0.95, splits=200)

    assert found.violations <= 0.10
    assert found.saving > 0.10
    assert found.kept >= 0.95


# --- On a dataset ----------------------------------------------------------------------------------------------------


def answered(count, *, good=lambda n: True, feature="chat", **more):
    """`count` questions, each answered by gpt-4o and by gpt-4o-mini; `good` says which of the cheap answers do."""
    rows = []
    for n in range(count):
        known = {"prompt": f"question {n}", "feature": feature, "session": f"{feature}-{n}"} | more
        rows.append(call(quality="1", **known))
        rows.append(call(model="gpt-4o-mini", quality="1" if good(n) else "0", **known))
    return rows


def test_a_feature_moves_to_the_cheapest_model_that_is_proven(write, calls_of):
    rows = [*answered(100), *answered(100, feature="law", good=lambda n: n % 4 > 0)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "model_swap_by_task")
        left = calls.rows("SELECT DISTINCT model, provider FROM treatment_model_swap_by_task")
        moved = calls.row('SELECT count(*) FROM treatment_model_swap_by_task t JOIN calls c USING ("call")')[0]

    tasks = {task["feature"]: task for task in found.detail["tasks"]}
    cheap = (1000 * Decimal("0.15") + 100 * Decimal("0.6")) / 10**6
    assert (tasks["chat"]["candidate"], tasks["law"]["candidate"]) == ("gpt-4o-mini", None)
    assert found.saving_usd == pytest.approx(100 * (Decimal("0.0035") - cheap), rel=Decimal("1e-9"))
    assert (found.evidence, found.up_to, moved, left) == ("E2", False, 100, [("gpt-4o-mini", None)])
    assert tasks["law"]["candidates"][0]["pairs_needed"] > 100


def test_a_feature_that_nobody_may_touch_is_not_compared(write, calls_of):
    with calls_of(write("calls.csv", answered(100))) as calls:
        assert simulate(calls, "model_swap_by_task", Options(keep=("chat",))).saving_usd is None
        assert simulate(calls, "model_swap_by_task", Options(candidates=("gpt-5-nano",))).saving_usd is None
        assert simulate(calls, "model_swap_by_task", Options(candidates=("gpt-4o-mini",))).saving_usd > 0


def test_without_pairs_the_models_qualities_are_only_observed(write, calls_of):
    rows = [call(prompt=f"a{n}", quality="1") for n in range(5)]
    rows += [call(prompt=f"b{n}", quality="0", model="gpt-4o-mini") for n in range(5)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "model_swap_by_task")

    assert (found.saving_usd, found.missing) == (None, ("pairs",))
    assert {each["model"]: each["quality"] for each in found.detail["observed"]} == {"gpt-4o": 1, "gpt-4o-mini": 0}
    assert {each["evidence"] for each in found.detail["observed"]} == {"E1"}


def test_routing_saves_what_it_saved_on_calls_that_it_was_not_chosen_on(write, calls_of):
    rows = answered(600, good=lambda n: n % 3 > 0)
    for n, row in enumerate(rows):
        row["prompt"] = f"{'prove this hard theorem' if (n // 2) % 3 == 0 else 'say hello nicely'} {n // 2}"

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "routing")
        moved = calls.row("SELECT count(*), count(DISTINCT model) FROM treatment_routing")
        dear = simulate(calls, "routing", Options(router_usd=Decimal("0.01")))

    [route] = found.detail["routes"]
    assert (route["policy"], route["violated"]) == ("calls", False)
    assert route["moved_share"] == pytest.approx(2 / 3, abs=0.1)
    assert found.saving_usd == pytest.approx(
        Decimal(route["saving_share"]) * 600 * Decimal("0.0035"), rel=Decimal("0.001")
    )
    assert moved == (pytest.approx(400, abs=60), 1)
    assert not dear.saving_usd


def test_a_candidate_that_fails_visibly_is_paid_for_together_with_the_second_answer(write, calls_of):
    rows = answered(100)
    for row in rows[1::4]:
        row |= {"quality": "", "status": "failed"}

    with calls_of(write("calls.csv", [{"status": ""} | row for row in rows])) as calls:
        [task] = simulate(calls, "model_swap_by_task").detail["tasks"]

    assert task["candidates"][0]["cost_ratio"] == pytest.approx(0.5 * 0.06 + 0.5, abs=0.01)


@pytest.mark.parametrize("wrong", [{"quality_floor": 1.5}, {"waits": {"chat": -1.0}}, {"router_usd": Decimal(-1)}])
def test_an_option_that_means_nothing_is_refused(wrong):
    with pytest.raises(ImpossibleOption):
        Options(**wrong)


def test_a_swapped_call_takes_the_time_in_which_the_candidate_answered_the_same_question(write, calls_of):
    rows = answered(100)
    for n, row in enumerate(rows):
        row["latency_ms"] = "2000" if n % 2 == 0 else "500"

    with calls_of(write("calls.csv", rows)) as calls:
        times = simulate(calls, "model_swap_by_task").latency
    with calls_of(write("more.csv", [*rows, call(feature="chat", prompt="", quality="", latency_ms="2000")])) as calls:
        unpaired = simulate(calls, "model_swap_by_task").latency

    assert (times.before.p95, times.after.p95) == (2, 0.5)
    assert (unpaired.before.p95, unpaired.after.p95) == (2, None)
