"""Several reward models as one: their mean, the least or the median of them, the mean less their disagreement, or their
votes.

Rewards of different models have different scales, so each is brought to mean 0 and standard deviation 1 first, over a
set of completions that is the same for all. Taking the least, or the mean less k standard deviations across members,
makes a policy's life harder where the members disagree (Coste et al. 2024, "Reward model ensembles help mitigate
overoptimization", worst-case and uncertainty-weighted optimisation).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.panel import assessed
from sawyer.feedback.protocol import Feedback, prefer

Rule = Literal["mean", "min", "median", "mean-std", "majority", "reliability"]
RULES: tuple[Rule, ...] = ("mean", "min", "median", "mean-std", "majority")
"""How scores can be combined."""
PREFERENCE_RULES: tuple[Rule, ...] = ("mean", "median", "majority", "reliability")
"""How preferences between pairs can be combined, which have no scale: as in a `Panel`."""
Scale = tuple[float, float]
"""Mean and standard deviation of a member's scores."""


class Ensemble:
    """Members that score as one.

    Args:
        members: at least two, scores or preferences.
        rule: `mean`, `min`, `median`, `mean-std`, or `majority` (of the members, pair by pair).
        k: how many standard deviations `mean-std` takes off.
        scales: of each member; None combines the scores as they are. See `fit`.
    """

    def __init__(
        self, members: Sequence[Feedback], rule: Rule = "mean", *, k: float = 1.0, scales: Sequence[Scale] | None = None
    ) -> None:
        check_rule(len(members), rule)
        if scales is not None and len(scales) != len(members):
            raise SawyerError(f"an ensemble of {len(members)} members was given the scales of {len(scales)}")
        self.name = f"{rule} of {', '.join(member.name for member in members)}"
        self.members, self.rule, self.k, self.scales = list(members), rule, k, scales

    def fit(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> Ensemble:
        """The same ensemble with its members' scales taken from these completions, fixed from then on."""
        scales = [scale_of(member.score(prompts, completions)) for member in self.members]
        return Ensemble(self.members, self.rule, k=self.k, scales=scales)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One number for each completion; see `combine`."""
        scores = [member.score(prompts, completions) for member in self.members]
        return combine(scores, self.rule, k=self.k, scales=self.scales)

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the first of a pair is better): of `majority` the share of members that say so; of `mean` and
        `median`, where all members compare pairs themselves, that of what they say; else Bradley-Terry."""
        compare = all(hasattr(member, "prefer") for member in self.members)
        if self.rule == "majority" or (self.rule in ("mean", "median") and compare):
            return combine_preferences([prefer(member, prompts, pairs) for member in self.members], self.rule)
        return prefer(_Scores(self), prompts, pairs)


class _Scores:
    """An ensemble without its own `prefer`."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.name, self.score = ensemble.name, ensemble.score


def check_rule(members: int, rule: str) -> None:
    """Raises SawyerError where there are fewer than two members, or no such rule."""
    if rule not in RULES:
        raise SawyerError(f"there is no ensemble {rule!r}; choose {', '.join(RULES)}")
    if members < 2:
        raise SawyerError(f"an ensemble needs at least two members, there is {members}")


def scale_of(scores: Iterable[Sequence[float]]) -> Scale:
    """Mean and (population) standard deviation of all of a member's scores, in one pass (Welford 1962)."""
    count, mean, squares = 0, 0.0, 0.0
    for own in scores:
        for score in own:
            count += 1
            off = score - mean
            mean += off / count
            squares += off * (score - mean)
    if not count:
        raise SawyerError("the scale of a reward model cannot be taken from no completions")
    return mean, math.sqrt(squares / count)


def combine(
    scores: Sequence[Sequence[Sequence[float]]], rule: Rule, *, k: float = 1.0, scales: Sequence[Scale] | None = None
) -> list[list[float]]:
    """[prompts][completions] one number each, from [members][prompts][completions].

    `mean`, `min`, `median` and `mean-std` are taken across members, of scores brought to each member's scale; a member
    that gives everything the same score counts 0. `majority`: the mean over siblings of the share of members that put
    the completion above the sibling, a tie half; 0.5 for one without siblings.
    """
    scaled = []
    for member, (mean, std) in zip(scores, scales or [(0.0, 1.0)] * len(scores), strict=True):
        scaled.append([[(score - mean) / std if std > 0 else 0.0 for score in own] for own in member])
    combined = []
    for of_prompt in zip(*scaled, strict=True):
        z_M_K = np.array(of_prompt, dtype=np.float64)
        if rule == "majority":
            ahead = z_M_K[:, :, None] - z_M_K[:, None, :]
            share_K_K = ((ahead > 0) + 0.5 * (ahead == 0)).mean(0)
            n = z_M_K.shape[1]
            value_K = (share_K_K.sum(1) - 0.5) / (n - 1) if n > 1 else np.full(n, 0.5)
        elif rule == "min":
            value_K = z_M_K.min(0)
        elif rule == "median":
            value_K = np.median(z_M_K, 0)
        else:
            value_K = z_M_K.mean(0) - (k * z_M_K.std(0) if rule == "mean-std" else 0.0)
        combined.append(value_K.tolist())
    return combined


def combine_preferences(preferences: Sequence[Sequence[float]], rule: Rule) -> list[float]:
    """[pairs] one P each, from [members][pairs]; for the rules see `panel`.

    Raises:
        SawyerError: the rule is another, which only scores have; reliability is to be measured on too few pairs.
    """
    if rule not in PREFERENCE_RULES:
        raise SawyerError(
            f"models that compare pairs can be combined by {', '.join(PREFERENCE_RULES)}; {rule} needs scores"
        )
    by: Any = rule
    return [assessment.value for assessment in assessed(preferences, by)]
