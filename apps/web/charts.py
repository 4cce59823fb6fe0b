"""Charts as inline SVG: drawn on the server, coloured by the stylesheet, readable by a screen reader.

A chart is `{title, kind: "bar" | "line", unit, points: [{label, value}]}`. The page shows the same numbers in a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH = 640  # user units; the picture scales to its column
BAR, GAP = 18, 12
LABEL, VALUE = 170, 96  # widths kept free left and right of the bars
CHARACTERS = 21  # of a label, before it is cut
LINE_HEIGHT, LEFT, BOTTOM, TOP = 220, 64, 26, 12
_IDS = count(1)


@dataclass(frozen=True, kw_only=True)
class Point:
    label: str
    value: float


def draw(spec: Mapping[str, Any]) -> SafeString:
    """The SVG of a chart; empty when it has nothing to show."""
    points = [
        Point(label=str(point["label"]), value=float(point["value"]))
        for point in spec.get("points", ())
        if point.get("value") is not None
    ]
    if not points:
        return SafeString("")
    unit = str(spec.get("unit") or "")
    drawing, height = _line(points, unit) if spec.get("kind") == "line" else _bars(points, unit)
    return format_html(
        '<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="chart-{id}-t chart-{id}-d">'
        '<title id="chart-{id}-t">{title}</title><desc id="chart-{id}-d">{said}</desc>{drawing}</svg>',
        width=WIDTH,
        height=height,
        id=next(_IDS),
        title=str(spec.get("title", "")),
        said=_in_words(points, unit),
        drawing=drawing,
    )


def amount(value: float, unit: str) -> str:
    """A value with its unit, short enough for the end of a bar.

    >>> [amount(1234.5, "USD"), amount(0.0123, "$"), amount(0.25, "%"), amount(12300, "calls")]
    ['$1,234.50', '$0.0123', '0.25 %', '12,300 calls']
    """
    if unit.upper() in {"$", "USD", "US$"}:
        return f"${value:,.2f}" if abs(value) >= 1 or value == 0 else f"${value:.3g}"
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def _in_words(points: Sequence[Point], unit: str) -> str:
    shown = "; ".join(f"{point.label}: {amount(point.value, unit)}" for point in points[:12])
    return shown + (f"; and {len(points) - 12} more" if len(points) > 12 else "")


def _bars(points: Sequence[Point], unit: str) -> tuple[SafeString, int]:
    """Horizontal bars, so that long names of models and features can be read."""
    most = max(max(point.value for point in points), 0) or 1.0
    room = WIDTH - LABEL - VALUE

    rows = format_html_join(
        "",
        '<g><title>{label}: {said}</title><text x="{before}" y="{base}" text-anchor="end">{name}</text>'
        '<rect class="track" x="{start}" y="{y}" width="{room}" height="{bar}" rx="4"/>'
        '<rect class="bar" x="{start}" y="{y}" width="{length}" height="{bar}" rx="4"/>'
        '<text x="{after}" y="{base}">{said}</text></g>',
        (
            {
                "label": point.label,
                "name": _cut(point.label),
                "said": amount(point.value, unit),
                "y": (y := place * (BAR + GAP)),
                "base": y + BAR * 0.75,
                "bar": BAR,
                "before": LABEL - 12,
                "start": LABEL,
                "length": round(max(2.0, room * max(point.value, 0) / most), 1),
                "room": room,
                "after": LABEL + room + 10,
            }
            for place, point in enumerate(points)
        ),
    )
    return rows, len(points) * (BAR + GAP) - GAP


def _line(points: Sequence[Point], unit: str) -> tuple[SafeString, int]:
    top = _round_up(max(max(point.value for point in points), 0) or 1.0)
    across, down = WIDTH - LEFT - 12, LINE_HEIGHT - TOP - BOTTOM

    def place(index: int, value: float) -> tuple[float, float]:
        x = LEFT + (across * index / (len(points) - 1) if len(points) > 1 else across / 2)
        return round(x, 1), round(TOP + down * (1 - max(value, 0) / top), 1)

    spots = [place(index, point.value) for index, point in enumerate(points)]
    path = " ".join(f"{x},{y}" for x, y in spots)
    floor = TOP + down
    grid = format_html_join(
        "",
        '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>'
        '<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (LEFT, y := TOP + down * (1 - share), WIDTH - 12, y, LEFT - 8, y + 4, amount(top * share, unit))
            for share in (0.0, 0.5, 1.0)
        ),
    )
    dots = format_html_join(
        "",
        '<circle class="dot" cx="{}" cy="{}" r="{}"><title>{}: {}</title></circle>',
        (
            (x, y, 3 if len(points) <= 40 else 1.5, point.label, amount(point.value, unit))
            for (x, y), point in zip(spots, points, strict=True)
        ),
    )
    drawing = format_html(
        '{}<polygon class="area" points="{},{} {} {},{}"/><polyline class="line" points="{}"/>{}{}',
        grid,
        spots[0][0],
        floor,
        path,
        spots[-1][0],
        floor,
        path,
        dots,
        _line_labels(points, [x for x, _ in spots]),
    )
    return drawing, LINE_HEIGHT


def _line_labels(points: Sequence[Point], xs: Sequence[float]) -> SafeString:
    """At most six labels below the line, evenly spread, the last one kept inside the picture."""
    every = max(1, -(-len(points) // 6))
    return format_html_join(
        "",
        '<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>',
        (
            (
                xs[index],
                LINE_HEIGHT - 6,
                "middle" if xs[index] < WIDTH - 60 else "end",
                _cut(points[index].label, 12),
            )
            for index in range(0, len(points), every)
        ),
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 or 10 times a power of ten.

    >>> [_round_up(x) for x in (0.03, 7, 21, 100)]
    [0.05, 10.0, 25.0, 100.0]
    """
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 10.0 ** _exponent(value)
    return next(round(step * power, 12) for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999999)


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _cut(text: str, characters: int = CHARACTERS) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
