"""The mixture of two models, token by token, against plain forwards of both over everything at each step."""

import numpy as np
import pytest
import torch

from sawyer.data.records import Prompt, user
from sawyer.errors import SawyerError
from sawyer.rollout.batching import _uniforms
from sawyer.rollout.mixture import MixtureEngine
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.decoders import tiny_model

PROMPTS = [Prompt((user(text),)) for text in ("a river", "the town by the bridge", "why", "light", "of a day")]


@pytest.fixture(params=["Llama", "GPT2", "Gemma2"])
def models(request):
    """The policy and another of the same architecture, with other weights."""
    policy, reference = tiny_model(request.param), tiny_model(request.param)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(torch.randn_like(weight) * 0.3 * weight.std())
    return policy, reference


def mixture(models, chat, m, **limits):
    return MixtureEngine(TorchEngine(models[0], chat, **limits), TorchEngine(models[1], chat), m)


@torch.no_grad()
def slow_mixture(models, ids, m, temperature=1.0):
    """log of pi^(1-m) ref^m, normalised and tempered, of the next token."""
    logps = [model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1) for model in models]
    return (((1 - m) * logps[0] + m * logps[1]) / temperature).log_softmax(-1)


@pytest.mark.parametrize(("m", "temperature"), [(0.5, 1.0), (0.2, 0.7), (0.9, 1.0)])
def test_every_token_is_drawn_from_the_mixture(m, temperature, models, chat):
    sampling = Sampling(max_tokens=8, min_tokens=8, temperature=temperature)
    ends = sorted(chat.stop_ids)
    # two slots for fifteen sequences: what moves in one cache must move in the other
    drawn = mixture(models, chat, m, max_batch=2).generate(PROMPTS, sampling, 3, seed=4)
    for prompt, samples in zip(PROMPTS, drawn, strict=True):
        ids = chat.prompt_ids(prompt.prompt)
        for k, completion in enumerate(samples):
            assert len(completion.ids) == 8
            uniforms = _uniforms(4, np.asarray(ids), k, 8)
            for t, (token, logp) in enumerate(zip(completion.ids, completion.logps, strict=True)):
                wanted = slow_mixture(models, [*ids, *completion.ids[:t]], m, temperature)
                wanted[ends] = -torch.inf  # `min_tokens` forbids the end
                wanted = wanted.log_softmax(-1)
                assert logp == pytest.approx(float(wanted[token]), abs=1e-4)
                until = wanted.double().exp().cumsum(0)
                assert float(until[token]) >= uniforms[t] - 1e-4
                assert float(until[token] - wanted[token].exp()) <= uniforms[t] + 1e-4


def test_its_ends_are_the_two_models(models, chat):
    sampling = Sampling(max_tokens=10)
    for m, model in ((0.0, models[0]), (1.0, models[1])):
        alone = TorchEngine(model, chat).generate(PROMPTS, sampling, 2, seed=7)
        mixed = mixture(models, chat, m).generate(PROMPTS, sampling, 2, seed=7)
        assert [[c.ids for c in own] for own in mixed] == [[c.ids for c in own] for own in alone]


def test_beams_are_of_the_mixture(models, chat):
    sampling = Sampling(max_tokens=6, temperature=0, num_beams=3)
    alone = TorchEngine(models[1], chat).generate(PROMPTS, sampling)
    assert mixture(models, chat, 1.0).generate(PROMPTS, sampling) == alone
    greedy = Sampling(max_tokens=6, min_tokens=6, temperature=0)
    for prompt, (completion,) in zip(PROMPTS, mixture(models, chat, 0.5).generate(PROMPTS, greedy), strict=True):
        ids = chat.prompt_ids(prompt.prompt)
        first = slow_mixture(models, ids, 0.5)
        first[sorted(chat.stop_ids)] = -torch.inf
        assert completion.ids[0] == int(first.argmax())


def test_new_weights_are_the_policys(models, chat):
    engine = mixture(models, chat, 0.0)
    engine.load(dict(models[1].named_parameters()))
    sampling = Sampling(max_tokens=6)
    alone = TorchEngine(models[1], chat).generate(PROMPTS, sampling)
    assert [[c.ids for c in own] for own in engine.generate(PROMPTS, sampling)] == [
        [c.ids for c in own] for own in alone
    ]


def test_models_that_cannot_be_mixed_are_refused(models, chat, tiny_policy):
    with pytest.raises(SawyerError, match="from 0"):
        mixture(models, chat, 1.5)
    with pytest.raises(SawyerError, match="take a reference with the policy's tokenizer"):
        mixture((models[0], tiny_policy("llama")), chat, 0.5)
