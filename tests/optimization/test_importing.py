"""From a file to calls: what is understood, what is turned away and why, and what is never stored."""

import gzip
import io
import json
import os
import shutil
import time
import zipfile
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.errors import NetraError
from apps.llm.catalogue import Catalogue, Override
from apps.llm.pricing import Rates
from apps.optimization import conversion, limits
from apps.optimization.conversion import CHECKED, NoCalls, TooManyModels, UnknownModel
from apps.optimization.importers import NoUsableColumns, WrongMapping, importer_for
from apps.optimization.limits import DiskFull, TookTooLong
from apps.optimization.readers import TooLargeInside, UnusableFile
from apps.optimization.texts import Place, Texts
from tests.optimization.conftest import as_csv, call, spend_log


def one(calls, columns):
    return calls.row(f"SELECT {columns} FROM calls")


def texts(columns):
    return Texts({name: Place(column=name) for name in columns})


# --- Columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
            {"started_at": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
        ),
        (
            ("timestamp", "input_length", "output_length", "hash_ids"),
            {
                "started_at": "timestamp",
                "input_tokens": "input_length",
                "output_tokens": "output_length",
                "blocks": "hash_ids",
            },
        ),
        (
            ("createdAt", "Model", "usage.prompt_tokens", "usage.completion_tokens", "usage.details.cached_tokens"),
            {
                "started_at": "createdAt",
                "model": "Model",
                "input_tokens": "usage.prompt_tokens",
                "output_tokens": "usage.completion_tokens",
                "cached_read_tokens": "usage.details.cached_tokens",
            },
        ),
        (("x.prompt_tokens", "prompt_tokens"), {"input_tokens": "prompt_tokens"}),
    ],
)
def test_columns_are_understood_by_their_names(columns, expected):
    assert importer_for(texts(columns), {}).columns == expected


def test_an_own_mapping_overrules_the_guess_and_can_take_a_column_away():
    columns = ("prompt_len", "reply_len", "model", "input_tokens")

    found = importer_for(texts(columns), {"input_tokens": "prompt_len", "output_tokens": "reply_len", "model": None})

    assert found.columns == {"input_tokens": "prompt_len", "output_tokens": "reply_len"}


def test_without_token_counts_nothing_can_be_imported_and_the_columns_are_listed():
    with pytest.raises(NoUsableColumns, match="'question', 'answer'"):
        importer_for(texts(("question", "answer")), {})


@pytest.mark.parametrize("mapping", [{"tokens": "a"}, {"input_tokens": "b"}])
def test_a_mapping_to_nowhere_is_refused(mapping):
    with pytest.raises(WrongMapping, match=r"no (field|column)"):
        importer_for(texts(("a",)), mapping)


def test_a_key_that_appears_late_in_a_json_file_is_understood_from_there_on(write, calls_of):
    rows = [call() for _ in range(500)] + [call(cached_tokens=400)]

    with calls_of(write("calls.jsonl", rows)) as calls:
        assert one(calls, "sum(cached_read_tokens)") == (400,)


def test_new_names_in_every_row_are_read_in_time_and_a_late_column_is_still_found(write, calls_of):
    rows = [call(**{f"key {n}": 1}) for n in range(20_000)] + [call(cached_tokens=400)]
    began = time.process_time()

    with calls_of(write("calls.jsonl", rows)) as calls:
        assert one(calls, "count(*), sum(cached_read_tokens)") == (20_001, 400)

    assert time.process_time() - began < 15


@pytest.mark.parametrize("name", ["input\0tokens", "input_tokens\ud800", "x" * 2000 + ".input_tokens"])
def test_a_column_whose_name_cannot_be_stored_is_no_column(write, converted, name):
    assert name not in converted(write("calls.jsonl", [call(**{name: 5})])).columns.values()

    with pytest.raises(NoUsableColumns):
        converted(write("calls.jsonl", [{name: 5}]))


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01T12:30:00Z",
        "2026-10-01T14:30:00+02:00",
        "2026-10-01 12:30:00",
        "2026-10-01 12:30:00.0000000",
        "01.10.2026 12:30",
        "1790857800",
        "1790857800000",
        "1790857800000000",
        "1790857800.0",
    ],
)
def test_a_moment_is_read_in_every_usual_spelling(write, calls_of, text):
    with calls_of(write("calls.csv", [call(timestamp=text)])) as calls:
        assert one(calls, "started_at") == (datetime.fromisoformat("2026-10-01T12:30"),)


@pytest.mark.parametrize("clock", ["12:00", "12:00:00", "12:00:00.0", "12:00:00.000", "12:00:00.000000"])
@pytest.mark.parametrize("between", ["T", " "])
def test_an_offset_counts_however_a_moment_is_written(write, calls_of, between, clock):
    offsets = {"": 0, "Z": 0, "+00": 0, "+02": 2, "+0200": 2, "+02:00": 2, "-11": -11, "-0330": -3.5, "+05:45": 5.75}
    rows = [call(timestamp=f"2026-01-31{between}{clock}{offset}") for offset in offsets]

    with calls_of(write("calls.csv", rows)) as calls:
        read = [at for (at,) in calls.rows("SELECT started_at FROM calls ORDER BY line")]

    assert read == [datetime.fromisoformat("2026-01-31T12:00") - timedelta(hours=hours) for hours in offsets.values()]


def test_a_semicolon_file_with_decimal_commas_is_read(write, calls_of):
    content = "timestamp;model;input_tokens;output_tokens;cost\n01.10.2026 12:30:00;gpt-4o;1.000;100;0,0035\n"

    with calls_of(write("calls.csv", content)) as calls:
        assert one(calls, "input_tokens, recorded_cost, cost_pico") == (1000, Decimal("0.0035"), 3_500_000_000)


def test_a_duration_gives_the_end_where_no_end_is_recorded(write, calls_of):
    with calls_of(write("calls.csv", [call(latency_ms="1500")])) as calls:
        assert one(calls, "epoch(ended_at - started_at)") == (1.5,)


def test_times_of_a_trace_without_a_calendar_are_kept_relative_and_it_is_said(write, converted, opened):
    rows = [{"timestamp": at, "input_length": 10, "output_length": 5} for at in (0, 3000, 6000)]

    conversion = converted(write("trace.jsonl", rows))

    assert "start of the trace" in " ".join(conversion.notes)
    with opened() as calls:
        assert one(calls, "epoch(max(started_at) - min(started_at))") == (6.0,)


@pytest.mark.parametrize("damaged", ["n/a", "n.a.", "-5", "nan", "infinity", "2026-13-45T00:00:00Z"])
@pytest.mark.parametrize("step", [3000, 2.5])
def test_a_damaged_time_among_relative_ones_costs_its_own_row_only(write, converted, opened, damaged, step):
    times = [*(number * step for number in range(150)), damaged, *(number * step for number in range(150, 300))]

    found = converted(write("calls.csv", [call(timestamp=at) for at in times]))

    assert (found.rows, [(reject.line, reject.column) for reject in found.rejects]) == (300, [(152, "timestamp")])
    assert "cannot be read" in found.rejects[0].reason
    with opened() as calls:
        assert one(calls, "epoch(max(started_at) - min(started_at))") == (897 if step == 3000 else 747.5,)


@pytest.mark.parametrize("good", ["2026-10-01T12:00:00Z", "2026-10-01 12:00:00", "01.10.2026 12:00", "1790857800"])
def test_one_time_of_the_calendar_shows_that_small_numbers_are_damaged(write, converted, good):
    found = converted(write("calls.csv", [call(timestamp=at) for at in ("5", "n/a", good)]))

    assert (found.rows, [reject.line for reject in found.rejects]) == (1, [2, 3])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"input_tokens": "-5"}, "negative"),
        ({"output_tokens": "-1"}, "negative"),
        ({"input_tokens": "many"}, "not a whole number"),
        ({"input_tokens": "12.5"}, "not a whole number"),
        ({"input_tokens": "NaN"}, "not a whole number"),
        ({"output_tokens": "inf"}, "not a whole number"),
        ({"input_tokens": "99999999999999999999999"}, "not a whole number"),
        ({"input_tokens": "9223372036854775807"}, "cannot be one call"),
        ({"input_tokens": "", "output_tokens": ""}, "no token counts"),
        ({"timestamp": "yesterday"}, "time cannot be read"),
        ({"timestamp": "2026-13-45T00:00:00Z"}, "time cannot be read"),
        ({"timestamp": "infinity"}, "time cannot be read"),
        ({"timestamp": "1999-12-31T00:00:00Z"}, "before 2015"),
        ({"timestamp": "2999-01-01T00:00:00Z"}, "in the future"),
        ({"ended_at": "2026-10-01T11:59:59Z"}, "ends before it starts"),
        ({"cost": "-0.01"}, "not an amount of dollars"),
        ({"cost": "NaN"}, "not an amount of dollars"),
        ({"cost": "1e300"}, "not an amount of dollars"),
        ({"deadline_seconds": "inf"}, "not a number"),
        ({"temperature": "warm"}, "not a number"),
        ({"cached_tokens": "5000"}, "More cached tokens than input"),
    ],
    ids=str,
)
def test_a_bad_row_is_turned_away_with_its_line_and_reason_and_stops_nothing(write, converted, bad, reason):
    good = call(ended_at="", cost="", deadline_seconds="", temperature="", cached_tokens="10")

    conversion = converted(write("calls.csv", [*[good] * 300, good | bad, good]))

    assert (conversion.rows, conversion.rejected) == (301, 1)
    [reject] = conversion.rejects
    assert reject.line == 302
    assert reason in reject.reason


def test_an_empty_count_beside_another_is_none_and_it_is_said_how_often(write, converted, opened):
    no_output, no_input = call(output_tokens=""), call(input_tokens="")
    rows = [call(), *[no_output] * 3, *[no_input] * 2, no_output | {"model": "nobody-s", "timestamp": "yesterday"}]

    found = converted(write("calls.csv", rows))

    assert (found.rows, found.rejected) == (6, 1)
    said = [note for note in found.notes if "taken for none" in note]
    assert said == [
        "2 calls say how many tokens they wrote and not how many they read; those are taken for none.",
        "3 calls say how many tokens they read and not how many they wrote; those are taken for none.",
    ]
    with opened() as calls:
        assert one(calls, "sum(input_tokens), sum(output_tokens)") == (4000, 300)


@pytest.mark.parametrize("rows", [[call(), call(output_tokens=0)], [{"model": "gpt-4o", "input_tokens": 5}]])
def test_where_no_count_is_empty_nothing_is_said_of_it(write, converted, rows):
    assert "taken for none" not in " ".join(converted(write("calls.csv", rows)).notes)


def test_only_the_first_hundred_rejects_are_kept_and_all_are_counted(write, converted):
    rows = [call()] + [call(input_tokens=-n) for n in range(1, 251)] + [call()]

    conversion = converted(write("calls.csv", rows))

    assert (conversion.rows, conversion.rejected, len(conversion.rejects)) == (2, 250, 100)
    assert [reject.line for reject in conversion.rejects] == list(range(3, 103))


def test_ragged_rows_and_bad_values_are_told_in_the_order_of_their_lines(write, converted):
    path = write("calls.csv", "input_tokens,output_tokens\n-1,2\n1,2,3\n5,6\nx,1\n")

    conversion = converted(path)

    assert [(r.line, r.column) for r in conversion.rejects] == [(2, "input_tokens"), (3, None), (5, "input_tokens")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("input_tokens,output_tokens\n", "no rows"),
        ("input_tokens,output_tokens\n-1,2\n-3,4\n", "None of 2 rows is a usable call. The first, line 2"),
        ('{"input_tokens": -1}\n', "None of 1 rows"),
        ("[]", "No column"),
        ("{}", "No column"),
    ],
)
def test_a_file_without_one_usable_call_fails_whole(write, converted, tmp_path, content, sentence):
    with pytest.raises(UnusableFile, match=sentence):
        converted(write("calls.csv", content))

    assert list((tmp_path / "converted").iterdir()) == []


def test_the_rejects_of_a_failed_file_are_told_too(write, converted):
    with pytest.raises(NoCalls, match="None of 2 rows") as failure:
        converted(write("calls.csv", [call(input_tokens=-1), call(input_tokens="x")]))

    assert [reject.line for reject in failure.value.rejects] == [2, 3]


cells = st.text(max_size=20) | st.sampled_from(["", "-1", "1e400", "NaN", "2026-10-01", "'", '"', "{}", "\0", "gpt-4o"])
names = st.sampled_from(
    ["input_tokens", "output_tokens", "timestamp", "model", "cost", "status", "prompt", "metadata", "cached_tokens"]
)


@given(
    rows=st.lists(st.dictionaries(names, cells | st.integers() | st.floats() | st.none(), max_size=9), max_size=8),
    as_lines=st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_values_at_all_bring_an_import_down(write, converted, rows, as_lines):
    content = "".join(json.dumps(row) + "\n" for row in rows) if as_lines else as_csv([{}, *rows])
    path = write("fuzz.csv", content.encode("utf-8", "surrogatepass"))

    try:
        assert converted(path).rows > 0
    except NetraError as error:
        assert isinstance(error, UnusableFile)


# --- Prompts ---------------------------------------------------------------------------------------------------------


def test_metadata_only_stores_no_prompt_anywhere(write, converted, tmp_path):
    converted(write("calls.csv", [call(prompt="a very secret question")]), metadata_only=True)
    parquet = tmp_path / "converted" / "calls.parquet"

    assert b"secret question" not in parquet.read_bytes()
    assert list(parquet.parent.iterdir()) == [parquet]


def test_metadata_only_writes_no_prompt_on_the_way_either(write, converted):
    path = write("calls.jsonl", [call(prompt=os.urandom(5000).hex()) for _ in range(20)])

    assert converted(path, metadata_only=True, staged_bytes=30_000).rows == 20
    with pytest.raises(TooLargeInside):
        converted(path, staged_bytes=30_000)


def test_the_same_prompt_has_the_same_hash_within_an_import_and_another_in_the_next(write, converted, opened):
    path = write("calls.csv", [call(prompt="one"), call(prompt="one"), call(prompt="two"), call(prompt="")])
    seen = []
    for _ in range(2):
        converted(path, metadata_only=True)
        with opened() as calls:
            seen.append([hash for (hash,) in calls.rows("SELECT prompt_hash FROM calls ORDER BY line")])

    first, second = seen
    assert first[0] == first[1] != first[2]
    assert first[3] is None
    assert not {*first[:3]} & {*second[:3]}


def test_prompts_are_kept_as_they_were_where_they_may_be(write, calls_of):
    prompt = 'say "hi", then\nstop; é 🦙 \\n'

    with calls_of(write("calls.csv", [call(prompt=prompt)])) as calls:
        assert one(calls, "prompt") == (prompt,)


# --- Limits ----------------------------------------------------------------------------------------------------------


def nothing_left(tmp_path):
    return list((tmp_path / "converted").iterdir()) == []


def test_calls_that_take_more_room_than_one_import_may_have_are_refused(write, converted, tmp_path):
    with pytest.raises(TooLargeInside, match="more than 1,000 bytes"):
        converted(write("calls.csv", [call() for _ in range(100)]), staged_bytes=1000)

    assert nothing_left(tmp_path)


def test_an_import_leaves_room_on_the_disk(write, converted, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda place: usage._replace(free=limits.KEEP_FREE))

    with pytest.raises(DiskFull):
        converted(write("calls.csv", [call()]))

    assert nothing_left(tmp_path)


def test_an_import_ends_in_time_while_rows_are_read(write, converted, tmp_path):
    with pytest.raises(TookTooLong):
        converted(write("calls.csv", [call() for _ in range(100)]), seconds=0)

    assert nothing_left(tmp_path)


def test_an_import_ends_in_time_while_calls_are_checked(write, converted, monkeypatch, tmp_path):
    def endless(connection, *_):
        connection.execute("SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE hash(a, b) = 1")

    monkeypatch.setattr(conversion, "_check", endless)
    with pytest.raises(TookTooLong):
        converted(write("calls.csv", [call()]), seconds=1)

    assert nothing_left(tmp_path)


def test_a_row_whose_values_are_too_long_together_is_turned_away_alone(write, converted, monkeypatch):
    monkeypatch.setattr(conversion, "MAX_FIELD", 1000)

    found = converted(write("calls.csv", [call(), call(prompt="x" * 2000), call()]))

    assert (found.rows, found.rejects[0].line, found.rejects[0].reason[:18]) == (2, 3, "The row is longer ")


@pytest.mark.parametrize(
    ("character", "many", "kept"), [("🦙", 4_000_000, 2), ("語", 6_500_000, 2), ('\\"', 4_000_000, 2)]
)
def test_a_prompt_of_many_bytes_is_kept_or_turned_away_and_never_a_failure_of_ours(
    write, converted, character, many, kept
):
    lines = [f'{{"input_tokens": 1, "prompt": "{character * length}"}}\n' for length in (1, many)]

    found = converted(write("calls.jsonl", "".join(lines)))

    assert (found.rows, found.rejected) == (kept, 2 - kept)


def test_a_name_of_a_thousand_words_is_no_name(write, converted):
    found = converted(write("calls.csv", [call(), call(feature="x" * 1001)]))

    assert [(r.column, r.reason) for r in found.rejects] == [("feature", "It is longer than 1,000 characters.")]


def test_a_column_with_too_many_models_is_none_of_models(write, converted):
    path = write("calls.csv", [call(model=f"m{n}") for n in range(2001)])

    with pytest.raises(TooManyModels, match="2,001 models"):
        converted(path)
    assert converted(path, mapping={"model": None}).rows == 2001


# --- Prices ----------------------------------------------------------------------------------------------------------


def test_an_unknown_model_has_an_unknown_cost_and_not_none(write, calls_of):
    rows = [call(model="llama-in-the-cellar"), call(model=""), call()]

    with calls_of(write("calls.csv", rows)) as calls:
        assert [c for (c,) in calls.rows("SELECT cost_pico FROM calls ORDER BY line")] == [None, None, 3_500_000_000]


def test_every_call_is_priced_by_the_list_of_its_own_day(write, calls_of):
    cheap = Rates(input=Decimal(1), output=Decimal(1), effective_to=datetime.fromisoformat("2026-10-02T00:00:00+00:00"))
    dear = Rates(
        input=Decimal(2), output=Decimal(2), effective_from=datetime.fromisoformat("2026-10-02T00:00:00+00:00")
    )
    catalogue = Catalogue([Override(model="ours", rates=cheap), Override(model="ours", rates=dear)])
    rows = [call(model="ours", timestamp=f"2026-10-0{day}T23:59:59Z", input_tokens=10**6) for day in (1, 2)]

    with calls_of(write("calls.csv", rows), catalogue) as calls:
        costs = [cost for (cost,) in calls.rows("SELECT cost_pico FROM calls ORDER BY line")]

    assert costs == [1_000_100_000_000, 2_000_200_000_000]


def test_a_long_context_is_priced_per_call(write, calls_of):
    row = call(model="claude-sonnet-4-5", input_tokens=100_000, output_tokens=10_000)
    row |= {"cache_read_tokens": 90_000, "cache_write_tokens": 5_000}

    with calls_of(write("calls.csv", [row] * 10)) as calls:
        assert one(calls, "sum(cost_pico)") == (2_107_500_000_000,)


def test_a_batch_call_pays_the_batch_price(write, calls_of):
    with calls_of(write("calls.csv", [call(batch="true"), call(batch="no")])) as calls:
        assert calls.rows("SELECT cost_pico FROM calls ORDER BY line") == [(1_750_000_000,), (3_500_000_000,)]


def test_a_tier_that_was_only_asked_for_is_no_tier_that_answered(write, calls_of):
    with calls_of(write("calls.csv", [call(service_tier="auto"), call(service_tier="default")])) as calls:
        assert calls.rows("SELECT service_tier, cost_pico FROM calls ORDER BY line") == [
            (None, 3_500_000_000),
            ("standard", 3_500_000_000),
        ]


def test_a_failed_call_costs_nothing_unless_the_source_recorded_a_cost(write, calls_of):
    rows = [call(status="error", cost="0"), call(status="500", cost=""), call(status="failure", cost="0.01")]

    with calls_of(write("calls.csv", rows)) as calls:
        assert calls.rows("SELECT billed, cost_pico FROM calls ORDER BY line") == [
            (False, 0),
            (False, 0),
            (True, 3_500_000_000),
        ]


def test_every_call_can_be_priced_as_one_model_and_it_is_said(write, converted, opened):
    conversion = converted(write("calls.csv", [call(model="other"), call(model="")]), price_as="gpt-4o")

    assert "priced as gpt-4o" in conversion.notes[0]
    with opened() as calls:
        assert one(calls, "sum(cost_pico)") == (7_000_000_000,)


def test_a_model_without_a_price_cannot_be_asked_for(write, converted):
    with pytest.raises(UnknownModel, match="'no-such-model'"):
        converted(write("calls.csv", [call()]), price_as="no-such-model")


# --- Whether input counts cached tokens ------------------------------------------------------------------------------


def sonnet(fresh, read, *, counted, cost=True):
    """A call of which `read` tokens came from the cache, in a source that counts them into its input or does not."""
    dollars = (fresh * 3 + read * Decimal("0.3") + 100 * 15) / 10**6
    row = call(model="claude-sonnet-4-5", input_tokens=fresh + (read if counted else 0), output_tokens=100)
    return row | {"cached": read, "cost": dollars if cost else ""}


MAPPING = {"cached_read_tokens": "cached"}


@pytest.mark.parametrize("counted", [True, False])
def test_recorded_costs_decide_how_input_is_counted(write, converted, opened, counted):
    rows = [sonnet(2000 + n, 1000, counted=counted) for n in range(20)]

    [verdict] = converted(write("calls.csv", rows), mapping=MAPPING).verdicts

    assert verdict.convention == ("inclusive" if counted else "exclusive")
    assert "20 of 20 recorded costs" in verdict.because
    with opened() as calls:
        assert one(calls, "min(input_tokens)") == (3000,)


def test_more_cached_tokens_than_input_show_that_input_leaves_them_out(write, converted, opened):
    rows = [sonnet(10, 5000, counted=False, cost=False) for _ in range(5)]

    [verdict] = converted(write("calls.csv", rows), mapping=MAPPING).verdicts

    assert (verdict.convention, verdict.because) == (
        "exclusive",
        "5 of 5 calls have more cached tokens than input tokens.",
    )
    with opened() as calls:
        assert one(calls, "min(input_tokens)") == (5010,)


def test_one_broken_row_among_many_does_not_turn_the_verdict(write, converted):
    rows = [sonnet(6000, 5000, counted=True, cost=False) for _ in range(300)]

    conversion = converted(write("calls.csv", [*rows, sonnet(10, 5000, counted=False, cost=False)]), mapping=MAPPING)

    assert conversion.verdicts[0].convention == "inclusive"
    assert conversion.rejected == 1


def test_without_evidence_the_reading_is_an_assumption_and_is_called_one(write, converted):
    [verdict] = converted(write("calls.csv", [sonnet(6000, 500, counted=True, cost=False)]), mapping=MAPPING).verdicts

    assert verdict.because.startswith("Assumed")


def test_two_models_of_one_file_may_count_differently(write, converted):
    openai = call(input_tokens=5000, output_tokens=100) | {"cached": 4000, "cost": Decimal("0.0085")}

    verdicts = converted(write("calls.csv", [sonnet(10, 5000, counted=False), openai]), mapping=MAPPING).verdicts

    assert {v.model: v.convention for v in verdicts} == {"claude-sonnet-4-5": "exclusive", "gpt-4o": "inclusive"}


# --- LiteLLM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spend.csv", "spend.jsonl", "spend.parquet"])
def test_a_litellm_spend_log_is_recognised_and_its_cached_tokens_are_found(write, converted, opened, name):
    conversion = converted(write(name, [spend_log()]))

    assert conversion.source == "litellm"
    assert conversion.verdicts[0].convention == "inclusive"
    with opened() as calls:
        assert one(calls, 'input_tokens, cached_read_tokens, cost_pico, feature, "user", status, temperature') == (
            3000,
            2000,
            6_000_000_000,
            "search",
            "u1",
            "succeeded",
            0.2,
        )


def test_an_answer_from_litellms_own_cache_costs_nothing_and_it_is_said(write, converted, opened):
    conversion = converted(write("spend.jsonl", [spend_log(), spend_log(request_id="r2", cache_hit="True", spend=0)]))

    assert any("own cache" in note for note in conversion.notes)
    with opened() as calls:
        assert one(calls, "sum(cost_pico), count(*) FILTER (NOT billed)") == (6_000_000_000, 1)


def test_a_failed_request_of_litellm_is_not_billed(write, calls_of):
    row = spend_log(status="failure", spend=0, completion_tokens=0)

    with calls_of(write("spend.jsonl", [row])) as calls:
        assert one(calls, "status, billed, cost_pico") == ("failed", False, 0)


def test_anthropics_cache_writes_are_read_from_the_usage_object(write, calls_of):
    usage = {
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 500,
        "cache_creation": {"ephemeral_1h_input_tokens": 200},
    }
    row = spend_log(model="claude-sonnet-4-5", custom_llm_provider="anthropic", spend="")
    row["metadata"] = json.dumps({"usage_object": usage})

    with calls_of(write("spend.jsonl", [row])) as calls:
        assert one(calls, "cached_read_tokens, cached_write_tokens, cached_write_1h_tokens") == (1000, 500, 200)


@pytest.mark.parametrize("metadata", ["", "not json", "[1]", '{"usage_object": "x"}', None, '{"usage_object": null}'])
def test_unexpected_metadata_only_loses_what_it_does_not_hold(write, calls_of, metadata):
    with calls_of(write("spend.jsonl", [spend_log(metadata=metadata)])) as calls:
        assert one(calls, "cached_read_tokens, cost_pico") == (0, 8_500_000_000)


# --- Packed files ----------------------------------------------------------------------------------------------------


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


LINES = as_csv([call(), call()])


@pytest.mark.parametrize(
    "content",
    [gzip.compress(LINES.encode()), zipped({"calls": LINES}), zipped({"calls": LINES, "__MACOSX/calls": "litter"})],
    ids=["gzip", "zip", "zip with litter"],
)
def test_a_packed_file_is_read_as_what_is_inside(write, converted, tmp_path, content):
    assert converted(write("calls.csv.gz", content)).rows == 2
    assert [path.name for path in (tmp_path / "converted").iterdir()] == ["calls.parquet"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(LINES.encode())[:-12], "breaks off"),
        (b"\x1f\x8b\x08 nothing", "breaks off|damaged"),
        (gzip.compress(gzip.compress(LINES.encode())), "another archive"),
        (zipped({}), "holds 0 files"),
        (zipped({"a": LINES, "b": LINES}), "holds 2 files"),
        (zipped({"xl/sheet": LINES}), "spreadsheet"),
        (b"PK\x03\x04 no zip", "damaged"),
        (gzip.compress(b""), "empty"),
    ],
    ids=["half", "nonsense", "twice", "empty zip", "two", "sheet", "no zip", "nothing"],
)
def test_a_packed_file_that_is_none_fails_with_a_sentence(write, converted, tmp_path, content, sentence):
    with pytest.raises(UnusableFile, match=sentence):
        converted(write("calls.gz", content))

    assert nothing_left(tmp_path)


def test_a_bomb_is_refused_long_before_the_disk_is_full(write, converted, tmp_path):
    bomb = gzip.compress(b"0" * 100_000_000)

    with pytest.raises(TooLargeInside, match="far more"):
        converted(write("calls.gz", bomb))
    with pytest.raises(TooLargeInside, match="far more"):
        converted(write("calls.gz", gzip.compress(LINES.encode() * 2000)), staged_bytes=1000)

    assert nothing_left(tmp_path)


# --- Each call once --------------------------------------------------------------------------------------------------


def test_a_row_that_repeats_id_and_time_is_one_call(write, converted):
    rows = [call(request_id="a"), call(request_id="a"), call(request_id="a", timestamp="2026-10-02T12:00:00Z"), call()]

    found = converted(write("calls.csv", rows))

    assert (found.rows, found.repeated, found.reused) == (3, 1, 1)
    assert any("1 rows repeat" in note for note in found.notes)


def test_calls_with_the_id_of_an_earlier_one_count_and_are_told(write, converted, tmp_path):
    def at(day, request_id="a", **more):
        return call(timestamp=f"2026-10-{day:02}T12:00:00Z", request_id=request_id, **more)

    odd = {"model": "gpt-4o", "input_tokens": 1_000_000, "output_tokens": 0}
    september = [at(1), at(2, **odd), at(3, model="nobody-s"), at(4, "b"), at(4, "c"), at(4, ""), at(5, "")]
    found = converted(write("first.csv", september))
    known = tmp_path / "known.parquet"
    shutil.copy(tmp_path / "converted" / "calls.parquet", known)

    later = converted(
        write("later.csv", [at(1), at(6, **odd), at(7, "b", **odd), at(7, "d"), at(4, "c")]), known=[known]
    )

    assert (found.rows, found.reused) == (7, 2)
    assert (
        "2 calls have the id of an earlier one at another time. Each counts, together $2.50, 1 of them at an unknown"
        in (found.notes[-1])
    )
    assert (later.rows, later.known, later.reused) == (3, 2, 2)
    assert "together $5.00: if they tell" in later.notes[-1]
    assert not converted(write("plain.csv", [at(1, "x"), at(2, "y")])).reused


def span(number, parent="", **more):
    return call(trace_id="t", span_id=f"s{number}", parent_span_id=parent, **more)


def test_a_call_that_two_instrumentations_report_is_the_inner_one(write, converted, opened):
    rows = [
        span(1, input_tokens=90),  # sums up 2 and 4
        span(2, "s1", input_tokens=40),
        span(3, "s1", input_tokens=50),  # wraps 4
        span(4, "s3", input_tokens=50),
        call(trace_id="other", span_id="s1", input_tokens=7),
    ]

    found = converted(write("calls.csv", rows))

    assert (found.rows, found.nested) == (3, 2)
    with opened() as calls:
        assert sorted(n for (n,) in calls.rows("SELECT input_tokens FROM calls")) == [7, 40, 50]


def test_a_call_that_is_turned_away_pushes_no_other_out(write, converted, opened):
    def observation(number, parent="", **usage):
        return {
            "id": f"o{number}",
            "traceId": "t",
            "parentObservationId": parent,
            "type": "GENERATION",
            "startTime": "2026-10-01T12:00:00Z",
            "providedModelName": "gpt-4o",
            "usageDetails": usage,
        }

    rows = [observation(1, input=40, output=5), observation(2, "o1"), observation(3, "o2", input=30, output=5)]
    kept = {}
    for last in (2, 3):
        found = converted(write("observations.jsonl", rows[:last]))
        with opened() as calls:
            kept[last] = found.rejected, found.nested, calls.rows("SELECT input_tokens FROM calls")

    assert kept == {2: (1, 0, [(40,)]), 3: (1, 1, [(30,)])}


def test_a_row_that_is_turned_away_is_not_left_out_a_second_time(write, converted):
    found = converted(write("calls.csv", [span(1, input_tokens="x"), span(2, "s1")]))

    assert (found.rows, found.rejected, found.nested) == (1, 1, 0)


def test_spans_that_are_each_others_parents_end(write, converted):
    found = converted(write("calls.csv", [span(1, "s2"), span(2, "s1"), span(3)]))

    assert (found.rows, found.nested) == (1, 2)


def test_calls_that_an_earlier_file_brought_are_not_taken_again(write, converted, tmp_path):
    september = [call(request_id=f"r{n}", timestamp=f"2026-09-{1 + n:02}T12:00:00Z") for n in range(20)]
    converted(write("september.csv", september))
    known = tmp_path / "known.parquet"
    shutil.copy(tmp_path / "converted" / "calls.parquet", known)

    overlapping = converted(write("october.csv", [*september[15:], call(request_id="new")]), known=[known])
    again = converted(write("again.csv", september), known=[known])

    assert (overlapping.rows, overlapping.known) == (1, 5)
    assert (again.rows, again.known) == (0, 20)


# --- Two ways to read a file are one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calls.csv", "calls.jsonl"])
def test_a_damaged_file_gives_the_calls_of_a_whole_one(write, converted, opened, name):
    rows = [call(prompt='say "hi",\nor é', request_id=f"r{n}", metadata='{"x": [1, 2]}') for n in range(50)]
    key = os.urandom(32)
    seen = []
    for damage in ("", "1,2,3\n" if name == "calls.csv" else "nonsense\n"):
        path = write(name, rows)
        path.write_text(path.read_text() + damage)
        found = converted(path, hash_key=key)
        with opened() as calls:
            seen.append(calls.rows("SELECT * EXCLUDE (call, line) FROM calls ORDER BY call_id"))
        assert found.rejected == bool(damage)

    assert seen[0] == seen[1]


@pytest.mark.parametrize("damage", ["", "1,2,3\n"])
def test_a_call_keeps_its_row_whichever_way_its_file_is_read(write, converted, opened, damage):
    header, *lines = as_csv([call(prompt="one\ntwo"), call(prompt="x"), call(prompt="three\nfour")]).split("\r\n")

    converted(write("calls.csv", f"{header}\n{damage}\n" + "\n".join(lines)))

    with opened() as calls:
        first = 3 if damage else 2
        assert calls.rows("SELECT line FROM calls") == [(first,), (first + 1,), (first + 2,)]


def test_spans_of_one_document_have_a_row_each(write, converted, opened):
    counts = [{"key": f"gen_ai.usage.{side}_tokens", "value": {"intValue": "5"}} for side in ("input", "output")]
    spans = [{"traceId": "t", "spanId": f"s{n}", "startTimeUnixNano": "1790857800000000000"} for n in range(3)]
    scope = {"spans": [span | {"name": "chat", "attributes": counts} for span in spans]}

    converted(write("spans.json", json.dumps({"resourceSpans": [{"scopeSpans": [scope]}]})))

    with opened() as calls:
        assert calls.rows("SELECT line FROM calls") == [(1,), (2,), (3,)]


def test_a_line_is_the_one_in_the_file_where_prompts_span_lines(write, converted):
    rows = [call(prompt="one\ntwo"), call(prompt="x", input_tokens=-1), call(prompt="a\n\nb", input_tokens="y")]

    assert [reject.line for reject in converted(write("calls.csv", rows)).rejects] == [4, 7]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("calls.csv", 'model,input_tokens\n5" x,1\n\n"a\n""b""\n",-1\r\ny,2\n\n z,-1\n', [6, 9]),
        ("calls.jsonl", '{"input_tokens": 1}\n\n  \n{"input_tokens": -1}\n{"input_tokens": 2}\r\n\r\n[]', [4, 7]),
        ("calls.jsonl", '{"input_tokens": 1}\n\n  \n{"input_tokens": -1}\n\r\n{"input_tokens": "x"}', [4, 6]),
        (
            "calls.json",
            '[{"input_tokens": 1},\n\n{"input_tokens": -1}, {"input_tokens":\n 2}, {"input_tokens": -2}]',
            [3, 4],
        ),
    ],
)
def test_a_line_is_the_one_in_the_file_whatever_comes_between_rows(write, converted, name, content, lines):
    assert [reject.line for reject in converted(write(name, content)).rejects] == lines


@pytest.mark.parametrize("shape", ["{}", '{{"data": {}}}'])
@pytest.mark.parametrize("third", [call(), 7])
def test_where_elements_share_a_line_it_is_said_which_is_turned_away(write, converted, shape, third):
    rows = [call(), call(input_tokens=-1), third, call(output_tokens="x")]

    found = converted(write("calls.json", shape.format(json.dumps(rows))))

    expected = ["Element 2: The number of tokens is negative.", "Element 4: It is not a whole number of tokens."]
    expected += ["Element 3: The element is not a JSON object."] if third == 7 else []
    assert {reject.line for reject in found.rejects} == {1}
    assert {reject.reason for reject in found.rejects} == set(expected)


def test_where_each_element_has_a_line_that_is_enough(write, converted):
    rows = ",\n".join(json.dumps(row) for row in (call(), call(input_tokens=-1)))

    [reject] = converted(write("calls.json", f"[{rows}]")).rejects

    assert (reject.line, reject.reason) == (2, "The number of tokens is negative.")


def test_who_says_stop_while_lines_are_counted_is_heard(write, converted):
    class Stop(Exception):
        pass

    def stop(percent):
        if percent > CHECKED:
            raise Stop

    with pytest.raises(Stop):
        converted(write("calls.jsonl", [call() for _ in range(5_000)] + [call(input_tokens=-1)]), progress=stop)


def test_progress_rises_to_the_end(write, converted):
    heard = []

    converted(write("calls.csv", [call() for _ in range(20_000)]), progress=heard.append)

    assert heard == sorted(heard)
    assert heard[-1] == 100


def test_who_says_stop_while_it_reads_is_heard(write, converted, tmp_path):
    class Stop(Exception):
        pass

    def stop(percent):
        raise Stop

    with pytest.raises(Stop):
        converted(write("calls.csv", [call() for _ in range(20_000)]), progress=stop)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["line", "usage.²", 'usage.a"b'])
def test_a_column_may_have_any_name(write, calls_of, name):
    row = call(line="told", usage={"²": "told", 'a"b': "told", "0": 7})

    with calls_of(write("calls.jsonl", [row]), mapping={"feature": name, "session": "usage.0"}) as calls:
        assert calls.rows("SELECT feature FROM calls") == [("told",)]
