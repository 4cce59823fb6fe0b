"""Block traces, and the usage objects of providers as somebody writes them into a log of their own."""

from itertools import islice

import pytest

from apps.optimization.management.commands.evaluate import PUBLIC

MOONCAKE = PUBLIC / "mooncake_synthetic_trace.jsonl"


def logged(usage, **more):
    return {"timestamp": "2026-10-01T12:00:00Z", "model": "gpt-4o", "response": {"usage": usage}} | more


CHAT = {
    "prompt_tokens": 3000,
    "completion_tokens": 200,
    "total_tokens": 3200,
    "prompt_tokens_details": {"cached_tokens": 2048, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 3000,
    "input_tokens_details": {"cached_tokens": 2048},
    "output_tokens": 200,
    "output_tokens_details": {"reasoning_tokens": 128},
    "total_tokens": 3200,
}
ANTHROPIC = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 700,
    "cache_read_input_tokens": 2200,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 500},
    "output_tokens": 200,
    "service_tier": "standard",
}


@pytest.mark.parametrize(
    ("usage", "cached", "convention"),
    [
        (CHAT, (3000, 2048, 0, 0, 200, 128), "inclusive"),
        (RESPONSES, (3000, 2048, 0, 0, 200, 128), "inclusive"),
        (ANTHROPIC, (3000, 2200, 700, 500, 200, 0), "exclusive"),
    ],
)
def test_a_usage_object_is_read_with_its_makers_convention(write, converted, opened, usage, cached, convention):
    found = converted(write("calls.jsonl", [logged(usage)]))

    assert [verdict.convention for verdict in found.verdicts] == [convention]
    with opened() as calls:
        assert (
            calls.row(
                """SELECT input_tokens, cached_read_tokens, cached_write_tokens, cached_write_1h_tokens, output_tokens,
                          reasoning_tokens FROM calls"""
            )
            == cached
        )


def test_a_block_trace_is_told_by_its_columns(write, converted, opened):
    rows = [
        {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]},
        {"timestamp": 3000, "input_length": 1500, "output_length": 20, "hash_ids": [0, 1, 2]},
    ]

    found = converted(write("trace.jsonl", rows))

    assert (found.source, found.rows, found.columns["blocks"]) == ("block_trace", 2, "hash_ids")
    with opened() as calls:
        assert calls.row("SELECT sum(input_tokens), sum(output_tokens) FROM calls") == (2500, 30)


def test_a_block_trace_with_an_impossible_length_names_line_and_column(write, converted):
    good = {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0]}

    found = converted(write("trace.jsonl", [good, good | {"input_length": -1}]))

    assert [(one.line, one.column) for one in found.rejects] == [(2, "input_length")]


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"the public trace is not in {PUBLIC}")
def test_the_public_trace_is_read_whole(tmp_path, converted):
    with MOONCAKE.open() as file:
        (tmp_path / "trace.jsonl").write_text("".join(islice(file, 500)))

    found = converted(tmp_path / "trace.jsonl")

    assert (found.source, found.rows, found.rejected) == ("block_trace", 500, 0)
