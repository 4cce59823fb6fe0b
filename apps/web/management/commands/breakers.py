"""`manage.py breakers`: what the circuit breakers say, and an operator's word to them."""

from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import CommandParser

from apps.errors import NetraError
from apps.execution.registry import tools
from apps.operations.breakers import breakers
from apps.operations.commands import NetraCommand
from apps.resilience.breaker import Status
from apps.resilience.breakers import Breakers


class Command(NetraCommand):
    help = "Show the circuit breakers of tools and models, or switch one."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        word = parser.add_mutually_exclusive_group()
        word.add_argument("--force-open", metavar="NAME", help="let no call through until it is reset")
        word.add_argument("--disable", metavar="NAME", help="let every call through until it is reset")
        word.add_argument("--reset", metavar="NAME", help="close it, and let it judge for itself again")

    def run(self, **options: Any) -> bool:
        all_of_them = breakers()
        for word in ("force_open", "disable", "reset"):
            if options[word]:
                _switch(all_of_them, word, options[word])
        statuses = all_of_them.statuses()
        self.tell({"breakers": statuses})
        for status in statuses:
            self.say(_line(status))
        if not statuses:
            self.say("No tool and no model has been called yet.")
        return True


class UnknownBreaker(NetraError):
    """No tool, no configured model and no breaker in Redis has that name."""

    code = "breaker.unknown"


def _switch(all_of_them: Breakers, word: str, name: str) -> None:
    """Give `word` to the breaker `name`; a reset removes the breaker of what is there no more.

    Raises:
        UnknownBreaker: with the names that are known.
        BreakersAway: Redis does not answer.
    """
    used = _in_use()
    known = used | {status["name"] for status in all_of_them.statuses()}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        suggestion = f" Did you mean {near[0]}?" if near else ""
        raise UnknownBreaker(f"No breaker is named {name!r}.{suggestion} Known: {', '.join(sorted(known))}.")
    getattr(all_of_them, word)(name)
    if word == "reset" and name not in used:
        all_of_them.forget(name)


def _in_use() -> set[str]:
    """Breakers of all that this release can call, whether or not it has been called."""
    names = {f"tool:{tool.name}" for tool in tools}
    if settings.LLM_BASE_URL and settings.LLM_MODEL:
        # As `apps.llm.gateway` names it, without loading the agent library for a name.
        host = (urlsplit(settings.LLM_BASE_URL).hostname or "")[:64]
        names.add(f"model:{host}:{settings.LLM_MODEL}")
    return names


def _line(status: Status) -> str:
    rate = "no calls" if status["failure_rate"] is None else f"{status['failure_rate']:.0%} of {status['calls']} failed"
    again = f", tried again in {status['retry_after']:.0f} s" if status["retry_after"] else ""
    return f"{status['name']}: {status['state']}, {rate}, {status['slow']} slow{again}"
