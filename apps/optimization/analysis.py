"""The main job: everything that is computed about one set of calls."""

from collections.abc import Callable
from typing import get_args

from apps.optimization import simulators
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.calls import Calls
from apps.optimization.joint import joint
from apps.optimization.overview import overview
from apps.optimization.results import Analysis, Dimension
from apps.optimization.sufficiency import sufficiency


def analyse(calls: Calls, *, progress: Callable[[float], None] = lambda percent: None) -> Analysis:
    """Overview, breakdowns, sufficiency and every strategy. About ten passes over the calls."""
    whole = overview(calls)
    strategies = tuple(simulator(calls) for simulator in simulators.known().values())
    return Analysis(
        calls=whole.calls,
        tokens=whole.tokens,
        cost_usd=whole.cost_usd,
        unpriced_share=whole.unpriced_share,
        sufficiency=sufficiency(calls),
        strategies=strategies,
        joint=joint(calls, strategies),
        overview=whole,
        breakdown={by: spend_breakdown(calls, by) for by in get_args(Dimension)},
    )
