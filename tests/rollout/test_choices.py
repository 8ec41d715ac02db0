"""How likely a model is to go on with each of a few texts, against plain forwards."""

import math

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.judge_settings import JudgeForm, judge_form
from sawyer.feedback.judge_template import JudgeTemplate
from sawyer.feedback.judge_verdicts import FORCED, LETTERS, first_better
from sawyer.feedback.judges import make_judge
from sawyer.rollout.api_engine import ApiEngine
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.choices import ChoiceEngine, choice_probabilities
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion, Sampling
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
    monkeypatch.setattr(JudgeTemplate, "question", lambda *_, **__: PROMPTS[0])
    with torch.no_grad():
        chances = slow(model, chat, PROMPTS[0], "I say [[", NUMBERS, "]]")
    wanted = math.fsum(p * int(number) for p, number in zip(chances, NUMBERS, strict=True))
    assert judge.score([PROMPTS[0]], [["x"]]) == [[pytest.approx(wanted, abs=1e-4)]]
    assert 1 < wanted < 10


def test_an_engine_that_may_only_choose(chat, tiny_policy):
    model = tiny_policy()
    engine = ChoiceEngine(TorchEngine(model, chat), NUMBERS, "[[", "]]")
    prompts = [*PROMPTS[:2], Prompt("a" * 600)]
    (first, again), _, (long, _) = engine.generate(prompts, Sampling(temperature=0), 2, keep_failed=True)
    with torch.no_grad():
        chances = slow(model, chat, PROMPTS[0], "[[", NUMBERS, "]]")
    assert first == again
    assert first.text == f"[[{NUMBERS[chances.index(max(chances))]}]]"
    assert [math.exp(first.tops[1][1][number]) for number in NUMBERS] == pytest.approx(chances, abs=1e-5)
    assert "longer than the model's context of 256" in long.error
    with pytest.raises(SawyerError, match="prompt 2: the prompt is longer"):
        engine.generate(prompts, Sampling(temperature=0))
    with pytest.raises(SawyerError, match="needs temperature 0"):
        engine.generate(prompts, Sampling())


@pytest.mark.parametrize("form", ["pairwise", "scale", "pointwise"])
def test_a_judge_that_writes_nothing_but_a_verdict(chat, tiny_policy, tmp_path, monkeypatch, form):
    """Its value is the mean of all verdicts by their chances; what is kept is not computed again."""
    model = tiny_policy()
    settings = JudgeForm(form=form, read="forced")
    monkeypatch.setattr(JudgeTemplate, "question", lambda *_, **__: PROMPTS[0])

    def opinion():
        judge = make_judge(KeptEngine(TorchEngine(model, chat), tmp_path, "tiny"), settings)
        pair = form != "pointwise"
        (found,) = judge.opinions(PROMPTS[:1], [("x", "y")]) if pair else judge.ratings(PROMPTS[:1], [["x"]])[0]
        assert (judge.answered, judge.unread) == (1, 0)
        return found

    options, opening, ending = FORCED[form]
    values = {"pairwise": LETTERS.get, "scale": lambda s: first_better(float(s)), "pointwise": float}[form]
    with torch.no_grad():
        chances = slow(model, chat, PROMPTS[0], opening, options, ending)
    first = opinion()
    wanted = math.fsum(p * values(option) for p, option in zip(chances, options, strict=True))
    assert first.value == pytest.approx(wanted, abs=1e-4)
    monkeypatch.setattr(ChoiceEngine, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert opinion() == first


def test_verdicts_are_forced_of_local_models_alone(chat, tiny_policy):
    with pytest.raises(SawyerError, match="of the torch engine alone, and not of a ApiEngine"):
        make_judge(ApiEngine("m", ApiSettings(endpoint="http://localhost:1/v1")), JudgeForm(read="forced"))
    for settings, said in (
        ({"form": "rubric"}, "is for pairwise, scale, pointwise, not for rubric"),
        ({"samples": 2, "temperature": 1.0}, "draws nothing"),
        ({"tries": 2}, "draws nothing"),
    ):
        with pytest.raises(SawyerError, match=said):
            judge_form(read="forced", **settings)
    diverged = tiny_policy()
    with torch.no_grad():
        diverged.lm_head.weight.fill_(math.nan)
    engine = TorchEngine(diverged, chat)
    with pytest.raises(SawyerError, match="the model's logits are not numbers"):
        ChoiceEngine(engine, ["A", "B"]).generate(PROMPTS, Sampling(temperature=0))
