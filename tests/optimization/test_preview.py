"""What an import would make of a file is told by its first rows, and nothing is kept."""

import gzip

import pytest

from apps.llm.catalogue import Catalogue
from apps.optimization import conversion
from apps.optimization.conversion import Order, preview
from apps.optimization.importers import NoUsableColumns
from tests.optimization.conftest import MEMORY, NOW, as_csv, call


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
