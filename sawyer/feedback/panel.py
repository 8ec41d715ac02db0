"""Several judges as one, and how far they disagree.

What a member has no verdict on is left out for that member, and is no draw. The disagreement is the standard deviation
of what the members say: an uncertainty for whoever decides what to believe, or what to show to people.

    mean           the mean of the members' P(a beats b)
    median         their median
    majority       the share of members that prefer a, a draw half
    reliability    P(a beats b | verdicts), members weighed by how often each is right: Dawid & Skene's EM over the
                   pairs of one call, or given accuracies p_m:  logit P = sum over m of  +-logit p_m
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.dawid_skene import Reliability, dawid_skene
from sawyer.feedback.judge import Judge
from sawyer.feedback.judge_verdicts import mean as mean_of
from sawyer.feedback.judges import UNREADABLE
from sawyer.feedback.protocol import Feedback, logit, prefer, sigmoid, win_rates

PanelRule = Literal["mean", "median", "majority", "reliability"]
PANEL_RULES: tuple[PanelRule, ...] = get_args(PanelRule)
FEWEST = 20
"""So many pairs are the least that reliability is measured on."""
MOST_RELIABLE = 0.99
"""What an accuracy counts at most, and 1 - this at least: no member alone decides against all others."""


@dataclass(frozen=True)
class Assessment:
    """What a panel says of a pair, or of a completion.

    Attributes:
        value: P(the first is better), or a score.
        uncertainty: the standard deviation across the members that have a verdict; 0 of a single one.
        members: what each said; None without a verdict.
    """

    value: float
    uncertainty: float
    members: tuple[float | None, ...]


class Panel:
    """Judges, or other feedback, that judge together.

    Args:
        members: at least two.
        rule: see the head of this module.
        accuracies: with `reliability`: how often each member is right, between 0 and 1, as measured before; without
            them it is measured on the pairs of each call, at least `FEWEST`.

    Attributes:
        unread: questions so far that members left without a verdict.

    Raises:
        SawyerError: fewer than two members, an unknown rule, or accuracies that do not fit.
    """

    def __init__(
        self, members: Sequence[Feedback], rule: PanelRule = "mean", *, accuracies: Sequence[float] | None = None
    ) -> None:
        check_panel(len(members), rule, accuracies)
        self.name = f"{rule} of {', '.join(member.name for member in members)}"
        self.members, self.rule, self.accuracies = list(members), rule, accuracies

    @property
    def unread(self) -> int:
        return sum(getattr(member, "unread", 0) for member in self.members)

    def assess(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Assessment]:
        """P(the first of a pair is better), with the members' disagreement.

        Raises:
            SawyerError: reliability is to be measured on too few pairs.
        """
        said = [pair_opinions(member, prompts, pairs) for member in self.members]
        return assessed(said, self.rule, self.accuracies)

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the first of a pair is better); 0.5 where no member has a verdict."""
        return [assessment.value for assessment in self.assess(prompts, pairs)]

    def assess_scores(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]
    ) -> list[list[Assessment]] | None:
        """The mean or median of the members' ratings, of a panel whose members all rate on the scale of 1 to 10; None
        of another."""
        if self.rule not in ("mean", "median") or not all(map(_rates, self.members)):
            return None
        rated = [_ratings(member, prompts, completions) for member in self.members]
        combine = _mean if self.rule == "mean" else _median
        return [
            [_assessment([ratings[i][k] for ratings in rated], combine, otherwise=UNREADABLE) for k in range(len(own))]
            for i, own in enumerate(completions)
        ]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The panel's rating of each completion, -1 without any; of a panel that does not rate, the mean probability
        to beat the siblings."""
        rated = self.assess_scores(prompts, completions)
        if rated is None:
            return win_rates(self, prompts, completions)
        return [[assessment.value for assessment in own] for own in rated]


def check_panel(members: int, rule: str, accuracies: Sequence[float] | None) -> None:
    """Refuse a panel that cannot be.

    Raises:
        SawyerError: says why.
    """
    if rule not in PANEL_RULES:
        raise SawyerError(f"a panel has no rule {rule!r}; choose {', '.join(PANEL_RULES)}")
    if members < 2:
        raise SawyerError(f"a panel needs at least two members, there is {members}")
    if accuracies is None:
        return
    if rule != "reliability":
        raise SawyerError(f"accuracies weigh the members of a panel by `reliability`; by {rule} all count the same")
    if len(accuracies) != members:
        raise SawyerError(f"a panel of {members} members was given {len(accuracies)} accuracies; give one for each")
    bad = next((accuracy for accuracy in accuracies if not 0 < accuracy < 1), None)
    if bad is not None:
        raise SawyerError(f"an accuracy is a share between 0 and 1, not {bad}")


def assessed(
    said: Sequence[Sequence[float | None]], rule: PanelRule, accuracies: Sequence[float] | None = None
) -> list[Assessment]:
    """What a panel says of each pair, from what [members][pairs] its members said.

    Raises:
        SawyerError: reliability is to be measured on too few pairs.
    """
    by_item = list(zip(*said, strict=True))
    if rule != "reliability":
        combine = {"mean": _mean, "median": _median, "majority": _majority}[rule]
        return [_assessment(own, combine, otherwise=0.5) for own in by_item]
    if not by_item:
        return []
    values = [_weighed(own, accuracies) for own in by_item] if accuracies is not None else _by_reliability(said)
    return [Assessment(value, _spread(own), own) for value, own in zip(values, by_item, strict=True)]


def reliabilities(said: Sequence[Sequence[float | None]]) -> list[float]:
    """How often each member is right, by Dawid & Skene's EM on what [members][pairs] they said; draws do not count.

    Raises:
        SawyerError: there are too few pairs.
    """
    return [float(accuracy) for accuracy in _measured(said).accuracy_M]


def pair_opinions(member: Feedback, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """P(the first is better) of each pair, over the games with a verdict; None without any."""
    games = getattr(member, "verdicts", None)
    if games is None:
        return list(prefer(member, prompts, pairs))
    return [mean_of([game for game in own if game is not None]) for own in games(prompts, pairs)]


def _by_reliability(said: Sequence[Sequence[float | None]]) -> list[float]:
    return [float(p) for p in _measured(said).truth_n_K[:, 0]]


def _measured(said: Sequence[Sequence[float | None]]) -> Reliability:
    if len(said[0]) < FEWEST:
        raise SawyerError(
            f"reliability cannot be measured on {len(said[0])} pairs; give at least {FEWEST}, or the accuracies of the "
            "members"
        )
    return dawid_skene([[None if p is None or p == 0.5 else int(p < 0.5) for p in own] for own in said], 2)


def _weighed(own: Sequence[float | None], accuracies: Sequence[float]) -> float:
    """P(the first is better) by members that are right independently of each other, each with its accuracy."""
    total = 0.0
    for p, accuracy in zip(own, accuracies, strict=True):
        if p is not None and p != 0.5:
            total += math.copysign(1, p - 0.5) * logit(min(MOST_RELIABLE, max(1 - MOST_RELIABLE, accuracy)))
    return sigmoid(total)


def _assessment(
    own: Sequence[float | None], combine: Callable[[Sequence[float]], float], otherwise: float
) -> Assessment:
    given = [value for value in own if value is not None]
    return Assessment(combine(given) if given else otherwise, _spread(own), tuple(own))


def _spread(own: Sequence[float | None]) -> float:
    given = [value for value in own if value is not None]
    if len(given) < 2:
        return 0.0
    mean = _mean(given)
    return math.sqrt(sum((value - mean) ** 2 for value in given) / len(given))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _majority(values: Sequence[float]) -> float:
    return _mean([0.5 if value == 0.5 else float(value > 0.5) for value in values])


def _rates(member: Feedback) -> bool:
    """Whether its scores are ratings from 1 to 10."""
    return isinstance(member, Judge) or hasattr(member, "ratings")


def _ratings(
    member: Feedback, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]
) -> list[list[float | None]]:
    return [[None if rating == UNREADABLE else rating for rating in own] for own in member.score(prompts, completions)]
