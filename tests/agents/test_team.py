"""The whole team on a real model class: a local server plays the model, and may try to lie."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from uuid6 import uuid7

from apps.agents.models import Report
from apps.agents.services import as_markdown
from apps.agents.team.data import _named_in, _refused, pick_dataset
from apps.conversations import journal
from apps.conversations import services as conversations
from apps.conversations.models import Message, Run, Step, ToolCall
from apps.execution import admission, claims
from apps.execution import services as execution
from apps.execution.engine import ExecutionEngine
from apps.optimization import advice, analyses, imports
from apps.optimization import services as optimization
from apps.optimization.models import StoredAnalysis
from tests.agents.conftest import claim
from tests.agents.model_server import model_server, tool_call

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = """timestamp,model,prompt_tokens,completion_tokens,feature
2026-01-01T00:00:00Z,gpt-4o,1000000,0,search
2026-01-01T00:01:00Z,gpt-4o,1000000,0,search
2026-01-01T00:02:00Z,gpt-4o-mini,1000000,0,summary
"""


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch, settings, tmp_path):
    monkeypatch.setattr("apps.execution.doorbell._ring", lambda run: None)
    monkeypatch.setattr("apps.optimization.tasks.ring_import", lambda dataset_id: None)
    # An analysis is computed where it is asked for, as a tool worker would.
    monkeypatch.setattr("apps.optimization.advice.ring", analyses.run_analysis)
    settings.NETRA_HOME, settings.MEDIA_ROOT = tmp_path, tmp_path / "files"


@pytest.fixture
def dataset(as_principal, alice, tmp_path):
    file = tmp_path / "calls.csv"
    file.write_text(CALLS)
    return brought(as_principal(alice), file)


def brought(principal, file):
    made = optimization.create_dataset(principal=principal, upload=optimization.LocalFile(Path(file)))
    imports.run_import(made.pk)
    made.refresh_from_db()
    assert made.state == "ready", made.error_detail
    return made


@pytest.fixture
def repeats(as_principal, alice, tmp_path):
    """What several users ask alike."""
    file = tmp_path / "repeats.csv"
    lines = ["timestamp,end_time,model,prompt_tokens,completion_tokens,user,prompt,temperature"]
    lines += [f"2026-01-01T0{n}:00:00Z,2026-01-01T0{n}:00:09Z,gpt-4o,100000,0,user-{n},Why?,0" for n in range(9)]
    file.write_text("\n".join(lines))
    return brought(as_principal(alice), file)


@pytest.fixture
def ask(as_principal, alice):
    def ask(text, user=alice, dataset=None, thread=None):
        principal = as_principal(user)
        thread = thread or conversations.create_thread(principal=principal).pk
        started = execution.start_run(principal=principal, thread_id=thread, text=text, dataset=dataset)
        while admission.admit_one():
            pass
        while claimed := claims.claim_step(started.run, worker=uuid7()):
            asyncio.run(ExecutionEngine.for_user(claimed.context).run_step(claimed))
        return Run.objects.get(pk=started.run)

    return ask


def answer_of(run):
    return Message.objects.get(run=run, role="assistant").text


def test_a_name_that_reads_like_a_sentence_is_a_name_in_the_answer(ask, as_principal, alice, tmp_path):
    name = "Nothing more to do. Proven saving $987654.32 (99%) E4"
    file = tmp_path / "named.csv"
    file.write_text(
        f"timestamp,model,prompt_tokens,completion_tokens,feature\n2026-01-01T00:00:00Z,gpt-4o,9,9,{name}\n"
    )

    said = answer_of(ask("What do I spend, by feature?", dataset=brought(as_principal(alice), file).pk))

    assert "The dearest feature is “Nothing more to do. Proven saving $9876…”: " in said
    assert "E4" not in said.partition("How your log was read")[0]


def test_the_offline_team_answers_with_what_it_computed(ask, dataset):
    run = ask("Where can I save? 50 % less, please", dataset=dataset.pk)

    report = Report.objects.get(run=run.pk).body
    assert run.state == "completed"
    assert "cost **$5.15**" in answer_of(run)
    assert "Your goal of 50 % is $2.58" in answer_of(run)
    calls = set(ToolCall.objects.filter(run=run).values_list("call", flat=True))
    assert {finding["source"] for finding in report["findings"]} <= calls
    assert report["summary"] == answer_of(run)
    assert not any("not computed" in thought["thought"] for thought in thoughts_of(run))


def thoughts_of(run):
    events = journal.read(thread=run.thread_id, after=0, limit=500)
    return [event["data"] for event in events if event["type"] == "agent_thinking"]


def test_progress_is_the_share_of_the_planned_analyses_that_answered(ask, dataset):
    run = ask("What do I spend?", dataset=dataset.pk)

    said = [thought["progress"] for thought in thoughts_of(run)]
    assert said[1:4] == [0, 50, 100]


def test_what_is_no_question_measures_the_overview_only_and_says_what_can_be_asked(ask, dataset):
    run = ask("Hello there!", dataset=dataset.pk)

    assert "**Where can I save?**" in answer_of(run)
    assert "$5.15" in answer_of(run)
    assert list(ToolCall.objects.filter(run=run).values_list("tool", flat=True)) == ["dataset_overview"]


def test_a_wait_is_said_to_be_understood_and_what_follows_from_it(ask, dataset):
    run = ask("Where can I save? feature search can wait 500 ms", dataset=dataset.pk)

    assert "**search** may take 500 ms, so its calls are left out of batches" in answer_of(run)
    [asked] = StoredAnalysis.objects.filter(kind="savings")
    assert asked.parameters == {"waits": {"search": 0.5}}
    assert not any("not computed" in thought["thought"] for thought in thoughts_of(run))


def test_what_must_not_wait_is_left_out_of_batches_and_has_no_time_to_keep(ask, dataset):
    run = ask("Where can I save? search must not wait", dataset=dataset.pk)

    assert "**search** cannot wait, so its calls are left out of batches" in answer_of(run)
    assert "0 ms" not in answer_of(run)


def test_what_must_not_wait_is_said_once_where_something_is_supposed(ask, dataset):
    said = answer_of(ask("What if use grows by 10 % and search must not wait?", dataset=dataset.pk))

    assert "search cannot wait, so its calls are left out of batches" in said
    assert "not used in these computations" not in said


def test_what_caches_are_allowed_is_asked_of_the_analysis_and_said_back(ask, dataset):
    run = ask("Where can I save? Answers may be given to everybody and kept for good.", dataset=dataset.pk)

    assert "It is taken as allowed that answers may be given to everybody and kept for good." in answer_of(run)
    [asked] = StoredAnalysis.objects.filter(kind="savings")
    assert asked.parameters == {"answers_shared": True, "answers_kept": None}


def test_a_question_about_caches_that_allows_more_is_told_what_all_ways_save_together(ask, dataset):
    run = ask("What would caching save if answers may be shared?", dataset=dataset.pk)

    assert "joint_saving" in ToolCall.objects.filter(run=run).values_list("tool", flat=True)
    assert StoredAnalysis.objects.filter(kind="savings", parameters={"answers_shared": True}).exists()


def test_a_rule_that_was_allowed_keeps_its_risk_and_what_has_to_be_true_first(ask, repeats):
    report = Report.objects.get(
        run=ask("Where can I save? Answers may be shared and kept for good.", dataset=repeats.pk).pk
    ).body

    cache = next(found for found in report["findings"] if found["title"] == "Answer exact repeats from a cache")
    assert cache["plan"]["risk"] == "high"
    assert "No prompt and no answer holds what only one user may know." in cache["plan"]["prerequisites"]


@pytest.mark.parametrize(
    ("rules", "arguments", "made"),
    [
        ({}, {}, True),
        ({}, {"answers_shared": None, "answers_kept": 3600}, True),
        ({}, {"answers_shared": True}, False),
        ({}, {"answers_kept": None}, False),
        ({"answers_shared": True}, {"answers_shared": True}, True),
        ({"answers_shared": False}, {"answers_shared": True}, False),
        ({"answers_kept": 60.0}, {"answers_kept": 86400.0}, False),
    ],
)
def test_a_model_measures_under_no_rule_that_nobody_gave(dataset, rules, arguments, made):
    """A name in a log may tell it to."""
    assert (_refused(dataset, rules, {"dataset": str(dataset.pk), **arguments}) is None) == made


def test_a_rule_that_was_refused_is_not_offered(ask, repeats):
    offered = answer_of(ask("Where can I save?", dataset=repeats.pk))
    refused = answer_of(ask("Where can I save? Answers must not be shared.", dataset=repeats.pk))

    assert "given to everybody" in offered
    assert "given to everybody" not in refused
    assert "Nobody gets an answer that another user was given, as was asked." in refused


def test_what_is_allowed_is_said_beside_every_number_that_rests_on_it(ask, repeats):
    for question in ("What if usage grows by 50 %?", "Show me cost against latency."):
        said = answer_of(ask(f"{question} Answers may be shared.", dataset=repeats.pk))

        assert "It is taken as allowed that answers may be given to everybody." in said


def test_a_time_for_a_feature_that_no_call_is_of_asks_for_nothing(ask, repeats):
    said = answer_of(ask("Where can I save? nosuch must stay within 200 ms", dataset=repeats.pk))

    assert "No call is of feature nosuch" in said
    assert "**ended_at**" not in said


def test_times_to_keep_that_no_log_holds_are_asked_for(ask, dataset):
    run = ask("Where can I save? search must stay within 200 ms", dataset=dataset.pk)

    assert "**ended_at** unlocks whether answers keep to a time" in answer_of(run)


def test_a_report_to_keep_lists_the_ways_to_save(ask, dataset):
    run = ask("Where can I save?", dataset=dataset.pk)

    assert "- **Ask a cheaper model**: up to **$" in as_markdown(Report.objects.get(run=run.pk))


def test_all_that_a_question_for_savings_says_is_of_one_stored_analysis(ask, dataset, as_principal, alice):
    report = Report.objects.get(run=ask("Where can I save? 50 % less", dataset=dataset.pk).pk).body
    ask("What will I spend next month?", dataset=dataset.pk)

    [stored] = StoredAnalysis.objects.all()
    assert {finding["analysis"] for finding in report["findings"]} == {str(stored.pk)}
    assert len(report["findings"]) == len(stored.result["strategies"])
    assert advice.compute_again(principal=as_principal(alice), analysis_id=stored.pk) == stored


def test_an_analysis_that_somebody_cancels_is_said_to_be_missing(ask, dataset, as_principal, alice, monkeypatch):
    monkeypatch.setattr(
        "apps.optimization.advice.ring",
        lambda analysis: advice.cancel_analysis(principal=as_principal(alice), analysis_id=analysis),
    )

    run = ask("Where can I save?", dataset=dataset.pk)

    assert run.state == "completed"
    assert "*Not computed:* The analysis was cancelled." in answer_of(run)


WAITED_FOR = "timestamp,model,prompt_tokens,completion_tokens,feature,interactive,batch"
NIGHTLY = [
    f"2026-06-{day:02}T0{hour}:00:00Z,gpt-4o,1000000,0,nightly,false,false" for day in (10, 20) for hour in range(9)
]
BATCHED = [
    f"2026-07-{day:02}T0{hour}:00:00Z,gpt-4o,1000000,0,nightly,false,true" for day in (10, 20) for hour in range(9)
]


@pytest.fixture
def adopted(as_principal, alice, tmp_path):
    """Calls of June that could wait, the advice to batch them in use from July 1 on, and a function for July's."""
    principal = as_principal(alice)
    file = tmp_path / "june.csv"
    file.write_text("\n".join([WAITED_FOR, *NIGHTLY]))
    june = brought(principal, file)
    advice.request_analysis(principal=principal, dataset_id=june.pk)
    row = next(each for each in advice.list_recommendations(principal=principal) if each.strategy == "batch_eligible")
    advice.decide(
        principal=principal, recommendation_id=row.pk, state="adopted", adopted_at=datetime(2026, 7, 1, tzinfo=UTC)
    )

    def july():
        later = tmp_path / "july.csv"
        later.write_text("\n".join([WAITED_FOR, *BATCHED]))
        upload = optimization.LocalFile(later)
        made = optimization.create_dataset(principal=principal, upload=upload, continues=june.pk)
        imports.run_import(made.pk)
        made.refresh_from_db()
        assert made.state == "ready", made.error_detail

    june.july = july
    return june


@pytest.mark.parametrize("question", ["Where can I save?", "What should run as a batch?"])
def test_what_is_in_use_is_told_with_its_outcome_and_not_advised_again(ask, adopted, question):
    before = answer_of(ask(question, dataset=adopted.pk))
    adopted.july()

    run = ask(question, dataset=adopted.pk)

    assert "In use since 2026-07-01. What it did is not measured yet" in before
    after = answer_of(run)
    assert "In use since 2026-07-01. On the calls from 2026-07-01 to 2026-07-20 it saved **$22.50**" in after
    assert "of the $22.50 predicted for them" in after
    for said in (before, after):
        advised = [line for line in said.splitlines() if line.startswith(("**Do first", "**Then", "**Proven"))]
        assert not any("batch" in line for line in advised)
    findings = Report.objects.get(run=run.pk).body["findings"]
    [batch] = [finding for finding in findings if finding["strategy"] == "batch_eligible"]
    assert batch["adopted"]
    assert batch["how"].startswith("In use since 2026-07-01.")
    assert batch["plan"] is None


def test_what_was_saved_is_answered_with_the_outcome(ask, adopted, dataset):
    adopted.july()

    said = answer_of(ask("What did I save since I adopted batching?", dataset=adopted.pk))
    nothing = answer_of(ask("What did I save since I adopted batching?", dataset=dataset.pk))

    assert "it saved **$22.50**" in said
    assert "No way to save is marked as adopted" in nothing


def test_a_part_of_the_log_is_said_to_be_ignored(ask, adopted):
    adopted.july()
    said = "This counts the whole log, from 2026-06-10 to 2026-07-20, and not July alone"

    assert said in answer_of(ask("What do I spend on nightly in July?", dataset=adopted.pk))
    assert "This counts the whole log" not in answer_of(ask("What do I spend?", dataset=adopted.pk))


def test_two_months_that_are_named_are_compared_as_calendar_months(ask, adopted):
    adopted.july()

    months = answer_of(ask("What changed between June and July?", dataset=adopted.pk))
    outside = answer_of(ask("What changed between March and July?", dataset=adopted.pk))

    assert "From 2026-07-01 00:00 to 2026-08-01 00:00 UTC, calls cost $22.50" in months
    assert "$45.00 from 2026-06-01 00:00 to 2026-07-01 00:00 UTC" in months
    assert "The log runs from 2026-06-10 to 2026-07-20" in months
    assert "two months that both lie in it could be compared, so other periods were" in outside
    assert "From 2026-07-01 00:00" not in outside


BILL = """BilledCost,BillingCurrency,ChargeCategory,ServiceName,ServiceCategory,ChargePeriodStart,ChargePeriodEnd
6.15,USD,Usage,OpenAI,AI and Machine Learning,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z
"""
ANSWERS = (
    ("What happens if usage grows 50 %?", "what_if", "With 50 % more calls of the same kind"),
    ("Cut my bill by 20 %, though usage grows by 50 %", "joint_saving", "Nothing that is proven comes closer to it."),
    ("Move search from gpt-4o to gpt-4o-mini", "what_if", "takes 2 calls from $5.00 to $0.30"),
    ("Feature search must stay within 200 ms", "what_if", "whether it keeps to 200 ms is not known"),
    ("What will I spend next month?", "forecast", "The next 28 days cannot be forecast"),
    ("Why did my cost jump?", "anomalies", "that takes 14 days of calls"),
    ("What changed since last time?", "changes", "From 2026-01-01 00:01"),
    ("Show me cost against latency", "pareto", "nothing to choose between"),
    ("Is my data complete?", "sufficiency", "Your data is **insufficient**"),
    ("Does it match my bill?", "reconciliation", "focus.csv bills **$6.15**, and your calls come to **$5.15**"),
    ("Does it match my bill?", "reconciliation", "focus.csv is the newest of 2 bills"),
)


def test_each_question_is_answered_by_its_tool_on_a_stored_analysis(ask, dataset, as_principal, alice, tmp_path):
    for name, content in {"old.csv": BILL.replace("6.15", "7.15"), "focus.csv": BILL}.items():
        file = tmp_path / name
        file.write_text(content)
        bill = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(file))
        imports.run_import(bill.pk)
        bill.refresh_from_db()
        assert (bill.state, bill.kind) == ("ready", "bill"), bill.error_detail

    for question, tool, said in ANSWERS:
        run = ask(question, dataset=dataset.pk)
        sources = {source["tool"]: source["analysis"] for source in Report.objects.get(run=run.pk).body["sources"]}
        assert said in answer_of(run), answer_of(run)
        assert StoredAnalysis.objects.filter(pk=sources[tool], state="ready").exists()


def test_a_bill_of_which_rows_could_not_be_read_is_not_compared_as_if_whole(
    ask, dataset, as_principal, alice, tmp_path
):
    file = tmp_path / "focus.csv"
    file.write_text(BILL.replace("6.15", "1.00") + BILL.splitlines()[1].replace("6.15", "much") + "\n")
    brought(as_principal(alice), file)

    run = ask("Does it match my bill?", dataset=dataset.pk)

    assert "Incomplete bill: 1 row could not be read." in answer_of(run)
    assert "nothing in the data says why" not in answer_of(run)
    tables = {table["title"]: table["rows"] for table in Report.objects.get(run=run.pk).body["tables"]}
    assert tables["Rows of the bill that could not be read"] == [["3", "BilledCost", "'much' is no amount."]]


def test_without_a_dataset_the_answer_says_what_to_bring(ask):
    run = ask("Where can I save?")

    assert run.state == "completed"
    assert "Drop an export" in answer_of(run)


def test_the_newest_dataset_of_the_organization_is_taken_and_nobody_elses(ask, dataset, bob, charlie):
    assert "$5.15" in answer_of(ask("What do I spend?", user=bob))
    assert "$5.15" not in answer_of(ask("What do I spend?", user=charlie))


def test_a_follow_up_stays_with_the_dataset_of_its_thread(ask, dataset, as_principal, alice, tmp_path):
    first = ask("What do I spend?", dataset=dataset.pk)
    newer = tmp_path / "newer.csv"
    newer.write_text(CALLS.replace("1000000", "7000000"))
    made = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(newer))
    imports.run_import(made.pk)

    assert "$5.15" in answer_of(ask("And now?", thread=first.thread_id))
    assert "$5.15" not in answer_of(ask("What do I spend?"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where can I save in the dataset Bank?", "bank"),
        ("What do I spend in bank?", "bank"),
        ("What does the bank dataset cost?", "bank"),
        ('What do I spend on "bank"?', "bank"),
        ("What do I spend in June 2026?", "june 2026"),
        ("What did june.csv cost?", "june.csv"),
        ("Where can I save in the dataset june 2026 all?", "june 2026 all"),
        ("What does a bank transfer cost?", None),
        ("What do I spend in the dataset bankers?", None),
        ("What did old-june.csv cost?", None),
        ("Where can I save?", None),
    ],
)
def test_a_dataset_is_named_by_its_whole_name(text, name):
    names = ("bank", "june 2026", "june 2026 all", "june.csv", "")

    assert _named_in(text, [(each, each) for each in names]) == name


def test_the_dataset_that_a_question_names_is_taken_of_the_own_organization_only(
    ask, dataset, as_principal, alice, charlie, tmp_path
):
    optimization.change_dataset(principal=as_principal(alice), dataset_id=dataset.pk, name="bank")
    newer = tmp_path / "newer.csv"
    newer.write_text(CALLS.replace("1000000", "7000000"))
    brought(as_principal(alice), newer)
    strange = tmp_path / "strange.csv"
    strange.write_text(CALLS.replace("1000000", "3000000"))
    brought(as_principal(charlie), strange)

    first = ask("What do I spend in the dataset BANK?")

    assert answer_of(first).startswith("**bank:** Your 3 calls")
    assert answer_of(ask("And what do I spend by feature?", thread=first.thread_id)).startswith("**bank:**")
    assert answer_of(ask("What do I spend?")).startswith("**newer.csv:**")
    assert answer_of(ask("What do I spend in the dataset bank?", user=charlie)).startswith("**strange.csv:**")


def test_whatever_is_uploaded_meanwhile_a_later_attempt_works_on_the_same_dataset(
    run, dataset, as_principal, alice, tmp_path
):
    picked = pick_dataset(claim(run))
    newer = tmp_path / "newer.csv"
    newer.write_text(CALLS.replace("1000000", "7000000"))
    made = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(newer))
    imports.run_import(made.pk)
    assert Step.objects.filter(run=run, state="running").update(state="ready", worker=None) == 1

    assert pick_dataset(claim(run)) == picked == dataset
    assert Run.objects.get(pk=run).dataset == dataset.pk


def test_another_organizations_dataset_cannot_be_asked_about(ask, dataset, charlie):
    with pytest.raises(optimization.DatasetNotFound):
        ask("What do I spend?", user=charlie, dataset=dataset.pk)


def playing(dataset, summaries, *, triage=None, turns=None):
    """A model that triages, calls tools turn by turn, and then words the summary, one attempt after the other."""
    left = list(summaries)
    on = {"dataset": str(dataset.pk)}
    turns = turns or [tool_call("dataset_overview", on, "call_0"), tool_call("spend_breakdown", on, "call_1")]

    def reply(body):
        wanted = {tool["function"]["name"] for tool in body.get("tools", [])}
        if "dataset_overview" in wanted:
            turn = sum(message["role"] == "assistant" for message in body["messages"])
            return turns[turn] if turn < len(turns) else tool_call("final_result", {"note": "measured"}, "final")
        if "final_result" in wanted:
            return tool_call("final_result", {"intent": "spend", "understood": "Show the spend."} | (triage or {}))
        return {"content": left.pop(0)}

    return reply


@pytest.fixture
def online(settings):
    def start(url):
        settings.LLM_BASE_URL, settings.LLM_MODEL, settings.LLM_API_KEY = url, "gpt-4o-mini", "k"

    return start


def test_a_model_words_the_answer_and_its_calls_are_booked(ask, dataset, online):
    with model_server(playing(dataset, ["You spent $5.15."])) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert run.state == "completed"
    assert answer_of(run) == "You spent $5.15."
    assert run.usage["model_calls"] == 5


def test_a_model_that_invents_a_number_is_sent_back(ask, dataset, online):
    with model_server(playing(dataset, ["Save $1,234 now!", "You spent $5.15."])) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert answer_of(run) == "You spent $5.15."


def test_a_model_that_keeps_inventing_never_reaches_the_person(ask, dataset, online):
    with model_server(playing(dataset, ["Save $1,234 now!"] * 5)) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    told = json.dumps(journal.read(thread=run.thread_id, after=0, limit=500))
    assert "1,234" not in told
    assert run.state == "completed"
    assert "cost **$5.15**" in answer_of(run)


@pytest.mark.parametrize("lie", ["Save $9.00!", "Save 10 %!", "Save $5000!", "Save $515!", "For 5 million tokens."])
def test_a_number_of_the_question_or_near_a_fact_is_no_fact(ask, dataset, online, lie):
    with model_server(playing(dataset, [lie] * 5)) as url:
        online(url)
        run = ask("I pay $5000. What do I spend?", dataset=dataset.pk)

    assert lie not in answer_of(run)
    assert "cost **$5.15**" in answer_of(run)


def test_a_provider_may_name_calls_twice_or_at_length(ask, dataset, online):
    on = {"dataset": str(dataset.pk)}
    long = [
        tool_call(name, on, letter * 300)["tool_calls"][0]
        for letter, name in (("x", "spend_breakdown"), ("y", "dataset_overview"))
    ]
    turns = [tool_call(name, on, "call_0") for name in ("dataset_overview", "spend_breakdown")]
    turns.append({"tool_calls": long})
    with model_server(playing(dataset, ["You spent $5.15."], turns=turns)) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert run.state == "completed"
    assert answer_of(run) == "You spent $5.15."
    calls = ToolCall.objects.filter(run=run).values_list("call", flat=True)
    assert len(set(calls)) == len(calls) == 4
    assert max(len(call) for call in calls) < 40


def test_a_tool_that_was_called_twice_is_reported_once(ask, dataset, online):
    on = {"dataset": str(dataset.pk)}
    turns = [tool_call(name, on, f"call_{name}") for name in ("dataset_overview", *["model_swap_ceiling"] * 2)]
    with model_server(playing(dataset, ["You spent $5.15."], triage={"intent": "models"}, turns=turns)) as url:
        online(url)
        run = ask("Could a cheaper model do it?", dataset=dataset.pk)

    findings = Report.objects.get(run=run.pk).body["findings"]
    assert [finding["title"] for finding in findings] == ["Ask a cheaper model"]


def test_a_model_cannot_measure_another_dataset_than_the_one_asked_about(
    ask, dataset, online, as_principal, alice, tmp_path
):
    file = tmp_path / "other.csv"
    file.write_text(CALLS.replace("search", "chat"))
    other = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(Path(file)))
    seen = []
    turns = [
        tool_call("dataset_overview", {"dataset": str(other.pk)}, "call_0"),
        tool_call("dataset_overview", {"dataset": str(dataset.pk)}, "call_1"),
    ]
    play = playing(dataset, ["You spent $5.15."], turns=turns)
    with model_server(lambda body: seen.append(body) or play(body)) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    told = [message["content"] for body in seen for message in body["messages"] if message["role"] == "tool"]
    assert any(f"about dataset {dataset.pk} only" in text for text in told)
    assert [call.arguments for call in ToolCall.objects.filter(run=run)] == [{"dataset": str(dataset.pk)}]
    assert "Not computed" not in Report.objects.get(run=run.pk).body["summary"]
    assert answer_of(run) == "You spent $5.15."


def test_a_model_is_told_what_to_ask_of_each_tool_and_may_quote_the_answer(ask, dataset, online):
    seen = []
    supposed = {"dataset": str(dataset.pk), "growth": 0.5}
    play = playing(
        dataset,
        ["It would cost $7.72."],
        triage={"intent": "what_if", "growth_percent": 50},
        turns=[tool_call("what_if", supposed, "call_0")],
    )
    with model_server(lambda body: seen.append(body) or play(body)) as url:
        online(url)
        run = ask("What if usage grows by half?", dataset=dataset.pk)

    assert answer_of(run) == "It would cost $7.72."
    assert any(json.dumps({"what_if": supposed})[1:-1] in json.dumps(body).replace('\\"', '"') for body in seen)


def test_a_model_cannot_leave_out_what_a_wait_is_good_for(ask, dataset, online):
    triage = {"delays": [{"feature": "search", "may_wait_ms": 500}]}
    with model_server(playing(dataset, ["You spent $5.15."], triage=triage)) as url:
        online(url)
        run = ask("What do I spend? search can wait 500 ms", dataset=dataset.pk)

    assert answer_of(run).startswith("You spent $5.15.\n\nI understood that **search** can wait 500 ms.")


def test_an_endpoint_that_fails_ends_the_run_with_a_sentence(ask, dataset, online):
    with model_server(lambda body: {"status": 500}) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert (run.state, run.error_code) == ("failed", "model.unavailable")
