"""Near repeats: how alike texts are, what that may be used for, and when nothing may."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import comb
from random import Random

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.agents.tools import semantic_cache
from apps.llm.catalogue import Catalogue
from apps.optimization.calls import reading
from apps.optimization.options import Options
from apps.optimization.similarity import vectors, wording
from apps.optimization.simulators import simulate
from apps.optimization.statistics.proportion import at_most
from tests.optimization.conftest import MEMORY, call

TOPICS = 160  # each asked twice, with other words
COST = Decimal("0.0035")  # of one `call()`


def questions(*, wrong=0.0, **more):
    """Each topic is asked again half a minute later; the share `wrong` of those gets another answer."""
    random = Random(4)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = []
    for number in range(TOPICS):
        topic = " ".join("".join(random.choices(letters, k=9)) for _ in range(4))
        answers = f"Use {topic}.", f"use  {topic}." if random.random() >= wrong else "Ask somebody else."
        asked = f"Please tell me about {topic}", f"please tell me about {topic} !"
        for again in range(2):
            began = datetime(2026, 10, 1, tzinfo=UTC) + timedelta(minutes=number, seconds=30 * again)
            rows.append(
                call(
                    timestamp=began.isoformat(),
                    ended_at=(began + timedelta(seconds=4)).isoformat(),
                    prompt=asked[again],
                    answer=answers[again],
                    user="u",
                    temperature="0",
                )
                | more
            )
    return rows


# --- How alike -------------------------------------------------------------------------------------------------------


def test_what_all_texts_share_does_not_make_them_alike_and_spelling_hardly_makes_them_different():
    rules = "You are a helpful assistant of a shop. Answer in one sentence. "
    texts = [
        f"{rules}{question}"
        for question in (
            "How do I reset my forgotten password on the website?",
            "How do I reset my forgotten pasword on the  Website?",
            "Which planet has the largest moons nearby Jupiter?",
            *(f"Where is parcel {number} of street {7 * number}" for number in range(40)),
        )
    ]
    like = wording(texts) @ wording(texts).T

    assert np.allclose(np.diag(like), 1)
    assert like[0, 1] > 0.7
    assert abs(like[0, 2]) < 0.2


def test_with_the_extra_texts_are_alike_that_mean_the_same_in_other_words():
    pytest.importorskip("wordllama", reason="requirements-embeddings.txt is not installed")

    made, made_from = vectors(
        ["How do I reset my password?", "I forgot my password, what now?", "Is it raining in Paris?"]
    )

    assert made_from == "meaning"
    assert made[0] @ made[1] > 0.5 > 0.3 > made[0] @ made[2]


@settings(max_examples=50)
@given(trials=st.integers(1, 300), part=st.floats(0, 1))
def test_the_bound_of_a_share_is_where_so_few_become_unlikely(trials, part):
    events = int(part * trials)
    bound = at_most(events, trials)

    few = sum(comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(events + 1))
    assert bound == 1 if events == trials else few == pytest.approx(0.05, abs=1e-6)
    assert at_most(max(0, events - 1), trials) <= bound


# --- What may be answered --------------------------------------------------------------------------------------------


def test_near_repeats_are_saved_as_far_as_answers_prove_it_and_on_the_half_that_did_not_choose(write, calls_of):
    with calls_of(write("calls.jsonl", questions())) as calls:
        found = simulate(calls, "semantic_cache")
        headline = semantic_cache.measure(calls).headline

    assert found.saving_usd == TOPICS // 2 * COST
    assert found.detail["bound"] == at_most(0, TOPICS // 2) < 0.05
    assert (found.evidence, found.up_to) == ("E2", False)
    assert (found.latency.before.p50, found.latency.after.p50) == (4, 4)
    assert headline.startswith("80 calls of the later half")
    assert (
        found.assumptions[-1]
        == "80 of 80 near repeats do not tell whether they offer tools; they are taken to offer none."
    )


def test_planted_false_hits_are_refused_and_a_careless_owner_is_told_how_many(write, calls_of):
    with calls_of(write("calls.jsonl", questions(wrong=0.15))) as calls:
        refused = simulate(calls, "semantic_cache")
        allowed = simulate(calls, "semantic_cache", Options(false_hits=0.4))

    assert refused.saving_usd == 0
    assert refused.why.startswith("No threshold is safe: ")
    assert refused.detail["threshold"] is None
    assert allowed.saving_usd > 0
    assert 0.05 < allowed.detail["different"] / allowed.detail["pairs"] < allowed.detail["bound"] < 0.4


@pytest.mark.parametrize(
    ("more", "convert", "lacking"),
    [
        pytest.param({"answer": ""}, {}, "answer", id="no answers"),
        pytest.param({}, {"metadata_only": True}, "prompt", id="fingerprints of prompts"),
        pytest.param({"user": ""}, {}, "user", id="nobody"),
        pytest.param({"prompt": ""}, {}, "prompt", id="no prompts"),
    ],
)
def test_without_what_proves_it_the_saving_is_unknown_and_what_lacks_is_asked_for(
    write, calls_of, more, convert, lacking
):
    with calls_of(write("calls.jsonl", questions(**more)[:40]), **convert) as calls:
        told = semantic_cache.measure(calls)
        found = simulate(calls, "semantic_cache")

    assert (found.saving_usd, found.missing) == (None, (lacking,))
    assert [each.field for each in told.missing] == [lacking]


def test_one_question_has_no_near_ones(write, calls_of):
    with calls_of(write("calls.jsonl", questions()[:1])) as calls:
        assert simulate(calls, "semantic_cache").saving_usd == 0


def test_exact_repeats_are_left_to_the_exact_cache(write, calls_of):
    rows = [row | {"prompt": row["prompt"].lower().removesuffix(" !")} for row in questions()]

    with calls_of(write("calls.jsonl", rows)) as calls:
        near, exact = (simulate(calls, name) for name in ("semantic_cache", "exact_cache"))

    assert (near.detail["curve"][0]["hits"], exact.detail["repeats"]) == (0, TOPICS)


# --- Answers ---------------------------------------------------------------------------------------------------------


def test_of_an_answer_a_fingerprint_is_kept_which_files_of_before_do_not_have(write, converted, tmp_path):
    rows = [call(answer="Yes,  it is"), call(answer=" yes, it\nis"), call(answer="No"), call(answer="")]
    converted(write("calls.jsonl", rows))
    new, old = tmp_path / "converted" / "calls.parquet", tmp_path / "converted" / "old.parquet"
    duckdb.execute(f"COPY (SELECT * EXCLUDE (answer_hash) FROM '{new}') TO '{old}'")

    with reading(files=[old, new], catalogue=Catalogue(), memory_mib=MEMORY) as calls:
        hashes = [found for (found,) in calls.rows("SELECT answer_hash FROM calls ORDER BY call")]

    assert hashes[:4] == [None] * 4
    assert hashes[4] == hashes[5] != hashes[6]
    assert hashes[7] is None
    assert b"it is" not in new.read_bytes()
