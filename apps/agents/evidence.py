"""Whether a text says only numbers that were computed."""

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"(?<![\w.])\d[\d,\u202f\u00a0]*(?:\.\d+)?")
SMALL = 10  # whole numbers up to here may simply count things


def unsupported_numbers(text: str, *, facts: str) -> list[str]:
    """The numbers in `text` that no number of `facts` rounds to, as it stands or as a percentage.

    >>> unsupported_numbers("about $96.79, or 42 %, in 3 steps", facts="cost 96.7947 share 0.4213")
    []
    >>> unsupported_numbers("you could save $500", facts="cost 96.79")
    ['500']
    """
    known = [value for _, value in _numbers(facts)]
    return [said for said, value in _numbers(text) if not _supported(said, value, known)]


def _numbers(text: str) -> Iterable[tuple[str, Decimal]]:
    for match in _NUMBER.finditer(text):
        yield match[0], Decimal(re.sub(r"[^\d.]", "", match[0]))


def _supported(said: str, value: Decimal, known: list[Decimal]) -> bool:
    if value == int(value) and value <= SMALL:
        return True
    step = Decimal(1).scaleb(-len(said.partition(".")[2]))
    return any(abs(fact * factor - value) <= step / 2 for fact in known for factor in (1, 100))
