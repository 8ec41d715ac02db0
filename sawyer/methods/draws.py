"""Draws without repetition in proportion to weights."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def draw(log_weights: Sequence[float], k: int, rng: random.Random) -> list[int]:
    """Up to `k` indices in the order of drawing, each next one with P ~ exp(log_weight) among those that are left.

    They are the k largest of log-weight plus Gumbel noise, which is the same draw (Kool, van Hoof & Welling 2019).
    """
    keys = [weight - math.log(max(rng.expovariate(1.0), 1e-300)) for weight in log_weights]
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)[:k]
