"""Ratings by a model: every question once, samples averaged, and what is unread counted."""

import math

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.asking import Asker
from sawyer.feedback.ratings import overall, rate, rate_by_tokens
from sawyer.feedback.scales import ADDITIVE, Scale
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine

PROMPTS = [Prompt("What is a river?"), Prompt("What is a town?")]


class Scorer:
    """An engine that answers by a function of the question and the sample number."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        self.asked += [prompt.text for prompt in prompts]
        return [[Completion((), (), self.answer(prompt.text, k), True) for k in range(n)] for prompt in prompts]


def test_the_mean_is_over_the_samples_that_were_read():
    replies = ["Score: 2", "so good", "Score: 5"]
    asker = Asker(Scorer(lambda text, k: replies[k]), temperature=1.0, samples=3)
    [[one], [other]] = rate(asker, ADDITIVE, PROMPTS, [["Water."], ["Houses."]])
    assert one.values == (2.0, None, 5.0)
    assert one.replies == tuple(replies)
    assert (one.mean, one.unread) == (3.5, 1)
    assert asker.unread == 2
    assert other.mean == 3.5


def test_equal_answers_to_equal_prompts_are_asked_about_once():
    engine = Scorer(lambda text, k: f"Score: {len(text) % 6}")
    texts = [["Water.", "It flows.", "Water."], ["Water.", "Houses."], ["It flows."]]
    rated = rate(Asker(engine), ADDITIVE, [*PROMPTS, PROMPTS[0]], texts)
    assert len(engine.asked) == len(set(engine.asked)) == 4
    assert rated[0][0] == rated[0][2]
    assert rated[2][0] == rated[0][1]
    assert [len(own) for own in rated] == [3, 2, 1]
    assert rate(Asker(engine), ADDITIVE, [], []) == []


def test_an_answer_without_a_rating_has_no_mean():
    [[one]] = rate(Asker(Scorer(lambda text, k: "fine")), ADDITIVE, PROMPTS[:1], [["Water."]])
    assert math.isnan(one.mean)
    assert one.unread == 1


def test_a_judge_that_is_never_readable_stops_with_three_of_its_replies():
    asker = Asker(Scorer(lambda text, k: f"Nice words about {text[-40:-18]!r}"), unread_limit=0.5)
    with pytest.raises(SawyerError, match=r"no readable answer to 20 of 20 .*; .*; .*; take"):
        rate(asker, ADDITIVE, PROMPTS[:1] * 30, [[f"Answer {i}"] for i in range(30)])


@torch.no_grad()
def test_a_rating_by_tokens_is_the_mean_of_what_the_model_could_write(tiny_policy, tiny_tokenizer):
    model, chat = tiny_policy(), ChatFormat(tiny_tokenizer)
    model.config.max_position_embeddings = 1024
    engine, scale = TorchEngine(model, chat), Scale("short", "Grade it.", 1, 3)
    texts = [["Water.", "It flows.", "Water."], ["Houses.", "No." * 900]]
    rated = rate_by_tokens(engine, scale, PROMPTS, texts)
    for prompt, own, of_prompt in zip(PROMPTS, texts, rated, strict=True):
        for text, one in zip(own, of_prompt, strict=True):
            if len(text) > 1000:
                assert (one.values, one.unread) == ((None,), 1)
                continue
            asked = chat.prompt_ids(scale.ask(prompt.prompt, text, explain=False).prompt)
            paths = [chat.completion_ids(f"Score: {n}")[:-1] for n in (1, 2, 3)]
            assert len({tuple(path[:-1]) for path in paths}) == 1
            logits = model(torch.tensor([[*asked, *paths[0][:-1]]])).logits[0, -1].double()
            chances = torch.softmax(logits[[path[-1] for path in paths]], 0)
            assert one.mean == pytest.approx(float(chances @ torch.tensor([1.0, 2.0, 3.0]).double()), abs=1e-4)
    assert rated[0][0] == rated[0][2] != rated[0][1]


def test_the_overall_score_is_the_weighted_mean_of_all_aspects():
    weights = {"helpfulness": 3.0, "honesty": 1.0}
    assert overall({"helpfulness": 5.0, "honesty": 1.0, "truthfulness": 2.0}, weights) == 4.0
    assert math.isnan(overall({"helpfulness": 5.0, "honesty": math.nan}, weights))
