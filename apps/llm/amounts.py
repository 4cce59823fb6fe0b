"""Dollars for reading. Terminal, pages, charts and reports all say an amount in these words."""

from decimal import Decimal

UNKNOWN = "unknown"
CENTS_FROM = Decimal("0.1")  # dollars; smaller amounts are said with three significant digits
PICO_PLACES = 12  # the finest amount that is computed


def spell_dollars(amount: Decimal | str | float | None) -> str:
    """Dollars and cents; below ten cents three significant digits, so that small bills do not read as nothing.

    >>> [spell_dollars(x) for x in ("1234.5", "0.421", "0.0421", "0.00123456", "-3", 0, None)]
    ['$1,234.50', '$0.42', '$0.0421', '$0.00123', '-$3.00', '$0.00', 'unknown']
    """
    if amount is None:
        return UNKNOWN
    value = Decimal(str(amount))
    return f"{'-' if value < 0 else ''}${_digits(abs(value))}"


def spell_money(amount: Decimal | str | float | None, currency: str = "USD") -> str:
    """The same in any currency.

    >>> spell_money("1234.5"), spell_money("-0.0421", "EUR"), spell_money(None, "EUR")
    ('$1,234.50', '-0.0421 EUR', 'unknown')
    """
    if currency == "USD" or amount is None:
        return spell_dollars(amount)
    value = Decimal(str(amount))
    return f"{'-' if value < 0 else ''}{_digits(abs(value))} {currency}"


def _digits(size: Decimal) -> str:
    places = 2 if not size or size >= CENTS_FROM else min(2 - size.adjusted(), PICO_PLACES)
    return f"{size:,.{places}f}"
