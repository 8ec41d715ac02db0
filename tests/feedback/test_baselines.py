"""Chance and length."""

import pytest

from sawyer.data.records import Prompt
from sawyer.feedback.baselines import LengthScore, RandomScore
from sawyer.feedback.protocol import prefer, uniform


def test_length_prefers_the_longer_and_shorter_the_other():
    prompts = [Prompt("Why?")]
    assert LengthScore().score(prompts, [["ab", "abcd"]]) == [[2.0, 4.0]]
    assert LengthScore(shorter=True).score(prompts, [["ab", "abcd"]]) == [[-2.0, -4.0]]


def test_chance_depends_on_seed_prompt_and_text_only():
    prompts, texts = [Prompt("Why?"), Prompt("How?")], [["a", "b"], ["a"]]
    together = RandomScore(1).score(prompts, texts)
    assert RandomScore(1).score(prompts[1:], texts[1:]) == together[1:]
    assert len({*together[0], *together[1]}) == 3
    assert RandomScore(2).score(prompts, texts) != together


def test_chance_is_fair():
    prompts = [Prompt(f"{i}?") for i in range(2000)]
    wins = sum(a > b for a, b in RandomScore().score(prompts, [["x", "y"]] * 2000))
    assert wins / 2000 == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("feedback", [RandomScore(), LengthScore(), LengthScore(shorter=True)], ids=lambda f: f.name)
def test_swapping_a_pair_gives_one_minus_p(feedback):
    forth, back = (prefer(feedback, [Prompt("Why?")], [pair]) for pair in (("one", "three"), ("three", "one")))
    assert forth[0] + back[0] == pytest.approx(1)


def test_a_draw_is_between_0_and_1():
    assert all(0 <= uniform(i, "text") < 1 for i in range(100))
