"""Files as they come: good ones are read whatever they are called, bad ones fail whole with a sentence."""

import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
import zipfile

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.errors import NetraError
from apps.optimization import readers
from apps.optimization.containers import unpacked
from apps.optimization.readers import (
    BinaryFile,
    EmptyFile,
    MalformedFile,
    TooLargeInside,
    UnusableFile,
    WrongEncoding,
    open_table,
)
from apps.optimization.readers import parquet as parquet_reader
from apps.optimization.readers.delimited import DuplicateColumns
from tests.optimization.conftest import as_csv, call

ROWS = [call(feature="chat"), call(feature="search", model="gpt-4o-mini", input_tokens=5)]


def rows_of(path):
    return list(open_table(path).records(lambda read: None))


@pytest.mark.parametrize("name", ["calls.csv", "calls.jsonl", "calls.parquet"])
def test_the_same_rows_come_out_of_every_format(write, name):
    path = write(name, ROWS)

    features = [row["feature"] for _, row in rows_of(path)]

    assert features == ["chat", "search"]


def test_the_bytes_decide_and_not_the_name(write):
    path = write("calls.csv", [call()]).rename(write("calls.parquet", "x"))

    assert open_table(path).kind == "csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter_is_recognised(write, delimiter):
    assert next(iter(open_table(write("calls.csv", as_csv(ROWS, delimiter))).places)) == "timestamp"


def test_a_byte_order_mark_belongs_to_no_column(write):
    assert next(iter(open_table(write("calls.csv", b"\xef\xbb\xbf" + as_csv(ROWS).encode())).places)) == "timestamp"


def test_a_decimal_comma_is_recognised_only_where_the_comma_does_not_separate(write):
    assert open_table(write("a.csv", "cost;input_tokens\n0,25;1\n")).decimal_comma
    assert not open_table(write("b.csv", 'cost,input_tokens\n"0,25",1\n')).decimal_comma


def test_line_numbers_count_the_header_and_the_lines_inside_quotes(write):
    path = write("calls.csv", 'prompt,input_tokens\n"one\ntwo",1\nthree,2\n')

    assert [line for line, _ in rows_of(path)] == [3, 4]


def test_a_ragged_row_is_turned_away_and_the_others_are_not(write):
    path = write("calls.csv", "a,b\n1,2\n1,2,3\n\n4\n5,6\n")

    found = rows_of(path)

    assert [(f.line, f.reason) for f in found if not isinstance(f, tuple)] == [
        (3, "The row has 3 values, the header 2."),
        (5, "The row has 1 values, the header 2."),
    ]
    assert [line for line, _ in (f for f in found if isinstance(f, tuple))] == [2, 6]


def test_quotation_marks_that_do_not_match_cost_their_own_lines_and_it_is_said_which(write):
    path = write("calls.csv", 'a,b\n1,2\n"x"y,3\n"opened,\nand closed" late,4\n5,6\n')

    found = rows_of(path)

    assert [line for line, _ in (f for f in found if isinstance(f, tuple))] == [2, 6]
    assert [f.reason for f in found if not isinstance(f, tuple)] == [
        "The quotation marks on lines 3 to 3 do not match.",
        "The quotation marks on lines 4 to 5 do not match.",
    ]


def test_a_json_array_is_read_like_lines(write):
    path = write("calls.json", json.dumps(ROWS, indent=2))

    assert [row["model"] for _, row in rows_of(path)] == ["gpt-4o", "gpt-4o-mini"]


def test_an_array_longer_than_a_chunk_loses_nothing(write):
    path = write("calls.json", json.dumps([{"input_tokens": n, "text": "é" * 500} for n in range(2000)]))

    assert [row["input_tokens"] for _, row in rows_of(path)] == [str(n) for n in range(2000)]


def test_an_array_that_breaks_off_fails_whole(write):
    with pytest.raises(MalformedFile, match="breaks off"):
        rows_of(write("calls.json", json.dumps(ROWS)[:-20]))


def test_nested_objects_become_dotted_columns(write):
    path = write("calls.jsonl", [{"usage": {"prompt_tokens": 3, "details": {"cached": 1}}, "tags": ["a"]}])

    [(_, row)] = rows_of(path)

    assert (row["usage.prompt_tokens"], row["usage.details.cached"], row["tags"]) == ("3", "1", '["a"]')


def test_lines_that_are_no_objects_are_turned_away_one_by_one(write):
    path = write("calls.jsonl", '{"a": 1}\n[1]\nnonsense\n{"a": 2}\n')

    assert [f.line for f in rows_of(path) if not isinstance(f, tuple)] == [2, 3]


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b"", EmptyFile, "empty"),
        (b" \n\n ", EmptyFile, "empty"),
        (b"\xef\xbb\xbf", EmptyFile, "byte order mark"),
        ("input_tokens\n1\n".encode("utf-16"), WrongEncoding, "UTF-16"),
        ("input_tokens,feature\n1,Gr\xf6\xdfe\n".encode("latin-1"), WrongEncoding, "Line 2 is not UTF-8"),
        (b"\x7fELF\x02\x01\x01\0\0\0", BinaryFile, "binary"),
        (b"PAR1 but no more", MalformedFile, "Parquet"),
        (b"a,b,a\n1,2,3\n", DuplicateColumns, "'a' more than once"),
        (b'a,b\n1,2\n3,"', MalformedFile, "Line 3: a quotation mark"),
        (b'a,b\n"never closed,1\n' + b"2,3\n" * 3_000_000, MalformedFile, "quotation mark"),
    ],
    ids=[
        "nothing",
        "white space",
        "a byte order mark",
        "UTF-16",
        "Latin-1",
        "a program",
        "half a Parquet file",
        "two columns of one name",
        "a quote open at the end",
        "a quote open for megabytes",
    ],
)
def test_a_file_that_cannot_be_read_fails_whole_with_a_sentence(write, content, error, sentence):
    path = write("calls.csv", content)

    with pytest.raises(error, match=sentence):
        rows_of(path)


def test_wrong_bytes_far_into_the_file_are_found_with_their_line(write):
    path = write("calls.csv", b"a,b\n" + b"1,2\n" * 200_000 + b"\xff,3\n")

    with pytest.raises(WrongEncoding, match="not UTF-8"):
        rows_of(path)


def test_an_overlong_json_line_is_turned_away_alone(write, monkeypatch):
    monkeypatch.setattr("apps.optimization.readers.json_records.MAX_FIELD", 1000)
    path = write("calls.jsonl", '{"a": 1}\n{"a": "' + "x" * 5000 + '"}\n{"a": 2}\n')

    found = rows_of(path)

    assert [f.line for f in found if not isinstance(f, tuple)] == [2]
    assert [line for line, _ in (f for f in found if isinstance(f, tuple))] == [1, 3]


def test_a_header_with_far_too_many_columns_is_refused(write):
    with pytest.raises(MalformedFile, match="columns"):
        open_table(write("calls.csv", ",".join(f"c{n}" for n in range(3000)) + "\n"))


@given(content=st.binary(max_size=400) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_bring_a_reader_down(tmp_path, content):
    path = tmp_path / "fuzz"
    path.write_bytes(content)

    try:
        rows_of(path)
    except NetraError as error:
        assert isinstance(error, UnusableFile)
        assert error.detail


@given(junk=st.binary(max_size=60), at=st.integers(0, 3000))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_parquet_file_is_a_declared_error_or_rows(write, tmp_path, junk, at):
    good = tmp_path / "calls.parquet"
    if not good.exists():
        write("calls.parquet", [call(prompt=os.urandom(50).hex()) for _ in range(50)])
    content = bytearray(good.read_bytes())
    content[at : at + len(junk)] = junk
    path = tmp_path / "damaged"
    path.write_bytes(content)

    try:
        rows_of(path)
    except NetraError as error:
        assert isinstance(error, UnusableFile)


def test_progress_follows_the_bytes(write):
    seen = []
    path = write("calls.csv", "a,b\n" + "1,2\n" * 100_000)

    list(open_table(path).records(seen.append))

    assert seen == sorted(seen)
    assert seen[-1] > path.stat().st_size / 2


# --- Files that are larger inside than outside -----------------------------------------------------------------------


@pytest.fixture
def parquet_of(tmp_path):
    """A Parquet file with the rows of a query."""

    def parquet_of(query):
        path = tmp_path / "calls.parquet"
        duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        return path

    return parquet_of


def test_a_small_parquet_file_of_long_texts_is_read_in_little_memory(parquet_of):
    path = parquet_of("SELECT 1 AS input_tokens, repeat('x', 2000000) AS prompt FROM range(2000)")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    lines = [line for line, row in open_table(path).records(lambda read: None) if len(row["prompt"]) == 2_000_000]

    assert path.stat().st_size < 100_000
    assert lines == list(range(1, 2001))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024  # KiB, of 4 GB of text


def test_rows_come_once_and_in_order_however_they_are_portioned(parquet_of, monkeypatch):
    monkeypatch.setattr(parquet_reader, "AT_ONCE", 100)
    path = parquet_of("SELECT i AS n, repeat('x', (i * 7 % 50)::BIGINT) AS text, [i] AS list FROM range(1000) t(i)")

    found = rows_of(path)

    assert [line for line, _ in found] == list(range(1, 1001))
    assert [row for _, row in found] == [
        {"n": str(i), "text": "x" * (i * 7 % 50), "list": f"[{i}]"} for i in range(1000)
    ]


def test_an_overlong_parquet_row_is_turned_away_alone(parquet_of, monkeypatch):
    monkeypatch.setattr(parquet_reader, "MAX_FIELD", 1000)
    path = parquet_of("SELECT i AS n, repeat('x', CASE i WHEN 1 THEN 600 ELSE 5 END) AS a, a AS b FROM range(3) t(i)")

    found = rows_of(path)

    assert [f.line for f in found if not isinstance(f, tuple)] == [2]
    assert [line for line, _ in (f for f in found if isinstance(f, tuple))] == [1, 3]


def test_lists_that_unfold_beyond_memory_are_refused(parquet_of, monkeypatch):
    monkeypatch.setattr(parquet_reader, "MEMORY_MIB", 32)
    path = parquet_of("SELECT 1 AS input_tokens, list_resize([1], 5000, 1) AS prompt FROM range(2100)")

    with pytest.raises(TooLargeInside, match="memory"):
        rows_of(path)


def test_rows_without_end_are_refused_before_they_are_read(parquet_of, monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROWS", 1000)

    with pytest.raises(TooLargeInside, match="more than 1,000 rows"):
        open_table(parquet_of("SELECT 1 AS input_tokens FROM range(1001)"))


@pytest.mark.parametrize("content", [b"PAR1 but no more", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_wrong_with_a_parquet_file_names_no_place_on_this_machine(tmp_path, content):
    folder = tmp_path / "a folder, with blanks" / "files"
    folder.mkdir(parents=True)
    (folder / "upload").write_bytes(content)

    with pytest.raises(MalformedFile) as refusal:
        open_table(folder / "upload")

    assert "/" not in refusal.value.detail
    assert "blanks" not in refusal.value.detail


def test_an_object_with_far_too_many_names_is_turned_away_alone(write):
    path = write("calls.jsonl", [{"a": 1}, {f"k{n}": 1 for n in range(2001)}, {"m": {f"k{n}": 1 for n in range(2001)}}])

    found = rows_of(path)

    assert [f.reason for f in found[1:]] == ["The object has more than 2,000 names."] * 2


def test_names_inside_an_overlong_name_do_not_repeat_it(write):
    path = write("calls.jsonl", [{"x" * 5000: {"a": 1}, "b": 2}])

    [(_, row)] = rows_of(path)

    assert list(row) == ["x" * 5000, "b"]


def test_an_array_of_tiny_elements_takes_no_more_than_linear_time(write):
    path = write("calls.json", "[" + "{}, " * 200_000 + '{"a": 1}\n]')
    began = time.process_time()

    found = rows_of(path)

    assert len(found) == 200_001
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.json"])
def test_a_value_nested_without_end_is_never_a_failure_of_ours(write, name):
    deep = '{"a": ' + "[" * 900 + "]" * 900 + "}"
    deeper = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    opening, between, closing = ("[", ",", "]") if name == "calls.json" else ("", "\n", "\n")

    try:
        rows_of(write(name, opening + between.join((deep, deeper)) + closing))
    except NetraError as error:
        assert isinstance(error, UnusableFile)


@pytest.mark.parametrize("indent", [None, 2])
def test_the_answer_of_an_api_is_read_as_the_calls_in_it(write, converted, indent):
    answer = {"data": [call(input_tokens=7), call(input_tokens="x"), call()], "meta": {"page": 1}}

    found = converted(write("page.json", json.dumps(answer, indent=indent)))

    assert (found.rows, found.rejected) == (2, 1)


def test_lines_whose_first_key_holds_a_list_stay_lines(write, converted):
    lines = "\n".join(json.dumps({"data": [1]} | call()) for _ in range(2))

    assert converted(write("calls.jsonl", lines)).rows == 2


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_csv_line_without_end_is_an_error_and_never_left_out(write, converted, place):
    good, endless = "gpt-4o,10,5\n" * 3, "y" * (20 * 1024**2)
    rows = {"first": f"{endless}\n{good}", "middle": f"{good}{endless}\n{good}", "last": f"{good}{endless}"}[place]

    with pytest.raises(MalformedFile, match="is longer than"):
        converted(write("calls.csv", f"model,input_tokens,output_tokens\n{rows}"))


def test_spans_in_one_huge_document_are_refused_before_they_are_in_memory(write, monkeypatch):
    monkeypatch.setattr("apps.optimization.readers.otlp.MOST_BYTES", 1000)
    spans = ", ".join(f'{{"name": "{number}"}}' for number in range(100))

    for text in (
        f'{{"resourceSpans":\n[{{"scopeSpans": [{{"spans": [{spans}]}}]}}]}}',
        f'{{"resourceSpans": []}}\n{spans}',
    ):
        with pytest.raises(TooLargeInside, match="JSON lines"):
            list(open_table(write("spans.json", text)).records(lambda read: None))


@pytest.mark.parametrize("indent", [None, 2])
def test_spans_in_a_document_that_breaks_off_fail_whole_and_it_is_said_where(write, indent):
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "chat"}]}]}]}
    text = json.dumps(document, indent=indent)

    with pytest.raises(MalformedFile, match=f"breaks off or is not JSON near line {text.count(chr(10)) + 1}\\."):
        open_table(write("spans.json", text[:-1]))


def test_a_line_of_spans_that_breaks_off_is_turned_away_alone(write):
    line = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "chat"}]}]}]})

    good, broken = open_table(write("spans.jsonl", f"{line}\n{line[:-1]}")).records(lambda read: None)

    assert (good[1]["name"], broken.line) == ("chat", 2)


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 10_000], ids=["lists", "digits"])
def test_spans_with_a_value_without_end_are_never_a_failure_of_ours(write, value):
    with pytest.raises(MalformedFile, match="too deeply"):
        open_table(write("spans.json", f'{{"resourceSpans":\n[{value}]}}'))


def test_a_span_whose_names_are_none_costs_only_those(write):
    odd = {"kvlistValue": {"values": [{"key": ["no name"]}, {"key": "good", "value": {"intValue": "1"}}]}}
    span = {"name": "chat", "attributes": [{"key": "odd", "value": odd}]}
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}

    ((_, row),) = open_table(write("spans.json", json.dumps(document))).records(lambda read: None)

    assert (row["name"], row["odd"]) == ("chat", '{"good":"1"}')


def packed_by(method, content):
    if method == "gzip":
        return gzip.compress(content)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("calls", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    "method", ["gzip", zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_an_archive_damaged_anywhere_is_read_or_refused(write, tmp_path, method):
    whole, chance, refused = packed_by(method, os.urandom(100)), random.Random(7), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] = chance.randrange(256)
        for content in (damaged, damaged[:place]):
            try:
                unpacked(write("calls", bytes(content)), tmp_path, most=10_000)
            except UnusableFile:
                refused += 1

    assert refused > len(whole) / 2


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_more_is_unpacked_at_once_than_fits_in_little_memory(write, method):
    path = write("calls", packed_by(method, b"0" * 200_000_000))
    code = f"""
import resource
import subprocess
import sys
from pathlib import Path
from apps.optimization.containers import opened
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with opened(Path({str(path)!r})) as inside:
    assert len(inside.start(1_000_000)) == 1_000_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    assert grown < 150  # MiB
