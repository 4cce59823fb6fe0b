"""What may cross the socket: known messages pass, everything else is told why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.errors import NetraError
from apps.realtime import schema

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_message_or_an_error_with_a_code(frame):
    try:
        schema.client_message(frame)
    except NetraError as error:
        assert error.code in ("message.unknown", "message.invalid")


@given(st.sampled_from(["hello", "thread.subscribe", "message.send", "ack", "ping", "run.cancel"]), JSON)
def test_a_known_type_with_any_field_is_a_message_or_invalid(type_, value):
    try:
        schema.client_message({"type": type_, "thread": value, "after": value, "text": value, "key": value})
    except NetraError as error:
        assert error.code == "message.invalid"


def test_an_error_names_the_field_and_not_its_value():
    with pytest.raises(schema.InvalidMessage, match=r"thread") as refused:
        schema.client_message({"type": "thread.subscribe", "thread": "my-secret"})

    assert "my-secret" not in str(refused.value)


def test_every_event_of_the_contract_says_what_it_carries():
    assert set(schema.EVENTS) >= schema.TERMINAL
    assert all(issubclass(model, schema.Wire) for model in schema.EVENTS.values())
