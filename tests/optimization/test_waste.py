"""What was paid in vain, sent again, written too long or could have waited; and what each does to the times."""

from dataclasses import replace
from decimal import Decimal
from importlib import import_module

import pytest

from apps.agents.tools import exact_cache
from apps.optimization.allowances import if_allowed
from apps.optimization.joint import joint, with_interval
from apps.optimization.latency import latency
from apps.optimization.options import DEFAULTS, Options
from apps.optimization.results import Times
from apps.optimization.simulators import simulate
from tests.optimization.conftest import call

COST = Decimal("0.0035")  # of one `call()`
INPUT, CACHED = Decimal("2.5") / 10**6, Decimal("1.25") / 10**6  # dollars per token of gpt-4o


def at(second, **more):
    start, end = (
        f"2026-10-01T12:{second // 60:02d}:{second % 60:02d}Z",
        f"2026-10-01T12:{second // 60:02d}:{second % 60:02d}.5Z",
    )
    empty = ("status", "error", "cost", "trace_id", "user", "prompt", "temperature", "tools_offered", "finish_reason")
    return call(timestamp=start, ended_at=end) | dict.fromkeys(empty, "") | more


# --- Retries and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "avoidable"),
    [
        pytest.param(
            [at(0, prompt="q", trace_id="t"), at(5, prompt="q", trace_id="t")], 1, id="asked after the answer"
        ),
        pytest.param([at(0, prompt="q", user="u"), at(5, prompt="q", user="u")], 1, id="by the same user"),
        pytest.param([at(0, prompt="q", user="u"), at(5, prompt="q", user="v")], 0, id="by somebody else"),
        pytest.param([at(0, prompt="q", user="u"), at(700, prompt="q", user="u")], 0, id="much later"),
        pytest.param([at(0, prompt="q", trace_id="t"), at(0, prompt="q", trace_id="t")], 0, id="before the answer"),
        pytest.param([at(0, prompt="q", trace_id="t"), at(5, prompt="r", trace_id="t")], 0, id="another step"),
        pytest.param([at(n, prompt="q", trace_id="t", temperature="1") for n in (0, 5)], 0, id="for variety"),
        pytest.param(
            [at(n, prompt="q", trace_id="t", tools_offered="true") for n in (0, 5)], 0, id="for what the tools do"
        ),
        pytest.param(
            [at(0, prompt="q", user="u", finish_reason="length"), at(5, prompt="q", user="u")], 0, id="after half of it"
        ),
        pytest.param(
            [at(n, prompt="q", trace_id="t", user=user) for n, user in ((0, "u"), (5, "v"))],
            0,
            id="by another user of it",
        ),
        pytest.param(
            [at(n, prompt="q", trace_id=trace, user="u") for n, trace in ((0, "t"), (5, "s"))], 0, id="in another trace"
        ),
        pytest.param(
            [at(n, prompt="q", user="u") for n in (0, 400, 800)], 1, id="a repeat makes the answer no younger"
        ),
        pytest.param(
            [
                at(n, prompt="q", trace_id="t", tools_offered="true", **more)
                for n, more in ((0, {"status": "failed", "cost": "0.0035", "error": "429"}), (5, {}))
            ],
            1,
            id="a failure, whatever its tools",
        ),
        pytest.param(
            [at(0, trace_id="t", status="failed", cost="0.0035", error="invalid_request"), at(5, trace_id="t")],
            1,
            id="a request that could not succeed",
        ),
        pytest.param([at(0, trace_id="t", status="failed", error="invalid_request")], 0, id="a failure without a bill"),
        pytest.param(
            [at(0, trace_id="t", status="failed", cost="0.0035", error="503 overloaded")], 0, id="the provider's fault"
        ),
        pytest.param([at(0, trace_id="t", status="failed", cost="0.0035")], 0, id="an error that nobody names"),
    ],
)
def test_an_attempt_in_vain_is_avoidable_only_if_one_could_have_known(write, calls_of, rows, avoidable):
    with calls_of(write("calls.csv", [at(3000, trace_id="other"), *rows])) as calls:
        found = simulate(calls, "retry_waste")
        left = calls.row("SELECT count(*) FROM treatment_retry_waste")[0]

    assert (found.detail["avoidable_calls"], found.saving_usd, left) == (avoidable, avoidable * COST, avoidable)


def test_a_repeat_is_in_vain_only_while_its_answer_may_be_kept(write, calls_of):
    with calls_of(write("calls.csv", [at(n, prompt="q", user="u") for n in (0, 30, 90)])) as calls:
        kept = [simulate(calls, "retry_waste", Options(answers_kept=seconds)) for seconds in (None, 60, 10)]

    assert [each.detail["avoidable_calls"] for each in kept] == [2, 1, 0]


def test_what_calls_leave_unsaid_is_taken_for_granted_and_told(write, calls_of):
    """Three questions are each asked again a second later; what their calls say differs."""
    said = ({}, {"temperature": "0"}, {"temperature": "0", "tools_offered": "false"})
    rows = [sent(n + s, took=0, prompt=f"q{n}", **more) for n, more in enumerate(said) for s in (60, 61)]

    with calls_of(write("calls.csv", rows)) as calls:
        told = {name: simulate(calls, name).assumptions for name in ("duplicate_calls", "retry_waste", "exact_cache")}

    for name, counted in (("duplicate_calls", "duplicates"), ("retry_waste", "repeats"), ("exact_cache", "repeats")):
        assert told[name][-2:] == (
            f"1 of 3 {counted} do not tell their temperature; it is taken for 0.",
            f"2 of 3 {counted} do not tell whether they offer tools; they are taken to offer none.",
        )


def test_failures_are_told_by_their_kind_and_linked_to_the_next_attempt(write, calls_of):
    failed = {"status": "failed", "cost": "0.0035"}
    rows = [
        at(0, trace_id="a", error="RateLimitError", **failed),
        at(3, trace_id="a"),
        at(9, trace_id="b", error="Timeout", **failed),
    ]

    with calls_of(write("calls.csv", rows)) as calls:
        kinds = {kind["kind"]: kind for kind in simulate(calls, "retry_waste").detail["by_kind"]}

    assert (kinds["limit"]["tried_again"], kinds["limit"]["avoidable"]) == (1, True)
    assert (kinds["timeout"]["tried_again"], kinds["timeout"]["avoidable"]) == (0, False)


def test_a_log_that_links_nothing_says_so(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        found = simulate(calls, "retry_waste")

    assert (found.saving_usd, found.missing) == (None, ("status", "prompt", "user"))


# --- The same request twice ------------------------------------------------------------------------------------------


def sent(second, took=30, **more):
    end = f"2026-10-01T12:{(second + took) // 60:02d}:{(second + took) % 60:02d}Z"
    return at(second) | {"prompt": "q", "user": "u", "ended_at": end} | more


@pytest.mark.parametrize(
    ("rows", "duplicates"),
    [
        pytest.param([sent(1), sent(1)], 1, id="at the same moment"),
        pytest.param([sent(1), sent(20)], 1, id="while the first is under way"),
        pytest.param([sent(1), sent(32)], 0, id="after its answer"),
        pytest.param([sent(1, took=0), sent(3)], 1, id="within moments of it"),
        pytest.param([sent(1), sent(20), sent(40)], 1, id="what was dropped makes no duplicate"),
        pytest.param([sent(1), sent(20, user="v")], 0, id="of somebody else"),
        pytest.param([sent(1), sent(20, user="")], 0, id="of nobody"),
        pytest.param([sent(1, status="failed"), sent(20)], 0, id="of a failure"),
        pytest.param([sent(1, temperature="1"), sent(2, temperature="1")], 0, id="for variety"),
        pytest.param([sent(1, tools_offered="true"), sent(2, tools_offered="true")], 0, id="for what the tools do"),
    ],
)
def test_a_request_sent_again_before_its_answer_is_a_duplicate(write, calls_of, rows, duplicates):
    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "duplicate_calls")

    assert (found.detail["duplicates"], found.saving_usd) == (duplicates, duplicates * COST)


def test_times_of_whole_minutes_show_no_duplicates(write, calls_of):
    with calls_of(write("calls.csv", [sent(60), sent(60)])) as calls:
        found = simulate(calls, "duplicate_calls")

    assert (found.saving_usd, found.missing) == (None, ("started_at",))


def test_what_is_a_duplicate_a_retry_and_a_repeat_at_once_is_saved_once(write, calls_of):
    """The second is all three: within two seconds, after the answer, which a cache would have had."""
    rows = [sent(1, took=1), sent(3), *[sent(100 + n, prompt=f"p{n}", user="w") for n in range(3)]]
    names = ("duplicate_calls", "retry_waste", "exact_cache")

    with calls_of(write("calls.csv", rows)) as calls:
        found = [simulate(calls, name) for name in names]
        together = joint(calls, found)

    assert [each.saving_usd for each in found] == [COST] * 3
    assert together.saving_usd == COST
    assert sum(together.shares.values()) == COST


def test_no_way_to_save_counts_what_a_cache_refuses(write, calls_of):
    """Somebody asks every half a minute, with tools, whether something is there yet."""
    polls = [sent(30 * n, took=1, trace_id="t", tools_offered="true", temperature="0") for n in range(20)]

    with calls_of(write("calls.csv", polls)) as calls:
        found = [simulate(calls, name) for name in ("duplicate_calls", "retry_waste", "exact_cache")]
        together = joint(calls, found)

    assert [each.saving_usd for each in found] == [0] * 3
    assert together is None


# --- Trimming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cached", "saved"),
    [(0, 60 * INPUT), (1000, 60 * CACHED), (20, 20 * CACHED + 40 * INPUT)],
    ids=["uncached", "cached", "partly cached"],
)
def test_trimmed_tokens_save_the_price_they_paid(write, calls_of, cached, saved):
    with calls_of(write("calls.csv", [call(history_tokens=600, cached_tokens=cached)])) as calls:
        found = simulate(calls, "context_trimming")
        left = calls.rows("SELECT less_input, less_output FROM treatment_context_trimming")

    assert (found.saving_usd, found.evidence, found.up_to, left) == (saved, "E0", True, [(60, 0)])


def test_history_is_what_a_session_sends_again(write, calls_of):
    rows = [
        at(0, session="s", input_tokens=1000),
        at(5, session="s", input_tokens=1500),
        at(9, session="s", input_tokens=200),
    ]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "context_trimming", Options(trimmed=0.5))

    assert (found.detail["history_tokens"], found.saving_usd) == (1100, 550 * INPUT)
    assert found.detail["calls_that_tell_history_apart"] == 0


def test_without_sessions_and_parts_there_is_nothing_to_trim(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        found = simulate(calls, "context_trimming")

    assert (found.saving_usd, found.missing) == (None, ("history_tokens", "session"))


# --- Capping ---------------------------------------------------------------------------------------------------------


def test_a_cap_cuts_the_longest_answers_and_leaves_reasoning_alone(write, calls_of):
    rows = [call(feature="a", output_tokens=100, reasoning_tokens=0) for _ in range(95)]
    rows += [call(feature="a", output_tokens=900, reasoning_tokens=500) for _ in range(5)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "output_capping")
        left = calls.rows("SELECT DISTINCT less_input, less_output FROM treatment_output_capping")

    assert found.saving_usd == 5 * 300 * Decimal(10) / 10**6
    assert Decimal(found.detail["reasoning_usd"]) == 5 * 500 * Decimal(10) / 10**6
    assert (found.detail["truncated_share"], found.evidence, found.up_to) == (0.05, "E0", True)
    assert left == [(0, 300)]


def test_a_feature_with_few_answers_has_no_cap(write, calls_of):
    with calls_of(write("calls.csv", [call(feature="a")] * 5)) as calls:
        assert simulate(calls, "output_capping").saving_usd is None


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_the_owner_says_which_feature_may_wait_and_which_nobody_touches(write, calls_of):
    rows = [call(feature=name) for name in ("night", "chat", "law")]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "batch_eligible", Options(waits={"night": 90_000, "chat": 0.5}))
        kept = simulate(calls, "batch_eligible", Options(waits={"night": 90_000}, keep=("night",)))

    assert (found.saving_usd, found.up_to, found.evidence) == (COST / 2, False, "E2")
    assert found.detail["silent_share_of_spend"] == pytest.approx(1 / 3, abs=1e-6)
    assert kept.saving_usd == 0
    assert found.why == "Of 33.3% of the spend nobody says whether it can wait; that is not counted."


def test_a_ceiling_of_calls_that_no_way_changes_has_no_interval_of_nothing(write, calls_of):
    rows = [call(timestamp=f"2026-10-{day:02d}T12:00:00Z", interactive="") for day in range(1, 22)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = with_interval(calls, simulate(calls, "batch_eligible"))

    assert (found.saving_usd, found.up_to) == (21 * COST / 2, True)
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("users", "options", "allowed"),
    [
        ("abcd", DEFAULTS, {"answers_shared": True}),  # of the rules that save the same, the one that allows least
        ("aaaa", DEFAULTS, {}),
        ("", DEFAULTS, {"answers_shared": True}),  # whose calls they are matters no more
        ("abcd", Options(answers_shared=True), {}),
    ],
)
def test_a_rule_that_its_owner_may_allow_adds_what_the_cache_saves_under_it(write, calls_of, users, options, allowed):
    rows = [at(n, prompt="q", **({"user": users[n]} if users else {})) for n in range(4)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "exact_cache", options)
        beside = if_allowed(calls, [found], options)
        under = simulate(calls, "exact_cache", replace(options, **allowed))

    assert [each.options for each in beside] == ([allowed] if allowed else [])
    assert sum(each.more_usd for each in beside) == under.saving_usd - (found.saving_usd or 0)


def test_a_cache_that_saves_nothing_tells_which_rules_would(write, calls_of):
    rows = [at(n, prompt="q", user=str(n)) for n in range(1, 5)]

    with calls_of(write("calls.csv", rows)) as calls:
        found, headline = simulate(calls, "exact_cache"), exact_cache.measure(calls).headline
        shared = simulate(calls, "exact_cache", Options(answers_shared=True))

    assert found.saving_usd == 0
    assert found.why == (
        "No repeat of what the same user was answered, kept for an hour. "
        "Other rules would save more: $0.0105 with answers given to everybody and kept for an hour."
    )
    assert headline.endswith(found.why)
    assert shared.saving_usd == 3 * COST
    assert (
        shared.why
        == "3 repeats of what anybody was answered, kept for an hour; 3 of them do not say their temperature."
    )


@pytest.mark.parametrize(
    ("rows", "missing", "why"),
    [
        ([call(prompt="short")], (), "No prompt has 512 characters"),
        ([call(prompt="x" * 600, timestamp="")], ("started_at",), "No call with the blocks of its prompt has a time"),
        ([call(prompt="")], ("prompt",), "No call shows its prompt"),
    ],
)
def test_what_a_providers_cache_lacks_is_only_what_the_calls_lack(write, calls_of, rows, missing, why):
    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "prefix_cache")

    assert (found.saving_usd, found.missing) == (None, missing)
    assert found.why.startswith(why)


def test_an_answer_that_streams_is_never_batched(write, calls_of):
    with calls_of(write("calls.csv", [call(interactive="false", stream="true")])) as calls:
        assert simulate(calls, "batch_eligible").saving_usd == 0


def test_batching_never_gets_credit_for_speed(write, calls_of):
    rows = [at(n, interactive="false" if n < 8 else "true") for n in range(10)]

    with calls_of(write("calls.csv", rows)) as calls:
        times = simulate(calls, "batch_eligible").latency

    assert times.before == Times(p50=0.5, p95=0.5, ttft=None)
    assert times.after == Times(p50=86_400, p95=86_400, ttft=None)


def test_a_batch_call_is_compared_at_the_candidates_batch_price(write, calls_of):
    with calls_of(write("calls.csv", [call(batch="true")])) as calls:
        [swap] = simulate(calls, "model_swap_ceiling").detail["models"]

    mini = next(offer for offer in swap["candidates"] if offer["model"] == "gpt-4o-mini")
    assert swap["candidates"][0]["same_provider"]
    assert Decimal(mini["cost_usd"]) == (1000 * Decimal("0.15") + 100 * Decimal("0.6")) / 2 / 10**6
    assert Decimal(mini["saving_from_usd"]) < Decimal(mini["saving_usd"]) < Decimal(mini["saving_to_usd"])


# --- Times -----------------------------------------------------------------------------------------------------------


def test_times_that_nobody_knows_make_the_whole_unknown(write, calls_of):
    with calls_of(write("calls.csv", [at(n) for n in range(10)])) as calls:
        some = 'SELECT "call" FROM calls LIMIT 3'
        unknown = latency(calls, changed=some)
        faster = latency(calls, changed='SELECT "call" FROM calls', seconds="0.1")
        same = latency(calls)

    assert unknown.after == Times(p50=None, p95=None, ttft=None)
    assert (faster.before.p50, faster.after.p50) == (0.5, 0.1)
    assert same.before == same.after


# --- What agents see of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["model_swap_by_task", "routing", "retry_waste", "context_trimming", "output_capping"])
def test_a_tool_tells_what_its_strategy_found_and_else_what_is_missing(write, calls_of, tool):
    measure = import_module(f"apps.agents.tools.{tool}").measure
    judged = {"quality": "1", "feature": "chat", "history_tokens": 500, "status": "ok"}
    rows = [
        call(model=model, prompt=f"q{n}", trace_id=f"t{n}", **judged)
        for n in range(150)
        for model in ("gpt-4o", "gpt-4o-mini")
    ]

    with calls_of(write("calls.csv", rows)) as calls:
        full, found = measure(calls), simulate(calls, tool)
    with calls_of(write("bare.csv", [call()])) as calls:
        bare = measure(calls)

    assert [Decimal(each.saving_usd) for each in full.savings] == [found.saving_usd]
    assert full.tables or tool == "retry_waste"
    assert not bare.savings
    assert bare.headline
    assert bare.missing or tool == "output_capping"
