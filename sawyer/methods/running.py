"""Mean and deviation of all numbers seen so far, batch by batch: what rewards are normalised by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


class RunningMoments:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan et al. 1979), in double precision.

    Its `state` is JSON, so that a continued training goes on with the same numbers.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0
        if state is not None:
            self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]

    def add(self, values: Sequence[float]) -> None:
        """Take in a batch."""
        if not values:
            return
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        count = self.count + len(values)
        off = mean - self.mean
        self.squares += squares + off**2 * self.count * len(values) / count
        self.mean += off * len(values) / count
        self.count = count

    @property
    def std(self) -> float:
        """The population's standard deviation; 0 before anything was seen."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def normalised(self, values: Sequence[float]) -> list[float]:
        """(x - mean) / std; 0 where nothing has varied yet."""
        std = self.std
        return [(value - self.mean) / std if std > 0 else 0.0 for value in values]

    def state(self) -> dict[str, float]:
        """What `RunningMoments(state)` goes on from."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}
