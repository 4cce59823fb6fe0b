"""What an import would make of a file is told by its first rows, and nothing is kept."""

import gzip
import json
from uuid import uuid4

import duckdb
import pytest

from apps.llm.catalogue import Catalogue
from apps.optimization import beginnings, conversion, services
from apps.optimization.beginnings import TooLargeToLookAt, beginning_of
from apps.optimization.conversion import Order, preview
from apps.optimization.importers import NoUsableColumns
from apps.optimization.limits import Deadline, Turns
from apps.optimization.readers import open_table
from tests.optimization.conftest import MEMORY, NOW, as_csv, call, uploaded
from tests.optimization.test_bills import focus_row


@pytest.fixture
def previewed(tmp_path):
    def previewed(path, rows=20, **more):
        target = tmp_path / "previewed" / "calls.parquet"
        target.parent.mkdir(exist_ok=True)
        order = Order(source=path, target=target, catalogue=Catalogue(), now=NOW, memory_mib=MEMORY, **more)
        found = preview(order, rows)
        assert list(target.parent.iterdir()) == []
        return found

    return previewed


def test_a_preview_of_a_small_file_says_what_its_import_says(write, previewed, converted):
    path = write("calls.csv", as_csv([call(), call(input_tokens=-1), call(model="gpt-4o-mini")]))

    found = previewed(path)

    assert found.conversion == converted(path)
    assert [each["model"] for each in found.calls] == ["gpt-4o", "gpt-4o-mini"]
    assert found.whole


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_only_the_first_rows_are_looked_at(write, previewed, monkeypatch, packed, damaged):
    monkeypatch.setattr(conversion, "PREVIEWED", 10)
    rows = [call(input_tokens=number) for number in range(30)]
    lines = as_csv(rows).splitlines(keepends=True)
    lines[2:3] = ["only,two\r\n"] if damaged else lines[2:3]
    content = "".join(lines).encode()
    path = write("calls.csv", gzip.compress(content) if packed else content)

    found = previewed(path, rows=3)

    assert (found.conversion.rows, found.conversion.rejected) == ((9, 1) if damaged else (10, 0))
    assert [each["input_tokens"] for each in found.calls] == ([0, 2, 3] if damaged else [0, 1, 2])
    assert not found.whole


def test_rows_that_are_all_turned_away_are_an_answer(write, previewed):
    found = previewed(write("calls.csv", as_csv([call(output_tokens="many")])))

    assert (found.conversion.rows, found.calls) == (0, ())
    assert [(reject.line, reject.column) for reject in found.conversion.rejects] == [(2, "output_tokens")]


def test_of_a_prompt_only_the_beginning_is_shown_and_nothing_with_metadata_only(write, previewed):
    path = write("calls.csv", as_csv([call(prompt="Tell me all. " * 100)]))

    assert len(previewed(path).calls[0]["prompt"]) == conversion.PREVIEWED_PROMPT
    assert previewed(path, metadata_only=True).calls[0]["prompt"] is None


def test_a_file_that_cannot_be_understood_is_refused_as_by_its_import(write, previewed):
    with pytest.raises(NoUsableColumns):
        previewed(write("calls.csv", "question,answer\na,b\n"))


def test_the_room_that_is_said_is_near_what_the_import_takes(write, previewed, monkeypatch):
    rows = [call(input_tokens=number, prompt=f"Question {number * 7919 % 100_003}") for number in range(30_000)]
    path = write("calls.csv", as_csv(rows))
    estimate = previewed(path).disk_bytes
    monkeypatch.setattr(conversion, "PREVIEWED", 100_000)

    assert estimate == pytest.approx(previewed(path).disk_bytes, rel=0.5)


# --- The beginning of a file -----------------------------------------------------------------------------------------

ROWS = [call(input_tokens=number, prompt=f'A "long" question,\nin two lines: {number}') for number in range(40)]


@pytest.fixture
def began(write, tmp_path, monkeypatch):
    """The beginning of a file, of which no more than `most` bytes are looked at."""

    def began(content, most):
        monkeypatch.setattr(beginnings, "MOST_BYTES", most)
        return beginning_of(write("upload", content), tmp_path, deadline=Deadline(30))

    return began


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        as_csv(ROWS),
        "".join(json.dumps(row) + "\n" for row in ROWS),
        json.dumps(ROWS, indent=1),
        json.dumps({"data": ROWS, "more": False}),
    ],
    ids=["csv", "lines", "array", "envelope"],
)
def test_what_is_looked_at_ends_behind_a_whole_row_wherever_it_is_cut(began, content, packed):
    data = content.encode()
    for most in range(len(data) // 2, len(data) // 2 + 150, 7):
        found = began(gzip.compress(data) if packed else data, most)
        rows = list(open_table(found.path).records(lambda read: None))

        assert len(rows) > 15
        assert [int(row["input_tokens"]) for _, row in rows] == list(range(len(rows)))
        assert (found.whole, found.packed, found.size) == (False, packed, len(data))


@pytest.mark.parametrize("packed", [False, True])
def test_a_small_file_is_looked_at_whole(began, packed):
    data = as_csv(ROWS).encode()
    found = began(gzip.compress(data) if packed else data, len(data))

    assert (found.whole, found.path.read_bytes()) == (True, data)


@pytest.mark.parametrize(
    "content",
    [
        '{"resourceSpans": [\n{"scopeSpans": [{"spans": [' + "{}," * 1000 + "{}]}]}]}",
        '{"object": "page", "data": [{"start_time": 1, "results": [' + "{}," * 1000 + "{}]}]}",
        "[[" + "{}," * 1000 + "{}]]",
        "a,b,c" * 1000,
    ],
    ids=["spans", "bill", "one element", "one line"],
)
def test_a_document_that_has_no_rows_to_be_cut_behind_is_left_to_its_import(began, content):
    assert began(content, len(content)).whole
    with pytest.raises(TooLargeToLookAt, match="Import it"):
        began(content, len(content) // 2)


def test_of_a_parquet_file_the_first_rows_are_looked_at(began, write, monkeypatch):
    source = write("calls.parquet", [call(input_tokens=number) for number in range(50)])
    monkeypatch.setattr(beginnings, "MOST_ROWS", 10)

    found = began(source.read_bytes(), 10**6)

    assert duckdb.sql(f"SELECT list(input_tokens) FROM '{found.path}'").fetchall() == [(list(range(10)),)]
    assert not found.whole
    assert found.of_all(100) == pytest.approx(500, rel=0.01)


def test_the_room_is_told_for_all_rows_and_what_unpacks(began):
    data = as_csv(ROWS).encode()

    plain, packed = (began(content, len(data) // 2) for content in (data, gzip.compress(data)))

    assert plain.of_all(1000) == pytest.approx(2000, rel=0.1)
    assert packed.of_all(1000) == plain.of_all(1000) + len(data)
    assert plain.of_all(None) is None


def test_two_files_of_one_person_are_looked_at_and_four_of_all():
    turns, alice, others = Turns(at_once=4, of_one=2), uuid4(), [uuid4() for _ in range(3)]
    one, two, three = (turns.taken(alice) for _ in range(3))

    assert (one.__enter__(), two.__enter__(), three.__enter__()) == (True, True, False)
    waiting = [turns.taken(other) for other in others]
    assert [turn.__enter__() for turn in waiting] == [True, True, False]
    for turn in (three, waiting[2], one):
        turn.__exit__(None, None, None)
    with turns.taken(others[2]) as free:
        assert free


@pytest.mark.django_db
def test_who_looks_at_too_much_at_once_is_told_to_wait(client_for, alice):
    look = lambda: client_for(alice).post("/api/datasets/preview/", {"file": uploaded([call()])}, format="multipart")  # noqa: E731
    with services._previews.taken(alice.pk), services._previews.taken(alice.pk):
        answer = look()

    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (429, "quota.exceeded", "2")
    assert look().status_code == 200


@pytest.mark.django_db
def test_of_a_long_bill_the_first_rows_are_looked_at(client_for, alice, monkeypatch):
    monkeypatch.setattr(services, "MOST_ROWS", 3)
    look = lambda rows: client_for(alice).post(  # noqa: E731
        "/api/datasets/preview/", {"file": uploaded([focus_row()] * rows)}, format="multipart"
    )

    found = look(5).json()

    assert (found["kind"], found["rows"], found["whole"]) == ("bill", 3, False)
    assert look(2).json()["whole"]


@pytest.mark.django_db
def test_a_tiny_file_that_holds_millions_of_values_takes_no_time(client_for, alice):
    document = '{"data":[{"start_time":1750000000,"results":[{"amount":{"value":1}},' + "{}," * 5_000_000 + "{}]}]}"

    answer = client_for(alice).post(
        "/api/datasets/preview/", {"file": uploaded(gzip.compress(document.encode()))}, format="multipart"
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "preview.too_large")
