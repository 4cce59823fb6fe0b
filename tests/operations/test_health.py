"""One list of dependencies, and the four doors that show it."""

import json
import time
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from apps.operations import dependencies
from apps.operations.dependencies import Dependency, Unmet, examine, require
from apps.operations.management.commands.doctor import tree


def broken(reason: str):
    def probe() -> str:
        raise Unmet(reason)

    return probe


GOOD = Dependency(name="good", probe=lambda: "is here", remedy="none needed")
BAD = Dependency(name="bad", probe=broken("is not here"), remedy="Bring it.")
CHILD = Dependency(name="child", probe=lambda: "is here", remedy="Wait for bad.", needs="bad")


def test_a_finding_carries_the_remedy_only_when_something_is_wrong():
    good, bad = examine([GOOD, BAD])

    assert (good.ok, good.detail, good.remedy) == (True, "is here", None)
    assert (bad.ok, bad.detail, bad.remedy) == (False, "is not here", "Bring it.")


def test_what_needs_a_broken_one_is_not_even_asked():
    asked = []
    child = Dependency(name="child", probe=lambda: asked.append(1) or "", remedy="Wait.", needs="bad")

    _, finding = examine([BAD, child])

    assert (finding.ok, finding.detail, asked) == (False, "needs bad", [])


def test_a_probe_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(dependencies, "PROBE_WITHIN", 0.2)
    started = time.monotonic()

    (finding,) = examine([Dependency(name="slow", probe=lambda: time.sleep(5) or "", remedy="Wait.")])

    assert (finding.ok, finding.detail) == (False, "no answer within 0.2 s")
    assert time.monotonic() - started < 2


def test_the_doctor_draws_a_tree():
    assert tree(examine([GOOD, BAD, CHILD])) == [
        "ok      good: is here",
        "MISSING bad: is not here",
        "        -> Bring it.",
        "   MISSING child: needs bad",
        "           -> Wait for bad.",
    ]


@pytest.mark.django_db
def test_the_suites_own_services_are_found():
    findings = {finding.name: finding for finding in examine(dependencies.named("postgresql", "redis"))}

    assert findings["postgresql"].detail.startswith("PostgreSQL ")
    assert findings["redis"].detail.startswith("Redis ")


@pytest.mark.parametrize(
    ("url", "reason"),
    [("redis://127.0.0.1:1/0", "Connection refused"), ("unix:///nowhere/redis.sock", "No such file")],
)
def test_a_redis_that_is_gone_is_a_sentence_with_a_remedy(settings, url, reason):
    settings.REDIS_URL = url

    with pytest.raises(dependencies.Unreachable, match=rf"redis is not usable: .*{reason}.*check REDIS_URL"):
        require("redis")


def test_livez_asks_nothing(client):
    # Without the mark, any use of the database would raise.
    answer = client.get("/livez")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert client.post("/livez").status_code == 405


def test_readyz_names_what_is_missing(client, monkeypatch):
    monkeypatch.setattr("apps.operations.views.DEPENDENCIES", (GOOD, BAD))

    answer = client.get("/readyz")

    assert (answer.status_code, answer.json()) == (503, {"status": "unready", "missing": ["bad"]})


def test_readyz_does_not_wait_for_what_is_optional(client, monkeypatch):
    optional = Dependency(name="bad", probe=broken("gone"), remedy="Bring it.", required=False)
    monkeypatch.setattr("apps.operations.views.DEPENDENCIES", (GOOD, optional))

    assert client.get("/readyz").status_code == 200


@pytest.mark.django_db
def test_health_tells_details_to_operators_only(alice, client, monkeypatch):
    monkeypatch.setattr("apps.operations.views.examine", lambda: examine([GOOD, BAD]))
    alice.is_staff = True
    alice.save()
    operator = Client()
    operator.force_login(alice)

    assert client.get("/health").status_code == 503
    assert set(client.get("/health").json()["dependencies"][1]) == {"name", "ok", "seconds"}
    assert operator.get("/health").json()["dependencies"][1]["remedy"] == "Bring it."


@pytest.mark.django_db
def test_the_doctor_answers_in_json_with_an_exit_code():
    out = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command("doctor", "--json", stdout=out)

    document = json.loads(out.getvalue())
    assert {one["name"] for one in document["dependencies"]} == {"postgresql", "migrations", "redis", "workers"}
    assert ended.value.code == (0 if document["ok"] else 1)
