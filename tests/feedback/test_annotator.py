"""The simulated annotator is as noisy as it says, and reproducible pair by pair."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt, user
from sawyer.errors import SawyerError
from sawyer.feedback.annotator import SimulatedAnnotator
from sawyer.feedback.protocol import Feedback, prefer


class Length:
    """A gold reward that is easy to work out: tenths of a letter."""

    name = "length"

    def score(self, prompts, completions):
        return [[len(c) / 10 for c in row] for row in completions]


def prompts(n):
    return [Prompt((user(f"question {i}"),)) for i in range(n)]


answers = st.tuples(st.text(max_size=8), st.text(max_size=8)).filter(lambda pair: pair[0] != pair[1])


def test_the_probability_is_bradley_terry_at_the_temperature():
    annotator = SimulatedAnnotator(Length(), temperature=0.2)
    assert isinstance(annotator, Feedback)
    assert annotator.prefer(prompts(1), [("abcd", "ab")]) == [pytest.approx(1 / (1 + math.exp(-1)))]
    assert prefer(annotator, prompts(1), [("abcd", "ab")]) == annotator.prefer(prompts(1), [("abcd", "ab")])


def test_errors_flip_a_share_of_the_labels():
    sure = SimulatedAnnotator(Length(), temperature=1e-3, error_rate=0.2)
    assert sure.prefer(prompts(1), [("abcd", "ab")]) == [pytest.approx(0.8)]
    labels = sure.label(prompts(3000), [("abcd", "ab")] * 3000, seed=1)
    assert sum(labels) / 3000 == pytest.approx(0.8, abs=0.03)


def test_labels_follow_the_probability():
    annotator = SimulatedAnnotator(Length(), temperature=0.1)
    labels = annotator.label(prompts(3000), [("abc", "ab")] * 3000, seed=3)
    assert sum(labels) / 3000 == pytest.approx(1 / (1 + math.exp(-1)), abs=0.035)


@given(st.lists(answers, min_size=1, max_size=12), st.integers(0, 1000), st.floats(0, 0.5), st.randoms())
def test_a_label_depends_on_its_pair_alone_and_turns_with_it(pairs, seed, error_rate, rng):
    annotator = SimulatedAnnotator(Length(), temperature=0.3, error_rate=error_rate)
    asked = prompts(len(pairs))
    labels = annotator.label(asked, pairs, seed)
    order = list(range(len(pairs)))
    rng.shuffle(order)
    assert annotator.label([asked[i] for i in order], [pairs[i] for i in order], seed) == [labels[i] for i in order]
    swapped = [(b, a) for a, b in pairs]
    assert annotator.label(asked, swapped, seed) == [not label for label in labels]
    for p, q in zip(annotator.prefer(asked, pairs), annotator.prefer(asked, swapped), strict=True):
        assert p + q == pytest.approx(1)


def test_another_seed_draws_other_labels():
    annotator = SimulatedAnnotator(Length(), temperature=1.0)
    pairs = [("abc", "ab")] * 50
    assert annotator.label(prompts(50), pairs, 0) != annotator.label(prompts(50), pairs, 1)


def test_settings_without_meaning_are_refused():
    with pytest.raises(SawyerError, match="temperature"):
        SimulatedAnnotator(Length(), temperature=0)
    with pytest.raises(SawyerError, match="error_rate"):
        SimulatedAnnotator(Length(), error_rate=0.7)


def test_rankings_order_two_answers_as_often_as_labels_do():
    annotator = SimulatedAnnotator(Length(), temperature=0.1)
    asked = prompts(4000)
    rankings = annotator.rank(asked, [["ab", "a", "abcd"]] * 4000)
    first_before_second = sum(ranking.index(0) < ranking.index(1) for ranking in rankings) / 4000
    assert first_before_second == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert annotator.rank(asked[:5], [["ab", "a", "abcd"]] * 5) == rankings[:5]
