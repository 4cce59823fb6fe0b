"""What if: questions as values, and their answers on the owner's own calls."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from apps.llm.catalogue import Catalogue, Override
from apps.llm.pricing import Rates
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


# --- Moves and ways to save at once ----------------------------------------------------------------------------------

MINI = (1000 * Decimal("0.15") + 100 * Decimal("0.6")) / 10**6  # of one `call()` at gpt-4o-mini
SAVED = Decimal("0.0035") - MINI


def answered_twice(*features):
    """Ninety questions of each feature, answered as well by the cheaper model."""
    return [
        call(prompt=f"q{n}", session=f"{feature} {n}", feature=feature, quality="1", model=model)
        for feature in features
        for n in range(90)
        for model in ("gpt-4o", "gpt-4o-mini")
    ]


def test_a_move_that_is_what_a_way_to_save_would_do_is_not_saved_again(write, calls_of):
    with calls_of(write("calls.csv", answered_twice("chat"))) as calls:
        as_it_is = what_if(calls, Scenario())
        found = what_if(calls, Scenario(moves=(Move(model="gpt-4o", to="gpt-4o-mini"),)))

    assert as_it_is.joint.saving_usd == 90 * SAVED
    assert found.moved_usd == found.saved_usd == 180 * MINI
    assert found.joint is None


def test_a_way_to_save_routes_the_calls_that_do_not_move(write, calls_of):
    moves = (Move(feature="chat", model="gpt-4o", to="gpt-4o-mini"),)
    with calls_of(write("calls.csv", answered_twice("chat", "search"))) as calls:
        found = what_if(calls, Scenario(growth=1, moves=moves))

    assert found.moved_usd == 2 * (90 * COST + 270 * MINI)
    assert found.joint.strategies == ("model_swap_by_task",)
    assert found.joint.spent_usd == 90 * COST + 270 * MINI
    assert found.joint.saving_usd == 90 * SAVED
    assert found.joint.low <= found.joint.saving_usd <= found.joint.high
    assert found.saved_usd == 2 * 360 * MINI


def test_caches_and_batches_save_what_a_moved_call_costs_at_its_new_model(write, calls_of):
    """Each chat call has a repeat, which a cache would answer; reports wait for a batch, and stay where they are."""
    rows = [row | {"prompt": f"c{place // 4}", "user": "ann"} for place, row in enumerate(month())]
    rows = [row | ({} if row["feature"] == "chat" else {"prompt": row["session"]}) for row in rows]
    with calls_of(write("calls.csv", rows)) as calls:
        asked = Scenario(answers_kept=None, moves=(Move(feature="chat", to="gpt-4o-mini"),))
        found = what_if(calls, asked)

    assert set(found.joint.strategies) == {"batch_eligible", "exact_cache"}
    assert found.moved_usd == 140 * COST + 140 * MINI == found.joint.spent_usd
    assert found.joint.shares == {"exact_cache": 70 * MINI, "batch_eligible": 70 * COST}
    assert found.saved_usd == found.moved_usd - 70 * MINI - 70 * COST == found.joint.would_cost_usd


def test_a_moved_call_is_batched_at_the_price_of_its_new_model(opened_month):
    found = what_if(opened_month, Scenario(moves=(Move(to="gpt-4o-mini"),)))

    assert found.saved_usd == 140 * MINI + 140 * MINI / 2


def test_a_call_whose_price_elsewhere_is_unknown_stays_where_it_is_and_saves_there(write, calls_of):
    """In the tier `flex`, the other model has no price."""
    here = Rates(input=Decimal(10), output=Decimal(50))
    half = here.scaled(Decimal("0.5"))
    here = Rates(input=Decimal(10), output=Decimal(50), service={"flex": half, "batch": half.scaled(Decimal("0.5"))})
    there = Rates(input=Decimal(1), output=Decimal(5))
    catalogue = Catalogue([Override(model="here", rates=here), Override(model="there", rates=there)])
    rows = [
        call(model="here", service_tier=tier, interactive="false", prompt=f"{tier} {n}", session=f"{tier} {n}")
        for tier in ("flex", "default")
        for n in range(40)
    ]

    with calls_of(write("calls.csv", rows), catalogue) as calls:
        found = what_if(calls, Scenario(moves=(Move(to="there"),)))

    [move] = found.moves
    assert (move.calls, move.cost_usd, move.would_cost_usd) == (40, Decimal("0.6"), Decimal("0.06"))
    assert found.moved_usd == Decimal("0.06") + Decimal("0.3")
    assert found.saved_usd == Decimal("0.06") + Decimal("0.15")


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


@pytest.mark.parametrize(
    "wishes",
    [{"within": {"report": 5}}, {"within": {"report": 5}, "waits": {"report": 90_000}}],
    ids=["a time to keep", "and a longer wait"],
)
def test_a_feature_that_must_answer_sooner_than_a_batch_is_not_batched(opened_month, wishes):
    found = what_if(opened_month, Scenario(**wishes))

    assert found.promises[0].keeps
    assert found.joint is None
    assert "report may take 5 s, so its calls are left out of batches, which may take 24 hours." in found.assumptions


def test_a_feature_that_has_a_day_to_answer_is_batched(opened_month):
    found = what_if(opened_month, Scenario(within={"report": 86_400}, waits={"report": 90_000}))

    assert found.joint.strategies == ("batch_eligible",)
    assert "report may take 24 hours, so its calls are counted as able to go through a batch API." in found.assumptions


@pytest.mark.parametrize(("question", "asked"), [(what_if, Scenario), (pareto, Asked)])
def test_a_time_for_a_feature_that_no_call_is_of_is_told_to_change_nothing(opened_month, question, asked):
    wishes = {"waits": {"nosuch": 90_000}} | ({"within": {"nobody": 5}} if asked is Scenario else {})

    told = [each for each in question(opened_month, asked(**wishes)).assumptions if each.startswith("No call is of")]

    names = ["nosuch", "nobody"][: sum(map(len, wishes.values()))]
    assert told == [f"No call is of feature {name}, so what was said of it changes nothing." for name in names]


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


def test_the_savings_under_a_wait_of_a_feature_that_no_call_is_of_say_so(
    import_dataset, client_for, alice, monkeypatch
):
    monkeypatch.setattr("apps.optimization.advice.ring", lambda analysis: None)
    dataset, client = import_dataset(alice, month()), client_for(alice)
    parameters = {"waits": {"nosuch": 90_000.0}}

    asked = client.post(
        ANALYSES, {"dataset": str(dataset.pk), "kind": "savings", "parameters": parameters}, format="json"
    )
    run_analyses()
    answer = client.get(asked.headers["Location"]).json()

    told = "No call is of feature nosuch, so what was said of it changes nothing."
    assert told in answer["result"]["overview"]["assumptions"]


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
