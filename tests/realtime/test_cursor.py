"""A cursor's law: whatever is heard, in whatever order, a socket is sent 1, 2, 3 ... each once."""

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
        cursor.behind = False
        snapshot = events(range(cursor.sent + 1, stored + 1))
        # A hint may come while the table is being read.
        cursor.hear(events(data.draw(st.lists(st.integers(1, max(stored, 1)), max_size=3))) if stored else [])
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


def test_live_text_that_a_slow_socket_cannot_take_starts_over():
    cursor = Cursor(0)
    cursor.wants_text = False

    for _ in range(HELD + 1):
        cursor.hear_delta({})

    assert cursor.wants_text
    assert cursor.take_deltas() == []
