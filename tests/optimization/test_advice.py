"""Analyses that are kept, files that continue a dataset, recommendations and who decides on them."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.utils import timezone

from apps.agents.tools import joint_saving
from apps.optimization import advice, analyses, imports, jobs, recommendations, services, tasks
from apps.optimization.models import Dataset, Outcome, Recommendation, StoredAnalysis
from tests.optimization.conftest import call, uploaded

DATASETS = "/api/datasets/"
ANALYSES = "/api/analyses/"
RECOMMENDATIONS = "/api/recommendations/"


def weeks(count, **more):
    """A question each day that nobody waits for: something to save."""
    return [
        call(
            call_id=f"c{day}",
            timestamp=f"2026-{9 + day // 30:02}-{1 + day % 30:02}T12:00:00Z",
            prompt="What is the price?",
            interactive="false",
            **more,
        )
        for day in range(7 * count)
    ]


@pytest.fixture
def rung(monkeypatch):
    """The analyses that a worker was woken for."""
    rung = []
    monkeypatch.setattr(advice, "ring", rung.append)
    return rung


@pytest.fixture
def analysed(import_dataset, alice, as_principal, rung, django_capture_on_commit_callbacks):
    """A dataset of Alice with a computed analysis."""

    def analysed(content=None, user=alice):
        dataset = import_dataset(user, content or weeks(3))
        with django_capture_on_commit_callbacks(execute=True):
            analysis = advice.request_analysis(principal=as_principal(user), dataset_id=dataset.pk)
        analyses.run_analysis(analysis.pk)
        analysis.refresh_from_db()
        return analysis

    return analysed


# --- Analyses --------------------------------------------------------------------------------------------------------


def test_savings_are_computed_by_a_worker_once_and_then_answered(
    import_dataset, client_for, alice, rung, django_capture_on_commit_callbacks
):
    dataset = import_dataset(alice, weeks(3))
    client = client_for(alice)

    nothing = client.get(f"{DATASETS}{dataset.pk}/savings/")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "analysis.not_found")

    with django_capture_on_commit_callbacks(execute=True):
        asked = client.post(f"{DATASETS}{dataset.pk}/savings/")
        again = client.get(f"{DATASETS}{dataset.pk}/savings/")

    assert (asked.status_code, again.status_code, len(rung)) == (202, 202, 1)
    assert asked.json()["state"] == "queued"

    analyses.run_analysis(rung[0])

    answer = client.get(f"{DATASETS}{dataset.pk}/savings/")
    assert answer.status_code == 200
    assert {strategy["name"] for strategy in answer.json()["strategies"]} >= {"batch_eligible"}
    assert answer.json()["current"]
    [more] = answer.json()["if_allowed"]
    assert more["needs"] == "answers may be given to everybody and kept for good"
    kept = client.get(asked.headers["Location"]).json()
    assert kept["state"] == "ready"
    assert kept["result"]["calls"] == 21
    assert kept["seconds"] > 0


def test_the_same_inputs_are_the_same_analysis_and_others_are_not(analysed, as_principal, alice, monkeypatch):
    first = analysed()
    ask = lambda: advice.request_analysis(principal=as_principal(alice), dataset_id=first.dataset_id)  # noqa: E731

    assert ask().pk == first.pk

    monkeypatch.setattr(analyses, "code_version", lambda: "another")
    other = ask()
    assert (other.pk != first.pk, other.state) == (True, "queued")
    assert other.dataset_hash == first.dataset_hash


def test_an_analysis_is_computed_again_from_its_stored_inputs(analysed, client_for, alice):
    first = analysed()

    again = client_for(alice).post(f"{ANALYSES}{first.pk}/again/")

    assert again.status_code == 200  # nothing has changed, so it is the same one
    assert again.json()["inputs"] == first.inputs


def test_what_cannot_be_computed_is_refused_by_name(import_dataset, client_for, alice, rung):
    dataset = import_dataset(alice, weeks(1))
    client = client_for(alice)

    unknown = client.post(ANALYSES, {"dataset": str(dataset.pk), "kind": "miracles"}, format="json")

    assert unknown.status_code == 400
    assert StoredAnalysis.objects.count() == 0
    assert client.post(ANALYSES, {"dataset": str(uuid4())}, format="json").status_code == 404


def test_an_analysis_ends_in_time(import_dataset, as_principal, alice, rung, monkeypatch):
    monkeypatch.setattr(analyses, "MAX_SECONDS", 0.1)
    dataset = import_dataset(alice, weeks(1))
    analysis = advice.request_analysis(principal=as_principal(alice), dataset_id=dataset.pk)

    def endless(calls, *_):
        return calls.rows(
            "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b WHERE a.range % 7 = b.range % 5"
        )

    monkeypatch.setitem(analyses.KINDS, "savings", analyses.Kind(asked=analyses.Asked, compute=endless))
    analyses.run_analysis(analysis.pk)

    analysis.refresh_from_db()
    assert (analysis.state, analysis.error_code) == ("failed", "analysis.too_much_work")


def test_one_member_cannot_have_all_workers(import_dataset, client_for, alice, bob, rung, monkeypatch):
    monkeypatch.setattr(advice, "MOST_UNDER_WAY", 1)
    dataset = import_dataset(alice, weeks(1))

    def ask(user, **parameters):
        body = {"dataset": str(dataset.pk), "kind": "what_if", "parameters": parameters}
        return client_for(user).post(ANALYSES, body, format="json").status_code

    assert [ask(alice, growth=1), ask(alice, growth=2), ask(alice, growth=1), ask(bob, growth=2)] == [
        202,
        429,
        202,
        202,
    ]
    assert StoredAnalysis.objects.filter(kind="what_if").count() == 2


def test_a_cancelled_analysis_writes_nothing_anymore(
    import_dataset, as_principal, client_for, alice, rung, monkeypatch
):
    dataset = import_dataset(alice, weeks(1))
    analysis = advice.request_analysis(principal=as_principal(alice), dataset_id=dataset.pk)
    real = analyses.KINDS["savings"]

    def cancelled_meanwhile(*computed):
        assert client_for(alice).post(f"{ANALYSES}{analysis.pk}/cancel/").json()["state"] == "cancelled"
        return real.compute(*computed)

    monkeypatch.setitem(analyses.KINDS, "savings", analyses.Kind(asked=real.asked, compute=cancelled_meanwhile))
    analyses.run_analysis(analysis.pk)

    analysis.refresh_from_db()
    assert (analysis.state, analysis.result) == ("cancelled", None)
    assert not Recommendation.objects.exists()
    assert client_for(alice).post(f"{ANALYSES}{analysis.pk}/cancel/").json()["code"] == "analysis.over"


def test_an_analysis_whose_worker_died_is_rung_for_again_and_finally_fails(import_dataset, as_principal, alice, rung):
    dataset = import_dataset(alice, weeks(1))
    analysis = advice.request_analysis(principal=as_principal(alice), dataset_id=dataset.pk)
    now = timezone.now()
    silent = {"state": "running", "progress_at": now - timedelta(minutes=5)}

    StoredAnalysis.objects.update(attempt=1, **silent)
    assert advice.rescue_analyses(now=now) == 1
    assert rung[-1] == analysis.pk

    StoredAnalysis.objects.update(attempt=jobs.MAX_ATTEMPTS, **silent)
    assert advice.rescue_analyses(now=now) == 0
    analysis.refresh_from_db()
    assert analysis.error_code == "analysis.interrupted"


# --- Files that continue a dataset -----------------------------------------------------------------------------------


def test_a_later_file_adds_its_calls_to_the_dataset(import_dataset, client_for, as_principal, alice):
    september = import_dataset(alice, [call(call_id="a"), call(call_id="b")])
    october = import_dataset(alice, [call(call_id="c", input_tokens=9)], continues=september.pk)

    with services.open_calls(principal=as_principal(alice), dataset_id=september.pk) as calls:
        assert calls.row("SELECT count(*), count(DISTINCT call) FROM calls") == (3, 3)
    assert [row.all_rows for row in services.list_datasets(principal=as_principal(alice))] == [3]
    client = client_for(alice)
    assert [row["id"] for row in client.get(DATASETS).json()["results"]] == [str(september.pk)]
    files = client.get(f"{DATASETS}{september.pk}/files/").json()["results"]
    assert [(row["id"], row["continues"]) for row in files] == [(str(october.pk), str(september.pk))]


def test_a_later_file_is_read_and_hashed_as_the_first_one(import_dataset, alice):
    first = import_dataset(alice, [{"spent": 5, "model": "gpt-4o"}], mapping={"input_tokens": "spent"})

    later = import_dataset(alice, [{"spent": 6, "model": "gpt-4o"}], continues=first.pk)

    assert (later.state, later.mapping, bytes(later.hash_key)) == ("ready", first.mapping, bytes(first.hash_key))
    assert bytes(import_dataset(alice, [call()]).hash_key) != bytes(first.hash_key)


def test_only_the_first_file_is_continued_and_only_ones_own(import_dataset, client_for, alice, charlie):
    first = import_dataset(alice, [call()])
    later = import_dataset(alice, [call(input_tokens=7)], continues=first.pk)

    def post(user, continues):
        body = {"file": uploaded([call(input_tokens=8)]), "continues": str(continues)}
        return client_for(user).post(DATASETS, body, format="multipart").json()["code"]

    assert post(alice, later.pk) == "dataset.not_the_first_file"
    assert post(charlie, first.pk) == "dataset.not_found"


def test_files_that_come_at_once_are_imported_one_after_the_other(client_for, as_principal, alice, monkeypatch):
    """Otherwise a call that two of them hold would count twice, and one could come before there is a first."""
    monkeypatch.setattr(tasks, "ring_import", lambda dataset_id: None)

    def post(**more):
        body = {"file": uploaded([call(call_id="a"), call(call_id=str(more))]), **more}
        return client_for(alice).post(DATASETS, body, format="multipart").json()["id"]

    first = post()
    later = [post(continues=first, name="b"), post(continues=first, name="c")]
    assert imports.run_import(later[0]) is None
    imports.run_import(first)
    claimed = jobs.claim(Dataset, later[0])
    assert imports.run_import(later[1]) is None
    jobs.cancel(claimed)
    jobs.resume(claimed)

    assert [imports.run_import(each).known_rows for each in later] == [1, 1]
    with services.open_calls(principal=as_principal(alice), dataset_id=first) as calls:
        assert calls.row("SELECT count(*) FROM calls") == (4,)


def test_a_file_of_another_dataset_is_not_said_to_continue_this_one(import_dataset, alice):
    other, first = import_dataset(alice, [call()]), import_dataset(alice, [call(input_tokens=7)])
    later = import_dataset(alice, [call(input_tokens=8)], continues=first.pk)

    assert import_dataset(alice, [call(input_tokens=8)], continues=first.pk) == later
    with pytest.raises(services.DatasetExists):
        import_dataset(alice, [call(input_tokens=8)], continues=other.pk)


def test_what_has_no_calls_is_not_continued(import_dataset, alice):
    failed = import_dataset(alice, "no,calls\n1,2\n")

    assert import_dataset(alice, [call()], continues=failed.pk).error_code == "dataset.failed"


def test_with_the_dataset_its_later_files_go(
    import_dataset, client_for, alice, settings, django_capture_on_commit_callbacks
):
    first = import_dataset(alice, [call()])
    import_dataset(alice, [call(input_tokens=7)], continues=first.pk)

    with django_capture_on_commit_callbacks(execute=True):
        client_for(alice).delete(f"{DATASETS}{first.pk}/")

    assert not Dataset.objects.exists()
    assert [path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()] == []


def test_an_import_can_be_stopped_and_taken_up_again(client_for, alice, vera, monkeypatch):
    monkeypatch.setattr(tasks, "ring_import", lambda dataset_id: None)
    client = client_for(alice)
    made = client.post(DATASETS, {"file": uploaded([call()])}, format="multipart").json()["id"]

    assert client_for(vera).post(f"{DATASETS}{made}/cancel/").status_code == 403
    assert client.post(f"{DATASETS}{made}/cancel/").json()["state"] == "cancelled"
    assert client.post(f"{DATASETS}{made}/cancel/").json()["code"] == "import.over"
    assert imports.run_import(made) is None

    assert client.post(f"{DATASETS}{made}/resume/").json()["state"] == "queued"
    assert imports.run_import(made).rows == 1
    assert client.post(f"{DATASETS}{made}/resume/").json()["code"] == "import.over"


@pytest.mark.parametrize("kind", ["savings", "what_if", "pareto"])
def test_a_feature_to_keep_that_no_call_is_of_fails_with_a_sentence(import_dataset, as_principal, alice, kind):
    dataset = import_dataset(alice, [call(feature="chat")])

    asked = advice.request_analysis(
        principal=as_principal(alice), dataset_id=dataset.pk, kind=kind, parameters={"keep": ["chta"]}
    )
    analyses.run_analysis(asked.pk)

    asked.refresh_from_db()
    assert (asked.state, asked.error_code) == ("failed", "analysis.unknown_feature")
    assert "'chta'; the log has chat" in asked.error_detail


def test_how_reports_show_days_and_money_is_chosen_per_dataset(import_dataset, client_for, alice):
    dataset = import_dataset(alice, [call()])
    change = lambda **body: client_for(alice).patch(f"{DATASETS}{dataset.pk}/", body, format="json")  # noqa: E731

    changed = change(time_zone="Europe/Berlin", currency="EUR", currency_rate="0.92", keep_days=90).json()

    assert (changed["time_zone"], changed["currency"], changed["currency_rate"]) == ("Europe/Berlin", "EUR", "0.920000")
    assert changed["keep_days"] == 90
    for wrong in (
        {"time_zone": "Mars/Base"},
        {"time_zone": "localtime"},
        {"time_zone": "Factory"},
        {"currency": "euro"},
        {"currency_rate": "0"},
        {"keep_days": 0},
    ):
        assert change(**wrong).status_code == 400


# --- Recommendations -------------------------------------------------------------------------------------------------


def test_an_analysis_leaves_recommendations_with_what_is_needed_to_act(analysed, client_for, alice):
    analysis = analysed()

    found = client_for(alice).get(RECOMMENDATIONS).json()

    proven = [row for row in found if not row["detail"]["up_to"] and not row["needs"]]
    first = proven[0]
    assert first["analysis"] == str(analysis.pk)
    assert Decimal(first["saving_usd"]) > 0
    assert first["confidence_basis"] == "prior, uncalibrated"
    assert {"effort_days", "risk", "steps", "prerequisites", "rollback"} <= first["detail"].keys()
    real = [row["per_day_usd"] for row in found if not row["detail"]["up_to"]]
    assert real == sorted(real, key=Decimal)[::-1]


def test_a_later_analysis_renews_what_is_open_and_leaves_what_was_decided(analysed, client_for, alice, monkeypatch):
    analysis = analysed()
    client = client_for(alice)
    adopted, *others = client.get(RECOMMENDATIONS).json()
    answer = client.post(f"{RECOMMENDATIONS}{adopted['id']}/outcome/", {"state": "adopted"}, format="json").json()
    assert answer["recommendation"]["state"] == "adopted"

    monkeypatch.setattr(analyses, "code_version", lambda: "another")
    again = StoredAnalysis.objects.get(pk=client.post(f"{ANALYSES}{analysis.pk}/again/").json()["id"])
    analyses.run_analysis(again.pk)

    rows = client.get(RECOMMENDATIONS).json()
    assert sorted(row["strategy"] for row in rows) == sorted(row["strategy"] for row in (adopted, *others))
    assert {row["state"] for row in rows if row["id"] == adopted["id"]} == {"adopted"}
    assert {row["analysis"] for row in rows if row["state"] == "open"} <= {str(again.pk)}


@pytest.mark.parametrize(("day", "measured"), [("2026-09-11", True), ("2027-01-01", False)])
def test_what_is_adopted_from_a_day_with_calls_since_is_measured_at_once(
    analysed, client_for, alice, day, measured, django_capture_on_commit_callbacks
):
    analysis = analysed()
    client = client_for(alice)
    chosen = next(row for row in client.get(RECOMMENDATIONS).json() if row["strategy"] == "batch_eligible")
    decision = {"state": "adopted", "adopted_at": f"{day}T00:00:00Z"}

    with django_capture_on_commit_callbacks(execute=False):
        client.post(f"{RECOMMENDATIONS}{chosen['id']}/outcome/", decision, format="json")
    for waiting in StoredAnalysis.objects.filter(state="queued"):
        analyses.run_analysis(waiting.pk)

    assert Outcome.objects.filter(recommendation=chosen["id"]).exists() is measured
    newest = StoredAnalysis.objects.filter(kind="savings").latest("id")
    assert (newest.pk != analysis.pk) is measured
    assert analyses.is_current(newest)


def test_a_decision_is_made_once(analysed, client_for, alice):
    analysed()
    client = client_for(alice)
    chosen = client.get(RECOMMENDATIONS).json()[0]["id"]
    decide = lambda state: client.post(f"{RECOMMENDATIONS}{chosen}/outcome/", {"state": state}, format="json")  # noqa: E731

    assert [decide("dismissed").status_code, decide("dismissed").status_code] == [200, 200]
    assert decide("adopted").json()["code"] == "recommendation.decided"
    assert decide("postponed").status_code == 400


def test_who_may_see_and_decide(request, analysed, client_for):
    analysis = analysed()
    chosen, dataset = Recommendation.objects.first(), f"{DATASETS}{analysis.dataset_id}/"
    looked_at = (
        f"{ANALYSES}{analysis.pk}/",
        f"{RECOMMENDATIONS}{chosen.pk}/",
        f"{RECOMMENDATIONS}{chosen.pk}/outcome/",
        f"{dataset}savings/",
        f"{dataset}files/",
    )
    cast = {"alice": (200, 200), "bob": (200, 200), "vera": (200, 403), "charlie": (404, 404), None: (401, 401)}
    for who, (look, act) in cast.items():
        client = client_for(request.getfixturevalue(who) if who else None)
        assert {client.get(path).status_code for path in looked_at} == {look}, who
        decided = client.post(f"{RECOMMENDATIONS}{chosen.pk}/outcome/", {"state": "adopted"}, format="json")
        assert decided.status_code == act, who
        for listed in (ANALYSES, RECOMMENDATIONS):
            answer = client.get(listed)
            assert answer.status_code == (200 if who else 401)
            if who == "charlie":
                assert answer.json() in ([], {"next": None, "previous": None, "results": []})


def asked_by_everybody():
    """The same question each day, each time by another user."""
    return [
        call(timestamp=f"2026-10-{1 + day:02}T12:00:{day:02}Z", prompt="Where are you?", user=f"u{day}")
        for day in range(21)
    ]


def test_what_only_another_rule_of_a_cache_saves_is_advised_first_and_proven_nowhere(analysed, client_for, alice):
    analysis = analysed(asked_by_everybody())
    client, needs = client_for(alice), "answers may be given to everybody and kept for good"
    saved = 20 * Decimal("0.0035")

    first = client.get(RECOMMENDATIONS).json()[0]
    assert (first["strategy"], first["needs"], Decimal(first["saving_usd"])) == ("exact_cache", needs, saved)
    assert first["title"] == f"Answer exact repeats from a cache, if {needs}"
    assert (first["evidence"], first["detail"]["risk"], first["confidence"]) == ("E2", "high", None)
    assert first["detail"]["prerequisites"][0] == "The answers stay true for as long as they are kept."

    assert analysis.result["joint"] is None
    told = joint_saving.measure(analysis)
    leading = f"$0.0700 beyond what is proven, if {needs}: Answer exact repeats from a cache."
    assert told.headline == f"{leading} {joint_saving.NOTHING}"
    assert (told.savings[0].needs, told.savings[0].plan.risk, told.joint.shares) == (needs, "high", [])

    client.post(f"{RECOMMENDATIONS}{first['id']}/outcome/", {"state": "adopted"}, format="json")
    recommendations.renew(analysis)
    assert [row["state"] for row in client.get(RECOMMENDATIONS).json() if row["needs"]] == ["adopted"]


# --- Previews --------------------------------------------------------------------------------------------------------


def test_a_preview_tells_how_a_file_is_read_and_keeps_nothing(client_for, alice, settings):
    content = uploaded([call(feature="chat"), call(input_tokens=-1)])

    found = client_for(alice).post(f"{DATASETS}preview/", {"file": content}, format="multipart").json()

    assert (found["source"], found["rows"], found["rejected_rows"], found["whole"]) == ("table", 1, 1, True)
    assert found["columns"]["input_tokens"] == "input_tokens"
    assert found["rejects"][0]["line"] == 3
    assert found["calls"][0]["feature"] == "chat"
    assert found["calls"][0]["cost_usd"] == "0.0035"
    assert found["disk_bytes"] > 0
    assert not Dataset.objects.exists()
    assert [path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()] == []


def test_a_preview_of_a_large_file_looks_at_its_beginning_only(client_for, alice, monkeypatch):
    monkeypatch.setattr("apps.optimization.conversion.PREVIEWED", 50)

    found = (
        client_for(alice)
        .post(f"{DATASETS}preview/", {"file": uploaded([call() for _ in range(500)])}, format="multipart")
        .json()
    )

    assert not found["whole"]
    assert found["rows"] == 50


def test_a_preview_of_what_cannot_be_read_says_why(client_for, alice, vera):
    post = lambda user, content: client_for(user).post(  # noqa: E731
        f"{DATASETS}preview/", {"file": uploaded(content)}, format="multipart"
    )

    assert post(alice, "question,answer\na,b\n").json()["code"] == "file.no_usable_columns"
    assert post(alice, [call(input_tokens=-1)]).json()["rejected_rows"] == 1
    assert post(vera, [call()]).status_code == 403
    assert post(None, [call()]).status_code == 401
