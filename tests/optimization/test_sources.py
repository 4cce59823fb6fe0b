"""Exports as their makers write them, with their own names and conventions, one test file for all sources."""

import json
from decimal import Decimal

import pytest

from apps.optimization.importers import NoUsableColumns
from apps.optimization.options import Options
from apps.optimization.readers import open_table
from apps.optimization.simulators import simulate
from tests.optimization.conftest import spend_log


@pytest.fixture
def read(write, converted, opened):
    """Import rows of a source; answers the conversion and the calls' values of some columns."""

    def read(name, rows, columns, **more):
        conversion = converted(write(name, rows), **more)
        with opened() as calls:
            return conversion, calls.rows(f"SELECT {columns} FROM calls ORDER BY call")

    return read


# --- Langfuse --------------------------------------------------------------------------------------------------------


def observation(**more):
    return {
        "id": "o1",
        "traceId": "t1",
        "type": "GENERATION",
        "startTime": "2026-09-01T10:00:00.000Z",
        "endTime": "2026-09-01T10:00:02.500Z",
        "completionStartTime": "2026-09-01T10:00:00.400Z",
        "name": "answer",
        "level": "DEFAULT",
        "providedModelName": "claude-sonnet-4-5",
        "modelParameters": {"temperature": 0.2, "max_tokens": 500},
        "usageDetails": {
            "input": 100,
            "output": 50,
            "cache_read_input_tokens": 2000,
            "input_cache_creation_5m": 300,
            "input_cache_creation_1h": 200,
            "total": 2650,
        },
        "totalCost": 0.0,
        "userId": "u1",
        "sessionId": "s1",
        "traceName": "support",
        "input": [{"role": "user", "content": "Hello"}],
    } | more


def snake(row):
    names = {
        "traceId": "trace_id",
        "startTime": "start_time",
        "endTime": "end_time",
        "completionStartTime": "completion_start_time",
        "providedModelName": "provided_model_name",
        "modelParameters": "model_parameters",
        "usageDetails": "usage_details",
        "totalCost": "total_cost",
        "userId": "user_id",
        "sessionId": "session_id",
        "traceName": "trace_name",
        "parentObservationId": "parent_observation_id",
    }
    return {names.get(name, name): value for name, value in row.items()}


def as_text(row):
    """As a CSV has it: what is nested is JSON text."""
    return {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()}


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("o.jsonl", lambda row: row),
        ("o.jsonl", snake),
        ("o.csv", as_text),
        ("o.csv", lambda row: as_text(snake(row))),
        ("o.parquet", snake),
    ],
    ids=["camel lines", "snake lines", "camel CSV", "snake CSV", "Parquet"],
)
def test_an_observation_of_langfuse_is_read_in_every_export(read, name, spelled):
    found, [row] = read(
        name,
        [spelled(observation())],
        "input_tokens, cached_read_tokens, cached_write_tokens, cached_write_1h_tokens, output_tokens, model, feature, "
        '"user", session, temperature, max_output_tokens, epoch(first_token_at - started_at), status',
    )

    assert found.source == "langfuse"
    # Langfuse leaves cached tokens out of input; here all input is counted.
    assert row == (2600, 2000, 500, 200, 50, "claude-sonnet-4-5", "support", "u1", "s1", 0.2, 500, 0.4, "succeeded")


def test_blanks_around_a_name_say_nothing_and_around_a_prompt_make_another_one(read):
    prompts = ["Hello", " Hello", "Hello\u00a0", "Hello"]
    rows = [
        observation(id=f" o{number} ", traceName="\u00a0support \u3000", input=prompt, totalCost=" 0.5 ")
        for number, prompt in enumerate(prompts)
    ]

    _, kept = read("o.jsonl", rows, "call_id, feature, recorded_cost, prompt, prompt_hash")

    assert [row[:3] for row in kept] == [(f"o{number}", "support", Decimal("0.5")) for number in range(4)]
    assert [row[3] for row in kept] == prompts
    assert len({row[4] for row in kept}) == 3


def test_only_generations_and_embeddings_of_langfuse_are_calls(read):
    rows = [
        observation(id="span", type="SPAN", usageDetails={}),
        observation(id="outer", usageDetails={"input": 9, "output": 9}, parentObservationId="span"),
        observation(id="inner", usageDetails={"input": 9, "output": 9}, parentObservationId="outer"),
        observation(id="e", type="EMBEDDING", usageDetails={"input": 5, "output": 0}),
    ]

    found, kept = read("o.jsonl", rows, "call_id")

    assert (found.not_calls, found.nested) == (1, 1)
    assert kept == [("inner",), ("e",)]


def test_an_integration_of_langfuse_that_counts_cached_tokens_in_is_found_by_its_costs(read):
    usage = {"input": 10_000, "input_cached_tokens": 8_000, "output": 100}
    cost = (2_000 * 2.5 + 8_000 * 1.25 + 100 * 10) / 1e6
    rows = [observation(id=f"o{n}", providedModelName="gpt-4o", usageDetails=usage, totalCost=cost) for n in range(5)]

    found, kept = read("o.jsonl", rows, "input_tokens")

    assert found.verdicts[0].convention == "inclusive"
    assert kept == [(10_000,)] * 5


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        ({"input": 10, "output": 50, "output_reasoning_tokens": 200, "total": 260}, 250),
        ({"input": 10, "output": 250, "output_reasoning_tokens": 200, "total": 260}, 250),
        ({"input": 10, "output": 50, "output_reasoning_tokens": 200}, 250),
    ],
)
def test_reasoning_is_a_part_of_the_output_however_langfuse_was_told(read, usage, output):
    _, [row] = read("o.jsonl", [observation(usageDetails=usage)], "output_tokens, reasoning_tokens")

    assert row == (output, 200)


# --- OpenTelemetry ---------------------------------------------------------------------------------------------------


def span(number=1, parent="", attributes=None, **more):
    kinds = {
        int: lambda v: {"intValue": str(v)},
        str: lambda v: {"stringValue": v},
        float: lambda v: {"doubleValue": v},
    }
    kinds |= {bool: lambda v: {"boolValue": v}}
    kinds |= {list: lambda v: {"arrayValue": {"values": [kinds[type(each)](each) for each in v]}}}
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.id": f"resp-{number}",
        "gen_ai.usage.input_tokens": 3000,
        "gen_ai.usage.cache_read.input_tokens": 2000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.conversation.id": "c1",
        "openai.response.service_tier": "default",
    }
    said = said if attributes is None else attributes
    return {
        "traceId": "ab" * 16,
        "spanId": f"{number:016x}",
        "parentSpanId": parent and f"{parent:016x}",
        "name": "chat gpt-4o",
        "kind": 3,
        "startTimeUnixNano": "1788253200000000000",
        "endTimeUnixNano": "1788253202000000000",
        "attributes": [{"key": key, "value": kinds[type(value)](value)} for key, value in said.items()],
        "status": {"code": 0},
    } | more


def otlp(*spans):
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(spans)}]}]}


SPAN = "input_tokens, cached_read_tokens, output_tokens, model, provider, feature, session, cost_pico, finish_reason"


@pytest.mark.parametrize("indent", [None, 2], ids=["a line", "spread"])
def test_spans_of_a_file_of_otlp_are_calls(read, indent):
    found, [row] = read(
        "t.json", json.dumps(otlp(span()), indent=indent), f"{SPAN}, epoch(first_token_at - started_at)"
    )

    assert found.source == "otel"
    assert row == (3000, 2000, 100, "gpt-4o", "openai", "shop", "c1", 6_000_000_000, "stop", 0.5)


def test_lines_of_otlp_are_read_one_by_one_and_bad_ones_are_told(read):
    lines = [json.dumps(otlp(span(1))), "nonsense", json.dumps(otlp(span(2), span(3)))]

    found, kept = read("t.jsonl", "\n".join(lines), "call_id")

    assert [reject.line for reject in found.rejects] == [2]
    assert kept == [("resp-1",), ("resp-2",), ("resp-3",)]


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.system": "openai", "gen_ai.usage.prompt_tokens": 30, "gen_ai.usage.completion_tokens": 7},
        {"gen_ai.system": "openai", "llm.usage.prompt_tokens": 30, "llm.usage.completion_tokens": 7},
        {"gen_ai.provider.name": "openai", "gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 7},
    ],
    ids=["before 1.37", "openllmetry", "1.41"],
)
def test_older_names_of_spans_mean_the_same(read, attributes):
    _, [row] = read("t.json", json.dumps(otlp(span(attributes=attributes))), "input_tokens, output_tokens, provider")

    assert row == (30, 7, "openai")


def test_a_call_under_two_instrumentations_is_one_and_other_spans_are_none(read):
    tokens = {"gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 7, "gen_ai.request.model": "gpt-4o"}
    spans = [
        span(1, attributes={"http.method": "POST"}),
        span(2, 1, tokens),
        span(3, 2, {"a": "b"}),
        span(4, 3, tokens),
    ]

    found, kept = read("t.json", json.dumps(otlp(*spans)), "input_tokens")

    assert (found.not_calls, found.nested, kept) == (2, 1, [(30,)])


def test_a_span_that_failed_is_a_failed_call(read):
    failed = {"gen_ai.usage.input_tokens": 30, "error.type": "RateLimitError"}

    _, [row] = read("t.json", json.dumps(otlp(span(attributes=failed))), "status, error, billed")

    assert row == ("failed", "RateLimitError", False)


def test_columns_named_like_attributes_are_spans_too(read):
    row = {
        "trace_id": "t",
        "span_id": "s",
        "start_time": "2026-09-01T10:00:00Z",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 7,
    }

    found, kept = read("t.csv", [row], "input_tokens, model")

    assert (found.source, kept) == ("otel", [(30, "gpt-4o")])


@pytest.mark.parametrize("content", ['{"resourceSpans": []}', '{"resourceSpans": [{"scopeSpans": "x"}]}'])
def test_otlp_without_spans_has_no_columns_to_read(write, content):
    assert list(open_table(write("t.json", content)).records(lambda read: None)) == []


# --- Helicone, TensorZero, Mooncake, and usage as providers tell it --------------------------------------------------


def request(**more):
    return {
        "request_id": "r1",
        "request_created_at": "2026-09-01 10:00:00.000",
        "response_created_at": "2026-09-01 10:00:02.000",
        "latency": 2000,
        "time_to_first_token": 300,
        "status": 200,
        "model": "gpt-4o",
        "provider": "OPENAI",
        "prompt_tokens": 3000,
        "completion_tokens": 100,
        "prompt_cache_read_tokens": 2000,
        "prompt_cache_write_tokens": 0,
        "user_id": "u1",
        "properties": {"Helicone-Session-Id": "s1", "Feature": "search"},
        "request_body": {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0},
        "cost": 6000000,
        "cache_reference_id": "00000000-0000-0000-0000-000000000000",
    } | more


def test_a_request_of_helicone_is_priced_from_its_tokens_and_never_by_its_scaled_cost(read):
    hit = request(request_id="r2", cache_reference_id="0d9ed8d5-90b8-4a3c-b1c5-7b7c3e3d7f10")

    found, kept = read(
        "h.jsonl",
        [request(), hit],
        'cached_read_tokens, cost_pico, recorded_cost, feature, session, "user", temperature, cached_answer, '
        "epoch_ms(first_token_at - started_at)",
    )

    assert found.source == "helicone"
    assert kept == [
        (2000, 6_000_000_000, None, "search", "s1", "u1", 0.0, False, 300),
        (2000, 0, None, "search", "s1", "u1", 0.0, True, 300),
    ]


def test_an_export_of_helicones_requests_is_read_by_its_own_names(read):
    row = {
        "provider": "OPENAI",
        "request_id": "r1",
        "request_created_at": "2026-09-01T10:00:00.000Z",
        "request_body": {"messages": [{"role": "user", "content": "Hi"}]},
        "request_model": "gpt-4o",
        "request_user_id": "u1",
        "request_properties": {"Feature": "search", "Helicone-Session-Id": "s1"},
        "response_id": "a1",
        "response_body": {"choices": [{"finish_reason": "stop"}]},
        "response_status": 200,
        "response_model": "gpt-4o-2024-08-06",
        "helicone_user": "of-the-house",
        "delay_ms": 2000,
        "prompt_tokens": 3000,
        "completion_tokens": 100,
    }

    found, [kept] = read(
        "h.csv", [as_text(row)], '"user", feature, session, model, status, epoch(ended_at - started_at), finish_reason'
    )

    assert found.source == "helicone"
    assert kept == ("u1", "search", "s1", "gpt-4o-2024-08-06", "succeeded", 2.0, "stop")


def inference(**more):
    return {
        "id": "m1",
        "inference_id": "i1",
        "model_name": "gpt-4o",
        "model_provider_name": "openai",
        "input_tokens": 3000,
        "output_tokens": 100,
        "response_time_ms": 2000,
        "ttft_ms": 250,
        "timestamp": "2026-09-01T10:00:02Z",
        "raw_response": json.dumps({"usage": {"prompt_tokens_details": {"cached_tokens": 1000}}}),
        "function_name": "extract",
        "episode_id": "e1",
        "value": True,
    } | more


def test_an_inference_of_tensorzero_began_before_its_row_was_written(read):
    found, [kept] = read(
        "t.jsonl",
        [inference()],
        "epoch(ended_at - started_at), epoch_ms(first_token_at - started_at), cached_read_tokens, feature, session, "
        "quality",
    )

    assert found.source == "tensorzero"
    assert kept == (2.0, 250, 1000, "extract", "e1", 1.0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 3000,
                "completion_tokens": 300,
                "prompt_tokens_details": {"cached_tokens": 2000, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 200},
            },
            (3000, 2000, 0, 0, 300, 200),
        ),
        (
            {
                "input_tokens": 1000,
                "output_tokens": 300,
                "cache_read_input_tokens": 2000,
                "cache_creation_input_tokens": 700,
                "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
            },
            (3700, 2000, 700, 200, 300, 0),
        ),
        (
            {
                "input_tokens": 3000,
                "output_tokens": 300,
                "input_tokens_details": {"cached_tokens": 2000},
                "output_tokens_details": {"reasoning_tokens": 100},
            },
            (3000, 2000, 0, 0, 300, 100),
        ),
    ],
    ids=["OpenAI chat", "Anthropic messages", "OpenAI responses"],
)
def test_a_usage_object_is_read_as_its_provider_means_it(read, usage, expected):
    row = {"created_at": "2026-09-01T10:00:00Z", "model": "gpt-4o", "usage": usage}

    _, [kept] = read(
        "u.jsonl",
        [row],
        "input_tokens, cached_read_tokens, cached_write_tokens, cached_write_1h_tokens, output_tokens, "
        "reasoning_tokens",
    )

    assert kept == expected


def blocks(number=0):
    return {"timestamp": number * 1000, "input_length": 512, "output_length": 7, "hash_ids": [0, number]}


def test_a_trace_of_blocks_is_a_table_with_its_own_clock(read):
    rows = [blocks(n) for n in range(3)]

    found, kept = read("trace.jsonl", rows, "input_tokens, output_tokens", price_as="gpt-5")

    assert kept == [(512, 7)] * 3
    assert found.source == "block_trace"
    assert Decimal(found.rows) == 3


# --- What was asked --------------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]
ROLE = [{"type": "function", "function": {"name": "role"}}]


def at(number, form="2026-10-01T12:{:02}:{:02}Z"):
    """The moments at which the call of this number begins and ends; all are within an hour."""
    return form.format(number, 0), form.format(number, 5)


def litellm_asked(number, system=None, tools=None):
    body = {"system": system, "messages": HELLO, "tools": tools}
    began, ended = at(number)
    times = {"startTime": began, "endTime": ended, "completionStartTime": None}
    return spend_log(request_id=f"r{number}", messages=HELLO, proxy_server_request=json.dumps(body), **times)


def litellm_forwarded(number, system=None, tools=None):
    row = litellm_asked(number, system, tools)
    return row | {"proxy_server_request": {"url": "/v1/messages", "body": json.loads(row["proxy_server_request"])}}


def langfuse_asked(number, system=None, tools=None):
    began, ended = at(number)
    said = {"messages": [{"role": "system", "content": system}, *HELLO], "tools": tools}
    times = {"startTime": began, "endTime": ended, "completionStartTime": None}
    return observation(id=f"o{number}", input=said, modelParameters={}, **times)


def langfuse_with_tools_beside(number, system=None, tools=None):
    row = langfuse_asked(number, system)
    return row | {"modelParameters": {"tools": tools} if tools else {}}


def langfuse_with_definitions(number, system=None, tools=None):
    return langfuse_asked(number, system) | {"tool_definitions": {"role": json.dumps(tools)} if tools else {}}


def helicone_asked(number, system=None, tools=None):
    began, ended = at(number)
    body = {"system": system, "messages": HELLO, "tools": tools, "temperature": 0}
    return request(request_id=f"r{number}", request_created_at=began, response_created_at=ended, request_body=body)


def tensorzero_asked(number, system=None, tools=None):
    _, ended = at(number)
    params = json.dumps({"tools_available": tools, "tool_choice": "auto"}) if tools else None
    return inference(id=f"m{number}", timestamp=ended, system=system, input_messages=HELLO, tool_params=params)


def tensorzero_asked_the_provider(number, system=None, tools=None):
    body = {"model": "gpt-4o", "messages": HELLO, "tools": tools}
    return tensorzero_asked(number, system) | {"raw_request": json.dumps(body)}


def span_asked(number, system=None, tools=None):
    said = {
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 3000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.input.messages": json.dumps(HELLO),
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": system}]),
        "gen_ai.tool.definitions": json.dumps(tools),
    }
    began = 1788253200 + 60 * number
    times = {"startTimeUnixNano": f"{began}000000000", "endTimeUnixNano": f"{began + 5}000000000"}
    return otlp(span(number + 1, attributes=said, **times))


ASKED = [
    litellm_asked,
    litellm_forwarded,
    langfuse_asked,
    langfuse_with_tools_beside,
    langfuse_with_definitions,
    helicone_asked,
    tensorzero_asked,
    tensorzero_asked_the_provider,
    span_asked,
]


@pytest.fixture
def repeats(write, calls_of):
    """How many of the calls an answer to another one could have served, told apart or not; and which offer tools."""

    def repeats(rows):
        with calls_of(write("asked.jsonl", rows)) as calls:
            found = simulate(calls, "exact_cache", Options(answers_kept=None, answers_shared=True))
            apart = sum(each["repeats"] for each in found.detail["apart"])
            return found.detail["repeats"] + apart, {tools for (tools,) in calls.rows("SELECT tools FROM calls")}

    return repeats


@pytest.mark.parametrize("asked", ASKED)
def test_the_same_words_under_other_instructions_are_another_question(repeats, asked):
    same, _ = repeats([asked(number, "You sell shoes.") for number in range(20)])
    different, _ = repeats([asked(number, f"You sell shoes of size {number}.") for number in range(20)])

    assert (same, different) == (19, 0)


@pytest.mark.parametrize("asked", ASKED)
def test_the_same_words_with_other_tools_are_another_question_and_the_tools_are_seen(repeats, asked):
    same, offered = repeats([asked(number, "You sell shoes.", ROLE) for number in range(4)])
    different, _ = repeats(
        [
            asked(number, "You sell shoes.", [{"type": "function", "function": {"name": f"n{number}"}}])
            for number in range(4)
        ]
    )
    _, none = repeats([asked(number, "You sell shoes.") for number in range(4)])

    assert (same, different, offered) == (3, 0, {True})
    assert True not in none


@pytest.mark.parametrize("asked", [litellm_asked, helicone_asked, tensorzero_asked_the_provider])
def test_a_request_without_tools_is_known_to_offer_none(repeats, asked):
    assert repeats([asked(0, "You sell shoes.", [])]) == (0, {False})


@pytest.mark.parametrize("asked", [litellm_asked, helicone_asked, tensorzero_asked, span_asked])
def test_what_the_system_is_told_begins_the_prompt(read, asked):
    found, [(prompt,)] = read("asked.jsonl", [asked(0, "You sell shoes.")], "prompt")

    assert "You sell shoes." in prompt.partition("\n")[0]
    assert json.loads(prompt.partition("\n")[2]) == HELLO
    assert "system" in found.columns["prompt"].split(",")[0]


# --- A mapping of a source that is recognised ------------------------------------------------------------------------


def test_a_mapping_of_one_column_leaves_all_other_rules_of_a_source(read):
    logs = [
        spend_log(model_group="a"),
        spend_log(request_id="r2", cache_hit="True", spend=0, model_group="b"),
        spend_log(request_id="r3", status="failure", spend=0, model_group="c"),
    ]
    columns = "cached_read_tokens, output_tokens, cached_answer, status, billed, cost_pico"

    _, plain = read("l.jsonl", logs, columns)
    found, kept = read("l.jsonl", logs, f"{columns}, feature", mapping={"feature": "model_group"})

    assert found.source == "litellm"
    assert found.columns["feature"] == "model_group"
    assert [row[:-1] for row in kept] == plain
    assert [(row[0], row[4]) for row in plain] == [(2000, True), (2000, False), (2000, False)]
    assert [row[-1] for row in kept] == ["a", "b", "c"]


def test_a_field_of_a_source_that_is_mapped_to_no_column_is_not_said(read):
    found, [row] = read("o.jsonl", [observation()], '"user", session', mapping={"user": None})

    assert (found.source, row) == ("langfuse", (None, "s1"))
    assert "user" not in found.columns


def test_what_a_source_says_of_its_count_of_input_holds_for_no_other_column(read):
    row = observation(prompt_total=4000)

    found, [kept] = read("o.jsonl", [row], "input_tokens", mapping={"input_tokens": "prompt_total"})

    assert (found.verdicts[0].convention, kept) == ("inclusive", (4000,))


def test_a_source_whose_token_counts_are_mapped_away_has_nothing_to_import(write, converted):
    with pytest.raises(NoUsableColumns):
        converted(write("l.jsonl", [spend_log()]), mapping={"input_tokens": None, "output_tokens": None})


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("litellm", spend_log),
        ("langfuse", observation),
        ("helicone", request),
        ("tensorzero", inference),
        ("block_trace", blocks),
        ("otel", lambda: {"gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 30}),
    ],
)
def test_every_source_takes_a_mapping(read, source, row):
    found, [kept] = read("s.jsonl", [row() | {"team": "blue"}], "feature", mapping={"feature": "team"})

    assert (found.source, found.columns["feature"], kept) == (source, "team", ("blue",))
