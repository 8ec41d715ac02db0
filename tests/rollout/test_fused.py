"""The fused forward is the model's own, and its weights are the model's own too."""

import copy

import pytest
import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.models import native
from sawyer.rollout.fused import can_pack
from sawyer.rollout.native_ops import NativeOps
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.decoders import ARCHITECTURES, tiny_model

PROMPTS = [[4, 9, 22, 7], [12, 5], [30, 31, 8, 8, 8, 40, 3]]
FUSED = {
    "Llama", "Qwen2", "Qwen3", "Granite", "Mistral",
    "Qwen2 without windows", "Mistral without windows", "Qwen2 with biases",
}  # fmt: skip
CHANGED = {
    "Granite with multipliers": ("Granite", {"residual_multiplier": 0.4}),
    "Qwen2 without windows": ("Qwen2", {"use_sliding_window": False, "layer_types": None, "sliding_window": None}),
    "Qwen2 with biases": ("Qwen2", {"use_sliding_window": False, "layer_types": None, "sliding_window": None}),
    "Mistral without windows": ("Mistral", {"sliding_window": None}),
}


def build(name):
    base, changes = CHANGED.get(name, (name, {}))
    model = tiny_model(base, **changes)
    if "biases" in name:
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("bias"):
                    parameter.normal_(generator=torch.Generator().manual_seed(3))
    return model


def drawn(engine):
    return engine.generate_ids(PROMPTS, Sampling(max_tokens=14), 3, seed=2)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *CHANGED])
@pytest.mark.parametrize("in_c", [True, False], ids=["C", "torch"])
def test_known_shapes_are_fused_and_draw_the_same(name, in_c, chat, monkeypatch):
    if not in_c:
        monkeypatch.setattr(native, "library", lambda dtype: None)
    elif native.library(torch.float32) is None:
        pytest.skip("needs a C compiler, on Linux")
    model = build(name)
    engine = TorchEngine(model, chat)
    found = drawn(engine)
    assert (engine._fused is not None) == (name in FUSED)
    assert engine._fused is None or isinstance(engine._fused.ops, NativeOps) == in_c
    plain = TorchEngine(model, chat)
    monkeypatch.setattr("sawyer.rollout.torch_engine.fuse", lambda *_: None)
    expected = drawn(plain)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.ids == b.ids
            torch.testing.assert_close(torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-4, rtol=1e-4)


def test_what_only_looks_alike_is_left_to_the_model(chat):
    model = tiny_model("Llama")
    norm = type(model.model.norm)
    original = norm.forward
    norm.forward = lambda self, hidden: original(self, hidden) * 1.2
    try:
        engine = TorchEngine(model, chat)
        drawn(engine)
        assert engine._fused is None
    finally:
        norm.forward = original


@pytest.mark.parametrize(("multiplier", "fused"), [(1.0, True), (0.4, False), (0.22, False)])
def test_bfloat16_tells_them_apart_too(chat, multiplier, fused):
    engine = TorchEngine(tiny_model("Granite", residual_multiplier=multiplier), chat, precision="bf16")
    drawn(engine)
    assert (engine._fused is not None) == fused


def test_a_shared_models_updates_are_seen_without_a_refresh(chat):
    model = tiny_model("Llama")
    engine = TorchEngine(model, chat, share=True)
    before = drawn(engine)
    assert engine._fused is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    after = drawn(engine)
    assert after != before
    assert after == drawn(TorchEngine(copy.deepcopy(model), chat))


def test_replaced_weights_are_fused_again(chat):
    model = tiny_model("Llama")
    engine = TorchEngine(model, chat, share=True)
    drawn(engine)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.2
    assert drawn(engine) == drawn(TorchEngine(copy.deepcopy(model), chat))


def test_a_fused_model_still_trains_and_is_saved_whole(chat, tmp_path):
    model = tiny_model("Llama", tie_word_embeddings=True)
    expected = copy.deepcopy(model.state_dict())
    TorchEngine(model, chat, share=True).generate([Prompt("abc")], Sampling(max_tokens=3))
    model(torch.tensor(PROMPTS[:1]), labels=torch.tensor(PROMPTS[:1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


@pytest.mark.skipif(not can_pack(torch.bfloat16, torch.device("cpu")), reason="needs a CPU with bfloat16 products")
@pytest.mark.parametrize("name", ["Llama", "Qwen2 with biases"])
def test_packed_weights_draw_the_same_and_are_refreshed(chat, name):
    model, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
    expected = [drawn(TorchEngine(m.to(torch.bfloat16), chat, share=True)) for m in (model, other)]
    copied, taken = TorchEngine(model, chat, precision="bf16"), TorchEngine(copy.deepcopy(model), chat, take=True)
    for engine in (copied, taken):
        assert drawn(engine) == expected[0]
        assert engine._fused.layers[0].gate_up.packed is not None
        engine.load(other.state_dict())
        assert drawn(engine) == expected[1]
    with pytest.raises(SawyerError, match=r"lack model\.layers\.0\.self_attn\.q_proj"):
        copied.load({k: v for k, v in model.state_dict().items() if "layers.0.self_attn.q_proj" not in k})


def test_an_engine_shares_or_takes(chat):
    with pytest.raises(SawyerError, match="choose one"):
        TorchEngine(build("Llama"), chat, share=True, take=True)
