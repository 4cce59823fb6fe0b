"""The main job: everything that is computed about one set of calls."""

from collections.abc import Callable
from typing import get_args

from apps.optimization import simulators
from apps.optimization.allowances import if_allowed
from apps.optimization.anomalies import anomalies
from apps.optimization.breakdown import spend_breakdowns
from apps.optimization.calls import Calls
from apps.optimization.forecast import forecast
from apps.optimization.joint import joint, with_interval
from apps.optimization.options import DEFAULTS, Options
from apps.optimization.overview import overview
from apps.optimization.results import Analysis, Dimension
from apps.optimization.sufficiency import sufficiency


def analyse(
    calls: Calls,
    options: Options = DEFAULTS,
    *,
    ceilings: bool = False,
    capture_rate: float | None = None,
    progress: Callable[[float], None] = lambda percent: None,
) -> Analysis:
    """Everything: overview, breakdowns, sufficiency, every strategy, what they save together, what stood out and what
    comes. Some thirty passes over the calls; `progress` hears percents.

    `capture_rate` is captured / billed, where a bill was laid beside the calls.
    """
    whole = overview(calls)
    progress(5)
    strategies = []
    for place, simulator in enumerate(known := simulators.known().values()):
        strategies.append(with_interval(calls, simulator(calls, options)))
        progress(5 + 55 * (place + 1) / len(known))
    together = joint(calls, strategies, ceilings=ceilings)
    progress(75)
    beside = if_allowed(calls, strategies, options)
    progress(80)
    enough = sufficiency(calls, capture_rate=capture_rate)
    progress(90)
    breakdown = spend_breakdowns(calls, get_args(Dimension))
    progress(95)
    found = Analysis(
        calls=whole.calls,
        tokens=whole.tokens,
        cost_usd=whole.cost_usd,
        unpriced_share=whole.unpriced_share,
        sufficiency=enough,
        strategies=tuple(strategies),
        joint=together,
        if_allowed=beside,
        anomalies=anomalies(calls),
        forecast=forecast(calls),
        overview=whole,
        breakdown=breakdown,
    )
    progress(100)
    return found
