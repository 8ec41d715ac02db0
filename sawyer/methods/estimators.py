"""How an advantage is estimated, by name, with what each one's paper takes. No torch in here: recipes are checked
without it. The arithmetic is in `methods.advantages`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Average = Literal["token", "completion", "sum", "constant"]
"""What the policy loss is a mean over: all tokens of a mini-batch; completions, each the mean of its tokens;
completions, each the sum of its tokens; completions, each the sum of its tokens over the most it may have."""


@dataclass(frozen=True)
class Estimator:
    """One way to say how much better than expected a token was."""

    name: str
    values: bool
    """Whether it needs a value model."""
    least: int
    """The fewest completions of a prompt that it can compare."""
    stepwise: bool
    """Whether rewards count token by token, discounted, or as one sum of the completion."""
    whiten: bool
    """Whether advantages are brought to mean 0 and variance 1 over the rollout batch."""
    average: Average
    """What the policy loss is a mean over."""
    kl_as: Literal["reward", "loss"]
    """Where the KL to the reference enters."""
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_coefficient: float
    source: str


ESTIMATORS = {
    estimator.name: estimator
    for estimator in (
        Estimator(
            "gae", True, 1, True, True, "token", "reward", "k1", 0.05,
            "generalised advantages of a value model, PPO (Schulman et al. 2016, arXiv 1506.02438; 2017, arXiv "
            "1707.06347); KL as in Stiennon et al. 2020, arXiv 2009.01325",
        ),
        Estimator(
            "rloo", False, 2, False, False, "sum", "reward", "k1", 0.03,
            "the mean of a prompt's other completions as baseline (Ahmadian et al. 2024, arXiv 2402.14740)",
        ),
        Estimator(
            "reinforce", False, 1, False, False, "sum", "reward", "k1", 0.03,
            "REINFORCE with the mean of all rewards so far as baseline (Williams 1992; Ahmadian et al. 2024)",
        ),
        Estimator(
            "reinforce++", False, 1, True, True, "token", "reward", "k1", 0.01,
            "returns to go, whitened over the batch (Hu 2025, arXiv 2501.03262)",
        ),
        Estimator(
            "grpo", False, 2, False, False, "completion", "loss", "k3", 0.04,
            "brought to mean 0 and deviation 1 within the prompt (Shao et al. 2024, arXiv 2402.03300)",
        ),
        Estimator(
            "dr_grpo", False, 2, False, False, "constant", "loss", "k3", 0.0,
            "less the prompt's mean, undivided, over a constant length (Liu et al. 2025, arXiv 2503.20783)",
        ),
    )
}  # fmt: skip
