"""Several judges as one, and how far each can be relied on."""

import math
import statistics

import numpy as np
import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.baselines import LengthScore
from sawyer.feedback.dawid_skene import SMOOTHING, dawid_skene
from sawyer.feedback.ensemble import combine_preferences
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.judges import make_judge
from sawyer.feedback.panel import FEWEST, Panel, assessed, reliabilities
from sawyer.feedback.protocol import Feedback
from sawyer.rollout.protocol import Completion

PROMPT = Prompt("What is a river?")


class Fixed:
    """A judge whose verdicts are given."""

    def __init__(self, *verdicts):
        self.name, self._verdicts, self.unread = "fixed", verdicts, sum(v is None for v in verdicts)

    def verdicts(self, prompts, pairs):
        return [[verdict] for verdict in self._verdicts[: len(pairs)]]

    def score(self, prompts, completions):
        raise AssertionError


class Rater:
    """An engine whose rating is the length of the answer plus something; None says nothing."""

    def __init__(self, plus):
        self.plus = plus

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        def said(prompt):
            text = prompt.text.split("[begin of answer of the assistant]\n")[1].split("\n[end")[0]
            return "none" if self.plus is None else f"[[{len(text) + self.plus}]]"

        return [[Completion((), (), said(prompt), True)] for prompt in prompts]


# --- reliability ------------------------------------------------------------------------------------------------------


def slow_dawid_skene(labels, classes, steps):
    """The formulas of the paper with lists and loops."""
    items = range(len(labels[0]))
    truth = []
    for n in items:
        votes = [sum(own[n] == k for own in labels) for k in range(classes)]
        truth.append([v / sum(votes) if sum(votes) else 1 / classes for v in votes])
    for _ in range(steps):
        prior = [SMOOTHING + sum(truth[n][k] for n in items) for k in range(classes)]
        prior = [p / sum(prior) for p in prior]
        confusion = []
        for own in labels:
            rows = [
                [SMOOTHING + sum(truth[n][k] for n in items if own[n] == said) for said in range(classes)]
                for k in range(classes)
            ]
            confusion.append([[c / sum(row) for c in row] for row in rows])
        for n in items:
            likely = [
                prior[k] * math.prod(confusion[m][k][own[n]] for m, own in enumerate(labels) if own[n] is not None)
                for k in range(classes)
            ]
            truth[n] = [p / sum(likely) for p in likely]
    return truth


def simulated(accuracies, items, classes=2, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, items)
    labels = []
    for accuracy in accuracies:
        wrong = (truth + rng.integers(1, classes, items)) % classes
        said = np.where(rng.random(items) < accuracy, truth, wrong)
        labels.append([None if gone else int(s) for s, gone in zip(said, rng.random(items) < missing, strict=True)])
    return truth, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_em_is_that_of_the_paper(classes):
    _, labels = simulated([0.9, 0.7, 0.6, 0.8], 40, classes, missing=0.2)
    found = dawid_skene(labels, classes, iterations=7, tolerance=0)
    assert found.iterations == 7
    assert found.truth_n_K == pytest.approx(np.array(slow_dawid_skene(labels, classes, 7)), abs=1e-12)


def test_the_truth_and_the_accuracies_are_found_again():
    accuracies = [0.95, 0.6, 0.6, 0.55, 0.8]
    truth, labels = simulated(accuracies, 3000, missing=0.1)
    found = dawid_skene(labels, 2)
    assert found.accuracy_M == pytest.approx(accuracies, abs=0.04)
    assert found.prior_K == pytest.approx([0.5, 0.5], abs=0.06)
    by_votes = [statistics.mean(own[n] for own in labels if own[n] is not None) > 0.5 for n in range(3000)]
    right = (found.truth_n_K.argmax(1) == truth).mean()
    assert right > (np.array(by_votes) == truth).mean() + 0.03
    assert found.confusion_M_K_K.sum(2) == pytest.approx(np.ones((5, 2)))


def test_raters_without_labels_change_nothing():
    _, labels = simulated([0.9, 0.8, 0.7], 60)
    with_silent = dawid_skene([*labels, [None] * 60], 2)
    assert with_silent.truth_n_K == pytest.approx(dawid_skene(labels, 2).truth_n_K, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[0, 1]], "at least two raters"),
        ([[], []], "at least two raters"),
        ([[0, 1], [0]], "as many labels"),
        ([[0, 2], [0, 1]], "none of the 2 classes"),
    ],
)
def test_labels_that_do_not_fit(labels, said):
    with pytest.raises(SawyerError, match=said):
        dawid_skene(labels, 2)


# --- panels -----------------------------------------------------------------------------------------------------------


def test_rules_by_hand_and_what_is_missing_is_left_out():
    members = [Fixed(1.0, 0.8, None, None), Fixed(0.0, 0.5, 0.25, None), Fixed(1.0, 0.6, None, None)]
    prompts, pairs = [PROMPT] * 4, [("a", "b")] * 4
    wanted = {
        "mean": [2 / 3, 1.9 / 3, 0.25, 0.5],
        "median": [1.0, 0.6, 0.25, 0.5],
        "majority": [2 / 3, 2.5 / 3, 0.0, 0.5],
    }
    for rule, values in wanted.items():
        panel = Panel(members, rule)
        assert isinstance(panel, Feedback)
        assert panel.prefer(prompts, pairs) == pytest.approx(values)
    first, second, third, nothing = panel.assess(prompts, pairs)
    assert first.uncertainty == pytest.approx(statistics.pstdev([1, 0, 1]))
    assert second.uncertainty == pytest.approx(statistics.pstdev([0.8, 0.5, 0.6]))
    assert (third.uncertainty, nothing.uncertainty) == (0, 0)
    assert third.members == (None, 0.25, None)
    assert panel.unread == 5


def test_accuracies_weigh_members_as_independent_witnesses():
    members = [Fixed(1.0, None, 0.5), Fixed(0.0, 0.0, 0.0), Fixed(0.0, 1.0, 0.5)]
    found = Panel(members, "reliability", accuracies=[0.9, 0.6, 0.7]).prefer([PROMPT] * 3, [("a", "b")] * 3)
    odds = [9 / 1 * 4 / 6 * 3 / 7, 4 / 6 * 7 / 3, 4 / 6]
    assert found == pytest.approx([o / (1 + o) for o in odds])


def test_reliability_is_measured_on_the_pairs_of_a_call():
    _, labels = simulated([0.95, 0.6, 0.6], 400)
    said = [[1.0 - label for label in own] for own in labels]  # class 0: the first is better
    panel = Panel([Fixed(*own) for own in said], "reliability")
    found = panel.prefer([PROMPT] * 400, [("a", "b")] * 400)
    assert found == pytest.approx(dawid_skene(labels, 2).truth_n_K[:, 0].tolist())
    assert found == combine_preferences(said, "reliability")
    best, *others = reliabilities(said)
    assert best > max(others)
    with pytest.raises(SawyerError, match=f"cannot be measured on 3 pairs; give at least {FEWEST}"):
        panel.prefer([PROMPT] * 3, [("a", "b")] * 3)
    assert assessed([[], []], "reliability") == []


def test_a_panel_of_judges_that_rate_rates():
    judges = [make_judge(Rater(plus), JudgeForm(form="pointwise")) for plus in (0, 4, None)]
    completions = [["a", "abc"], ["ab"]]
    assert Panel(judges, "mean").score([PROMPT] * 2, completions) == [[3.0, 5.0], [4.0]]
    assert Panel(judges, "median").score([PROMPT] * 2, completions) == [[3.0, 5.0], [4.0]]
    rated = Panel(judges).assess_scores([PROMPT] * 2, completions)
    assert rated[0][0].uncertainty == 2.0
    assert rated[0][0].members == (1.0, 5.0, None)
    silent = Panel([judges[2], judges[2]])
    assert silent.score([PROMPT], [["a"]]) == [[-1.0]]


def test_a_panel_with_others_gives_the_share_of_wins():
    rater = make_judge(Rater(0), JudgeForm(form="pointwise"))
    panel = Panel([rater, LengthScore()], "majority")
    assert panel.score([PROMPT], [["a", "abc", "ab"]]) == [[0.0, 1.0, 0.5]]
    assert Panel([rater, LengthScore()]).assess_scores([PROMPT], [["a"]]) is None


@pytest.mark.parametrize(
    ("members", "rule", "accuracies", "said"),
    [
        (1, "mean", None, "at least two members"),
        (2, "mode", None, "no rule 'mode'; choose mean, median"),
        (2, "mean", [0.5, 0.5], "by mean all count the same"),
        (2, "reliability", [0.5], "2 members was given 1 accuracies"),
        (2, "reliability", [0.5, 1.0], "between 0 and 1, not 1.0"),
    ],
)
def test_panels_that_cannot_be(members, rule, accuracies, said):
    with pytest.raises(SawyerError, match=said):
        Panel([LengthScore()] * members, rule, accuracies=accuracies)
