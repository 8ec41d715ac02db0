"""What best-of-n would reach, for every n at once, from one set of N samples of a prompt.

Best-of-n draws n samples and keeps the one of the highest proxy reward. Its expected value of anything (the gold
reward, the proxy itself) is estimated without bias from N >= n samples by averaging over all their subsets of n, which
needs no subsets: sorted by proxy, ascending, the i-th of N is the best of C(i-1, n-1) of the C(N, n) subsets (Nakano et
al. 2021, arXiv 2112.09332, appendix I; Gao et al. 2023, arXiv 2210.10760).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sawyer.errors import SawyerError


def kl(n: int) -> float:
    """KL(best-of-n || the policy) in nats: log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3).

    Exact where no two samples have the same proxy reward, and an upper bound otherwise (Beirami et al. 2024, arXiv
    2401.01879).

    Raises:
        SawyerError: n is below 1.
    """
    if n < 1:
        raise SawyerError(f"best of {n}: n must be at least 1")
    return math.log(n) - (n - 1) / n


def sizes(samples: int) -> list[int]:
    """1, 2, 4, ... and `samples` itself: the n of a curve from so many samples."""
    powers = [2**k for k in range(samples.bit_length()) if 2**k <= samples]
    return powers if powers[-1] == samples else [*powers, samples]


def expected(proxy: ArrayLike, values: ArrayLike, n: int) -> float:
    """The expected value of the best of n, by proxy, of one prompt's N samples.

    Samples of equal proxy are equally likely to be kept, so each counts for the mean of their values.

    Args:
        proxy: [N] what the best is chosen by.
        values: [N] what is asked of it.
        n: from 1 to N.

    Raises:
        SawyerError: no finite numbers, lengths that differ, or n outside 1..N.
    """
    key, value = np.asarray(proxy, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if key.ndim != 1 or key.shape != value.shape:
        raise SawyerError(f"best of n needs a value for each proxy reward, there are {value.size} and {key.size}")
    if not (np.isfinite(key).all() and np.isfinite(value).all()):
        raise SawyerError("best of n needs finite rewards, there is a NaN or infinity among them")
    if not 1 <= n <= len(key):
        raise SawyerError(f"best of {n} cannot be estimated from {len(key)} samples; take n from 1 to {len(key)}")
    _, tie_N = np.unique(key, return_inverse=True)
    tied_mean_N = (np.bincount(tie_N, value) / np.bincount(tie_N))[tie_N]
    return float(weights(len(key), n) @ tied_mean_N[np.argsort(key, kind="stable")])


def weights(samples: int, n: int) -> NDArray[np.float64]:
    """`[N]` the probability that the i-th in ascending order is the best of n: C(i-1, n-1) / C(N, n)."""
    below = np.arange(samples, dtype=np.float64)  # i - 1
    log_C = lambda a, b: special.gammaln(a + 1) - special.gammaln(b + 1) - special.gammaln(a - b + 1)
    chance = np.zeros(samples)
    chance[n - 1 :] = np.exp(log_C(below[n - 1 :], n - 1) - log_C(samples, n))
    return chance


def curve(proxy: Sequence[ArrayLike], values: Sequence[ArrayLike], n: Sequence[int]) -> NDArray[np.float64]:
    """`[P, len(n)]` `expected` of each prompt and n.

    Args:
        proxy: of each of P prompts its samples' proxy rewards.
        values: of each prompt the same samples' values.
        n: the sizes to ask for.
    """
    rows = [[expected(keys, own, size) for size in n] for keys, own in zip(proxy, values, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(n))
