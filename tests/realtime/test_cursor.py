"""A cursor's law: whatever is heard, in whatever order, a socket is sent 1, 2, 3 ... each once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.realtime.cursor import HELD, Cursor


def events(numbers):
    return [{"seq": number} for number in numbers]


@given(st.lists(st.one_of(st.just("read"), st.just("send"), st.integers(1, 40)), max_size=120), st.data())
def test_every_number_is_sent_once_and_in_order(moves, data):
    cursor, stored, sent = Cursor(0), 0, []

    def send(batch):
        for event in batch:
            sent.append(event["seq"])
            cursor.was_sent(event["seq"], 10)

    def read():
        nonlocal stored
        cursor.behind = False
        snapshot = events(range(cursor.sent + 1, stored + 1))
        # While the table is being read, more is stored, and its hint comes first.
        stored += data.draw(st.integers(0, 2))
        cursor.hear(events(range(data.draw(st.integers(1, max(stored, 1))), stored + 1)))
        send(snapshot)

    for move in moves:
        if move == "read":
            read()
        elif move == "send":
            if not cursor.behind:
                send(cursor.take_heard())
        else:
            stored = max(stored, move)
            cursor.hear(events(range(data.draw(st.integers(1, stored)), stored + 1)))
    cursor.hear_number(stored)
    while cursor.behind:
        read()
    send(cursor.take_heard())

    assert sent == list(range(1, stored + 1))


def test_more_than_it_can_hold_is_read_from_the_table():
    cursor = Cursor(0)
    cursor.behind = False

    cursor.hear(events(range(1, HELD + 2)))

    assert cursor.behind


def test_acknowledged_events_give_credit_back():
    cursor = Cursor(0)
    for seq in (1, 2, 3):
        cursor.was_sent(seq, 100)

    cursor.acknowledge(2)

    assert cursor.unacknowledged == (1, 100)


def delta(offset, text, attempt=1):
    return {"attempt": attempt, "data": {"message": "m", "offset": offset, "text": text}}


@pytest.fixture
def listening():
    cursor = Cursor(0)
    cursor.wants_text = False
    return cursor


def test_live_text_without_a_hole_is_passed_on(listening):
    pieces = [delta(0, "Hello"), delta(0, "Hello w"), delta(7, "orld"), delta(0, "Again", attempt=2)]

    for piece in pieces:
        listening.hear_delta(piece)

    assert listening.take_deltas() == pieces


def test_live_text_with_a_hole_starts_over(listening):
    listening.hear_delta(delta(0, "Hello"))
    listening.hear_delta(delta(9, "!"))

    assert listening.wants_text
    assert listening.take_deltas() == []


def test_live_text_goes_on_from_a_snapshot(listening):
    listening.text_begins(delta(0, "Hello world"))
    listening.hear_delta(delta(11, "!"))

    assert listening.take_deltas() == [delta(11, "!")]


def test_live_text_that_a_slow_socket_cannot_take_starts_over(listening):
    for number in range(HELD + 1):
        listening.hear_delta(delta(number, "x"))

    assert listening.wants_text
    assert listening.take_deltas() == []
