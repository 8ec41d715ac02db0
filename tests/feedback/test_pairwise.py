"""A pairwise preference model: asked in both orders, in the form it was trained on."""

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.pairwise_format import pairwise_prompt
from sawyer.models.load import load_policy, load_tokenizer

PROMPTS = [Prompt("What is a river?"), Prompt("Name a bridge."), Prompt("Why?")]
PAIRS = [("Water.", "Stone, for the most part."), ("The old one.", "No"), ("a", "b")]


def slow_preference(folder, prompt, a, b):
    """p("A") / (p("A") + p("B")) from the last logits of a plain forward pass."""
    chat, model = ChatFormat(load_tokenizer(folder)), load_policy(folder)
    ids = chat.prompt_ids(pairwise_prompt(prompt.prompt, a, b))
    letters = [chat.completion_ids(letter)[0] for letter in "AB"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1, letters]
    return float(logits.softmax(-1)[0])


def test_it_is_the_mean_of_both_orders(saved_policy):
    folder = saved_policy("llama")
    wanted = [
        (slow_preference(folder, p, a, b) + 1 - slow_preference(folder, p, b, a)) / 2
        for p, (a, b) in zip(PROMPTS, PAIRS, strict=True)
    ]
    model = PairwiseModel(folder)
    assert model.prefer(PROMPTS, PAIRS) == pytest.approx(wanted, abs=1e-5)
    assert model.prefer(PROMPTS[:1], PAIRS[:1]) == pytest.approx(wanted[:1], abs=1e-5)


def test_swapping_a_pair_gives_one_minus_p(saved_policy):
    model = PairwiseModel(saved_policy("llama"))
    forth, back = model.prefer(PROMPTS, PAIRS), model.prefer(PROMPTS, [(b, a) for a, b in PAIRS])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1, 1], abs=1e-6)
    assert model.prefer(PROMPTS[:1], [("a", "a")]) == pytest.approx([0.5], abs=1e-6)


def test_a_score_is_the_mean_chance_against_the_siblings(saved_policy):
    model = PairwiseModel(saved_policy("llama"))
    scores = model.score(PROMPTS[:2], [["x", "y", "z"], ["alone"]])
    x_y, x_z = model.prefer([PROMPTS[0]] * 2, [("x", "y"), ("x", "z")])
    assert scores[0][0] == pytest.approx((x_y + x_z) / 2, abs=1e-6)
    assert sum(scores[0]) == pytest.approx(1.5, abs=1e-6)
    assert scores[1] == [0.5]


def test_a_long_question_loses_its_beginning_and_is_counted(saved_policy):
    model = PairwiseModel(saved_policy("llama"), max_tokens=64)
    (p,) = model.prefer([Prompt("word " * 200)], [("Yes", "No")])
    assert 0 < p < 1
    assert model.truncated == 2


def test_a_tokenizer_without_the_letters_is_refused(saved_policy, monkeypatch):
    monkeypatch.setattr(ChatFormat, "completion_ids", lambda self, text: [5, 6, 7])
    with pytest.raises(SawyerError, match="one token each"):
        PairwiseModel(saved_policy("llama"))
