"""What the owner of the calls allows and forbids, told beside what was computed under it."""

from collections.abc import Iterator

from apps.optimization.allowances import taken_as_allowed
from apps.optimization.results import Analysis
from apps.optimization.scenarios import Asked
from apps.optimization.waits import no_such_feature, told_wait


def constraints(asked: Asked, found: Analysis) -> Iterator[str]:
    """What was asked for and what follows from it, in sentences of Markdown; nothing of what nobody said."""
    said = asked.model_dump(mode="json", exclude_defaults=True)
    by_feature = found.breakdown["feature"]
    features = {row.key for row in by_feature.rows}
    for feature, seconds in asked.may_take().items():
        there = feature in features or by_feature.other_rows
        yield told_wait(f"**{feature}**", seconds) if there else no_such_feature(f"**{feature}**")
    if "quality_floor" in said:
        yield f"At least {100 * asked.quality_floor:g} % of the quality must be kept where another model answers."
    if asked.keep:
        yield f"Nothing touches {', '.join(f'**{feature}**' for feature in asked.keep)}."
    if rules := taken_as_allowed(said):
        yield rules
    if asked.candidates is not None:
        yield f"Only {', '.join(asked.candidates) or 'no model'} may be asked instead."
