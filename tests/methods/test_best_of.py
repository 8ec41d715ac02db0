"""Best-of-n picks by the feedback, and says what it picked from."""

import math

import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.methods.best_of import BestOfEngine, best_of
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import Sampling

PROMPTS = [Prompt("a"), Prompt("bb")]


class Numbered:
    """Answers with the prompt and the sample's number."""

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        return [[Completion((k,), (-1.0,), f"{p.text}{k}", True) for k in range(n)] for p in prompts]

    def load(self, weights):
        self.loaded = weights


class Table:
    """Scores by the sample's number."""

    name = "table"

    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, completions):
        return [[self.scores[int(text.lstrip("ab"))] for text in own] for own in completions]


def test_the_best_by_score_with_all_scores():
    choices = best_of(Numbered(), Table([0.1, 3.0, -2.0, 3.0]), PROMPTS, Sampling(), 4)
    assert [choice.best for choice in choices] == [1, 1]
    assert [choice.completion.text for choice in choices] == ["a1", "bb1"]
    assert choices[0].scores == (0.1, 3.0, -2.0, 3.0)
    assert [c.text for c in choices[1].completions] == ["bb0", "bb1", "bb2", "bb3"]


def test_a_score_that_is_no_number_is_never_the_best():
    (choice,) = best_of(Numbered(), Table([math.nan, -5.0, math.nan]), PROMPTS[:1], Sampling(), 3)
    assert choice.best == 1


def test_an_engine_of_best_completions():
    engine = BestOfEngine(Numbered(), Table([0, 5, 1, 9, 2, 3]), 3)
    assert [[c.text for c in own] for own in engine.generate(PROMPTS, Sampling(), 2)] == [["a1", "a3"], ["bb1", "bb3"]]
    engine.load({"w": 1})
    assert engine.engine.loaded == {"w": 1}


def test_equal_candidates_are_refused():
    with pytest.raises(SawyerError, match="best of 4 with temperature 0 compares equal completions"):
        best_of(Numbered(), Table([0]), PROMPTS, Sampling(temperature=0), 4)
    with pytest.raises(SawyerError, match="ask for at least one candidate"):
        BestOfEngine(Numbered(), Table([0]), 0)
    with pytest.raises(SawyerError, match="n is 0"):
        BestOfEngine(Numbered(), Table([0]), 2).generate(PROMPTS, Sampling(), 0)


def test_what_could_not_be_had_is_not_chosen():
    class Failing(Numbered):
        def generate(self, prompts, *args, **kwargs):
            first, *rest = super().generate(prompts, *args, **kwargs)
            return [[Completion.failed("no"), *first[1:]], *([Completion.failed("no")] * len(own) for own in rest)]

    some, none = best_of(Failing(), Table([9.0, 1.0, 2.0]), PROMPTS, Sampling(), 3, keep_failed=True)
    assert math.isnan(some.scores[0])
    assert some.completion.text == "a2"
    assert all(map(math.isnan, none.scores))
    assert none.completion.error == "no"
