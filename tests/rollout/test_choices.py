"""How likely a model is to go on with each of a few texts, against plain forwards."""

import math

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.judges import make_judge
from sawyer.rollout.choices import choice_probabilities
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine

PROMPTS = [Prompt("How good?"), Prompt("Which one, of all that the river has?"), Prompt("?")]
BEGINNINGS = ["It is fine. [[", "[[", ""]
NUMBERS = [str(number) for number in range(1, 11)]


@pytest.fixture(scope="module")
def chat(tiny_tokenizer):
    return ChatFormat(tiny_tokenizer)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny_policy):
    return tiny_policy(request.param)


def slow(model, chat, prompt, beginning, options, ending):
    """Every option's tokens one by one, each among the tokens that any option has after the same ones."""
    head = chat.prompt_ids(prompt.prompt)
    paths = [chat.completion_ids(beginning + option + ending)[:-1] for option in options]
    found = []
    for path in paths:
        p = 1.0
        for at, token in enumerate(path):
            allowed = {other[at] for other in paths if other[:at] == path[:at] and len(other) > at}
            logits = model(torch.tensor([[*head, *path[:at]]])).logits[0, -1].double()
            p *= float(logits[token].exp() / sum(logits[other].exp() for other in allowed))
        found.append(p)
    return found


@torch.no_grad()
@pytest.mark.parametrize("options", [["A", "B", "C"], NUMBERS])
def test_probabilities_are_those_of_plain_forwards(model, chat, options):
    engine = TorchEngine(model, chat, token_budget=150)
    found = choice_probabilities(engine, PROMPTS, BEGINNINGS, options, "]]")
    for prompt, beginning, own in zip(PROMPTS, BEGINNINGS, found, strict=True):
        assert own == pytest.approx(slow(model, chat, prompt, beginning, options, "]]"), abs=1e-5)
        assert sum(own) == pytest.approx(1)
    (alone,) = choice_probabilities(engine, PROMPTS[:1], BEGINNINGS[:1], options, "]]")
    assert alone == pytest.approx(found[0], abs=1e-5)


def test_what_does_not_fit_the_context_has_none(chat, tiny_policy):
    engine = TorchEngine(tiny_policy("gpt2"), chat)
    long = "a" * 300
    assert choice_probabilities(engine, PROMPTS[:2], [long, "["], ["A", "B"])[0] is None
    assert choice_probabilities(engine, [], [], ["A", "B"]) == []


def test_a_local_judge_gives_the_mean_of_what_it_might_have_said(chat, tiny_policy, tmp_path, monkeypatch):
    """The rating is that of all ten, weighed; the engine may be one that keeps its answers."""
    model = tiny_policy()
    engine = TorchEngine(model, chat)
    monkeypatch.setattr(
        engine, "generate", lambda prompts, *_, **__: [[Completion((), (), "I say [[7]]", True)] for _ in prompts]
    )
    judge = make_judge(KeptEngine(engine, tmp_path, "tiny"), JudgeForm(form="pointwise", read="tokens"))
    monkeypatch.setattr(judge.template.__class__, "question", lambda *_, **__: PROMPTS[0])
    with torch.no_grad():
        chances = slow(model, chat, PROMPTS[0], "I say [[", NUMBERS, "]]")
    wanted = math.fsum(p * int(number) for p, number in zip(chances, NUMBERS, strict=True))
    assert judge.score([PROMPTS[0]], [["x"]]) == [[pytest.approx(wanted, abs=1e-4)]]
    assert 1 < wanted < 10
