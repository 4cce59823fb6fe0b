"""What if: questions as values, and their answers on the owner's own calls."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from apps.optimization.scenarios import Asked, Move, Periods, Scenario, compare_periods, pareto, what_if
from tests.optimization.conftest import call, run_analyses

COST = Decimal("0.0035")  # of one `call()`
ANALYSES = "/api/analyses/"


def month(**more):
    """Ten calls a day for four weeks, half of them by a feature that can wait."""
    return [
        call(
            timestamp=f"2026-10-{1 + n // 10:02}T{8 + n % 10:02}:00:00Z",
            ended_at=f"2026-10-{1 + n // 10:02}T{8 + n % 10:02}:00:0{1 + n % 3}Z",
            feature="report" if n % 2 else "chat",
            interactive="false" if n % 2 else "true",
            prompt=f"p{n // 4}" if n % 2 else f"c{n}",
            session=f"s{n}",
            temperature=0,
        )
        | more
        for n in range(280)
    ]


@pytest.fixture
def opened_month(write, calls_of):
    with calls_of(write("calls.csv", month())) as calls:
        yield calls


def test_half_as_much_use_again_costs_half_as_much_again(opened_month):
    found = what_if(opened_month, Scenario(growth=0.5))

    assert found.spent_usd == 280 * COST
    assert found.grown_usd == found.moved_usd == Decimal("1.5") * 280 * COST
    assert found.forecast_usd == pytest.approx(Decimal("1.5") * found.forecast_days * 10 * COST, rel=Decimal("0.02"))
    assert found.saved_usd < found.moved_usd


def test_a_feature_that_moves_costs_the_same_tokens_at_the_other_price(opened_month):
    found = what_if(opened_month, Scenario(growth=1.0, moves=(Move(feature="chat", to="gpt-4o-mini"),)))

    [move] = found.moves
    mini = (1000 * Decimal("0.15") + 100 * Decimal("0.6")) / 10**6
    assert (move.calls, move.cost_usd, move.would_cost_usd) == (140, 140 * COST, 140 * mini)
    assert move.low_usd < move.would_cost_usd < move.high_usd
    assert found.moved_usd == 2 * (140 * COST + 140 * mini)


def test_a_call_that_two_moves_are_about_is_moved_once(opened_month):
    moves = (Move(to="gpt-4o-mini"), Move(feature="chat", to="gpt-4o-mini"))

    found = what_if(opened_month, Scenario(moves=moves))

    assert [move.calls for move in found.moves] == [280, 0]
    assert found.moved_usd == found.moves[0].would_cost_usd > 0


@pytest.mark.parametrize(
    "hostile",
    [
        {"waits": {"chat": "inf"}},
        {"within": {"chat": 1e308}},
        {"answers_kept": "nan"},
        {"keep": ["\0"]},
        {"waits": {"\ud800": 1}},
        {"moves": [{"to": "gpt-4o-mini", "feature": "\0"}]},
        {"candidates": ["m" * 5000]},
        {"keep": ["chat"] * 5000},
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_kept_is_refused(hostile):
    with pytest.raises(ValidationError):
        Scenario.model_validate(hostile)


def test_with_ceilings_the_quality_of_other_models_is_unknown(opened_month):
    points = pareto(opened_month, Asked(ceilings=True)).points

    routed = [point for point in points if "route" in point.stages]
    assert routed
    assert {point.quality for point in routed} == {None}


@pytest.mark.parametrize(("question", "asked"), [(what_if, Scenario()), (pareto, Asked())])
def test_who_says_stop_is_heard(opened_month, question, asked):
    def stop(percent):
        raise TimeoutError(percent)

    with pytest.raises(TimeoutError):
        question(opened_month, asked, stop)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_period_at_an_end_of_the_calendar_is_refused(moment):
    names = ("before_from", "before_until", "after_from", "after_until")

    with pytest.raises(ValidationError):
        Periods.model_validate(dict.fromkeys(names, moment))


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Move(feature="chat", to="oracle-of-delphi"), "No price is known for oracle-of-delphi."),
        (Move(feature="nobody", to="gpt-4o-mini"), "No priced call is of this feature and model."),
    ],
)
def test_a_move_whose_cost_is_unknown_changes_nothing_and_says_why(opened_month, move, why):
    found = what_if(opened_month, Scenario(moves=(move,)))

    assert (found.moves[0].would_cost_usd, found.moves[0].why) == (None, why)
    assert found.moved_usd == found.spent_usd


def test_who_keeps_to_a_time_is_read_from_the_log(opened_month):
    found = what_if(opened_month, Scenario(within={"chat": 5, "report": 0.5, "nobody": 1}))

    assert [(each.feature, each.keeps) for each in found.promises] == [
        ("chat", True),
        ("report", False),
        ("nobody", None),
    ]
    assert found.promises[0].p95 == 3


def test_features_that_nobody_may_touch_are_left_alone(opened_month):
    free = what_if(opened_month, Scenario()).joint
    kept = what_if(opened_month, Scenario(keep=("report",))).joint

    assert free.saving_usd > 0
    assert kept is None


def test_no_choice_that_is_called_best_is_beaten(opened_month):
    found = pareto(opened_month, Asked(answers_kept=None, answers_shared=True))

    assert set(found.strategies) == {"answer", "batch"}
    points = {point.stages: point for point in found.points}
    assert len(points) == 4
    # A batch makes its calls slow and a cache makes them quick; both together are the cheapest.
    assert points[("answer",)].p95_seconds <= points[()].p95_seconds < points[("batch",)].p95_seconds
    assert points[("answer", "batch")].cost_usd == min(point.cost_usd for point in found.points)
    assert {point.stages for point in found.points if point.best} == {("answer",), ("answer", "batch")}
    assert {point.quality for point in found.points} == {1.0}


def test_where_nothing_is_proven_the_only_choice_is_to_change_nothing(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        found = pareto(calls, Asked())

    assert [(point.stages, point.cost_usd, point.best) for point in found.points] == [((), COST, True)]


def test_two_periods_are_compared_by_their_factors(opened_month):
    weeks = [f"2026-10-{day:02}T00:00:00Z" for day in (1, 8, 8, 22)]
    asked = Periods(before_from=weeks[0], before_until=weeks[1], after_from=weeks[2], after_until=weeks[3])

    found = compare_periods(opened_month, asked)

    assert found.change_usd == 70 * COST
    assert found.factors["volume"] == pytest.approx(70 * COST)


@pytest.mark.parametrize("wrong", [{"growth": -2}, {"moves": [{"feature": "x"}]}, {"speed": 1}, {"quality_floor": 2}])
def test_a_question_that_means_nothing_is_none(wrong):
    with pytest.raises(ValidationError):
        Scenario.model_validate(wrong)


# --- Over REST -------------------------------------------------------------------------------------------------------


def test_a_question_is_stored_with_its_answer_and_can_be_put_again(import_dataset, client_for, alice, monkeypatch):
    monkeypatch.setattr("apps.optimization.advice.ring", lambda analysis: None)
    dataset, client = import_dataset(alice, month()), client_for(alice)
    question = {"growth": 0.5, "waits": {"report": 86400.0}}

    asked = client.post(
        ANALYSES, {"dataset": str(dataset.pk), "kind": "what_if", "parameters": question}, format="json"
    )
    run_analyses()
    answer = client.get(asked.headers["Location"]).json()
    again = client.post(f"{ANALYSES}{answer['id']}/again/").json()

    assert (asked.status_code, answer["state"], answer["parameters"]) == (202, "ready", question)
    assert Decimal(answer["result"]["grown_usd"]) == Decimal("1.5") * 280 * COST
    assert again["id"] == answer["id"]


@pytest.mark.parametrize(
    ("kind", "parameters", "place"),
    [
        ("what_if", {"growth": "much"}, "growth"),
        ("what_if", {"waits": {"chat": -1}}, "wait"),
        ("changes", {}, "before_from"),
        ("savings", {"bill": "x"}, "bill"),
    ],
)
def test_a_question_that_cannot_be_understood_says_where(import_dataset, client_for, alice, kind, parameters, place):
    dataset = import_dataset(alice, [call()])

    answer = client_for(alice).post(
        ANALYSES, {"dataset": str(dataset.pk), "kind": kind, "parameters": parameters}, format="json"
    )

    assert answer.status_code == 400
    assert place in answer.json()["detail"]
