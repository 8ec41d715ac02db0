"""How far each of several raters can be relied on, and what the truth is, from their labels alone (Dawid & Skene 1979,
"Maximum likelihood estimation of observer error-rates using the EM algorithm").

    q_n(k) ~ prior(k) * product over raters m of  confusion_m(k, label of m on n)          E step
    prior(k) ~ sum_n q_n(k),   confusion_m(k, l) ~ smoothing + sum_n q_n(k) [m says l on n]    M step

It starts from the shares of the votes. Raters must be right more often than not: nothing in their labels tells a truth
from its opposite.

Legend: M raters, n items, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sawyer.errors import SawyerError

Array = NDArray[np.float64]
SMOOTHING = 0.01
"""Added to every count of a rater, so that no label is impossible."""


@dataclass(frozen=True)
class Reliability:
    """What was found.

    Attributes:
        truth_n_K: probability of each class for each item.
        prior_K: share of each class.
        confusion_M_K_K: probability that a rater says the second class where the truth is the first.
        accuracy_M: probability that a rater says the truth.
        iterations: how many steps it took.
    """

    truth_n_K: Array
    prior_K: Array
    confusion_M_K_K: Array
    accuracy_M: Array
    iterations: int


def dawid_skene(
    labels: Sequence[Sequence[int | None]],
    classes: int,
    *,
    smoothing: float = SMOOTHING,
    iterations: int = 1000,
    tolerance: float = 1e-9,
) -> Reliability:
    """Fit by EM, until no probability of a class moves by more than `tolerance`.

    Args:
        labels: [M][n] class numbers; None where a rater has no label.

    Raises:
        SawyerError: fewer than two raters, no items, lists of different length, or a label that is no class.
    """
    if len(labels) < 2 or not len(labels[0]):
        raise SawyerError(f"reliability needs at least two raters with items in common, there are {len(labels)} raters")
    if len({len(own) for own in labels}) > 1:
        raise SawyerError("raters of the same items need as many labels each")
    said_M_n = np.array([[-1 if label is None else label for label in own] for own in labels])
    if ((said_M_n < -1) | (said_M_n >= classes)).any():
        raise SawyerError(f"a label is none of the {classes} classes 0 to {classes - 1}")
    said_n_MK = (said_M_n.T[:, :, None] == np.arange(classes)).astype(np.float64).reshape(said_M_n.shape[1], -1)
    votes_n_K = said_n_MK.reshape(len(said_n_MK), -1, classes).sum(1)
    given_n = votes_n_K.sum(1, keepdims=True)
    truth_n_K = np.divide(votes_n_K, given_n, out=np.full_like(votes_n_K, 1 / classes), where=given_n > 0)
    taken = 0
    for _ in range(iterations):
        taken += 1
        prior_K, confusion_M_K_K = _maximised(truth_n_K, said_n_MK, smoothing)
        log_MK_K = np.log(confusion_M_K_K).transpose(0, 2, 1).reshape(-1, classes)
        log_n_K = np.log(prior_K) + said_n_MK @ log_MK_K
        new_n_K = np.exp(log_n_K - log_n_K.max(1, keepdims=True))
        new_n_K /= new_n_K.sum(1, keepdims=True)
        moved = np.abs(new_n_K - truth_n_K).max()
        truth_n_K = new_n_K
        if moved <= tolerance:
            break
    prior_K, confusion_M_K_K = _maximised(truth_n_K, said_n_MK, smoothing)
    accuracy_M = np.einsum("k,mkk->m", prior_K, confusion_M_K_K)
    return Reliability(truth_n_K, prior_K, confusion_M_K_K, accuracy_M, taken)


def _maximised(truth_n_K: Array, said_n_MK: Array, smoothing: float) -> tuple[Array, Array]:
    """The M step: the prior, and each rater's confusions."""
    prior_K = truth_n_K.sum(0) + smoothing
    classes = truth_n_K.shape[1]
    counts_K_M_K = (truth_n_K.T @ said_n_MK).reshape(classes, -1, classes)
    confusion_M_K_K = counts_K_M_K.transpose(1, 0, 2) + smoothing
    return prior_K / prior_K.sum(), confusion_M_K_K / confusion_M_K_K.sum(2, keepdims=True)
