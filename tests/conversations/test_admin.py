"""Operators see what happened, and change nothing of it."""

import pytest

from apps.conversations.journal import Fact, append
from apps.conversations.models import Message
from tests.conversations.test_journal import live_step


@pytest.fixture
def operator(make_user, acme, client_for):
    user = make_user("olga", acme)
    user.is_staff = user.is_superuser = True
    user.save()
    return client_for(user)


def test_a_run_is_shown_with_its_steps_and_events(operator, alice, acme):
    fence = live_step(alice, acme)
    append(fence, Fact("agent_thinking", {"thought": "<script>hm</script>", "progress": 10}))

    page = operator.get(f"/admin/conversations/run/{fence.run}/change/").content.decode()

    assert "agent_thinking" in page
    assert "<script>hm" not in page


def test_a_thread_is_shown_with_what_was_said_in_it(operator, alice, acme):
    fence = live_step(alice, acme)
    Message.objects.create(thread_id=fence.thread, run_id=fence.run, role="user", text="Where can I <b>save</b>?")

    page = operator.get(f"/admin/conversations/thread/{fence.thread}/change/").content.decode()

    assert "Where can I &lt;b&gt;save&lt;/b&gt;?" in page


@pytest.mark.parametrize("path", ["thread", "run"])
def test_lists_open_and_nothing_can_be_added(operator, alice, acme, path):
    live_step(alice, acme)

    assert operator.get(f"/admin/conversations/{path}/").status_code == 200
    assert operator.get(f"/admin/conversations/{path}/add/").status_code == 403


def test_a_member_does_not_enter(client_for, alice):
    assert client_for(alice).get("/admin/conversations/run/").status_code == 302
