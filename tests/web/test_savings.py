"""The page of savings, what is decided on it, and the page of a dataset: as owner, member, viewer, stranger, nobody."""

import json
import re
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

from apps.optimization import advice, jobs, recommendations, services
from apps.optimization.models import Dataset, Outcome, Recommendation, StoredAnalysis
from apps.optimization.results import Joint
from apps.optimization.sample import write_sample, write_sample_files
from apps.web.savings_picture import headline


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
    monkeypatch.setattr(services, "_ring", rung.append)
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
        assert re.search(r"Together: \$[\d.]+ of \$[\d.]+ \([\d.]+ %\)", html)
        assert ("Adopt<" in html, "Dismiss<" in html) == ((who != "vera"),) * 2
        assert "Sample <b>" not in html
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son[a-z]+=", html)


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
    assert headline(joint()) == "Together: $8.08 of $54.30 (14.9 %), 95 % interval $7.47 to $8.70"
    assert headline(joint(low=None)) == "Together: $8.08 of $54.30 (14.9 %), interval not computed"
    assert headline(joint(up_to=True)).startswith("Together: up to $8.08")
    assert headline(joint(saving_usd=None)) == "Together: unknown."
    assert headline(None) == "Nothing is proven to save on these calls."


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
    Recommendation.objects.filter(pk=row.pk).update(state="adopted", adopted_at=datetime(2026, 11, 3, tzinfo=UTC))
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
    for told in ("$2.50", "$1.25", "420 calls", "fell short"):
        assert told in html


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


def test_savings_are_said_in_the_currency_of_the_dataset_too(sample, analysed, page_of):
    assert "for one dollar." not in page_of("vera", savings_of(sample))
    Dataset.objects.update(currency="EUR", currency_rate="0.5")

    saved = StoredAnalysis.objects.get().result["joint"]["saving_usd"]

    assert f"{float(saved) / 2:,.2f} of" in page_of("vera", savings_of(sample))


def test_the_dataset_says_why_a_dashboard_says_another_sum(imported, page_of):
    reasons = re.search(r'id="differences-title">(.*?)</section>', page_of("vera", f"/data/{imported.pk}/"), re.DOTALL)[
        1
    ]

    for told in ("contract", "midnight UTC", "calls failed", "The source recorded $"):
        assert told in reasons
    assert "no known price" not in reasons
