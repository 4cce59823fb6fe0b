"""Conversations as the side list shows them: in groups of age."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from django.utils import timezone

from apps.conversations.models import Thread


@dataclass(frozen=True, kw_only=True)
class Group:
    """Conversations of about the same age."""

    title: str
    threads: tuple[Thread, ...]


def by_age(threads: Iterable[Thread], *, today: date) -> list[Group]:
    """Groups in the order of `threads`, which come newest first; empty ones are left out."""
    groups: dict[str, list[Thread]] = {}
    for thread in threads:
        groups.setdefault(_age(timezone.localdate(thread.updated_at), today), []).append(thread)
    return [Group(title=title, threads=tuple(members)) for title, members in groups.items()]


def _age(day: date, today: date) -> str:
    if day >= today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    if day > today - timedelta(days=7):
        return "Last 7 days"
    if day > today - timedelta(days=30):
        return "Last 30 days"
    return day.strftime("%B %Y")
