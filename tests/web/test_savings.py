"""The page of savings, what is decided on it, and the page of a dataset: as owner, member, viewer, stranger, nobody."""

import json
import re
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

from apps.optimization import advice, analyses, jobs, recommendations, services, tasks
from apps.optimization.models import Dataset, Outcome, PriceAlert, Recommendation, StoredAnalysis
from apps.optimization.results import Joint
from apps.optimization.sample import write_sample, write_sample_files
from apps.web.savings_picture import headline
from tests.optimization.test_bills import openai_cost, openai_page


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> dict:
    """What an analysis of a sample finds; computed once, since computing it is not what these tests are about."""
    path, out = tmp_path_factory.mktemp("sample") / "sample.csv", StringIO()
    write_sample_files(path=path, calls=600, seed=7)
    with pytest.raises(SystemExit):
        call_command("analyze", "--json", str(path), stdout=out)
    found = json.loads(out.getvalue())
    del found["import"]
    return found


@pytest.fixture
def rung(monkeypatch, settings, tmp_path):
    """Work that a worker was woken for; nobody is woken."""
    settings.MEDIA_ROOT = tmp_path / "files"
    rung = []
    monkeypatch.setattr(advice, "ring", rung.append)
    monkeypatch.setattr(tasks, "ring_import", rung.append)
    return rung


@pytest.fixture
def sample(acme, alice, rung) -> Dataset:
    """A dataset that Bob, a member, does not own."""
    return Dataset.objects.create(
        organization=acme, created_by=alice.pk, name="Sample <b>", sha256="0" * 64, file_bytes=1, state="ready"
    )


@pytest.fixture
def imported(alice, as_principal, rung) -> Dataset:
    """The same with its calls."""
    out = StringIO()
    write_sample(out=out, calls=600, seed=7)
    upload = SimpleUploadedFile("sample.csv", out.getvalue().encode())
    made = services.create_dataset(principal=as_principal(alice), upload=upload, name="Sample <b>")
    return services.import_now(principal=as_principal(alice), dataset_id=made.pk)


@pytest.fixture
def analysed(sample, alice, as_principal, document) -> StoredAnalysis:
    return finished(advice.request_analysis(principal=as_principal(alice), dataset_id=sample.pk), document)


def finished(analysis: StoredAnalysis, document: dict) -> StoredAnalysis:
    """The analysis as a worker leaves it."""
    claimed = jobs.claim(StoredAnalysis, analysis.pk)
    assert jobs.settle(claimed, state="ready", progress=100, result=document, seconds=1.0)
    recommendations.renew(claimed)
    return claimed


@pytest.fixture
def page_of(request, client_for):
    def page_of(who, path, status=200):
        answer = client_for(request.getfixturevalue(who) if who else None).get(path)
        assert answer.status_code == status
        return answer.content.decode()

    return page_of


def savings_of(dataset) -> str:
    return f"/data/{dataset.pk}/savings/"


def test_savings_are_for_the_organization_and_only_members_decide(sample, analysed, page_of):
    pages = {who: page_of(who, savings_of(sample)) for who in ("alice", "bob", "vera")}
    page_of("charlie", savings_of(sample), 404)
    page_of(None, savings_of(sample), 302)

    for who, html in pages.items():
        assert re.search(r"Together: \$[\d.]+ of \$[\d.]+ \([\d.]+\u00a0%\)", html)
        assert ("Adopt<" in html, "Dismiss<" in html) == ((who != "vera"),) * 2
        assert "Sample <b>" not in html
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son[a-z]+=", html)


def test_what_agents_have_computed_beside_hurts_no_page(analysed, sample, page_of, client_for, alice):
    beside = StoredAnalysis.objects.create(
        dataset=sample, organization=sample.organization, created_by=alice.pk, kind="sufficiency", inputs="beside"
    )

    page_of("alice", savings_of(sample))
    assert client_for(alice).get(f"/analyses/{beside.pk}/").url == savings_of(sample)


def computed(client, dataset):
    return client.post(f"{savings_of(dataset)}compute/")


def test_looking_starts_nothing_and_members_have_it_computed(sample, page_of, client_for, request):
    html = {who: page_of(who, savings_of(sample)) for who in ("alice", "bob", "vera")}
    assert not StoredAnalysis.objects.exists()
    assert ["Compute what could be saved" in html[who] for who in html] == [True, True, False]

    for who, status in (("vera", 403), ("charlie", 404), (None, 302), ("bob", 302)):
        asking = client_for(request.getfixturevalue(who) if who else None)
        assert computed(asking, sample).status_code == status
        assert StoredAnalysis.objects.exists() == (who == "bob")


def test_members_stop_an_analysis(sample, page_of, client_for, request, bob):
    computed(client_for(bob), sample)
    analysis = StoredAnalysis.objects.get()
    assert ["Stop it" in page_of(who, savings_of(sample)) for who in ("alice", "vera")] == [True, False]

    for who, status in (("vera", 403), ("charlie", 404), (None, 302), ("alice", 302), ("alice", 409)):
        asking = client_for(request.getfixturevalue(who) if who else None)
        answer = asking.post(f"/analyses/{analysis.pk}/stop/")
        assert answer.status_code == status

    assert StoredAnalysis.objects.get().state == "cancelled"
    assert "was stopped" in page_of("vera", savings_of(sample))


def test_what_was_computed_on_earlier_prices_says_so(sample, analysed, page_of, monkeypatch):
    assert "Compute it anew" not in page_of("bob", savings_of(sample))

    monkeypatch.setattr("apps.optimization.analyses.code_version", lambda: "another")

    for who in ("bob", "vera"):
        html = page_of(who, savings_of(sample))
        assert "have changed since" in html
        assert "Together: $" in html
        assert ("Compute it anew" in html) == (who == "bob")


def test_what_an_earlier_version_stored_in_another_shape_is_not_shown(sample, analysed, page_of):
    StoredAnalysis.objects.update(result={"calls": 1}, code_version="earlier")

    html = page_of("bob", savings_of(sample))

    assert "An earlier version" in html
    assert "Compute it again" in html


def test_a_page_waits_for_its_analysis_and_computes_it_once(sample, page_of, document, client_for, alice, bob):
    for asking in (alice, bob):
        assert computed(client_for(asking), sample).headers["Location"] == savings_of(sample)
    first, again = page_of("alice", savings_of(sample)), page_of("bob", savings_of(sample))

    analysis = StoredAnalysis.objects.get()
    for html in (first, again):
        assert f'data-follow="/api/analyses/{analysis.pk}/"' in html
        assert f"?analysis={analysis.pk}" in re.search(r"<noscript>(.*?)</noscript>", html)[1]

    finished(analysis, document)
    assert "Together: $" in page_of("alice", f"{savings_of(sample)}?analysis={analysis.pk}")


def test_an_analysis_that_failed_says_so_and_is_not_repeated_by_itself(sample, page_of, client_for, alice):
    computed(client_for(alice), sample)
    analysis = StoredAnalysis.objects.get()
    StoredAnalysis.objects.update(state="failed", error_code="x", error_detail="Out of <memory>.")

    html = page_of("alice", f"{savings_of(sample)}?analysis={analysis.pk}")

    assert "Out of &lt;memory&gt;." in html
    assert "data-follow" not in html
    assert "Out of &lt;memory&gt;." in page_of("alice", savings_of(sample))
    assert StoredAnalysis.objects.count() == 1
    computed(client_for(alice), sample)
    assert "data-follow" in page_of("alice", savings_of(sample))


@pytest.mark.parametrize("junk", ["x", "01a2233c-0000-7000-8000-000000000000"])
def test_junk_instead_of_an_analysis_does_no_harm(sample, client_for, alice, junk):
    assert client_for(alice).get(savings_of(sample), {"analysis": junk}).status_code in (200, 404)


def test_a_ceiling_always_says_up_to_and_the_unknown_is_never_zero(sample, analysed, page_of):
    html = page_of("vera", savings_of(sample))
    ceilings = re.search(r'id="ceilings">(.*?)</section>', html, re.DOTALL)[1]
    unknown = re.search(r'id="unknown">(.*?)</section>', html, re.DOTALL)[1]

    amounts = re.findall(r'class="amount">([^<]*)<', ceilings)
    assert amounts
    assert all(amount.startswith("up to $") for amount in amounts)
    assert "$0" not in unknown
    assert set(re.findall(r'class="amount none">([^<]*)<', unknown)) == {"unknown"}


def test_missing_fields_say_what_they_unlock_and_what_is_at_stake(sample, analysed, page_of):
    html = page_of("vera", savings_of(sample))

    assert re.search(r"<strong>quality</strong><p>Unlocks: [^<]+points[^<]*</p><p[^>]*>At most \$", html)


def joint(**more) -> Joint:
    told = {"verdict": "unknown", "p": None, "why": "", "weeks": 0, "bias": None, "mape": None}
    amounts = {"saving_usd": "8.08", "low": "7.47", "high": "8.70", "spent_usd": "54.30", "would_cost_usd": "46.22"}
    rest = {"interval_note": None, "drift": told, "strategies": (), "left_out": (), "stages": {}, "shares": {}}
    sums = {"sum_of_parts_usd": None, "overlap_usd": None, "interactions": (), "up_to": False}
    return Joint.model_validate(amounts | rest | sums | more)


def test_the_joint_saving_is_one_sentence():
    assert headline(joint()) == "Together: $8.08 of $54.30 (14.9\u00a0%), 95\u00a0% interval $7.47 to $8.70"
    assert headline(joint(low=None)) == "Together: $8.08 of $54.30 (14.9\u00a0%), interval not computed"
    assert headline(joint(up_to=True)).startswith("Together: up to $8.08")
    assert headline(joint(saving_usd=None)) == "Together: unknown."
    assert headline(None) == "Nothing is proven to save on these calls."


def test_what_only_its_owner_can_allow_is_said_before_what_is_proven(sample, analysed, page_of, document):
    under = next(each for each in document["strategies"] if each["name"] == "exact_cache") | {"saving_usd": "90"}
    allowed = {"needs": "answers may be kept for good", "options": {"answers_kept": None}, "more_usd": "80"}
    StoredAnalysis.objects.update(result=document | {"if_allowed": [allowed | {"strategy": under}]})
    recommendations.renew(StoredAnalysis.objects.get())

    html = page_of("bob", savings_of(sample))

    said = (
        "$80.00 beyond what is proven, if answers may be kept for good: Answer exact repeats from a cache. Together: $"
    )
    assert said in html
    advised, *_ = re.findall(r'class="finding advice">(.*?)</article>', html, re.DOTALL)
    assert "if answers may be kept for good" in advised
    assert ("risk</span> medium" in advised, "none: whether you can allow it" in advised) == (True, True)


def test_the_navigation_leads_to_the_newest_savings(sample, client_for, alice, charlie):
    assert client_for(alice).get("/savings/").headers["Location"] == savings_of(sample)
    assert "No data yet" in client_for(charlie).get("/savings/").content.decode()
    assert client_for(None).get("/savings/").status_code == 302


# --- Decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "status", "state"),
    [("alice", 302, "adopted"), ("bob", 302, "adopted"), ("vera", 403, "open"), ("charlie", 404, "open")],
)
def test_members_adopt_from_a_day_on(request, analysed, client_for, who, status, state):
    row = Recommendation.objects.first()
    asked = {"state": "adopted", "adopted_at": "2026-11-03"}
    client = client_for(request.getfixturevalue(who))

    assert client.post(f"/recommendations/{row.pk}/decide/", asked, format="multipart").status_code == status

    row.refresh_from_db()
    assert row.state == state
    assert row.adopted_at == (datetime(2026, 11, 3, tzinfo=UTC) if state == "adopted" else None)


@pytest.mark.parametrize("asked", [{}, {"state": "open"}, {"state": "adopted", "adopted_at": "soon"}])
def test_a_decision_that_is_none_changes_nothing(analysed, client_for, alice, asked):
    row = Recommendation.objects.first()
    client = client_for(alice)

    told = client.post(f"/recommendations/{row.pk}/decide/", asked, format="multipart", follow=True)

    assert "Nothing was decided" in told.content.decode()
    assert not Recommendation.objects.exclude(state="open").exists()


def test_dismissed_advice_is_named_and_no_longer_offered(sample, analysed, client_for, alice):
    row = Recommendation.objects.first()
    client = client_for(alice)

    html = client.post(
        f"/recommendations/{row.pk}/decide/", {"state": "dismissed"}, format="multipart", follow=True
    ).content.decode()

    assert f"Dismissed: {row.title}" in html
    assert f"/recommendations/{row.pk}/decide/" not in html


def test_what_came_of_adopted_advice_is_in_a_table(sample, analysed, page_of):
    row = Recommendation.objects.first()
    Recommendation.objects.filter(pk=row.pk).update(
        state="adopted", adopted_at=datetime(2026, 11, 3, tzinfo=UTC), detail=row.detail | {"up_to": True}
    )
    assert "Not measured yet" in page_of("vera", savings_of(sample))
    row.outcomes.add(
        Outcome(
            from_at=datetime(2026, 11, 3, tzinfo=UTC),
            to_at=datetime(2026, 11, 17, tzinfo=UTC),
            calls=420,
            predicted_usd="2.5",
            realised_usd="1.25",
            held=False,
        ),
        bulk=False,
    )

    html = page_of("vera", savings_of(sample))

    assert "Not measured yet" not in html
    for told in ("up to $2.50", "$1.25", "420 calls"):
        assert told in html
    assert "fell short" not in html  # a ceiling is no promise
    Recommendation.objects.filter(pk=row.pk).update(detail=row.detail | {"up_to": False})
    assert "fell short" in page_of("vera", savings_of(sample))


# --- The page of a dataset -------------------------------------------------------------------------------------------


def test_a_dataset_offers_each_only_what_they_may_do(imported, page_of):
    path = f"/data/{imported.pk}/"
    offered = {
        who: ("Continue with another file" in html, "/change/" in html)
        for who in ("alice", "bob", "vera")
        for html in [page_of(who, path)]
    }

    assert offered == {"alice": (True, True), "bob": (True, False), "vera": (False, False)}
    assert savings_of(imported) in page_of("vera", path)


def test_later_files_are_listed_with_what_they_brought(imported, alice, as_principal, page_of):
    upload = SimpleUploadedFile("april.csv", half_of_it().encode())
    later = services.create_dataset(principal=as_principal(alice), upload=upload, continues=imported.pk)
    assert "queued" in page_of("vera", f"/data/{imported.pk}/")
    later = services.import_now(principal=as_principal(alice), dataset_id=later.pk)

    html = page_of("vera", f"/data/{imported.pk}/")

    row = re.search(r"april\.csv</a>(.*?)</tr>", html, re.DOTALL)[1]
    assert re.findall(r'class="num">([\d,]+)<', row) == [f"{later.rows:,}", f"{later.known_rows:,}", "0"]
    assert later.known_rows > 0
    assert "A later file of Sample" in page_of("vera", f"/data/{later.pk}/")


def half_of_it() -> str:
    """The first half of the sample again."""
    out = StringIO()
    write_sample(out=out, calls=600, seed=7)
    return "".join(out.getvalue().splitlines(keepends=True)[:301])


def test_an_import_is_stopped_and_resumed_by_whoever_may(sample, client_for, alice, bob, vera, page_of):
    path = f"/data/{sample.pk}/"
    Dataset.objects.update(state="queued")
    assert "Stop the import" in page_of("alice", path)
    assert "Stop the import" not in page_of("bob", path)
    assert [client_for(who).post(f"{path}cancel/").status_code for who in (bob, vera, alice)] == [403, 403, 302]
    assert Dataset.objects.get().state == "cancelled"

    assert "Resume the import" in page_of("alice", path)
    assert client_for(alice).post(f"{path}resume/").status_code == 302
    assert Dataset.objects.get().state == "queued"


def test_settings_are_changed_by_who_made_the_dataset_and_refused_in_place(imported, client_for, alice, bob):
    path, asked = (
        f"/data/{imported.pk}/change/",
        {
            "name": "March",
            "keep_days": "",
            "time_zone": "Europe/Berlin",
            "currency": "EUR",
            "currency_rate": "0.92",
        },
    )
    assert client_for(bob).post(path, asked, format="multipart").status_code == 403

    refused = client_for(alice).post(path, asked | {"time_zone": "Mars/Base"}, format="multipart")
    assert refused.status_code == 400
    assert "There is no time zone &#x27;Mars/Base&#x27;" in refused.content.decode()
    assert 'value="Mars/Base"' in refused.content.decode()

    assert client_for(alice).post(path, asked, format="multipart").status_code == 302
    changed = Dataset.objects.get()
    assert (changed.name, changed.keep_days, changed.time_zone, changed.currency) == (
        "March",
        None,
        "Europe/Berlin",
        "EUR",
    )


def test_savings_and_data_are_said_in_the_currency_and_the_zone_of_the_dataset(imported, document, client_for, page_of):
    chosen = {"currency": "EUR", "currency_rate": "0.5", "time_zone": "Asia/Tokyo"}
    spent = document["joint"]["saving_usd"], document["joint"]["spent_usd"]
    saved, spent = (f"{float(usd) / 2:,.2f} EUR" for usd in spent)
    finished(StoredAnalysis.objects.get(), document)
    assert "EUR" not in page_of("vera", savings_of(imported))
    Dataset.objects.update(**chosen)

    html, data = page_of("vera", savings_of(imported)), page_of("vera", f"/data/{imported.pk}/")

    assert f"Together: {saved} of {spent}" in html
    assert "at 0.5 for one dollar" in html
    assert not re.search(r'class="(amount|interval)">[^<]*\$', html)
    assert "Spend by day (Asia/Tokyo)" in data
    assert re.search(r"<dt>Spend</dt><dd>[\d.]+ EUR</dd>", data)


# --- Questions, bills and prices -------------------------------------------------------------------------------------

WEEK = {
    "before_from": "2026-01-05",
    "before_until": "2026-01-12",
    "after_from": "2026-01-12",
    "after_until": "2026-01-19",
}
FORMS = [
    ({"kind": "what_if", "growth": "50", "move_model": "gpt-4o", "move_to": "gpt-4o-mini"}, "instead of"),
    ({"kind": "what_if", "waits": "support_chat=500", "within": "nightly_report=200", "quality": "90"}, "to 200 ms"),
    (
        {"kind": "what_if", "answers_kept": "good", "answers_shared": "true"},
        "cached answers kept for good; cached answers for everybody",
    ),
    ({"kind": "pareto"}, "Cost of the choices that nothing beats"),
    ({"kind": "changes"} | WEEK, "What made it so"),
]


@pytest.mark.parametrize(("form", "told"), FORMS)
def test_a_question_is_asked_by_a_form_and_answered_on_a_page_of_its_own(
    imported, client_for, bob, page_of, form, told
):
    asked = client_for(bob).post(f"/data/{imported.pk}/ask/", form, format="multipart")
    place = asked.headers["Location"]
    assert "data-follow" in page_of("vera", place)

    analyses.run_analysis(StoredAnalysis.objects.get(kind=form["kind"]).pk)

    html = page_of("vera", place)
    assert told in html
    assert ("Ask again" in html, "Ask again" in page_of("bob", place)) == (False, True)
    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son[a-z]+=", html)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"kind": "what_if", "growth": "many"}, "is no share"),
        ({"kind": "what_if", "growth": "-200"}, "growth"),
        ({"kind": "what_if", "waits": "chat"}, "FEATURE=MS"),
        ({"kind": "what_if", "move_model": "gpt-4o"}, "A move needs the model"),
        ({"kind": "changes"}, "is no day"),
        ({"kind": "miracles"}, "There is no analysis"),
        ({}, "There is no analysis"),
    ],
)
def test_a_form_that_means_nothing_is_refused_in_a_sentence(sample, client_for, bob, form, told):
    answer = client_for(bob).post(f"/data/{sample.pk}/ask/", form, format="multipart")

    assert (answer.status_code, told in answer.content.decode()) == (400, True)
    assert not StoredAnalysis.objects.exists()


def test_what_was_asked_before_is_listed_beside_the_forms(sample, analysed, client_for, bob, page_of):
    client_for(bob).post(f"/data/{sample.pk}/ask/", {"kind": "what_if", "growth": "50"}, format="multipart")

    html = {who: page_of(who, savings_of(sample)) for who in ("bob", "vera")}

    assert all("+50% calls" in each for each in html.values())
    assert ['name="growth"' in each for each in html.values()] == [True, False]


@pytest.mark.parametrize(
    ("kind", "parameters", "to"),
    [("sufficiency", {}, "/savings/"), ("reconciliation", {"bill": "b"}, "/reconciliation/?bill=b")],
)
def test_what_only_the_chat_asks_is_no_row_of_the_list_and_has_its_place(
    sample, analysed, client_for, alice, vera, page_of, kind, parameters, to
):
    asked = StoredAnalysis.objects.create(
        organization_id=sample.organization_id,
        dataset=sample,
        created_by=alice.pk,
        kind=kind,
        parameters=parameters,
        state="ready",
    )

    assert "Asked before" not in page_of("vera", savings_of(sample))
    assert client_for(vera).get(f"/analyses/{asked.pk}/").headers["Location"] == f"/data/{sample.pk}{to}"


@pytest.fixture
def bill(imported, alice, as_principal) -> Dataset:
    content = json.dumps(openai_page(openai_cost(1), openai_cost(0.5, "web search tool calls"), start=1767830400))
    upload = SimpleUploadedFile("costs.json", content.encode())
    made = services.create_dataset(principal=as_principal(alice), upload=upload, name="January <b>")
    return services.import_now(principal=as_principal(alice), dataset_id=made.pk)


def test_a_bill_is_laid_beside_the_calls_on_a_page(imported, bill, page_of):
    path = f"/data/{imported.pk}/reconciliation/"
    html = {who: page_of(who, f"{path}?bill={bill.pk}") for who in ("alice", "vera")}

    for told in ("$1.50", "web searches", "2026-01-08", "Share captured", "January &lt;b&gt;"):
        assert told in html["vera"]
    assert ["Bring a bill" in each for each in html.values()] == [True, False]
    assert f"?bill={bill.pk}" in page_of("bob", path)
    assert "January &lt;b&gt;" in page_of("vera", "/data/")
    assert not StoredAnalysis.objects.filter(dataset=bill).exists()
    page_of("bob", f"{path}?bill=x", 404)
    page_of("bob", f"{path}?bill={imported.pk}", 409)


@pytest.fixture
def alert(sample, analysed, acme) -> PriceAlert:
    return PriceAlert.objects.create(
        organization=acme, dataset=sample, model="gpt-4o", tier="standard", kind="input", old="2.5", new="3", share=0.25
    )


def test_changed_prices_are_told_until_a_member_dismisses_them(sample, alert, client_for, bob, page_of):
    html = page_of("vera", savings_of(sample))
    assert "Prices in use have changed" in html
    assert "/dismiss/" not in html

    assert client_for(bob).post(f"/alerts/{alert.pk}/dismiss/").headers["Location"] == savings_of(sample)

    assert "Prices in use have changed" not in page_of("bob", savings_of(sample))


PEOPLE = ("alice", "bob", "vera", "charlie", None)
DOORS = {
    ("get", "/data/{dataset}/reconciliation/"): (200, 200, 200, 404, 302),
    ("post", "/data/{dataset}/ask/"): (302, 302, 403, 404, 302),
    ("get", "/analyses/{asked}/"): (200, 200, 200, 404, 302),
    ("get", "/analyses/{analysis}/"): (302, 302, 302, 404, 302),
    ("post", "/analyses/{asked}/again/"): (302, 302, 403, 404, 302),
    ("post", "/alerts/{alert}/dismiss/"): (302, 302, 403, 404, 302),
    ("get", "/alerts/{alert}/dismiss/"): (405, 405, 405, 405, 405),
    ("get", "/data/{dataset}/ask/"): (405, 405, 405, 405, 405),
}


def test_every_door_opens_only_for_whom_it_should(request, sample, analysed, alert, client_for, alice, as_principal):
    asked = advice.request_analysis(principal=as_principal(alice), dataset_id=sample.pk, kind="pareto")
    things = {"dataset": sample.pk, "asked": asked.pk, "analysis": analysed.pk, "alert": alert.pk}

    for person, place in zip(PEOPLE, range(5), strict=True):
        client = client_for(request.getfixturevalue(person) if person else None)
        for (method, path), expected in DOORS.items():
            told = client.generic(
                method.upper(), path.format(**things), "kind=pareto", "application/x-www-form-urlencoded"
            )
            assert told.status_code == expected[place], (person, method, path)
            if person is None and told.status_code == 302:
                assert "/accounts/login/" in told.headers["Location"]


def test_the_dataset_says_why_a_dashboard_says_another_sum(imported, page_of):
    reasons = re.search(r'id="differences-title">(.*?)</section>', page_of("vera", f"/data/{imported.pk}/"), re.DOTALL)[
        1
    ]

    for told in ("contract", "midnight UTC", "calls failed", "The source recorded $"):
        assert told in reasons
    assert "no known price" not in reasons
