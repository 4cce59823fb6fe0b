"""Charts as inline SVG: drawn on the server, coloured by the stylesheet, readable by a screen reader.

A chart is `{title, kind: "bar" | "line", unit, points: [{label, value}]}`. The page shows the same numbers in a table.
Lengths across are percentages, so that a chart fills its column while its letters keep their size.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.llm.amounts import spell_dollars, spell_money

ROW, BAR = 40, 8  # pixels: a bar with its words above it, and the bar itself
PLOT, LABELS = 170, 24  # pixels: height of a line's plot, and of the words below it
CHARACTERS = 48  # of a label, before it is cut
NOTHING = 1e-9  # values up to this are drawn as zero
CURRENCY = re.compile("[A-Z]{3}")
GRID_LINES = (0.0, 0.5, 1.0)
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
        '<svg class="chart" width="100%" height="{height}" role="img" aria-labelledby="chart-{id}-t chart-{id}-d">'
        '<title id="chart-{id}-t">{title}</title><desc id="chart-{id}-d">{said}</desc>{drawing}</svg>',
        height=height,
        id=next(_IDS),
        title=str(spec.get("title", "")),
        said=_in_words(points, unit),
        drawing=drawing,
    )


def share_bar(share: float | None, said: str) -> SafeString:
    """A small bar for a share, 0-1; `said` is its name for a screen reader. An unknown share has no bar at all."""
    if share is None:
        return SafeString("")
    return format_html(
        '<svg class="chart small" width="100%" height="6" role="img" aria-label="{said}">'
        '<rect class="track" width="100%" height="6" rx="3"/><rect class="bar" width="{length}%" '
        'height="6" rx="3"/></svg>',
        said=said,
        length=round(100 * min(max(share, 0.0), 1.0), 2),
    )


def amount(value: float, unit: str) -> str:
    """A value with its unit, short enough for the end of a bar.

    >>> [amount(1234.5, "USD"), amount(0.0123, "$"), amount(0.25, "%"), amount(12300, "calls")]
    ['$1,234.50', '$0.0123', '0.25 %', '12,300 calls']
    """
    if unit.upper() in {"$", "USD", "US$"}:
        return spell_dollars(value)
    if CURRENCY.fullmatch(unit):
        return spell_money(value, unit)
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.4g}"
    return f"{text} {unit}".strip()


def _in_words(points: Sequence[Point], unit: str) -> str:
    shown = "; ".join(f"{point.label}: {amount(point.value, unit)}" for point in points[:12])
    return shown + (f"; and {len(points) - 12} more" if len(points) > 12 else "")


def _bars(points: Sequence[Point], unit: str) -> tuple[SafeString, int]:
    """A bar below its words: names of models and features are long, and screens are narrow."""
    most = _most(points)
    rows = format_html_join(
        "",
        '<g><title>{label}: {said}</title><text x="0" y="{words}">{name}</text>'
        '<text x="100%" y="{words}" text-anchor="end">{said}</text>'
        '<rect class="track" x="0" y="{bar}" width="100%" height="{thick}" rx="4"/>'
        '<rect class="bar" x="0" y="{bar}" width="{length}%" height="{thick}" rx="4"/></g>',
        (
            {
                "label": point.label,
                "name": _cut(point.label),
                "said": amount(point.value, unit),
                "words": place * ROW + 13,
                "bar": place * ROW + 20,
                "thick": BAR,
                "length": round(max(0.6, 100 * max(point.value, 0) / most), 2),
            }
            for place, point in enumerate(points)
        ),
    )
    return rows, len(points) * ROW - (ROW - 20 - BAR)


def _line(points: Sequence[Point], unit: str) -> tuple[SafeString, int]:
    """A line over an even axis; its plot is stretched, its words and dots are not."""
    top = _round_up(_most(points))
    spots = [
        (_percent(index, len(points)), round(16 + PLOT * (1 - max(point.value, 0) / top), 1))
        for index, point in enumerate(points)
    ]
    path = " ".join(f"{x},{y}" for x, y in spots)
    floor = 16 + PLOT
    drawing = format_html(
        '{grid}<svg x="0" y="0" width="100%" height="{height}" viewBox="0 0 100 {height}" preserveAspectRatio="none">'
        '<polygon class="area" points="{first},{floor} {path} {last},{floor}"/>'
        '<polyline class="line" points="{path}" vector-effect="non-scaling-stroke"/></svg>{dots}{labels}',
        grid=_grid(top, unit),
        height=floor,
        first=spots[0][0],
        last=spots[-1][0],
        floor=floor,
        path=path,
        dots=_dots(points, spots, unit),
        labels=_line_labels(points),
    )
    return drawing, floor + LABELS


def _grid(top: float, unit: str) -> SafeString:
    return format_html_join(
        "",
        '<line class="grid" x1="0" y1="{}" x2="100%" y2="{}"/><text class="axis" x="0" y="{}">{}</text>',
        ((y := 16 + PLOT * (1 - share), y, y - 4, amount(top * share, unit)) for share in GRID_LINES),
    )


def _dots(points: Sequence[Point], spots: Sequence[tuple[float, float]], unit: str) -> SafeString:
    return format_html_join(
        "",
        '<circle class="dot" cx="{}%" cy="{}" r="{}"><title>{}: {}</title></circle>',
        (
            (x, y, 2.5 if len(points) <= 40 else 1.5, point.label, amount(point.value, unit))
            for (x, y), point in zip(spots, points, strict=True)
        ),
    )


def _line_labels(points: Sequence[Point]) -> SafeString:
    """The first, the middle and the last label: what fits on the narrowest screen."""
    last = len(points) - 1
    places = {0: "start", last // 2: "middle", last: "end"} if last >= 4 else {0: "start", last: "end"}
    if last == 0:
        places = {0: "middle"}
    return format_html_join(
        "",
        '<text class="axis" x="{}%" y="{}" text-anchor="{}">{}</text>',
        (
            (_percent(place, len(points)), 16 + PLOT + 17, anchor, _cut(points[place].label, 16))
            for place, anchor in places.items()
        ),
    )


def _most(points: Sequence[Point]) -> float:
    """The largest value; 1 where there is nothing above zero to draw."""
    most = max(point.value for point in points)
    return most if most > NOTHING else 1.0


def _percent(index: int, length: int) -> float:
    """Where point `index` of `length` stands, 0-100; a lonely one in the middle."""
    return round(100 * index / (length - 1), 2) if length > 1 else 50.0


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 or 10 times a power of ten.

    >>> [_round_up(x) for x in (0.03, 7, 21, 100)]
    [0.03, 8.0, 25.0, 100.0]
    """
    power = 10.0 ** int(f"{value:e}".split("e")[1])
    return next(
        round(step * power, 12) for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999999
    )


def _cut(text: str, characters: int = CHARACTERS) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
