"""New weights for the vLLM engine, by vLLM's protocol (`fake_vllm`), and by vLLM itself where there is a GPU."""

import importlib.util

import numpy as np
import pytest
import torch

from sawyer.errors import SawyerError
from sawyer.rollout import vllm_weights
from sawyer.rollout.protocol import Sampling
from sawyer.rollout.vllm_engine import VllmEngine
from tests.rollout import fake_vllm_weights
from tests.rollout.decoders import tiny_model
from tests.rollout.slow import expected_logps, own_logps

PROMPTS = [[1, 5, 9, 11, 30], [1, 20, 21], [1, 8, 8, 8, 17, 10, 12, 13], [33]]


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("buffer", [1, 8192, 2**28])
def test_load_refreshes_every_gpu_and_forgets_what_was_cached(vllm, folder, chat, gpus, buffer, monkeypatch):
    monkeypatch.setattr(vllm_weights, "_BUFFER_BYTES", buffer)
    engine = VllmEngine(folder, chat, tensor_parallel_size=gpus)
    sampling = Sampling(max_tokens=10)
    stale = engine.generate_ids(PROMPTS, sampling, 3)
    trained = tiny_model("Llama")
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1.1)
    engine.load(trained.state_dict())
    drawn = engine.generate_ids(PROMPTS, sampling, 3)
    assert drawn != stale
    for prompt, samples in zip(PROMPTS, drawn, strict=True):
        for d in samples:
            np.testing.assert_allclose(d.logps, expected_logps(trained, sampling, prompt, d.ids), atol=1e-5)
    for worker in engine._llm.workers:
        for name, p in worker.model.named_parameters():
            assert torch.equal(p, trained.get_parameter(name))
        assert (worker.chunks == 1) == (buffer == 2**28)
    assert not fake_vllm_weights.MEMORY


def test_tied_weights_may_be_left_out_or_given_twice(vllm, tmp_path, chat):
    tied = tiny_model("GPT2")
    tied.save_pretrained(tmp_path)
    chat.save(tmp_path)
    engine = VllmEngine(str(tmp_path), chat)
    with torch.no_grad():
        for p in tied.parameters():
            p.mul_(1.1)
    state = tied.state_dict()
    assert {"lm_head.weight", "transformer.wte.weight"} <= state.keys()
    sampling = Sampling(max_tokens=8)
    engine.load(state)
    both = engine.generate_ids(PROMPTS, sampling, 2)
    engine.load(dict(tied.named_parameters()))
    assert engine.generate_ids(PROMPTS, sampling, 2) == both
    for prompt, samples in zip(PROMPTS, both, strict=True):
        expected = expected_logps(tied, sampling, prompt, samples[0].ids)
        np.testing.assert_allclose(samples[0].logps, expected, atol=1e-5)


def test_weights_that_do_not_fit_are_refused_before_any_is_sent(vllm, folder, chat, monkeypatch):
    engine = VllmEngine(folder, chat)
    state = tiny_model("Llama").state_dict()
    before = engine.generate_ids(PROMPTS, Sampling(max_tokens=6))
    with pytest.raises(SawyerError, match=r"lack model\.norm\.weight of shape \(32,\)"):
        engine.load({name: weight for name, weight in state.items() if "model.norm" not in name})
    with pytest.raises(SawyerError, match=r"lack lm_head\.weight of shape \(61, 32\)"):
        engine.load({**state, "lm_head.weight": torch.zeros(60, 32)})
    assert engine.generate_ids(PROMPTS, Sampling(max_tokens=6)) == before
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(SawyerError, match="kept the keys and values of its old weights"):
        engine.load(state)
    engine._llm.start_weight_update()
    with pytest.raises(SawyerError, match="did not take the weights, so make a new engine: start_weight_update"):
        engine.load(state)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM needs a GPU")
def test_vllm_itself_draws_from_the_model_and_takes_new_weights(tmp_path, chat):
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "head_dim": 64}
    model = tiny_model("Llama", **shape, num_key_value_heads=2, initializer_range=0.1)
    model.save_pretrained(tmp_path)
    chat.save(tmp_path)
    engine = VllmEngine(
        str(tmp_path), chat, dtype="float32", max_model_len=128, gpu_memory_utilization=0.3, enforce_eager=True
    )
    sampling = Sampling(max_tokens=10, temperature=0.8, top_k=20, full_logps=True, min_tokens=2)
    drawn = []
    for factor in (1.0, 1.1):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
        engine.load(model.state_dict())
        drawn.append(engine.generate_ids(PROMPTS, sampling, 3, seed=1))
        assert drawn[-1] == engine.generate_ids(PROMPTS, sampling, 3, seed=1)
        for prompt, samples in zip(PROMPTS, drawn[-1], strict=True):
            for d in samples:
                np.testing.assert_allclose(d.logps, expected_logps(model, sampling, prompt, d.ids), atol=1e-2)
                np.testing.assert_allclose(d.full_logps, own_logps(model, prompt, d.ids), atol=1e-2)
    assert drawn[0] != drawn[1]
