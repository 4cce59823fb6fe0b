"""Small parts of the pages: icons, links of the navigation, amounts and sizes, and charts as inline SVG."""

import re
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.templatetags.static import static
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.optimization.local import Local, is_trace
from apps.web import charts
from apps.web.markdown import to_inline_html

register = template.Library()
OF_SAVINGS = ("/savings/", "/reconciliation/")  # ends of paths below /data/ that belong to another link
CURRENCY = re.compile(r" [A-Z]{3}$")
register.filter("usd", spell_dollars)


@register.filter
def money(usd: Any, local: Local | str = "") -> str:
    """Dollars in the currency of the reader, where one was chosen."""
    return local.money(usd) if isinstance(local, Local) else spell_dollars(usd)


@register.simple_tag
def icon(name: str) -> SafeString:
    """A decorative icon of the sprite; the words beside it carry the meaning."""
    return format_html(
        '<svg class="icon" width="20" height="20" aria-hidden="true"><use href="{}#{}"></use></svg>',
        static("web/icons.svg"),
        name,
    )


def _within(path: str, url: str) -> bool:
    """Whether a path belongs to this link of the navigation.

    >>> [_within("/data/7/savings/", url) for url in ("/", "/data/", "/savings/")]
    [False, False, True]
    >>> [_within("/t/7/", "/"), _within("/data/7/", "/data/"), _within("/data/7/", "/")]
    [True, True, False]
    """
    if path.startswith("/analyses/") or (path.startswith("/data/") and path.endswith(OF_SAVINGS)):
        return url == "/savings/"
    return path.startswith(url) if url != "/" else path == "/" or path.startswith("/t/")


@register.simple_tag(takes_context=True)
def nav_link(context: Any, view: str, icon_name: str, label: str) -> SafeString:
    """A link of the navigation, marked when the page belongs to it."""
    url = reverse(view)
    path = context["request"].path
    here = _within(path, url)
    return format_html(
        '<a href="{}" class="nav-link"{}>{}<span>{}</span></a>',
        url,
        SafeString(' aria-current="page"') if here else "",
        icon(icon_name),
        label,
    )


@register.filter
def size(count: Any) -> str:
    """Bytes for reading.

    >>> [size(x) for x in (512, 2048, 5_300_000, None)]
    ['512 B', '2.0 KiB', '5.1 MiB', 'unknown']
    """
    if count is None:
        return UNKNOWN
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable: the last unit takes everything")


@register.filter
def number(count: Any) -> str:
    """A whole number with separators; None is unknown."""
    return UNKNOWN if count is None or count == "" else f"{int(count):,}"


@register.filter
def cell(value: Any) -> str:
    """A value of a report's table: numbers with separators, text as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return str(value)


@register.filter
def inline(text: Any) -> SafeString:
    """A sentence that an agent wrote, with its emphasis and code."""
    return to_inline_html(str(text or ""))


@register.filter
def is_numeric(value: Any) -> bool:
    """Whether a table cell reads as a number and is aligned like one."""
    text = CURRENCY.sub("", str(value).strip()).lstrip("$-+~≤≥<> ").rstrip("% msx").replace(",", "")
    try:
        float(text)
    except ValueError:
        return False
    return True


@register.filter
def dated(moment: datetime | None) -> bool:
    """Whether a call's time is a date: a trace that counts from its own start begins in 1970, before any tokens."""
    return moment is not None and not is_trace(moment)


@register.simple_tag
def duration(start: datetime | None, end: datetime | None) -> str:
    """How long something took, for reading; empty when it has not both begun and ended."""
    if start is None or end is None:
        return ""
    return spell_seconds((end - start) / timedelta(seconds=1))


def spell_seconds(seconds: float) -> str:
    """
    >>> [spell_seconds(x) for x in (0.42, 9.6, 75, 3700)]
    ['0.4 s', '9.6 s', '1 min 15 s', '1 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@register.simple_tag
def chart(spec: Any) -> SafeString:
    """A chart of a report as accessible inline SVG; the table beside it carries the same numbers."""
    return charts.draw(spec)


@register.simple_tag
def share_bar(share: float | None, name: str) -> SafeString:
    """A small bar of a share, 0-1, that names itself to a screen reader."""
    return charts.share_bar(share, f"{name}: {percent(share)}")


@register.filter
def percent(share: float | None) -> str:
    """A share, 0-1, in percent, with three digits.

    >>> [percent(x) for x in (0.996, 0, None)]
    ['99.6 %', '0 %', 'unknown']
    """
    return UNKNOWN if share is None else f"{100 * share:.3g} %"


_EVIDENCE = {
    "E0": ("ceiling from list prices", "warn"),
    "E1": ("known from similar workloads", "warn"),
    "E2": ("replayed on your calls", "good"),
    "E3": ("run beside production", "good"),
    "E4": ("controlled comparison", "good"),
}


@register.simple_tag
def evidence(level: str) -> SafeString:
    """How well a number is founded, as a tag: `E2` and what it means; other words stay as they are."""
    meaning, tone = _EVIDENCE.get(level, ("", ""))
    label = f"{level} · {meaning}" if meaning else level
    return format_html('<span class="tag {}" title="Evidence level">{}</span>', tone, label)


_TONES = {
    "completed": "good",
    "ready": "good",
    "failed": "bad",
    "waiting": "warn",
    "running": "good live",
    "importing": "good live",
}


_LABELS = {"waiting": "waiting for you", "cancelled": "stopped"}


@register.filter
def state_label(state: str) -> str:
    """What a state is called on a page."""
    return _LABELS.get(state, state)


@register.simple_tag
def run_state(state: str) -> SafeString:
    """The state of a run or of a dataset as a tag."""
    return format_html('<span class="tag {}">{}</span>', _TONES.get(state, ""), state_label(state))


@register.filter
def numeric_column(table: Any, place: int) -> bool:
    """Whether every filled cell of a column reads as a number."""
    cells = [row[place] for row in table["rows"] if len(row) > place and row[place] not in (None, "", "–", UNKNOWN)]
    return bool(cells) and all(is_numeric(value) for value in cells)
