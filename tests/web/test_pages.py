"""Every page, as owner, member, viewer, stranger and nobody."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from apps.agents.models import Report
from apps.conversations import services as conversations
from apps.conversations.models import Message, Question, Run, Thread
from apps.optimization import services as datasets
from apps.optimization.models import Dataset
from apps.web import history

ANSWER = """You could save **$3**.

<script>alert(1)</script>

![spy](https://evil.example/x.png) [link](javascript:alert(1))"""
BODY = {
    "title": "Savings on <b>march</b>",
    "summary": ANSWER,
    "dataset_id": None,
    "dataset_name": "march.csv",
    "findings": [
        {
            "title": "Use a cheaper model",
            "saving_usd": "12.5",
            "low": "10",
            "high": "15",
            "evidence": "E0",
            "up_to": True,
            "how": "By list prices.",
            "assumptions": ["Quality holds."],
            "latency": "faster",
            "source": "call-7",
            "analysis": "01930000-0000-7000-8000-000000000007",
            "joint_usd": "4",
            "plan": {
                "effort_days": 1.0,
                "risk": "low",
                "steps": ["Ask a sample."],
                "prerequisites": ["A judge."],
                "rollback": "Go back if it falls.",
            },
        },
        {
            "title": "Cache prompts",
            "saving_usd": None,
            "low": None,
            "high": None,
            "evidence": "E0",
            "up_to": False,
            "how": "No hashes.",
            "assumptions": [],
            "latency": "",
            "source": "call-8",
        },
    ],
    "joint": {
        "saving_usd": "4",
        "low": "3",
        "high": "5",
        "spent_usd": "40",
        "would_cost_usd": "36",
        "interval_note": None,
        "up_to": False,
        "shares": [{"title": "Use a cheaper model", "saving_usd": "4"}],
        "constraints": ["**chat** may take 500 ms."],
    },
    "tables": [{"title": "By model", "columns": ["Model", "Spend"], "rows": [["gpt-4o", "$1,234.50"]]}],
    "charts": [
        {"title": "Spend by model", "kind": "bar", "unit": "USD", "points": [{"label": "gpt-4o", "value": 1234.5}]}
    ],
    "missing": [{"field": "prompt_hash", "why": "Not there.", "unlocks": "caching", "how_to_export": "Switch it on."}],
}


@pytest.fixture
def thread(alice, as_principal) -> Thread:
    return conversations.create_thread(principal=as_principal(alice), title="My <i>bill</i>")


@pytest.fixture
def run(alice, thread) -> Run:
    return Run.objects.create(
        thread=thread, organization_id=thread.organization_id, user=alice, workflow="savings", goal="Where?", key="1"
    )


@pytest.fixture
def message(thread, run) -> Message:
    return Message.objects.create(thread=thread, run=run, role="assistant", text=ANSWER)


@pytest.fixture
def report(alice, acme, run) -> Report:
    return Report.objects.create(organization=acme, user_id=alice.pk, run=run.pk, body=BODY)


@pytest.fixture
def dataset(acme, alice) -> Dataset:
    return Dataset.objects.create(
        organization=acme,
        created_by=alice.pk,
        name="<i>march</i>.csv",
        file_name="march.csv",
        file_bytes=2048,
        sha256="0" * 64,
        state="failed",
        error_code="import.no_calls",
        error_detail="No row is a usable call.",
        rejected_rows=1,
        rejects=[{"line": 2, "column": "tokens", "reason": "The number of tokens is negative."}],
    )


@pytest.fixture
def paths(thread, message, report, dataset) -> dict[str, str]:
    return {
        "chat": "/",
        "threads": "/threads/",
        "runs": "/runs/",
        "data": "/data/",
        "data list": "/data/list/",
        "dataset": f"/data/{dataset.pk}/",
        "thread": f"/t/{thread.pk}/",
        "message": f"/messages/{message.pk}/",
        "report": f"/reports/{report.pk}/",
        "report body": f"/reports/{report.pk}/body/",
    }


EVERYBODYS = ["chat", "threads", "runs", "data", "data list"]
ORGANIZATIONS = ["dataset"]
CREATORS = ["thread", "message", "report", "report body"]
ALL = EVERYBODYS + ORGANIZATIONS + CREATORS


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("who", "sees"),
    [
        ("alice", ALL),
        ("bob", EVERYBODYS + ORGANIZATIONS),
        ("vera", EVERYBODYS + ORGANIZATIONS),
        ("charlie", EVERYBODYS),
    ],
)
def test_a_page_is_there_for_whom_it_is_meant_and_for_nobody_else(request, client_for, paths, name, who, sees):
    answer = client_for(request.getfixturevalue(who)).get(paths[name])

    assert answer.status_code == (200 if name in sees else 404)
    if name not in sees:
        assert "There is nothing here" in answer.content.decode()


@pytest.mark.parametrize("name", ALL)
def test_nobody_is_sent_to_the_sign_in_page(client_for, paths, name):
    answer = client_for(None).get(paths[name])

    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/accounts/login/?next={paths[name]}"


@pytest.mark.parametrize("who", ["alice", "charlie"])
def test_lists_hold_only_what_is_ones_own(request, client_for, paths, who):
    client = client_for(request.getfixturevalue(who))
    shown = "".join(client.get(paths[name]).content.decode() for name in ("chat", "runs", "data"))

    for text in ("My &lt;i&gt;bill", "Where?", "march"):
        assert (text in shown) is (who == "alice")


@pytest.mark.parametrize("name", ALL)
def test_no_page_needs_more_than_the_policy_allows(client_for, alice, paths, name):
    """No inline script or style, no event attribute, nothing from elsewhere."""
    answer = client_for(alice).get(paths[name])
    html = answer.content.decode()

    assert not re.search(r"<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=", html)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html.replace("https://evil.example", ""))
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["message", "report"])
def test_what_an_agent_wrote_cannot_run_or_call_home(client_for, alice, paths, name):
    html = client_for(alice).get(paths[name]).content.decode()

    assert "<strong>$3</strong>" in html
    assert "&lt;script&gt;alert" in html
    for forbidden in ("<script>alert", 'src="https://evil', 'href="javascript'):
        assert forbidden not in html


def test_titles_and_names_are_text(client_for, alice, paths):
    client = client_for(alice)

    for name in ("chat", "data", "dataset", "report", "thread"):
        assert not re.search(r"<i>(bill|march)|<b>march", client.get(paths[name]).content.decode())


def test_a_report_shows_ceilings_as_ceilings_and_the_unknown_as_unknown(client_for, alice, paths):
    html = client_for(alice).get(paths["report body"]).content.decode()

    assert "up to $12.50" in html
    assert all(
        told in html for told in ("$3.00 to $5.00", "<strong>chat</strong> may take", "Ask a sample.", "01930000")
    )
    assert "$10.00 to $15.00" in html
    assert "not computed" in html
    assert "call-7" in html
    assert re.search(r'<svg class="chart"[^>]* role="img"', html)
    assert "gpt-4o: $1,234.50" in html


def test_a_report_has_its_three_front_doors(client_for, alice, report):
    client = client_for(alice)

    assert client.get(f"/api/reports/{report.pk}.html").headers["Location"] == f"/reports/{report.pk}/"
    assert client.get(f"/api/reports/{report.pk}.json").json()["title"] == BODY["title"]
    assert client.get(f"/api/reports/{report.pk}.md").status_code == 200


def test_a_report_outlives_its_conversation(client_for, alice, thread, report):
    Run.objects.update(state="completed")
    thread.delete()

    assert client_for(alice).get(f"/reports/{report.pk}/").status_code == 200


def test_viewers_are_told_that_they_cannot_ask(client_for, vera, bob):
    assert "member role" in client_for(vera).get("/").content.decode()
    assert "member role" not in client_for(bob).get("/").content.decode()


def test_rejected_rows_are_shown_with_line_and_reason(client_for, bob, dataset):
    html = client_for(bob).get(f"/data/{dataset.pk}/").content.decode()

    assert "The number of tokens is negative." in html
    assert "No row is a usable call." in html


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 302), ("bob", 403), ("vera", 403), ("charlie", 404), (None, 302)]
)
def test_datasets_are_deleted_by_whoever_may(request, client_for, dataset, who, status):
    client = client_for(request.getfixturevalue(who) if who else None)

    assert client.post(f"/data/{dataset.pk}/delete/").status_code == status
    assert Dataset.objects.exists() is (who != "alice")


def test_looking_never_deletes(client_for, alice, dataset):
    assert client_for(alice).get(f"/data/{dataset.pk}/delete/").status_code == 405


def test_older_runs_are_on_further_pages(client_for, alice, thread, monkeypatch):
    monkeypatch.setattr("apps.web.views.RUNS_PER_PAGE", 2)
    for number in range(5):
        Run.objects.create(
            thread=thread, organization_id=thread.organization_id, user=alice, goal=f"Question {number}", key=number
        )
    client, seen, path = client_for(alice), [], "/runs/"

    while path:
        html = client.get(path).content.decode()
        seen += re.findall(r"Question (\d)", html)
        older = re.search(r'href="(\?before=[^"]+)"', html)
        path = f"/runs/{older[1]}" if older else None

    assert seen == ["4", "3", "2", "1", "0"]


def test_runs_are_shown_by_state_on_every_page_of_it(client_for, alice, thread, monkeypatch):
    monkeypatch.setattr("apps.web.views.RUNS_PER_PAGE", 1)
    for number, state in enumerate(["completed", "waiting", "failed", "completed"]):
        Run.objects.create(
            thread=thread,
            organization_id=thread.organization_id,
            user=alice,
            goal=f"Question {number}",
            key=number,
            state=state,
        )
    client = client_for(alice)

    waiting = client.get("/runs/", {"state": "waiting"}).content.decode()
    assert re.findall(r"Question (\d)", waiting) == ["1"]
    assert '<span class="tag warn">waiting for you</span>' in waiting
    completed = client.get("/runs/", {"state": "completed"}).content.decode()
    older = re.search(r'class="button" href="([^"]+)"', completed)[1].replace("&amp;", "&")
    assert re.findall(r"Question (\d)", completed + client.get(f"/runs/{older}").content.decode()) == ["3", "0"]
    assert "No run is stopped." in client.get("/runs/", {"state": "cancelled"}).content.decode()


def test_a_conversation_that_waits_for_its_owner_is_marked(client_for, alice, thread, run):
    Thread.objects.filter(pk=thread.pk).update(live_run=run.pk)
    waits = "It waits for your answer"
    question = Question.objects.create(
        run=run, step="data", call="data", reason="data", expires_at=datetime(2027, 1, 1, tzinfo=UTC)
    )
    assert waits in client_for(alice).get("/threads/").content.decode()

    question.answered_at = datetime(2026, 1, 1, tzinfo=UTC)
    question.save()

    assert waits not in client_for(alice).get("/threads/").content.decode()


@pytest.mark.parametrize("junk", ["x", "1;drop", "01a1fbc3-b898-7816-809e-4a86bbeb25ce"])
def test_junk_in_an_address_does_no_harm(client_for, alice, junk):
    assert client_for(alice).get("/runs/", {"before": junk, "state": junk}).status_code == 200
    assert client_for(alice).get("/threads/", {"current": junk}).status_code == 200


class TestFailures:
    def test_an_unknown_page_is_a_page(self, client_for, alice):
        answer = client_for(alice).get("/nowhere/")

        assert answer.status_code == 404
        assert "There is nothing here" in answer.content.decode()

    def test_an_unknown_door_of_the_api_is_a_problem_document(self, client_for, alice):
        answer = client_for(alice).get("/api/nowhere/")

        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
        assert answer.json()["code"] == "object.not_found"

    def test_a_path_below_api_that_there_is_not_is_told_where_to_look(self, client_for, alice):
        client = client_for(alice)

        assert "/api/docs/" in client.get("/api/thread/").json()["detail"]
        assert "/api/docs/" not in client.get(f"/api/threads/{alice.pk}/").json()["detail"]

    def test_a_bug_shows_a_support_id_and_no_trace(self, client_for, alice, monkeypatch, caplog):
        def bug(*_, **__):
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr("apps.web.views.conversations.threads", bug)
        client = client_for(alice)
        client.raise_request_exception = False

        answer = client.get("/")

        html = answer.content.decode()
        assert answer.status_code == 500
        support_id = re.search(r"<code>([0-9a-f]{12})</code>", html)[1]
        assert "secret detail" not in html
        assert "Traceback" not in html
        assert support_id in caplog.text

    def test_a_form_without_its_token_says_what_to_do(self, alice, client_for):
        client = client_for(alice)
        client.handler.enforce_csrf_checks = True

        answer = client.post("/accounts/settings/profile/", {"name": "x"}, format="multipart")

        assert answer.status_code == 403
        assert "reload the page" in answer.content.decode()


def test_conversations_are_grouped_by_age():
    today = date(2026, 3, 20)
    ages = [0, 0, 1, 3, 12, 45, 400]
    noon = datetime(2026, 3, 20, 12, tzinfo=UTC)
    threads = [Thread(title=str(age), updated_at=noon - timedelta(days=age)) for age in ages]

    groups = history.by_age(threads, today=today)

    assert [(group.title, len(group.threads)) for group in groups] == [
        ("Today", 2),
        ("Yesterday", 1),
        ("Last 7 days", 1),
        ("Last 30 days", 1),
        ("February 2026", 1),
        ("February 2025", 1),
    ]


# --- Which dataset a question is about --------------------------------------------------------------------------------


@pytest.fixture
def ready(acme, alice) -> list[Dataset]:
    """Two datasets that can be asked about, the older one first."""
    return [
        Dataset.objects.create(
            organization=acme, created_by=alice.pk, name=name, sha256=name[0] * 64, file_bytes=1, state="ready", rows=7
        )
        for name in ("april.csv", "may.csv")
    ]


def chosen(html: str) -> list[str]:
    return re.findall(r'<option value="[^"]*" selected>([^<]+)', html)


def test_an_old_conversation_goes_on_about_its_dataset(client_for, alice, run, ready):
    Run.objects.filter(pk=run.pk).update(dataset=ready[0].pk)

    html = client_for(alice).get(f"/t/{run.thread_id}/").content.decode()

    assert chosen(html) == ["april.csv · 7 calls"]
    assert "No data" not in html


def test_a_new_conversation_begins_with_the_dataset_last_used_else_the_newest(client_for, alice, run, ready):
    client = client_for(alice)
    assert chosen(client.get("/").content.decode()) == ["may.csv · 7 calls"]

    Run.objects.filter(pk=run.pk).update(dataset=ready[0].pk)

    assert chosen(client.get("/").content.decode()) == ["april.csv · 7 calls"]
    assert chosen(client.get(f"/?dataset={ready[1].pk}").content.decode()) == ["may.csv · 7 calls"]


def test_a_dataset_that_was_deleted_is_not_offered(client_for, alice, run, ready):
    Run.objects.filter(pk=run.pk).update(dataset=ready[0].pk)
    ready[0].delete()

    assert chosen(client_for(alice).get(f"/t/{run.thread_id}/").content.decode()) == ["may.csv · 7 calls"]


def test_without_data_the_choice_says_so(client_for, alice, dataset):
    assert '<option value="">No data yet</option>' in client_for(alice).get("/").content.decode()


# --- A dataset's page -------------------------------------------------------------------------------------------------


def imported(alice, as_principal, path) -> Dataset:
    principal = as_principal(alice)
    found = datasets.create_dataset(principal=principal, upload=datasets.LocalFile(path))
    return datasets.import_now(principal=principal, dataset_id=found.pk)


def test_a_trace_without_dates_shows_none(client_for, alice, as_principal, tmp_path):
    log = tmp_path / "trace.csv"
    log.write_text("timestamp,model,input_tokens,output_tokens\n" + "".join(f"{t}.5,gpt-4o,9,9\n" for t in (0, 90_000)))
    dataset = imported(alice, as_principal, log)

    page = client_for(alice).get(f"/data/{dataset.pk}/").content.decode()

    assert "25 h 0 min without dates" in page
    assert "Spend by day of the trace" in page
    assert "1970" not in page + client_for(alice).get("/data/").content.decode()


def test_what_was_decided_about_cached_tokens_is_said_once(client_for, alice, as_principal, tmp_path):
    log = tmp_path / "cached.csv"
    log.write_text("timestamp,input_tokens,cached_tokens,output_tokens\n2026-03-01T10:00:00Z,9,5,9\n")
    dataset = imported(alice, as_principal, log)

    page = client_for(alice).get(f"/data/{dataset.pk}/").content.decode()

    because = dataset.conventions[0]["because"]
    assert page.count(because) == 1
    assert "is unknown, 100.0% of all tokens: (no model)." in page
