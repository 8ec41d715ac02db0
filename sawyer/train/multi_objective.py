"""Training a reward of many attributes in three steps: rate each (ridge), free it of length, weigh it (a gate).

Source: ArmoRM (Wang et al. 2024, arXiv 2406.12845). Shapes: C completions, P pairs, A attributes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import Ridge

from sawyer.data.records import Conversation
from sawyer.errors import SawyerError
from sawyer.journal import Journal
from sawyer.losses.reward import bradley_terry
from sawyer.models.multi_objective import MultiObjectiveHead
from sawyer.train.loop import data_order

Floats = NDArray[np.float64]
ALPHAS = tuple(10.0**k for k in range(-4, 5))
PENALTIES = np.linspace(0, 2, 201)
LEAST = 10
"""Ratings that an attribute needs on either side of the split."""


def ratings_of(records: Sequence[Conversation]) -> tuple[list[str], Floats]:
    """The names of all attributes in `info["attributes"]`, in alphabetical order, and `[C, A]` ratings, NaN where a
    record has none (or null).

    Raises:
        SawyerError: no record has any, or one has something else than numbers.
    """
    found: list[Mapping[str, object]] = []
    for number, record in enumerate(records, 1):
        own = record.info.get("attributes") or {}
        sound = isinstance(own, Mapping) and all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in own.values()
        )
        if not sound:
            raise SawyerError(
                f"conversation {number}: `attributes` in its `info` must map names to numbers or null, it is {own!r}"
            )
        found.append(own)
    names = sorted({name for own in found for name in own})
    if not names:
        raise SawyerError("no conversation has ratings: give each an `info` with `attributes`, name to number")
    return names, np.array([[np.nan if own.get(n) is None else own[n] for n in names] for own in found], dtype=float)


@dataclass(frozen=True)
class Regression:
    """One attribute's ridge regression: z = hidden . weight + bias, z = (rating - mean) / sd.

    `r2` is the share of the variance explained on the held-out ratings by the fit on the others, at the `alpha` that
    explains most; weight and bias are then fitted to all of the `n` ratings.
    """

    weight_D: Floats
    bias: float
    mean: float
    sd: float
    alpha: float
    r2: float
    n: int


def regress(hidden_C_D: Floats, rating_C: Floats, held_out_C: NDArray[np.bool_], name: str) -> Regression:
    """Fit one attribute on the completions that have a rating of it.

    Raises:
        SawyerError: it has too few ratings, or all are the same.
    """
    labelled = np.isfinite(rating_C)
    fitted, held = labelled & ~held_out_C, labelled & held_out_C
    if min(fitted.sum(), held.sum()) < LEAST:
        raise SawyerError(
            f"the attribute '{name}' has {int(labelled.sum())} ratings, {int(held.sum())} of them held out, and needs "
            f"{LEAST} on each side: give more, or leave it out"
        )
    mean, sd = float(rating_C[labelled].mean()), float(rating_C[labelled].std())
    if sd == 0 or np.ptp(rating_C[fitted]) == 0 or np.ptp(rating_C[held]) == 0:
        raise SawyerError(
            f"all ratings of the attribute '{name}' are the same, there is nothing to learn: leave it out"
        )
    z_C = (rating_C - mean) / sd
    variance = float(z_C[held].var())

    def explained(alpha: float) -> float:
        guess = Ridge(alpha).fit(hidden_C_D[fitted], z_C[fitted]).predict(hidden_C_D[held])
        return 1 - float(((guess - z_C[held]) ** 2).mean()) / variance

    r2 = {alpha: explained(alpha) for alpha in ALPHAS}
    alpha = max(ALPHAS, key=r2.__getitem__)
    whole = Ridge(alpha).fit(hidden_C_D[labelled], z_C[labelled])
    return Regression(whole.coef_, float(whole.intercept_), mean, sd, alpha, r2[alpha], int(labelled.sum()))


def length_penalty(rating_C: Floats, length_C: Floats, tolerance: float) -> tuple[float, float, float]:
    """How much of its length to take off a rating so that the two are no longer ordered alike.

    Returns:
        the smallest |penalty| in steps of 0.01 up to 2 for which |Spearman(rating - penalty * length, length)| is at
        most `tolerance`, or the one that comes closest; and Spearman's correlation before and after.
    """
    before = spearman(rating_C, length_C)
    signed = PENALTIES if before >= 0 else -PENALTIES
    after = np.array([spearman(rating_C - penalty * length_C, length_C) for penalty in signed])
    good = np.flatnonzero(np.abs(after) <= tolerance)
    chosen = int(good[0]) if good.size else int(np.abs(after).argmin())
    return float(signed[chosen]), before, float(after[chosen])


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation; 0 where either does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


@dataclass(frozen=True)
class Pairs:
    """What the gate learns from: hidden states of prompts, and both completions' ratings, less their penalties."""

    prompt_P_D: torch.Tensor
    chosen_P_A: torch.Tensor
    rejected_P_A: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompt_P_D)

    def margins(self, head: MultiObjectiveHead, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """`[P]` the chosen's score less the rejected's."""
        difference_P_A = self.chosen_P_A[rows] - self.rejected_P_A[rows]
        return head.log_scale.exp() * (head.weights(self.prompt_P_D[rows]) * difference_P_A).sum(1)


def train_gate(
    head: MultiObjectiveHead,
    pairs: Pairs,
    *,
    learning_rate: float,
    steps: int,
    batch_size: int,
    seed: int,
    journal: Journal,
    title: str,
) -> dict[str, float]:
    """Train the gate and the scale by Bradley-Terry with AdamW; all else stays. Returns the last tenth's mean figures.

    Raises:
        SawyerError: the loss is not a number.
    """
    head.prompt_mean_D = pairs.prompt_P_D.mean(0)
    head.prompt_sd_D = pairs.prompt_P_D.std(0, correction=0).clamp_min(1e-6)
    optimizer = torch.optim.AdamW([*head.gate.parameters(), head.log_scale], lr=learning_rate, weight_decay=0.0)
    recent: list[dict[str, float]] = []
    head.train()
    with journal.progress(steps, title, unit="step") as bar:
        for step, rows in enumerate(data_order(len(pairs), min(batch_size, len(pairs)), steps, seed)):
            margin_P = pairs.margins(head, torch.tensor(rows))
            loss = bradley_terry(margin_P, torch.zeros_like(margin_P)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            figures = {"loss": loss.item(), "accuracy": float((margin_P > 0).float().mean())}
            if not np.isfinite(figures["loss"]):
                raise SawyerError(f"{title}: the loss is not a number at step {step + 1}; lower `learning_rate`")
            journal.log(step=step + 1, **figures)
            recent = [*recent, figures][-max(1, steps // 10) :]
            bar.advance(loss=figures["loss"])
    head.eval()
    return {name: sum(own[name] for own in recent) / len(recent) for name in recent[-1]}
