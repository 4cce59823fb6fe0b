"""The main job in a terminal: figures for a person, a document for a machine, a sentence instead of a trace."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from django.core.management import call_command

from apps.optimization import services
from apps.optimization.management.commands.evaluate import PUBLIC
from apps.optimization.models import Dataset, StoredAnalysis
from tests.optimization.conftest import call
from tests.optimization.test_bills import openai_cost, openai_page

ROOT = Path(__file__).resolve().parents[2]
AZURE = PUBLIC / "AzureLLMInferenceTrace_conv_2023.csv"
KEYS = {
    "calls",
    "tokens",
    "cost_usd",
    "unpriced_share",
    "sufficiency",
    "strategies",
    "joint",
    "anomalies",
    "forecast",
}


def run(*arguments):
    """Exit status, standard output and standard error of a command."""
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command(*map(str, arguments), stdout=out, stderr=err)
    return ended.value.code, out.getvalue(), err.getvalue()


def alone(tmp_path, *arguments):
    """A command in a process of its own that knows no database, no Redis and no house."""
    hidden = ("DATABASE_URL", "REDIS_URL", "NETRA_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["NETRA_HOME"] = str(tmp_path / "no-house")
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=110,
    )


# --- analyze ---------------------------------------------------------------------------------------------------------


def test_a_file_is_analysed_without_any_service_and_nothing_is_left_behind(tmp_path, write):
    ended = alone(tmp_path, "analyze", write("calls.csv", [call(feature="chat")] * 2))

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "calls.csv: 2 calls, 2,000 tokens in, 200 out, $0.00700" in ended.stdout
    assert "up to" in ended.stdout
    assert not (tmp_path / "no-house").exists()


@pytest.mark.skipif(not AZURE.exists(), reason=f"the public Azure trace is not in {PUBLIC}")
def test_the_azure_trace_prints_its_known_figures():
    code, out, _ = run("analyze", AZURE, "--model", "gpt-4o")

    assert code == 0
    assert "19,366 calls, 22,361,870 tokens in, 4,088,665 out, $96.79" in out
    assert "Every call is priced as gpt-4o at the list price of" in out


def test_a_machine_gets_one_document(write):
    code, out, err = run("analyze", write("calls.csv", [call(), call(input_tokens=-1)]), "--json")

    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document.keys() >= KEYS
    assert (document["calls"], document["cost_usd"], document["unpriced_share"]) == (1, "0.0035", 0.0)
    assert document["tokens"] == {"input": 1000, "output": 100, "cached_read": 0, "cached_write": 0}
    assert all({"score", "state", "missing"} <= each.keys() for each in document["sufficiency"].values())
    assert all({"name", "saving_usd", "low", "high", "evidence", "detail"} <= s.keys() for s in document["strategies"])
    assert document["import"]["rejects"][0]["line"] == 3


def test_what_has_no_known_price_is_called_unknown(write):
    _, out, _ = run("analyze", write("calls.csv", [call(model="llama-in-the-cellar")]))

    assert "The price of 1 call is unknown" in out
    assert "unknown" in next(line for line in out.splitlines() if line.startswith("│ llama"))


def test_unusual_columns_are_named_one_by_one(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("llm,prompt_len,reply_len\ngpt-4o,1000,100\n")

    _, _, refusal = run("analyze", file)
    names = [f"--map={pair}" for pair in ("input_tokens=prompt_len", "output_tokens=reply_len", "model=llm")]
    code, out, _ = run("analyze", file, *names)

    assert "after --map in the terminal" in refusal
    assert (code, "1 call, 1,000 tokens in, 100 out, $0.0035" in out) == (0, True)


def test_what_a_cache_may_do_is_said_in_the_terminal(write):
    rows = [call(prompt="q", user=user, timestamp=f"2026-10-0{day}T12:00:00Z") for day, user in enumerate("abc", 1)]
    path = write("calls.csv", rows)

    def saved(*wishes):
        strategies = json.loads(run("analyze", path, "--json", *wishes)[1])["strategies"]
        return next(each["saving_usd"] for each in strategies if each["name"] == "exact_cache")

    assert (saved(), saved("--share-answers", "--keep-answers=good")) == ("0", "0.007")
    assert "answers_kept: Input should be" in run("analyze", path, "--keep-answers=long")[2]


def test_a_bill_in_place_of_calls_is_said_to_be_one(write):
    bill = write("costs.json", json.dumps(openai_page(openai_cost(1), start=1767830400)))

    code, _, refusal = run("analyze", bill)

    assert code != 0
    assert refusal.strip().endswith(
        "is a bill, and its rows are sums. Analyse a record of calls beside it: analyze CALLS --bill costs.json"
    )


WISHES = ("--goal=1%", "--keep-quality=90%", "--may-wait=report=86400000", "--must-stay=chat=200", "--keep=chat")


def test_what_is_asked_is_answered_for_people_and_machines_alike(write):
    rows = [
        call(timestamp=f"2026-10-{day:02}T23:30:00Z", ended_at=f"2026-10-{day:02}T23:30:01Z", feature=feature)
        for day in range(1, 4)
        for feature in ("chat", "report")
    ]
    asked = (*WISHES, "--grow=50%", "--move", "report", "gpt-4o", "gpt-4o-mini")
    where = ("--timezone=Europe/Berlin", "--currency=EUR=0.5")
    path = write("calls.csv", rows)

    code, out, _ = run("analyze", path, *asked, *where)
    document = json.loads(run("analyze", path, *asked, *where, "--json")[1])

    assert code == 0
    assert "calls.csv: 6 calls, 6,000 tokens in, 600 out, 0.0105 EUR" in out
    assert "From 2026-10-02 01:30 to 2026-10-04 01:30 Europe/Berlin." in out
    for told in ("Together: ", "Goal of 1%: ", "95 % interval", "How far this data carries", "Forecast: unknown."):
        assert told in out
    assert "What stood out: " in out
    assert "report from gpt-4o to gpt-4o-mini: 3 calls would cost 0.000315 EUR instead of 0.00525 EUR" in out
    assert "Answers of chat do not keep to 200 ms" in out
    assert [row["key"] for row in document["breakdown"]["day"]["rows"]] == ["2026-10-02", "2026-10-03", "2026-10-04"]
    assert document["what_if"]["grown_usd"] == "0.0315"
    # Three reports are sent as a batch; with the move, at half the price of the other model.
    assert (document["joint"]["saving_usd"], document["what_if"]["joint"]["saving_usd"]) == ("0.00525", "0.000315")
    assert document["what_if"]["saved_usd"] == "0.0162225"
    assert document["goal"]["share"] == 0.01
    assert document["report"] == {"time_zone": "Europe/Berlin", "currency": "EUR", "currency_rate": "0.5"}
    assert document["cost_usd"] == "0.021"


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ("--goal=much", "--goal: 'much' is no share. Write it as 20% or 0.2."),
        ("--goal=20", "'20' is no share"),
        ("--keep-quality=120%", "quality_floor"),
        ("--may-wait=chat", "FEATURE=MS"),
        ("--may-wait=chat=-5", "FEATURE=MS"),
        ("--may-wait=chta=500", "No call is of feature 'chta'; the log has chat."),
        ("--grow=-200%", "growth"),
        ("--timezone=Mars/Base", "There is no time zone 'Mars/Base'"),
        ("--currency=EUR", "Write it as EUR=0.92"),
        ("--currency=EUR=0", "Write it as EUR=0.92"),
    ],
)
def test_a_wish_that_means_nothing_ends_with_2_and_a_sentence(write, wish, sentence):
    code, _, err = run("analyze", write("calls.csv", [call(feature="chat")]), wish)

    assert (code, sentence in err) == (2, True), err


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("prompt_len", "'prompt_len' names no column. Write field=column"),
        ("tokens=prompt_len", "A call has no field 'tokens'"),
        ("model=llm", "The file has no column 'llm'"),
    ],
)
def test_a_column_that_is_named_wrongly_is_told(write, pair, sentence):
    code, _, err = run("analyze", write("calls.csv", [call()]), "--map", pair)

    assert (code, sentence in err) == (2, True)


def test_rejected_rows_are_told_with_line_and_reason(write):
    _, out, _ = run("analyze", write("calls.csv", [call(), call(input_tokens="x")]))

    assert "Not usable: 1 row." in out
    assert "line 3, input_tokens: It is not a whole number of tokens." in out


def test_names_from_a_file_cannot_steer_the_terminal(write):
    _, out, _ = run("analyze", write("calls.csv", [call(model="\x1b[2Jevil [bold]name")]))

    assert "\x1b" not in out
    assert "[bold]name" in out


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (b"", "file.empty", "empty"),
        (b"\x7fELF\0", "file.binary", "binary"),
        ("input_tokens\n1\n".encode("utf-16"), "file.encoding", "UTF-16"),
        (b"a,b\n1,2\n", "file.no_usable_columns", "token counts"),
    ],
)
def test_a_bad_file_ends_with_2_and_a_sentence(write, content, code, sentence):
    path = write("calls.csv", content)

    assert run("analyze", path)[0] == 2
    ended, out, err = run("analyze", path, "--json")
    assert (ended, json.loads(out)["code"]) == (2, code)
    assert sentence in err


@pytest.mark.parametrize("arguments", [("no-such-file.csv",), (".",)])
def test_what_is_no_file_ends_with_2(arguments):
    code, _, err = run("analyze", *arguments)

    assert (code, "cannot be read" in err) == (2, True)


def test_a_model_without_a_price_ends_with_2(write):
    code, _, err = run("analyze", write("calls.csv", [call()]), "--model", "no-such-model")

    assert (code, "'no-such-model'" in err) == (2, True)


_MEASURED = """
import resource, sys
sys.argv = ["manage.py", "analyze", sys.argv[1], "--json"]
import manage
try:
    manage.main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.long
@pytest.mark.processes
def test_hundreds_of_thousands_of_rows_are_imported_and_analysed_in_little_memory(tmp_path):
    path = tmp_path / "calls.csv"
    duckdb.execute(
        f"""COPY (SELECT TIMESTAMP '2026-01-01' + to_seconds(i * 2) AS "timestamp",
                  ['gpt-4o', 'gpt-4.1', 'claude-sonnet-4-5', 'gemini-2.5-flash'][i % 4 + 1] AS model,
                  200 + i % 5000 AS input_tokens, 20 + i % 700 AS output_tokens, 'f' || i % 12 AS feature,
                  'u' || i % 5000 AS "user", i % 3 = 0 AS interactive, 'question ' || i % 400000 AS prompt
             FROM range(300000) t(i)) TO '{path}'"""
    )

    ended = subprocess.run(
        [sys.executable, "-c", _MEASURED, path], capture_output=True, text=True, cwd=ROOT, timeout=110
    )

    document = json.loads(ended.stdout)
    peak = int(ended.stderr.split()[-1]) * 1024  # bytes
    assert document["calls"] == 300_000
    assert document["unpriced_share"] == 0
    assert peak < 1024**3


# --- sample_usage ----------------------------------------------------------------------------------------------------


def test_a_sample_is_written_with_its_truth_and_analysed_to_it(tmp_path):
    out = tmp_path / "sample.csv"

    assert run("sample_usage", "--calls", 400, "--seed", 3, "--out", out)[0] == 0
    truth = json.loads((tmp_path / "sample.truth.json").read_text())
    found = json.loads(run("analyze", out, "--json")[1])

    assert truth["synthetic"] is True
    assert (found["calls"], found["cost_usd"]) == (truth["calls"], truth["cost_usd"])


def test_without_a_file_the_sample_goes_to_the_standard_output():
    code, out, _ = run("sample_usage", "--calls", 5)

    assert code == 0
    assert len(out.splitlines()) == 6


def test_a_house_is_seeded_once(alice):
    first, second = (json.loads(run("sample_usage", "--calls", 200, "--seed-house", "--json")[1]) for _ in range(2))

    assert Dataset.objects.get(pk=first["dataset"]).name == services.SAMPLE_NAME
    assert second == {"dataset": None}
    queued = StoredAnalysis.objects.get()
    assert (str(queued.dataset_id), queued.state) == (first["dataset"], "queued")


# --- import_usage ----------------------------------------------------------------------------------------------------


def test_a_file_is_imported_for_a_person(write, alice, acme):
    code, out, _ = run("import_usage", write("calls.csv", [call()]), "--email", "alice@example.com", "--json")

    document = json.loads(out)
    assert (code, document["state"], document["rows"]) == (0, "ready", 1)
    assert Dataset.objects.get(pk=document["id"]).organization == acme


@pytest.mark.parametrize(
    ("content", "email", "sentence"),
    [
        ("a,b\n1,2\n", "alice@example.com", "token counts"),
        ("input_tokens\n1\n", "nobody@example.com", "Nobody signs in"),
        (None, "alice@example.com", "no file"),
    ],
)
def test_what_cannot_be_imported_ends_with_2_and_a_sentence(write, tmp_path, alice, content, email, sentence):
    path = tmp_path / "missing.csv" if content is None else write("calls.csv", content)

    code, _, err = run("import_usage", path, "--email", email)

    assert (code, sentence in err) == (2, True)


def test_a_later_file_continues_a_dataset_from_the_terminal(write, alice, acme):
    by = ("--email", "alice@example.com", "--json")
    first = json.loads(run("import_usage", write("march.csv", [call(call_id="a")]), *by)[1])["id"]

    more = write("april.csv", [call(call_id="a"), call(call_id="b")])
    code, out, _ = run("import_usage", more, *by, "--continues", first)

    later = json.loads(out)
    assert (code, later["continues"], later["rows"], later["known_rows"]) == (0, first, 1, 1)
    for wrong, sentence in (("march", "'march' is no id of a dataset"), (later["id"], "is a later file itself")):
        code, _, err = run("import_usage", write("may.csv", [call(input_tokens=8)]), *by, "--continues", wrong)
        assert (code, sentence in err) == (2, True)


def test_without_a_house_the_import_says_what_to_do(tmp_path, write):
    ended = alone(tmp_path, "import_usage", write("calls.csv", [call()]), "--email", "a@example.com")

    assert ended.returncode == 2
    assert "make run" in ended.stderr


def test_money_is_exact_in_json(write):
    out = run("analyze", write("calls.csv", [call(input_tokens=1, output_tokens=0)] * 3), "--json")[1]

    assert Decimal(json.loads(out)["cost_usd"]) == Decimal("0.0000075")
    assert '"0.0000075"' in out
