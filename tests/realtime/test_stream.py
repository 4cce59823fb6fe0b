"""The events of a thread as a stream, in this process."""

import asyncio

import pytest
from django.db import OperationalError

from apps.accounts.tenancy import NoOrganization
from apps.conversations import journal
from apps.conversations import services as conversations
from apps.conversations.journal import Fact
from apps.conversations.models import Run
from apps.conversations.source import JournalSource
from apps.operations.database import in_database
from apps.realtime import stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_hub_left_behind")]


@pytest.fixture
def run(as_principal, alice):
    thread = conversations.create_thread(principal=as_principal(alice))
    owner = {"user": alice, "organization_id": thread.organization_id}
    return Run.objects.create(thread=thread, workflow="w", goal="g", key="k", **owner)


@pytest.fixture
def follow(run, alice):
    def follow(recheck=lambda: None):
        return stream.event_stream(JournalSource(), run.thread_id, user=alice.pk, after=0, recheck=recheck)

    return follow


async def say(run, *positions):
    facts = [Fact("run_queued", {"position": position}) for position in positions]
    await in_database(journal.append_to_thread, thread=run.thread_id, run=run.pk, facts=facts)


def numbers(said):
    return [int(line[4:]) for line in said.decode().splitlines() if line.startswith("id: ")]


async def test_what_is_known_comes_with_the_first_words_and_what_follows_as_it_happens(run, follow):
    await say(run, 1, 2)
    events = follow()

    first = await anext(events)
    assert first.startswith(b": here\n\n")
    assert numbers(first) == [1, 2]
    await say(run, 3)
    await say(run, 4, 5)
    heard = []
    while len(heard) < 3:
        heard += numbers(await anext(events))
    assert heard == [3, 4, 5]
    await events.aclose()


async def test_a_stream_on_which_nothing_happens_says_that_it_is_there(follow, monkeypatch):
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.01)
    events = follow()

    assert [await anext(events), await anext(events)] == [b": here\n\n", b": still here\n\n"]
    await events.aclose()


async def test_a_stream_ends_once_its_client_may_not_listen_any_more(follow, monkeypatch):
    def removed():
        raise NoOrganization("You were removed.")

    monkeypatch.setattr(stream, "RECHECK", 0.0)

    assert [said async for said in follow(recheck=removed)] == [b": here\n\n"]


async def test_a_stream_ends_when_the_database_is_away_so_that_its_client_comes_again(follow, monkeypatch):
    def away(*_):
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(JournalSource, "read", away)

    async with asyncio.timeout(10):
        assert [said async for said in follow()] == []
    assert not stream._open
