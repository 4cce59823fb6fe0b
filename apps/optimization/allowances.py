"""What would save more under rules that no log can allow: whose answers a cache may give away, and for how long.

Such a saving is replayed on the owner's calls like any other. What is open is only whether the rule may hold, and so it
stands beside the joint saving and never in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.joint import with_interval
from apps.optimization.options import Options
from apps.optimization.playbook import ALLOWANCES
from apps.optimization.results import Analysis, IfAllowed, Strategy
from apps.optimization.simulators import simulate, wider_of
from apps.optimization.simulators.exact_cache import life


def if_allowed(calls: Calls, strategies: Sequence[Strategy], options: Options) -> tuple[IfAllowed, ...]:
    """What each strategy would save more than was found under `options`, if its owner allowed more; the most first.

    Simulates anew, and so overwrites the tables that the simulators of `strategies` left.
    """
    return tuple(sorted(_more(calls, strategies, options), key=lambda each: (-each.more_usd, each.strategy.name)))


def _more(calls: Calls, strategies: Sequence[Strategy], options: Options) -> Iterator[IfAllowed]:
    for each in strategies:
        allowing = wider_of(each, options)
        if allowing is None:
            continue
        found = simulate(calls, each.name, allowing)
        more = (found.saving_usd or 0) - (each.saving_usd or 0)
        if more > 0:
            changed = _changed(options, allowing)
            yield IfAllowed(needs=needed(changed), options=changed, more_usd=more, strategy=with_interval(calls, found))


def _changed(options: Options, allowing: Options) -> dict[str, Any]:
    before = asdict(options)
    return {name: value for name, value in asdict(allowing).items() if value != before[name]}


def needed(changed: dict[str, Any]) -> str:
    """What options ask the owner to allow, as it stands after "if".

    >>> needed({"answers_shared": True}), needed({"answers_kept": 86400.0})
    ('answers may be given to everybody', 'answers may be kept for a day')
    >>> needed({"answers_kept": None, "answers_shared": True})
    'answers may be given to everybody and kept for good'
    """
    words = ["given to everybody"] if changed.get("answers_shared") else []
    words += [f"kept {life(changed['answers_kept'])}"] if "answers_kept" in changed else []
    return f"answers may be {' and '.join(words)}"


def allowed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the parameters of an analysis allow of ALLOWANCES.

    >>> allowed({"answers_kept": None, "keep": ["chat"]}), allowed({"answers_shared": False})
    ({'answers_kept': None}, {})
    """
    return {name: asked[name] for name in ALLOWANCES if name in asked and asked[name] is not False}


def taken_as_allowed(asked: Mapping[str, Any]) -> str | None:
    """What an answer says of the rules that it was asked under."""
    refused = "Nobody gets an answer that another user was given, as was asked."
    rules = f"It is taken as allowed that {needed(found)}." if (found := allowed(asked)) else None
    return " ".join(filter(None, (refused if asked.get("answers_shared") is False else None, rules))) or None


def allowed_first(found: Analysis) -> IfAllowed | None:
    """What is told before the joint saving: the most that a rule would add, if that is more than all that is proven."""
    proven = (found.joint.saving_usd or 0) if found.joint else 0
    return next((each for each in found.if_allowed[:1] if each.more_usd > proven), None)
