"""What the owner of the calls allows and forbids, told beside what was computed under it."""

from collections.abc import Iterator

from apps.optimization.allowances import taken_as_allowed
from apps.optimization.results import Analysis
from apps.optimization.scenarios import Asked
from apps.optimization.simulators.batch_eligible import BATCH_WINDOW


def constraints(asked: Asked, found: Analysis) -> Iterator[str]:
    """What was asked for and what follows from it, in sentences of Markdown; nothing of what nobody said."""
    said = asked.model_dump(mode="json", exclude_defaults=True)
    by_feature = found.breakdown["feature"]
    features = {row.key for row in by_feature.rows}
    for feature, seconds in asked.waits.items():
        if feature not in features and not by_feature.other_rows:
            yield f"No call is of feature **{feature}**, so what was said of it changes nothing."
            continue
        wait = (
            f"**{feature}** may take {spelled_wait(round(1000 * seconds))}" if seconds else f"**{feature}** cannot wait"
        )
        if seconds >= BATCH_WINDOW:
            yield f"{wait}, so its calls are counted as able to go through a batch API."
        else:
            window = spelled_wait(round(1000 * BATCH_WINDOW))
            yield f"{wait}, so its calls are left out of batches, which may take {window}."
    if "quality_floor" in said:
        yield f"At least {100 * asked.quality_floor:g} % of the quality must be kept where another model answers."
    if asked.keep:
        yield f"Nothing touches {', '.join(f'**{feature}**' for feature in asked.keep)}."
    if rules := taken_as_allowed(said):
        yield rules
    if asked.candidates is not None:
        yield f"Only {', '.join(asked.candidates) or 'no model'} may be asked instead."


def spelled_wait(milliseconds: int) -> str:
    """A wait for reading.

    >>> spelled_wait(500), spelled_wait(2000), spelled_wait(1500), spelled_wait(3_600_000), spelled_wait(172_800_000)
    ('500 ms', '2 s', '1500 ms', '1 hour', '48 hours')
    """
    if milliseconds == 3_600_000:
        return "1 hour"
    for name, length in (("hours", 3_600_000), ("s", 1000)):
        if milliseconds >= length and milliseconds % length == 0:
            return f"{milliseconds // length} {name}"
    return f"{milliseconds} ms"
