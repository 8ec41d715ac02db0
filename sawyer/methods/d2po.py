"""Discriminator-guided preference optimisation: D2PO (Singhal et al. 2024, arXiv 2405.01511).

Gold labels are dear, so a reward model, the discriminator, labels most pairs; and since the policy moves away from what
it was fitted to, it is fitted again and again to gold labels of the policy's newest pairs:

    buy gold labels for pairs of pi_0, and fit the discriminator to them
    for step = 1 .. T:
        answer the next prompts with the policy as it is; the discriminator's best and worst answer are a pair
        as long as the cycle's share lasts: buy gold labels for the pairs that the discriminator is least sure of
        one update on all pairs, with gold labels where they were bought and the discriminator's (silver) elsewhere
        when the share is spent: fit the discriminator to the cycle's gold labels

Two other ways to spend the same budget are its baselines: `frozen` buys all labels for pairs of pi_0 and never fits the
discriminator again (online DPO against a reward model); `oaif` has no discriminator and trains on gold labels alone
(Guo et al. 2024, arXiv 2402.04792).

Differences from the authors' script, on purpose: there is a budget for the whole run, and it holds; a pair is paid for
once, in whatever order its answers come again; ties, which nobody learns from, are paid for and counted; gold scores
that are only looked at, for the curves, are neither learned from nor counted.

Updates count from 1; what is bought before the first has the step 0.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sawyer.data.records import Comparison, Message, Prompt
from sawyer.errors import SawyerError

Method = Literal["d2po", "frozen", "oaif"]
Selection = Literal["confidence", "random"]

Ask = Callable[[Sequence[Prompt], Sequence[tuple[str, str]]], Sequence[Sequence[float]]]
"""Gold scores of the two completions of each prompt: what is paid for."""


@dataclass(frozen=True)
class Candidate:
    """Two completions of one prompt, as indices, that could be a pair.

    Attributes:
        margin: by how much the discriminator scores the first above the second, at least 0; 0 without discriminator.
    """

    prompt: int
    first: int
    second: int
    margin: float = 0.0


def candidates(texts: Sequence[Sequence[str]], silver: Sequence[Sequence[float]] | None = None) -> list[Candidate]:
    """A pair of each prompt: the completions that the discriminator scores highest and lowest, or, without its scores,
    the first two that differ. None where all completions are the same text."""
    found = []
    for i, own in enumerate(texts):
        order = list(range(len(own))) if silver is None else sorted(range(len(own)), key=lambda k: -silver[i][k])
        best, rest = order[0], order[1:] if silver is None else order[:0:-1]
        other = next((k for k in rest if own[k].strip() != own[best].strip()), None)
        if other is not None:
            margin = 0.0 if silver is None else silver[i][best] - silver[i][other]
            found.append(Candidate(i, best, other, margin))
    return found


def choose(margins: Sequence[float], count: int, how: Selection, seed: int) -> list[int]:
    """Which `count` of the pairs to label: those of the smallest margins, or at random; in ascending order.

    Args:
        margins: score of one completion minus that of the other, by the discriminator.
        seed: of the random choice.
    """
    if count >= len(margins):
        return list(range(len(margins)))
    if how == "confidence":
        return sorted(sorted(range(len(margins)), key=lambda i: (abs(margins[i]), i))[:count])
    return sorted(random.Random(seed).sample(range(len(margins)), count))


@dataclass(frozen=True)
class Offer:
    """A pair that a label may be bought for.

    Attributes:
        silver: what the discriminator says of the two, where there is one.
    """

    prompt: Prompt
    completions: tuple[str, str]
    silver: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    """A gold label that was paid for.

    Attributes:
        step: the update that it was bought in.
        gold: the scores of the two completions.
        silver: the discriminator's of that moment, before it learned from this label; None without one.
    """

    step: int
    prompt: tuple[Message, ...]
    completions: tuple[str, str]
    gold: tuple[float, float]
    silver: tuple[float, float] | None = None

    @property
    def key(self) -> tuple[Any, frozenset[str]]:
        """What the label is of, whichever completion is named first."""
        return _key(self.prompt, self.completions)

    @property
    def tie(self) -> bool:
        """Whether it prefers neither."""
        return self.gold[0] == self.gold[1]

    def score(self, text: str) -> float:
        """The gold score of one of the completions."""
        return self.gold[self.completions.index(text)]

    def comparison(self) -> Comparison:
        """The pair as a record, the better one first. Of a tie there is none."""
        return Comparison(self.prompt, self.completions, self.gold)

    def row(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "prompt": list(self.prompt),
            "completions": list(self.completions),
            "gold": list(self.gold),
            "silver": None if self.silver is None else list(self.silver),
        }

    @classmethod
    def of(cls, row: dict[str, Any]) -> Label:
        """The label of a `row()`."""
        first, second = row["completions"]
        silver = row["silver"]
        return cls(
            row["step"], tuple(row["prompt"]), (first, second), (row["gold"][0], row["gold"][1]),
            None if silver is None else (silver[0], silver[1]),
        )  # fmt: skip


class Ledger:
    """Every gold label that was paid for. No pair is paid for twice, and never more than the budget.

    A continuation that goes back to an update takes the labels that were bought since from here, at no price, as it
    comes to need them again; until then they count as not there, so that it decides as the first time.

    Args:
        budget: how many labels may be bought.
        paid: those that earlier sessions bought, as they wrote them.
        write: called with what has just been bought; when it returns, a kill may come.
    """

    def __init__(
        self, budget: int, paid: Sequence[Label] = (), write: Callable[[Sequence[Label]], None] = lambda labels: None
    ) -> None:
        self.budget = budget
        self.paid = len(paid)
        self._write = write
        self._labels: dict[Any, Label] = {label.key: label for label in paid}
        self._ahead: dict[Any, Label] = {}

    @property
    def labels(self) -> list[Label]:
        """What has been bought so far, in that order."""
        return list(self._labels.values())

    @property
    def used(self) -> int:
        """How many labels have been bought so far."""
        return len(self._labels)

    @property
    def left(self) -> int:
        """How many can still be."""
        return self.budget - self.used

    def bought(self, first: int, last: int) -> list[Label]:
        """Those bought in the updates from `first` to `last`, both included."""
        return [label for label in self._labels.values() if first <= label.step <= last]

    def go_to(self, step: int) -> None:
        """Come to the beginning of an update: what was bought in it or later, by an earlier session, lies ahead."""
        ahead = {key: label for key, label in self._labels.items() if label.step >= step}
        for key in ahead:
            del self._labels[key]
        self._ahead |= ahead

    def find(self, prompt: Prompt, completions: tuple[str, str]) -> Label | None:
        """The label of a pair, in either order, if it has been bought."""
        return self._labels.get(_key(prompt.prompt, completions))

    def buy(self, step: int, offers: Sequence[Offer], ask: Ask) -> list[Label]:
        """Labels for the pairs that have none, in that order, as far as the budget goes.

        Raises:
            SawyerError: a gold score is not a number.
        """
        wanted: dict[Any, Offer] = {}
        for offer in offers:
            key = _key(offer.prompt.prompt, offer.completions)
            if key not in self._labels and len(wanted) < self.left:
                wanted.setdefault(key, offer)
        new = [offer for key, offer in wanted.items() if key not in self._ahead][: self.budget - self.paid]
        scores = ask([offer.prompt for offer in new], [offer.completions for offer in new]) if new else []
        asked: list[Label] = []
        for offer, (a, b) in zip(new, scores, strict=True):
            if not (math.isfinite(a) and math.isfinite(b)):
                raise SawyerError(
                    f"the gold reward of an answer to {offer.prompt.text[:60]!r} is not a number ({a:g}, {b:g}), so no "
                    "label can be bought; look at the gold reward"
                )
            asked.append(Label(step, offer.prompt.prompt, offer.completions, (float(a), float(b)), offer.silver))
        if asked:
            self._write(asked)
            self.paid += len(asked)
        had = {label.key: label for label in asked}
        got = [had.get(key) or self._ahead.pop(key, None) for key in wanted]
        labels = [label for label in got if label is not None]
        self._labels |= {label.key: label for label in labels}
        return labels


def _key(prompt: Sequence[Message], completions: Collection[str]) -> tuple[Any, frozenset[str]]:
    return tuple((turn["role"], turn["content"]) for turn in prompt), frozenset(completions)


@dataclass(frozen=True)
class Schedule:
    """When labels are bought and the discriminator learns from them: in cycles of `every` updates.

    Attributes:
        labels: what a cycle may buy. Its first updates buy as many as their pairs allow; what is left when the cycle
            ends is not carried on.
    """

    labels: int
    every: int

    def cycle(self, step: int) -> tuple[int, int]:
        """The first and the last update of the cycle that this one belongs to."""
        first = (step - 1) // self.every * self.every + 1
        return first, first + self.every - 1

    def due(self, step: int, ledger: Ledger) -> int:
        """How many labels this update may still buy."""
        return max(0, min(self.labels - len(ledger.bought(*self.cycle(step))), ledger.left))

    def learns(self, step: int, bought: int, ledger: Ledger) -> bool:
        """Whether the discriminator learns in this update, which has just bought so many labels: as soon as there will
        be no more of them, and else at the cycle's end."""
        _, last = self.cycle(step)
        if bought and not self.due(step, ledger):
            return True
        return step == last and self.due(step, ledger) > 0 and bool(ledger.bought(*self.cycle(step)))


def agreement(labels: Sequence[Label]) -> float | None:
    """How often the discriminator had the better completion right before it learned it: `share_right` of its scores."""
    told = [(label.gold, label.silver) for label in labels if label.silver is not None]
    return share_right([(gold[0] - gold[1], silver[0] - silver[1]) for gold, silver in told])


def share_right(margins: Sequence[tuple[float, float]]) -> float | None:
    """How often the margins of a pair, gold and silver, have the same sign; a silver 0 counts half, and pairs whose
    gold is 0 are left out. None where there is nothing to count."""
    told = [(gold, silver) for gold, silver in margins if gold != 0]
    if not told:
        return None
    return sum(0.5 if silver == 0 else float((gold > 0) == (silver > 0)) for gold, silver in told) / len(told)
