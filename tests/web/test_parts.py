"""Charts, numbers and Markdown as the pages show them."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.llm.amounts import spell_dollars
from apps.web import charts
from apps.web.markdown import to_html
from apps.web.templatetags.web import numeric_column, size

points = st.lists(
    st.fixed_dictionaries({"label": st.text(), "value": st.one_of(st.none(), st.floats(-1e12, 1e12))}), max_size=60
)


def xml_safe(text):
    """Control characters cannot be written in XML; a browser's HTML parser takes them."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


@given(points=points, kind=st.sampled_from(["bar", "line"]), unit=st.sampled_from(["USD", "%", "calls", ""]))
def test_any_chart_is_well_formed_and_stays_inside_its_picture(points, kind, unit):
    drawn = charts.draw({"title": "<T>", "kind": kind, "unit": unit, "points": points})
    if all(point["value"] is None for point in points):
        assert drawn == ""
        return

    svg = ElementTree.fromstring(xml_safe(drawn))
    height = float(svg.get("height"))
    for element in svg.iter():
        for name in ("x", "cx", "width"):
            if (length := element.get(name, "")).endswith("%"):
                assert 0 <= float(length[:-1]) <= 100
        for name in ("y", "cy", "y1", "y2"):
            if length := element.get(name):
                assert 0 <= float(length) <= height


def test_a_chart_is_named_and_told_in_words():
    svg = charts.draw({"title": "Spend", "kind": "bar", "unit": "USD", "points": [{"label": "a<b", "value": 3}]})

    assert 'role="img"' in svg
    assert ">Spend</title>" in svg
    assert "a&lt;b: $3.00</desc>" in svg
    assert "style=" not in svg


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1234.5", "$1,234.50"),
        ("-3", "-$3.00"),
        ("0.1", "$0.10"),
        ("0.0999", "$0.0999"),
        ("0.00012345", "$0.000123"),
        ("0.0000000001", "$0.000000000100"),
        (None, "unknown"),
    ],
)
def test_dollars_are_shown_as_far_as_they_say_something(amount, shown):
    assert spell_dollars(amount) == shown


def test_sizes_are_shown_in_the_unit_that_fits():
    assert [size(count) for count in (0, 1024, 3 * 1024**3, 5 * 1024**4)] == ["0 B", "1.0 KiB", "3.0 GiB", "5120.0 GiB"]


def test_a_column_of_numbers_is_aligned_like_one_even_with_gaps():
    table = {"rows": [["gpt", "$1,000.00"], ["claude", "unknown"], ["x", "12 %"]]}

    assert numeric_column(table, 1)
    assert not numeric_column(table, 0)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a**", "<strong>a</strong>"),
        ("| a |\n|---|\n| 1 |", "<td>1</td>"),
        ("[sign in](https://e.example)", "[sign in](https://e.example)"),
    ],
)
def test_markdown_becomes_html(text, html):
    assert html in to_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "![a](https://evil.example/pixel.gif)",
        "[a](javascript:alert(1))",
        "[a](data:text/html,x)",
        "<iframe src=//evil.example>",
        '<a href="x" style="position:fixed" onclick="a()">x</a>',
    ],
)
def test_markdown_cannot_act(text):
    html = to_html(text)

    assert not re.search(r"<(img|iframe|script|style|a)\b|<a[^>]* (on\w+|style)=|href=\"(javascript|data):", html)
