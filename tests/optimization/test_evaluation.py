"""`manage.py evaluate` computes what is known to be true, and does not pass what comes out otherwise."""

import json

import pytest

from tests.optimization.test_commands import run


@pytest.fixture(scope="module")
def another_trace(tmp_path_factory):
    """A folder whose Azure trace is not the published one, and where no other trace is."""
    folder = tmp_path_factory.mktemp("traces")
    trace = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    (folder / "AzureLLMInferenceTrace_conv.csv").write_text(trace)
    return folder


def test_what_is_known_comes_out_and_what_does_not_is_told(another_trace):
    code, out, _ = run("evaluate", "--quick", "--json", "--data", another_trace)

    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    wrong = {name: row["value"] for name, row in rows.items() if row["holds"] is False}
    unknown = {name: row["why"] for name, row in rows.items() if row["holds"] is None}
    assert (code, wrong) == (1, {"Azure conversations, in": 374, "Azure conversations, out": 44})
    assert unknown.keys() == {"Mooncake trace", "GSM8K trace"}
    assert all(why.startswith(f"file absent: {another_trace}") for why in unknown.values())
    assert rows["ten calls, each priced"]["value"] == 2.1075
    assert len(rows) - len(wrong) - len(unknown) > 20
