"""Nash-MD's loss as an objective over packed trees."""

from __future__ import annotations

from sawyer.losses.nash import nash_md
from sawyer.train.loop import Objective, Terms
from sawyer.train.preference import REFERENCE, SCORE, completions_of
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TreeBatch


def nash(*, beta: float = 0.1) -> Objective:
    """`losses.nash.nash_md` on trees of one completion each, which carry its log-prob under the reference (`REFERENCE`)
    and the probability that it beats the opponent's (`SCORE`).

    Reported are that probability and the log-ratio to the reference, an estimate of the KL divergence from it.
    """

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        seen = completions_of(model(batch), batch, False)
        preference_C, reference_C = batch.values[SCORE], batch.values[REFERENCE]
        return {
            "loss": nash_md(seen.logp_S, reference_C, preference_C, beta=beta).sum(),
            "preference": preference_C.sum(),
            "kl": seen.ratio_S.detach().sum(),
        }

    return Objective(terms)
