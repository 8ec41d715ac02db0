"""Beam search against `generate(num_beams=...)` of transformers, diverse beam search against its paper in full."""

from collections import Counter

import numpy as np
import pytest
import torch

from sawyer.errors import SawyerError
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.decoders import tiny_model
from tests.rollout.slow import log_softmax, next_logits

PROMPTS = [[1, 5, 9, 11, 30], [1, 40, 41], [1, 8, 8, 8, 17, 50, 51, 52, 7, 10, 12, 13], [33]]
END = 2
BIAS = {END: 2.5}  # so that beams end at different lengths, before the limit


def transformers_beams(model, prompt, sampling, **more):
    found = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        num_beams=sampling.num_beams,
        num_return_sequences=sampling.num_beams,
        max_new_tokens=sampling.max_tokens,
        length_penalty=sampling.length_penalty,
        early_stopping=sampling.early_stopping,
        sequence_bias=[[[token], bias] for token, bias in sampling.logit_bias.items()],
        eos_token_id=END,
        **more,
    )
    completions = [row[len(prompt) :] for row in found.tolist()]
    return [tuple(ids[: ids.index(END) + 1] if END in ids else ids) for ids in completions]


def found_beams(model, chat, sampling, **limits):
    drawn = TorchEngine(model, chat, **limits).generate_ids(PROMPTS, sampling, sampling.num_beams)
    return [[d.ids for d in own] for own in drawn]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 1.0), (4, 0.0), (4, 2.0), (3, -1.0)])
@pytest.mark.parametrize("bias", [0.8, 2.5])
def test_beams_are_those_of_transformers(llama, chat, bias, num_beams, length_penalty, early_stopping):
    sampling = Sampling(
        temperature=0,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        max_tokens=12,
        logit_bias={END: bias},
    )
    expected = [transformers_beams(llama, prompt, sampling) for prompt in PROMPTS]
    assert found_beams(llama, chat, sampling) == expected
    if bias == 2.5:
        assert len({len(ids) for own in expected for ids in own}) > 1


@pytest.mark.parametrize("name", ["Gemma2", "GPT2", "Mistral"])
def test_beams_of_other_architectures(name, chat):
    model, sampling = tiny_model(name), Sampling(temperature=0, num_beams=3, max_tokens=9, logit_bias=BIAS)
    assert found_beams(model, chat, sampling) == [transformers_beams(model, prompt, sampling) for prompt in PROMPTS]


def test_beams_with_penalties_are_those_of_transformers(llama, chat):
    sampling = Sampling(
        temperature=0,
        num_beams=4,
        max_tokens=12,
        logit_bias=BIAS,
        repetition_penalty=1.4,
        no_repeat_ngram_size=2,
        min_tokens=5,
    )
    more = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 5}
    assert found_beams(llama, chat, sampling) == [transformers_beams(llama, p, sampling, **more) for p in PROMPTS]


def test_beams_do_not_depend_on_what_shares_the_batch(llama, chat):
    sampling = Sampling(temperature=0, num_beams=4, max_tokens=10, logit_bias=BIAS)
    together = found_beams(llama, chat, sampling)
    assert found_beams(llama, chat, sampling, max_batch=8) == together
    assert found_beams(llama, chat, sampling, max_batch=1) == together


def slow_diverse(model, prompt, sampling):
    """Diverse beam search with a full forward for every beam and step, a token of the vocabulary at a time."""
    s, width = sampling, sampling.num_beams // sampling.num_beam_groups
    groups = [{"beams": [(0.0, ())], "complete": [], "open": True} for _ in range(s.num_beam_groups)]
    for length in range(1, s.max_tokens + 1):
        taken = Counter()
        for group in (g for g in groups if g["open"]):
            candidates = []
            for score, ids in group["beams"]:
                logp = log_softmax(next_logits(model, [*prompt, *ids]))
                logp[END] += s.logit_bias[END]
                candidates += [(score + logp[v] - s.diversity_penalty * taken[v], (*ids, v)) for v in range(len(logp))]
            candidates = sorted(candidates, reverse=True)[: 2 * width]
            ends = [ids[-1] == END or length == s.max_tokens for _, ids in candidates]
            group["complete"] += [
                (c[0] / length, c[1]) for c, end in zip(candidates[:width], ends, strict=False) if end
            ]
            group["complete"] = sorted(group["complete"], reverse=True)[:width]
            group["beams"] = [c for c, end in zip(candidates, ends, strict=True) if not end][:width]
            full = len(group["complete"]) == width
            if not group["beams"] or (full and group["beams"][0][0] / length <= group["complete"][-1][0]):
                group["open"] = False
            else:
                taken.update(ids[-1] for _, ids in group["beams"])
    return [ids for _, ids in sorted((c for g in groups for c in g["complete"]), reverse=True)]


@pytest.mark.parametrize(("num_beams", "groups", "penalty"), [(4, 2, 0.7), (6, 3, 2.0), (3, 3, 30.0)])
def test_diverse_beams_are_those_of_the_paper(llama, chat, num_beams, groups, penalty):
    sampling = Sampling(
        temperature=0,
        num_beams=num_beams,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        max_tokens=7,
        logit_bias=BIAS,
    )
    found = found_beams(llama, chat, sampling)
    assert found == [slow_diverse(llama, prompt, sampling) for prompt in PROMPTS]
    if penalty == 30.0:
        assert all(len({ids[0] for ids in own}) == 3 for own in found)


def test_beams_report_the_models_log_probs_and_stop_where_they_should(llama, chat):
    sampling = Sampling(temperature=0, num_beams=3, max_tokens=10, full_logps=True, stop=("a",), frequency_penalty=0.5)
    for prompt, own in zip(PROMPTS, TorchEngine(llama, chat).generate_ids(PROMPTS, sampling, 2), strict=True):
        for d in own:
            assert d.logps == (0.0,) * len(d.ids)
            for at, (token, logp) in enumerate(zip(d.ids, d.full_logps, strict=True)):
                assert logp == pytest.approx(log_softmax(next_logits(llama, [*prompt, *d.ids[:at]]))[token], abs=1e-4)
            text = [chat.decode([token]) for token in d.ids]
            assert "a" not in text[:-1]
            assert d.finished == (text[-1] == "a" or d.ids[-1] == END)


def test_more_completions_than_beams_are_refused(llama, chat):
    with pytest.raises(SawyerError, match="n is 3: beam search with num_beams 2 finds at most 2"):
        TorchEngine(llama, chat).generate_ids(PROMPTS, Sampling(temperature=0, num_beams=2, max_tokens=9), 3)


def test_a_vocabulary_smaller_than_the_beams(chat):
    model = tiny_model("Llama", vocab_size=4)
    sampling = Sampling(temperature=0, num_beams=6, max_tokens=1)
    (own,) = TorchEngine(model, chat).generate_ids([[1]], sampling, 6)
    logits = next_logits(model, [1])
    assert [d.ids for d in own] == [(int(v),) for v in np.argsort(-logits)] + [(int(np.argmin(logits)),)] * 2
