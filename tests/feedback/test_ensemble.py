"""Several reward models as one."""

import math

import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.baselines import LengthScore, RandomScore
from sawyer.feedback.ensemble import RULES, Ensemble, combine, combine_preferences, scale_of
from sawyer.feedback.protocol import prefer

PROMPTS = [Prompt("What is a river?"), Prompt("Why?")]
COMPLETIONS = [["Water.", "A long walk in the town."], ["Because of the rain.", "No"]]
SCORES = [[[1.0, 2.0], [3.0, 6.0]], [[10.0, 0.0], [10.0, 20.0]]]  # members, prompts, completions
SCALES = [scale_of(member) for member in SCORES]


def z(member, prompt, completion):
    mean, std = SCALES[member]
    return (SCORES[member][prompt][completion] - mean) / std


def test_a_scale_is_mean_and_deviation_over_all_completions():
    assert SCALES[0] == (3.0, pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 4)))


def test_rules_by_hand():
    wanted = {
        "mean": lambda a, b: (a + b) / 2,
        "min": min,
        "median": lambda a, b: (a + b) / 2,
        "mean-std": lambda a, b: (a + b) / 2 - 2 * abs(a - b) / 2,
    }
    for rule, by_hand in wanted.items():
        found = combine(SCORES, rule, k=2.0, scales=SCALES)
        for p in range(2):
            assert found[p] == pytest.approx([by_hand(z(0, p, c), z(1, p, c)) for c in range(2)])


def test_majority_counts_members():
    scores = [[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]], [[5.0, 4.0, 3.0]]]
    assert combine(scores, "majority")[0] == pytest.approx([2 / 6, 4 / 6, 3 / 6])
    assert combine([[[1.0]], [[2.0]]], "majority") == [[0.5]]
    preferences = [[0.9, 0.2, 0.5], [0.6, 0.1, 0.8], [0.3, 0.4, 0.5]]
    assert combine_preferences(preferences, "majority") == pytest.approx([2 / 3, 0, 2 / 3])


def test_a_member_that_says_always_the_same_counts_nothing():
    scores = [[[1.0, 2.0]], [[7.0, 7.0]]]
    combined = combine(scores, "mean", scales=[scale_of(member) for member in scores])
    assert combined == [[-0.5, 0.5]]


def test_fitted_scales_stay_whatever_is_scored():
    ensemble = Ensemble([LengthScore(), RandomScore()]).fit(PROMPTS, COMPLETIONS)
    together = ensemble.score(PROMPTS, COMPLETIONS)
    assert ensemble.score(PROMPTS[1:], COMPLETIONS[1:]) == together[1:]
    assert ensemble.score(PROMPTS[:1], [COMPLETIONS[0][:1]]) == [together[0][:1]]


@pytest.mark.parametrize("rule", RULES)
def test_swapping_a_pair_gives_one_minus_p(rule):
    ensemble = Ensemble([LengthScore(), RandomScore(), RandomScore(1)], rule).fit(PROMPTS, COMPLETIONS)
    pairs = [tuple(own) for own in COMPLETIONS]
    forth, back = prefer(ensemble, PROMPTS, pairs), prefer(ensemble, PROMPTS, [(b, a) for a, b in pairs])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1])


def test_mistakes():
    for call in (
        lambda: Ensemble([LengthScore()]),
        lambda: Ensemble([LengthScore()] * 2, "reliability"),
        lambda: Ensemble([LengthScore()] * 2, scales=[(0.0, 1.0)]),
        lambda: scale_of([]),
    ):
        with pytest.raises(SawyerError):
            call()


class Compares:
    """Prefers by itself, and has scores that say something else."""

    def __init__(self, p):
        self.name, self.p = "compares", p

    def score(self, prompts, completions):
        return [[0.0] * len(own) for own in completions]

    def prefer(self, prompts, pairs):
        return [self.p if a < b else 1 - self.p for a, b in pairs]


def test_members_that_compare_pairs_are_averaged_as_they_are():
    ensemble = Ensemble([Compares(0.9), Compares(0.4)])
    assert prefer(ensemble, PROMPTS, [("a", "b"), ("b", "a")]) == pytest.approx([0.65, 0.35])
    majority = Ensemble([Compares(0.9), Compares(0.4), Compares(0.6)], "majority")
    assert prefer(majority, PROMPTS, [("a", "b"), ("b", "a")]) == pytest.approx([2 / 3, 1 / 3])
    assert combine_preferences([[0.9, 0.2], [0.4, 0.4]], "mean") == pytest.approx([0.65, 0.3])
    with pytest.raises(SawyerError, match="by mean, median, majority, reliability; min needs scores"):
        combine_preferences([[0.9], [0.4]], "min")
