"""What several interleaved rounds say about a ratio.

One machine varies by 2x between runs, so only the ratio of two neighbours in time counts. Each
round gives one ratio; the median stands for them, and a one-sided 90 % bound of a t-interval says
how far the noise reaches. Ratios multiply, so the interval is taken over their logarithms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The one-sided 90 % quantile of Student's t for 1 to 30 degrees of freedom.
_T_90 = (
    *(3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372),
    *(1.363, 1.356, 1.350, 1.345, 1.341, 1.337, 1.333, 1.330, 1.328, 1.325),
    *(1.323, 1.321, 1.319, 1.318, 1.316, 1.315, 1.314, 1.313, 1.311, 1.310),
)
_T_90_MANY = 1.282


@dataclass(frozen=True, slots=True)
class Summary:
    """`ratio` is the median; `lower` and `upper` are one-sided 90 % bounds of the middle.

    `spread` is (largest - smallest) / median of the rounds' ratios.
    """

    ratio: float
    lower: float
    upper: float
    spread: float


def t_quantile(degrees: int) -> float:
    """The one-sided 90 % quantile of Student's t; ValueError below one degree of freedom."""
    if degrees < 1:
        raise ValueError("a bound needs at least two rounds")
    return _T_90[degrees - 1] if degrees <= len(_T_90) else _T_90_MANY


def summarise(ratios: Sequence[float]) -> Summary:
    """The summary of one or more positive ratios; one round alone has no width."""
    ratio = statistics.median(ratios)
    if len(ratios) == 1:
        return Summary(ratio, ratio, ratio, 0.0)
    logs = [math.log(value) for value in ratios]
    reach = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return Summary(
        ratio=ratio,
        lower=min(ratio, math.exp(middle - reach)),
        upper=max(ratio, math.exp(middle + reach)),
        spread=(max(ratios) - min(ratios)) / ratio,
    )
