"""One socket, in this process: its rights are those of now, and a client that takes nothing gets only so much."""

import json
from uuid import uuid4

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import OperationalError

from apps.accounts.models import ApiKey, Membership
from apps.accounts.tenancy import Holder
from apps.conversations import journal
from apps.conversations import services as conversations
from apps.conversations.journal import Fact
from apps.operations.database import in_database
from apps.realtime import consumers, tickets
from apps.realtime.schema import FRAME_LIMIT, TEXT_LIMIT
from netra.routing import socket_application

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_hub_left_behind")]


class Tab:
    def __init__(self):
        # Asgiref's communicator: the one of Channels keeps database connections open behind our back.
        self.wire = ApplicationCommunicator(socket_application, {"type": "websocket", "path": "/ws/", "headers": []})

    async def connect(self):
        await self.wire.send_input({"type": "websocket.connect"})
        assert (await self.receive())["type"] == "websocket.accept"

    async def open(self, **hello):
        await self.connect()
        await self.send({"type": "hello", **hello})
        return await self.frame()

    async def send(self, frame):
        await self.wire.send_input({"type": "websocket.receive", "text": json.dumps(frame)})

    async def receive(self):
        return await self.wire.receive_output(timeout=5)

    async def frame(self):
        return json.loads((await self.receive())["text"])

    async def leave(self):
        await self.wire.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wire.wait(timeout=5)


async def until_closed(tab):
    while (output := await tab.receive())["type"] != "websocket.close":
        pass
    return output["code"]


@pytest.fixture
def key(alice, acme):
    made, _ = ApiKey.objects.create(user=alice, organization=acme, name="k", scope="write")
    return made


@pytest.fixture
def ticket(alice, key):
    return tickets.issue(Holder(user=str(alice.pk), key=key.pk)).value


@pytest.fixture
def thread(as_principal, alice):
    return conversations.create_thread(principal=as_principal(alice))


async def test_a_revoked_key_closes_its_socket_at_the_next_message(key, ticket, thread):
    tab = Tab()
    await tab.open(ticket=ticket)
    await in_database(key.delete)

    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk)})

    assert await until_closed(tab) == 4401


async def test_a_removed_member_hears_nothing_more_even_if_silent(ticket, alice, thread, monkeypatch):
    monkeypatch.setattr(consumers, "RECHECK", 0)
    tab = Tab()
    await tab.open(ticket=ticket)

    await in_database(Membership.objects.filter(user=alice).delete)

    assert await until_closed(tab) == 4401


async def test_a_client_that_never_acknowledges_gets_its_credit_and_is_closed(ticket, thread, monkeypatch):
    monkeypatch.setattr(consumers, "CREDIT_PATIENCE", 0)
    by = uuid4()
    facts = [Fact("answer_received", {"by": by, "call": None})] * (consumers.CREDIT_EVENTS + 300)
    await in_database(journal.append_to_thread, thread=thread.pk, run=uuid4(), facts=facts)
    tab = Tab()
    await tab.open(ticket=ticket)

    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk)})
    seen = 0
    while (output := await tab.receive())["type"] != "websocket.close":
        seen += '"seq"' in output["text"]

    assert output["code"] == 4008
    assert consumers.CREDIT_EVENTS <= seen < consumers.CREDIT_EVENTS + consumers.READ_AT_ONCE


async def test_a_client_that_acknowledges_gets_everything(ticket, thread):
    total = consumers.CREDIT_EVENTS + 300
    facts = [Fact("answer_received", {"by": uuid4(), "call": None})] * total
    await in_database(journal.append_to_thread, thread=thread.pk, run=uuid4(), facts=facts)
    tab = Tab()
    await tab.open(ticket=ticket)
    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk)})

    numbers = []
    while len(numbers) < total:
        frame = await tab.frame()
        if "seq" in frame:
            numbers.append(frame["seq"])
            if frame["seq"] % 50 == 0:
                await tab.send({"type": "ack", "thread": str(thread.pk), "seq": frame["seq"]})
    await tab.leave()

    assert numbers == list(range(1, total + 1))


async def test_a_frame_is_as_long_as_its_bytes(ticket):
    tab = Tab()
    await tab.open(ticket=ticket)
    wide = "ü" * (FRAME_LIMIT // 2)

    await tab.wire.send_input({"type": "websocket.receive", "text": json.dumps({"type": wide}, ensure_ascii=False)})

    assert f"{FRAME_LIMIT} bytes" in (await tab.frame())["detail"]
    await tab.leave()


async def test_the_longest_message_fits_in_a_frame_in_any_script(ticket):
    tab = Tab()
    await tab.open(ticket=ticket)
    message = {"type": "message.send", "id": "m1", "thread": str(uuid4()), "text": "🎉" * TEXT_LIMIT, "key": "k"}

    for is_escaped in (True, False):
        text = json.dumps(message, ensure_ascii=is_escaped)
        await tab.wire.send_input({"type": "websocket.receive", "text": text})
        assert (await tab.frame())["code"] == "thread.not_found"
    await tab.leave()


async def test_a_client_that_does_not_say_hello_is_closed(monkeypatch):
    monkeypatch.setattr(consumers, "HELLO_PATIENCE", 0.01)
    tab = Tab()
    await tab.connect()

    assert await until_closed(tab) == 4408


@pytest.mark.parametrize(
    "sent", [{"bytes": b"\x00"}, {"text": "{" * 100_000}, {"text": "[" * 20_000}, {"text": "nope"}]
)
async def test_a_frame_that_is_no_json_text_is_answered_and_the_socket_stays(ticket, sent):
    tab = Tab()
    await tab.open(ticket=ticket)

    await tab.wire.send_input({"type": "websocket.receive", **sent})

    assert (await tab.frame())["code"] == "message.invalid"
    await tab.send({"type": "ping"})
    assert (await tab.frame())["type"] == "pong"
    await tab.leave()


async def test_to_start_beyond_the_last_event_is_refused(ticket, thread):
    tab = Tab()
    await tab.open(ticket=ticket)

    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk), "after": 7})

    assert (await tab.frame())["code"] == "thread.behind"
    await tab.leave()


async def test_an_error_names_the_message_that_it_answers(ticket, thread):
    tab = Tab()
    await tab.open(ticket=ticket)

    await tab.send({"type": "message.send", "id": "m1", "thread": str(thread.pk), "text": "x" * 32_001, "key": "k"})

    answer = await tab.frame()
    assert (answer["code"], answer["reply_to"]) == ("message.invalid", "m1")
    await tab.leave()


async def test_frames_that_make_no_sense_count_too(ticket):
    tab = Tab()
    await tab.open(ticket=ticket)

    for _ in range(consumers.MESSAGES + 50):
        await tab.wire.send_input({"type": "websocket.receive", "text": "nope"})

    assert await until_closed(tab) == 4029


async def test_a_database_that_is_away_closes_the_socket_for_a_new_try(ticket, thread, monkeypatch):
    def away(*_):
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr("apps.conversations.source.JournalSource.read", away)
    tab = Tab()
    await tab.open(ticket=ticket)

    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk)})

    assert await until_closed(tab) == 4012


async def test_large_events_use_up_the_credit_by_their_size(ticket, thread):
    facts = [Fact("agent_thinking", {"thought": "x" * 32_000, "progress": 1})] * 40
    await in_database(journal.append_to_thread, thread=thread.pk, run=uuid4(), facts=facts)
    tab = Tab()
    await tab.open(ticket=ticket)
    await tab.send({"type": "thread.subscribe", "thread": str(thread.pk)})
    await tab.frame()

    size = 0
    while not await tab.wire.receive_nothing(timeout=0.5):
        size += len((await tab.receive())["text"])
    await tab.leave()

    assert consumers.CREDIT_BYTES <= size < consumers.CREDIT_BYTES + 40_000
