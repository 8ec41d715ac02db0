"""A mean over two things that were both drawn: training seeds and prompts, every seed on the same prompts.

Other prompts would have given another mean, and so would other seeds. The two are crossed, not nested: a hard prompt is
hard for every seed, so that more seeds do not make up for few prompts, nor the other way round. With the model

    y_sp = mu + seed_s + prompt_p + rest_sp

the variance of the mean over S seeds and P prompts is estimated from the mean squares of the two-way table,
(MS_seed + MS_prompt - MS_rest) / (S P), and the interval is Student's with Satterthwaite's degrees of freedom
(Satterthwaite 1946; Brennan 2001, "Generalizability theory", chapter 6). A bootstrap of three seeds would be too
narrow: its variance is that of the seeds times (S - 1) / S, and it knows no Student.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sawyer.errors import SawyerError


@dataclass(frozen=True)
class CrossedMean:
    """A mean over seeds and prompts.

    Attributes:
        mean: the plain mean of the table.
        low: lower end of the interval, over both seeds and prompts; NaN with one prompt.
        high: upper end likewise.
        n: prompts.
        seeds: how many.
        freedom: Satterthwaite's degrees of freedom.
        p_value: two-sided, of the hypothesis that the true mean is 0.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: int
    freedom: float
    p_value: float


def crossed_mean(table: ArrayLike, level: float = 0.95) -> CrossedMean:
    """The mean of `table` [S, P], S >= 2, with an interval that covers the choice of seeds and of prompts.

    Where the estimate of the variance is smaller than what seeds alone or prompts alone give (which only chance can
    do), the larger of these is taken.

    Raises:
        SawyerError: fewer than two seeds, no prompts, a value that is not finite, or a level outside (0, 1).
    """
    y = np.asarray(table, dtype=np.float64)
    if y.ndim != 2 or y.shape[0] < 2 or y.shape[1] < 1:
        raise SawyerError("a mean over seeds needs at least two seeds, and at least one prompt that all of them have")
    if not np.isfinite(y).all():
        raise SawyerError("statistics need finite numbers, there is a NaN or infinity among them")
    if not 0 < level < 1:
        raise SawyerError(f"the level of an interval must lie between 0 and 1, not {level}")
    seeds, prompts = y.shape
    mean = float(y.mean())
    if prompts == 1:
        return CrossedMean(mean, math.nan, math.nan, 1, seeds, math.nan, math.nan)
    by_seed, by_prompt = y.mean(1), y.mean(0)
    rest = y - by_seed[:, None] - by_prompt + mean
    squares = np.array(
        [
            prompts * ((by_seed - mean) ** 2).sum() / (seeds - 1),
            seeds * ((by_prompt - mean) ** 2).sum() / (prompts - 1),
            (rest**2).sum() / ((seeds - 1) * (prompts - 1)),
        ]
    )
    freedoms = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)], dtype=np.float64)
    total = squares[0] + squares[1] - squares[2]
    if total < squares[:2].max():
        total, freedom = squares[:2].max(), freedoms[int(squares[:2].argmax())]
    else:
        spread = float((squares**2 / freedoms).sum())
        freedom = max(total**2 / spread, min(seeds, prompts) - 1.0) if spread > 0 else math.inf
    error = math.sqrt(total / y.size)
    if error <= 1e-12 * max(1.0, abs(mean)):  # all alike
        return CrossedMean(mean, mean, mean, prompts, seeds, math.inf, float(mean == 0))
    half = float(special.stdtrit(min(freedom, 1e9), (1 + level) / 2)) * error
    p_value = float(2 * special.stdtr(min(freedom, 1e9), -abs(mean) / error))
    return CrossedMean(mean, mean - half, mean + half, prompts, seeds, float(freedom), p_value)
