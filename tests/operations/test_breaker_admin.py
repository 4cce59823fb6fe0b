"""Operators see all circuit breakers, and may give a word to one."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from apps.accounts.models import User
from apps.operations.breakers import breakers
from apps.operations.models import CircuitBreaker
from apps.resilience.breaker import BreakerOpen
from apps.resilience.breakers import Breakers
from apps.resilience.circuit import BreakerSettings

pytestmark = pytest.mark.django_db
PAGE = "/admin/operations/circuitbreaker/"
NAME = "model:somebody:meta/llama <3>"


@pytest.fixture
def operator(plans):
    return User.objects.create_superuser("operator@example.com", "correct horse battery", name="Olga")


@pytest.fixture
def desk(client_for, operator):
    return client_for(operator)


@pytest.fixture
def called():
    """A breaker that has been called: three of four calls failed. Redis knows it; this process need not."""

    def call(*, failed=3, settings=None):
        process = Breakers(breakers()._url, settings)
        breaker = process.named(NAME)
        for number in range(4):
            permit = breaker.acquire()
            permit.failed(0.1) if number < failed else permit.succeeded(0.1)
        process.close()

    return call


def states():
    return {status["name"]: status["state"] for status in breakers().statuses()}


def say(client, word, name=NAME, **more):
    return client.post(f"{PAGE}switch/", {"name": name, "word": word, "confirmed": "yes", **more}, format="multipart")


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_how_each_breaker_does(desk, called):
    called()

    shown = desk.get(PAGE).content.decode()

    assert "CircuitBreaker" in shown
    assert "model:somebody:meta/llama &lt;3&gt;" in shown
    for value in ("closed", "75%", ">4<", ">3<"):
        assert value in shown.replace("\n", "").replace("  ", ""), value


def test_an_open_breaker_is_shown_with_its_time(desk, called):
    called(settings=BreakerSettings(minimum_calls=4, minimum_failures=3))

    (status,) = breakers().statuses()
    shown = desk.get(PAGE).content.decode()

    assert status["state"] == "open"
    assert f"{status['open_until']:%H:%M:%S} UTC, in " in shown


def test_before_anything_has_been_called_the_page_says_so(desk):
    assert "No tool and no model has been called yet." in desk.get(PAGE).content.decode()


def test_the_breakers_are_found_from_the_index(desk):
    assert f'href="{PAGE}"' in desk.get("/admin/").content.decode()


def test_without_redis_the_page_says_so_in_a_sentence(desk, monkeypatch):
    away = Breakers("redis://127.0.0.1:1/0")
    monkeypatch.setattr("apps.operations.admin.breakers", lambda: away)

    assert "The breakers cannot be read: Redis does not answer." in desk.get(PAGE).content.decode()
    answer = say(desk, "force_open")
    assert (answer.status_code, answer.headers["Location"]) == (302, PAGE)
    assert "Redis does not answer." in desk.get(PAGE).content.decode()
    assert not LogEntry.objects.exists()


# --- An operator's word ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "state"), [("force_open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
)
def test_a_confirmed_word_holds_and_who_gave_it_is_remembered(desk, operator, called, word, state):
    called()
    before = breakers().statuses()[0]["version"]

    assert say(desk, word).status_code == 302

    (status,) = breakers().statuses()
    assert (status["name"], status["state"], status["calls"]) == (NAME, state, 0)
    assert status["version"] > before
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.content_type.model) == (operator, NAME, "circuitbreaker")
    shown = desk.get(PAGE).content.decode()
    assert state.replace("_", " ") in shown
    assert "breaker" in desk.get("/admin/").content.decode()


def test_a_breaker_forced_open_refuses_calls_elsewhere_until_it_is_reset(desk, called):
    called(failed=0)

    def call():
        """Of a process that has just begun and asked Redis once."""
        process = Breakers(breakers()._url)
        try:
            breaker = process.named(NAME)
            process._exchange([breaker], knock=True)
            breaker.check()
        finally:
            process.close()

    call()
    say(desk, "force_open")
    with pytest.raises(BreakerOpen, match="An operator has switched"):
        call()
    say(desk, "reset")
    call()


@pytest.mark.parametrize("word", ["force_open", "disable", "reset"])
def test_a_word_is_asked_for_once_more_before_it_holds(desk, called, word):
    called()
    before = breakers().statuses()

    asked = desk.post(f"{PAGE}switch/", {"name": NAME, "word": word}, format="multipart")

    assert asked.status_code == 200
    assert f'name="word" value="{word}"' in asked.content.decode()
    assert 'name="confirmed"' in asked.content.decode()
    assert breakers().statuses()[0]["version"] == before[0]["version"]


def test_a_link_changes_nothing(desk, called):
    called()

    answer = desk.get(f"{PAGE}switch/", {"name": NAME, "word": "force_open", "confirmed": "yes"})

    assert answer.status_code == 405
    assert states() == {NAME: "closed"}


def test_a_form_from_elsewhere_changes_nothing(operator, called):
    called()
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)

    answer = client.post(f"{PAGE}switch/", {"name": NAME, "word": "force_open", "confirmed": "yes"})

    assert answer.status_code == 403
    assert states() == {NAME: "closed"}


def test_a_word_that_does_not_exist_is_refused(desk, called):
    called()

    assert say(desk, "explode").status_code == 400
    assert states() == {NAME: "closed"}


def test_a_breaker_that_does_not_exist_is_not_made_by_a_word(desk, called):
    called()

    say(desk, "force_open", name="tool:nothing")

    assert states() == {NAME: "closed"}
    assert "There is no breaker tool:nothing." in desk.get(PAGE).content.decode()


# --- Who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "charlie", None])
def test_nobody_but_operators_sees_or_switches_breakers(request, client_for, called, who):
    called()
    client = client_for(who and request.getfixturevalue(who))

    for answer in (client.get(PAGE), say(client, "force_open")):
        assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (302, "/admin/login/")
    assert states() == {NAME: "closed"}


@pytest.mark.parametrize(("permitted", "sees"), [([], 403), (["view_circuitbreaker"], 200)])
def test_staff_without_the_permission_do_not_switch(client_for, alice, called, permitted, sees):
    called()
    alice.is_staff = True
    alice.save()
    alice.user_permissions.set(Permission.objects.filter(codename__in=permitted))
    client = client_for(alice)

    answer = client.get(PAGE)

    assert answer.status_code == sees
    assert "Force open" not in answer.content.decode()
    assert say(client, "force_open").status_code == 403
    assert states() == {NAME: "closed"}


def test_staff_with_the_permission_switch(client_for, alice, called):
    called()
    alice.is_staff = True
    alice.save()
    alice.user_permissions.set(Permission.objects.filter(codename="change_circuitbreaker"))

    assert say(client_for(alice), "disable").status_code == 302
    assert states() == {NAME: "disabled"}


@pytest.mark.parametrize("path", ["add/", f"{NAME}/delete/", f"{NAME}/change/", f"{NAME}/history/"])
def test_pages_of_the_table_that_does_not_exist_do_not_exist_either(desk, called, path):
    called()

    assert desk.get(PAGE + path).status_code in (302, 403, 404)


def test_whoever_asks_for_all_rows_gets_none():
    assert list(CircuitBreaker.objects.all()) == []
