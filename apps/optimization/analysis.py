"""The main job: everything that is computed about one set of calls."""

from typing import get_args

from apps.optimization import simulators
from apps.optimization.anomalies import anomalies
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.calls import Calls
from apps.optimization.forecast import forecast
from apps.optimization.overview import overview
from apps.optimization.results import Analysis, Dimension
from apps.optimization.sufficiency import sufficiency


def analyse(calls: Calls) -> Analysis:
    """Overview, breakdowns, sufficiency, every strategy, what stood out and what comes: about a dozen passes."""
    whole = overview(calls)
    return Analysis(
        calls=whole.calls,
        tokens=whole.tokens,
        cost_usd=whole.cost_usd,
        unpriced_share=whole.unpriced_share,
        sufficiency=sufficiency(calls),
        strategies=tuple(simulator(calls) for simulator in simulators.known().values()),
        anomalies=anomalies(calls),
        forecast=forecast(calls),
        overview=whole,
        breakdown={by: spend_breakdown(calls, by) for by in get_args(Dimension)},
    )
