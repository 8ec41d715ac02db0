"""Contrastive search against the paper's formula, with a full forward for every candidate."""

import numpy as np
import pytest

from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.decoders import tiny_model
from tests.rollout.slow import hidden_states, log_softmax, next_logits, slow_penalised

PROMPTS = [[1, 5, 9, 11, 30], [1, 40, 41], [1, 8, 8, 8, 17, 50, 51, 52, 7, 10, 12, 13], [33]]
END = 2


def slow_contrastive(model, prompt, sampling):
    ids = []
    while len(ids) < sampling.max_tokens and ids[-1:] != [END]:
        context = [*prompt, *ids]
        logits = slow_penalised(next_logits(model, context), sampling, prompt, ids, [END])
        prob = np.exp(log_softmax(logits))
        scores = {}
        for v in np.argsort(-prob)[: sampling.top_k]:
            hidden = hidden_states(model, [*context, v])
            unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
            scores[int(v)] = (1 - sampling.penalty_alpha) * prob[v] - sampling.penalty_alpha * max(unit[:-1] @ unit[-1])
        ids.append(max(scores, key=scores.__getitem__))
    return tuple(ids)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GPT2"])
@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.3, 7)])
def test_tokens_are_those_of_the_formula(name, chat, alpha, k):
    model = tiny_model(name)
    sampling = Sampling(temperature=0, penalty_alpha=alpha, top_k=k, max_tokens=10)
    expected = [slow_contrastive(model, prompt, sampling) for prompt in PROMPTS]
    for limits in ({}, {"max_batch": 2 * k}, {"max_batch": 1}):
        drawn = TorchEngine(model, chat, **limits).generate_ids(PROMPTS, sampling)
        assert [d.ids for (d,) in drawn] == expected


def test_penalties_biases_and_log_probs(llama, chat):
    sampling = Sampling(
        temperature=0,
        penalty_alpha=0.4,
        top_k=5,
        max_tokens=14,
        min_tokens=3,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        no_repeat_ngram_size=3,
        logit_bias={END: 3.0},
        full_logps=True,
    )
    drawn = TorchEngine(llama, chat).generate_ids(PROMPTS, sampling, 2)
    assert len({len(d.ids) for d, _ in drawn}) > 1
    for prompt, (d, again) in zip(PROMPTS, drawn, strict=True):
        assert d.ids == slow_contrastive(llama, prompt, sampling)
        assert again == d
        assert d.finished == (d.ids[-1] == END)
        assert d.logps == (0.0,) * len(d.ids)
        for at, (token, logp) in enumerate(zip(d.ids, d.full_logps, strict=True)):
            assert logp == pytest.approx(log_softmax(next_logits(llama, [*prompt, *d.ids[:at]]))[token], abs=1e-4)


def test_more_candidates_than_tokens(chat):
    model = tiny_model("Llama", vocab_size=5)
    sampling = Sampling(temperature=0, penalty_alpha=0.5, top_k=9, max_tokens=6)
    drawn = TorchEngine(model, chat).generate_ids([[1, 3], [4]], sampling)
    assert [d.ids for (d,) in drawn] == [slow_contrastive(model, prompt, sampling) for prompt in ([1, 3], [4])]
