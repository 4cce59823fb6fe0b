"""Several ways to save at once: what they save together, whose share is whose, and how sure that is."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from random import Random

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.llm.catalogue import Catalogue, Override
from apps.llm.pricing import STAGES, Prefix, Rates, Tier, Treatment, Usage, cost_pico
from apps.optimization.calls import reading
from apps.optimization.coalitions import MOST_CLUSTERS, ROUTED, saved, saved_behind, subsets
from apps.optimization.joint import joint, shapley, with_interval
from apps.optimization.options import Options
from apps.optimization.results import in_dollars
from apps.optimization.simulators import simulate
from tests.optimization.conftest import call

BATCH = Decimal("0.5")
FREELY = Options(answers_kept=None, answers_shared=True)


def rates(price, tiers=()):
    made = Rates(
        input=Decimal(price),
        output=Decimal(5 * price),
        cached_read=Decimal(price) / 10,
        cached_write=Decimal(price) * Decimal("1.25"),
        tiers=tiers,
    )
    return Rates(
        **{name: getattr(made, name) for name in made.__dataclass_fields__} | {"service": {"batch": made.scaled(BATCH)}}
    )


MODELS = {"dear": rates(10), "middle": rates(4), "cheap": rates(1)}
CATALOGUE = Catalogue([Override(model=name, rates=each) for name, each in MODELS.items()])
CALLS = 12


@st.composite
def treatments(draw):
    """For each of CALLS calls what each stage changes about it; stages are on for some calls only."""
    maybe = st.booleans()
    return [
        Treatment(
            dropped=draw(maybe) and draw(maybe),
            answered=draw(maybe) and draw(maybe),
            rates=MODELS["cheap"] if draw(maybe) else None,
            less_input=draw(st.integers(0, 1500)) if draw(maybe) else 0,
            less_output=draw(st.integers(0, 300)) if draw(maybe) else 0,
            prefix=Prefix(cached_read=draw(st.integers(0, 900))) if draw(maybe) else None,
            batched=draw(maybe),
        )
        for _ in range(CALLS)
    ]


@pytest.fixture(scope="module")
def usages():
    random = Random(5)
    return [
        Usage(
            input_tokens=random.randint(900, 3000),
            output_tokens=random.randint(0, 900),
            cached_read=random.randint(0, 400),
        )
        for _ in range(CALLS)
    ]


@pytest.fixture
def dozen(write, calls_of, usages):
    """A dozen calls of the dear model in four sessions."""
    rows = [
        call(
            model="dear",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_read,
            session=f"s{number % 4}",
        )
        for number, usage in enumerate(usages)
    ]
    with calls_of(write("calls.csv", rows), CATALOGUE) as calls:
        yield calls


def tables(calls, changes):
    """The treatments as the relations that simulators leave."""
    rows = {
        "drop": ("", [() for each in changes]),
        "answer": ("", [() for each in changes]),
        "route": (", model VARCHAR, provider VARCHAR", [("cheap", None) for each in changes]),
        "trim": (", less_input BIGINT, less_output BIGINT", [(each.less_input, each.less_output) for each in changes]),
        "prefix": (
            ", cached_read_tokens BIGINT, cached_write_tokens BIGINT, cached_write_1h_tokens BIGINT",
            [(each.prefix.cached_read, 0, 0) if each.prefix else () for each in changes],
        ),
        "batch": ("", [() for each in changes]),
    }
    on = {
        "drop": lambda each: each.dropped,
        "answer": lambda each: each.answered,
        "route": lambda each: each.rates is not None,
        "trim": lambda each: each.less_input or each.less_output,
        "prefix": lambda each: each.prefix is not None,
        "batch": lambda each: each.batched,
    }
    keys = [key for (key,) in calls.rows("SELECT call FROM calls ORDER BY call")]
    for stage, (columns, values) in rows.items():
        calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE t_{stage} (call BIGINT{columns})")
        changed = [(key, *value) for key, value, each in zip(keys, values, changes, strict=True) if on[stage](each)]
        if changed:
            values = ", ".join(str(row).replace("None", "NULL").replace(",)", ")") for row in changed)
            calls.connection.execute(f"INSERT INTO t_{stage} VALUES {values}")
    return {stage: f"t_{stage}" for stage in rows}


QUICK = settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@QUICK
@given(changes=treatments())
def test_each_of_the_64_coalitions_costs_what_its_calls_cost_one_by_one(dozen, usages, changes):
    found = saved(dozen, tables(dozen, changes))

    assert len(found.coalitions) == 64
    for stages in found.coalitions:
        one_by_one = sum(
            cost_pico(usage, MODELS["dear"]) - cost_pico(usage, MODELS["dear"], treatment=change, stages=stages)
            for usage, change in zip(usages, changes, strict=True)
        )
        assert found.total(stages) == one_by_one
    assert found.spent == sum(cost_pico(usage, MODELS["dear"]) for usage in usages)
    assert found.by_cluster.sum(axis=0) == pytest.approx(found.totals)


@settings(QUICK, max_examples=2)
@given(changes=treatments(), moved=st.sets(st.integers(0, CALLS - 1)))
def test_behind_moves_each_coalition_saves_of_what_the_moved_calls_cost_one_by_one(dozen, usages, changes, moved):
    """A call that moves is routed by nobody else, and moves whoever takes part."""
    moving = [change if place not in moved else replace(change, rates=None) for place, change in enumerate(changes)]
    relations = tables(dozen, moving)
    dozen.connection.execute("CREATE OR REPLACE TEMP TABLE moves (call BIGINT, model VARCHAR, provider VARCHAR)")
    keys = [key for (key,) in dozen.rows("SELECT call FROM calls ORDER BY call")]
    for place in moved:
        dozen.connection.execute("INSERT INTO moves VALUES (?, 'middle', NULL)", [keys[place]])
    found = saved_behind(dozen, "moves", relations)
    unrouted = saved_behind(dozen, "moves", {each: name for each, name in relations.items() if each != "route"})

    def paid(stages):
        return sum(
            cost_pico(usage, MODELS["dear"], treatment=replace(change, rates=MODELS["middle"]), stages=stages | ROUTED)
            if place in moved
            else cost_pico(usage, MODELS["dear"], treatment=change, stages=stages)
            for place, (usage, change) in enumerate(zip(usages, changes, strict=True))
        )

    at_start = sum(
        cost_pico(usage, MODELS["dear"], treatment=Treatment(rates=MODELS["middle"]), stages=ROUTED)
        if place in moved
        else cost_pico(usage, MODELS["dear"])
        for place, usage in enumerate(usages)
    )
    assert len(found.coalitions) == 64
    assert found.spent == at_start
    for stages in found.coalitions:
        assert found.total(stages) == at_start - paid(stages)
    for stages in unrouted.coalitions:
        assert unrouted.total(stages) == found.total(stages)
    assert found.by_cluster.sum(axis=0) == pytest.approx(found.totals)
    assert found.by_day.sum(axis=0) == pytest.approx([*found.totals, found.spent])
    assert found.paid.sum() == pytest.approx(found.spent)


def test_a_saving_that_changes_every_call_is_summed_in_little_memory(tmp_path):
    """As a table, the changed calls would take more than is allowed here."""
    duckdb.execute(
        f"""COPY (SELECT 'gpt-4o' AS model, 'openai' AS provider, 1000 AS input_tokens, 100 AS output_tokens,
                         0 AS cached_read_tokens, 0 AS cached_write_tokens, 0 AS cached_write_1h_tokens,
                         0 AS reasoning_tokens, 0 AS input_audio_tokens, 0 AS output_audio_tokens,
                         true AS billed, 3500000000 AS cost_pico, TIMESTAMP '2026-09-01' AS price_moment,
                         's' || range // 10 AS session FROM range(300000))
            TO '{tmp_path / "calls.parquet"}' (FORMAT parquet)"""
    )
    with reading(files=[tmp_path / "calls.parquet"], catalogue=Catalogue(), memory_mib=32) as calls:
        calls.connection.execute('CREATE TEMP TABLE waits AS SELECT "call" FROM calls')

        assert saved(calls, {"batch": "waits"}).totals == (0, 300_000 * 1_750_000_000)


@QUICK
@given(changes=treatments())
def test_without_tiers_more_strategies_never_save_less_and_never_more_than_their_sum_or_the_bill(
    dozen, usages, changes
):
    # Where a call keeps its cached tokens, each stage takes a part of what is left.
    plain = [
        Treatment(dropped=e.dropped, answered=e.answered, less_input=e.less_input, batched=e.batched) for e in changes
    ]
    found = saved(dozen, tables(dozen, plain))

    for stages in found.coalitions:
        assert found.total(stages) <= min(sum(found.total(frozenset({stage})) for stage in stages), found.spent)
        for stage in stages:
            assert found.total(stages) >= found.total(stages - {stage})


@QUICK
@given(values=st.lists(st.integers(-(10**15), 10**15), min_size=64, max_size=64))
def test_shares_add_up_to_the_whole_whatever_the_game(values):
    game = dict(zip(subsets(STAGES), [0, *values[1:]], strict=True))

    shares = shapley(game, list(STAGES))

    assert sum(shares.values()) == game[frozenset(STAGES)]


def test_who_changes_nothing_gets_nothing_and_equals_get_the_same():
    game = {
        stages: 60 * len(stages & {"drop", "batch"}) - 20 * ({"drop", "batch"} <= stages) for stages in subsets(STAGES)
    }

    assert shapley(game, list(STAGES)) == {
        "drop": 50, "answer": 0, "route": 0, "trim": 0, "prefix": 0, "batch": 50
    }  # fmt: skip


def test_a_tier_that_breaks_the_law_is_shown_as_an_interaction(write, calls_of):
    """Trimming below a long-context tier is worth more on a model that has one: the two help each other."""
    tiered = rates(10, tiers=(Tier(above=200_000, input=Decimal(20), output=Decimal(100)),))
    catalogue = Catalogue([Override(model="dear", rates=tiered), Override(model="cheap", rates=MODELS["cheap"])])
    rows = [call(model="dear", input_tokens=201_000, output_tokens=0)]
    change = Treatment(less_input=2_000, batched=True)

    with calls_of(write("calls.csv", rows), catalogue) as calls:
        found = saved(calls, {stage: table for stage, table in tables(calls, [change]).items() if stage != "prefix"})

    trim, batch = found.total(frozenset({"trim"})), found.total(frozenset({"batch"}))
    assert trim == 201_000 * 20_000_000 - 199_000 * 10_000_000
    assert found.total(frozenset({"trim", "batch"})) != trim + batch


def test_what_has_no_price_elsewhere_stays_where_it_is(write, calls_of):
    with calls_of(write("calls.csv", [call(model="dear")]), CATALOGUE) as calls:
        calls.connection.execute(
            "CREATE TEMP TABLE t AS SELECT call, 'unheard-of' AS model, NULL AS provider FROM calls"
        )
        found = saved(calls, {"route": "t"})

    assert found.totals == (0, 0)


# --- From simulators to the document ---------------------------------------------------------------------------------


def overlapping(sessions):
    """Questions that repeat and can wait: caching and batching meet on the same calls."""
    return [
        call(
            prompt="same" if n % 3 else f"p{n}",
            session=f"s{n}",
            interactive="false",
            temperature=0,
            timestamp=f"2026-10-{1 + n % 28:02}T{n % 24:02}:00:00Z",
        )
        for n in range(sessions)
    ]


def test_the_same_call_is_saved_once(write, calls_of):
    with calls_of(write("calls.csv", overlapping(90))) as calls:
        strategies = [simulate(calls, name, FREELY) for name in ("batch_eligible", "exact_cache", "model_swap_ceiling")]
        found = joint(calls, strategies)

    alone = {each.name: each.saving_usd for each in strategies}
    assert set(found.strategies) == {"batch_eligible", "exact_cache"}
    assert [each.name for each in found.left_out] == ["model_swap_ceiling"]
    assert found.sum_of_parts_usd == alone["batch_eligible"] + alone["exact_cache"]
    assert found.saving_usd == found.sum_of_parts_usd - found.overlap_usd < found.sum_of_parts_usd
    assert sum(found.shares.values()) == sum(found.stages.values()) == found.saving_usd
    assert found.would_cost_usd == found.spent_usd - found.saving_usd
    assert found.low < found.saving_usd < found.high
    [interaction] = found.interactions
    assert interaction.usd == -found.overlap_usd


def test_with_ceilings_the_joint_saving_is_one(write, calls_of):
    with calls_of(write("calls.csv", overlapping(40))) as calls:
        strategies = [simulate(calls, name, FREELY) for name in ("batch_eligible", "exact_cache")]
        doubted = [each.model_copy(update={"up_to": True}) for each in strategies]

        assert joint(calls, doubted) is None
        assert joint(calls, doubted, ceilings=True).up_to
        assert joint(calls, doubted, ceilings=True).saving_usd == joint(calls, strategies).saving_usd


def test_cheaper_models_take_part_as_the_ceiling_that_they_are(write, calls_of):
    rows = [row | {"batch": str(n % 3 == 0).lower()} for n, row in enumerate(overlapping(40))]
    with calls_of(write("calls.csv", rows)) as calls:
        swap = simulate(calls, "model_swap_ceiling", Options(keep=("none",)))
        found = joint(calls, [swap], ceilings=True)

    assert found.up_to
    assert found.saving_usd == swap.saving_usd > 0


def test_a_route_saves_what_the_candidates_own_answers_cost_less(write, calls_of):
    """The candidate writes twenty times as much, so that its list price alone would promise half as much again."""
    rows = []
    for n in range(90):
        question = {"prompt": f"q{n}", "session": f"s{n}", "feature": "chat", "quality": "1"}
        rows.append(call(**question))
        rows.append(call(**question, model="gpt-4o-mini", output_tokens=2000))

    with calls_of(write("calls.csv", rows)) as calls:
        swap = with_interval(calls, simulate(calls, "model_swap_by_task"))
        found = joint(calls, [swap])
        # A second one that keeps all it saves at list prices, on half of the same calls: the larger one changes those.
        calls.connection.execute(
            'CREATE OR REPLACE TEMP TABLE treatment_routing AS FROM treatment_model_swap_by_task WHERE "call" % 4 = 0'
        )
        listed = saved(calls, {"route": "treatment_routing"}).total(frozenset({"route"}))
        second = swap.model_copy(update={"name": "routing", "saving_usd": in_dollars(listed)})
        both = joint(calls, [second, swap])
        # On calls of its own, it adds what it keeps.
        calls.connection.execute(
            'DELETE FROM treatment_model_swap_by_task WHERE "call" IN (SELECT "call" FROM treatment_routing)'
        )
        left = calls.row("SELECT count(*) FROM treatment_model_swap_by_task")[0]
        rest = swap.model_copy(update={"saving_usd": swap.saving_usd * left / 90})
        apart = joint(calls, [second, rest])

    assert swap.saving_usd == pytest.approx(90 * (Decimal("0.0035") - Decimal("0.00135")), rel=Decimal("1e-9"))
    assert swap.low <= swap.saving_usd <= swap.high
    assert found.saving_usd == pytest.approx(swap.saving_usd, rel=Decimal("1e-9"))
    assert 0 < second.saving_usd < swap.saving_usd
    assert both.saving_usd == pytest.approx(swap.saving_usd, rel=Decimal("1e-9"))
    assert apart.saving_usd == pytest.approx(second.saving_usd + rest.saving_usd, rel=Decimal("1e-9"))


# --- Intervals -------------------------------------------------------------------------------------------------------


def test_below_thirty_clusters_there_is_no_interval_and_it_says_why(write, calls_of):
    with calls_of(write("calls.csv", overlapping(29))) as calls:
        found = joint(calls, [simulate(calls, "batch_eligible")])

    assert (found.low, found.high) == (None, None)
    assert "29 clusters are too few" in found.interval_note


@pytest.mark.parametrize("user", ["", "ann"])
def test_hours_of_one_user_or_of_nobody_resemble_each_other_and_count_as_days(write, calls_of, user):
    hours = [row | {"session": "", "user": user} for row in overlapping(90)]  # of 28 days

    with calls_of(write("calls.csv", hours)) as calls:
        found = joint(calls, [simulate(calls, "batch_eligible")])

    assert "28 clusters are too few" in found.interval_note


def test_days_of_several_users_are_clusters_of_their_own(write, calls_of):
    rows = [row | {"session": "", "user": f"user-{place % 3}"} for place, row in enumerate(overlapping(90))]

    with calls_of(write("calls.csv", rows)) as calls:
        found = joint(calls, [simulate(calls, "batch_eligible")])

    assert found.low <= found.saving_usd <= found.high


def test_days_that_something_learned_from_tell_nothing_of_how_days_resemble_each_other(write, calls_of):
    with calls_of(write("calls.csv", overlapping(90))) as calls:
        simulate(calls, "batch_eligible")
        found = saved(calls, {"batch": "treatment_batch_eligible"})
    batched = frozenset({"batch"})

    assert (found.first_day, len(found.of_days(batched))) == (date(2026, 10, 1), 28)
    assert found.of_days(batched, after=date(2026, 10, 20)).tolist() == found.of_days(batched)[20:].tolist()
    assert found.of_days(batched, after=date(2026, 9, 1)).tolist() == found.of_days(batched).tolist()


def test_what_stands_in_a_few_sessions_has_no_interval(write, calls_of):
    rows = [row | {"interactive": "true"} for row in overlapping(60)]
    rows += [row | {"session": f"waits {place}"} for place, row in enumerate(overlapping(9))]

    with calls_of(write("calls.csv", rows)) as calls:
        found = joint(calls, [simulate(calls, "batch_eligible")])

    assert found.saving_usd > 0
    assert (found.low, found.high) == (None, None)
    assert "what is saved stands in 9 clusters" in found.interval_note


@pytest.mark.parametrize("sessions", [30, 1000])
def test_few_clusters_are_counted_one_by_one(write, calls_of, sessions):
    rows = [row | {"session": f"s{n}"} for n, row in enumerate(overlapping(sessions))]

    with calls_of(write("calls.csv", rows)) as calls:
        simulate(calls, "batch_eligible")
        found = saved(calls, {"batch": "treatment_batch_eligible"})

    assert len(found.paid) == sessions


def test_many_clusters_are_thrown_together(write, calls_of):
    rows = [row | {"session": f"s{n}"} for n, row in enumerate(overlapping(MOST_CLUSTERS + 200))]

    with calls_of(write("calls.csv", rows)) as calls:
        simulate(calls, "batch_eligible")
        found = saved(calls, {"batch": "treatment_batch_eligible"})

    assert len(found.paid) < MOST_CLUSTERS
    assert found.paid.sum() == found.spent


def test_each_strategy_has_an_interval_of_its_own(write, calls_of):
    with calls_of(write("calls.csv", overlapping(90))) as calls:
        batch = with_interval(calls, simulate(calls, "batch_eligible"))
        ceiling = with_interval(calls, simulate(calls, "model_swap_ceiling"))

    assert batch.low <= batch.saving_usd <= batch.high
    assert (ceiling.low, ceiling.high) == (None, None)


def test_an_interval_holds_no_share_that_cannot_be(write, calls_of):
    rows = [
        row | {"max_output_tokens": 4000, "feature": "chat", "output_tokens": 100 + place}
        for place, row in enumerate(overlapping(240))
    ]
    rows.append(rows[0] | {"session": "huge", "input_tokens": 1, "output_tokens": 100_000_000})

    with calls_of(write("calls.csv", rows)) as calls:
        found = joint(calls, [simulate(calls, "output_capping")], ceilings=True)

    assert 0 <= found.low <= found.saving_usd <= found.high <= found.spent_usd


def test_a_workload_that_changes_is_said_to_drift(write, calls_of):
    """In the second half, everything can wait; before, hardly anything could."""
    rows = [row | {"interactive": "false" if n >= 140 or n % 20 == 0 else "true"} for n, row in enumerate(spread(280))]

    with calls_of(write("calls.csv", rows)) as calls:
        found = joint(calls, [simulate(calls, "batch_eligible")])

    assert found.drift.verdict == "drifting"
    assert found.drift.weeks == 3
    assert found.drift.bias < -0.1


def spread(count):
    """Calls that repeat nothing, ten a day."""
    return [
        call(prompt=f"p{n}", session=f"s{n}", timestamp=f"2026-10-{1 + n // 10:02}T{n % 24:02}:00:00Z")
        for n in range(count)
    ]
