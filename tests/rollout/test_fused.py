"""The fused forward is the model's own, and its weights are the model's own too."""

import copy

import pytest
import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.models import native
from sawyer.rollout import fused
from sawyer.rollout.fused import LeftHead, can_pack
from sawyer.rollout.native_ops import NativeOps
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from tests.kernels import both_types, compiled, random
from tests.rollout.decoders import ARCHITECTURES, tiny_model

PROMPTS = [[4, 9, 22, 7], [12, 5], [30, 31, 8, 8, 8, 40, 3]]
FUSED = {
    "Llama", "Qwen2", "Qwen3", "Granite", "Mistral",
    "Qwen2 without windows", "Mistral without windows", "Qwen2 with biases", "SmolLM3 rotated throughout",
    "Llama with LongRoPE",
}  # fmt: skip
CHANGED = {
    "Granite with multipliers": ("Granite", {"residual_multiplier": 0.4}),
    "Qwen2 without windows": ("Qwen2", {"use_sliding_window": False, "layer_types": None, "sliding_window": None}),
    "Qwen2 with biases": ("Qwen2", {"use_sliding_window": False, "layer_types": None, "sliding_window": None}),
    "Mistral without windows": ("Mistral", {"sliding_window": None}),
    "SmolLM3 rotated throughout": ("SmolLM3", {"no_rope_layers": [1, 1]}),
    "Llama with LongRoPE": (
        "Llama",
        {"rope_parameters": {**ARCHITECTURES["Phi3"]["rope_parameters"], "original_max_position_embeddings": 64}},
    ),
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


@pytest.mark.parametrize("name", ["SmolLM3", "Ministral3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_probe_sees_what_positions_do(chat, name, precision, monkeypatch):
    """Of these families it is also known from their configs."""
    monkeypatch.setattr(fused, "_rotates_alike", lambda backbone: True)
    engine = TorchEngine(tiny_model(name), chat, precision=precision)
    drawn(engine)
    assert engine._fused is None


def test_frequencies_for_each_kind_of_layer_are_left_to_the_model():
    model = tiny_model("Gemma3Text")
    assert any(isinstance(value, dict) for value in model.config.rope_parameters.values())
    assert not fused._rotates_alike(model.base_model)


def test_a_config_need_not_name_its_key_heads(chat):
    model = tiny_model("Llama")
    model.config.num_key_value_heads = None
    engine = TorchEngine(model, chat)
    assert drawn(engine) == drawn(TorchEngine(tiny_model("Llama"), chat))
    assert engine._fused is not None


def test_fusing_leaves_weights_and_random_numbers_alone(chat):
    model = tiny_model("Llama").to(torch.bfloat16)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert can_pack(torch.bfloat16, torch.device("cpu")) in (True, False)
    engine = TorchEngine(model, chat, share=True)
    drawn(engine)
    assert engine._fused is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("multiplier", "known"), [(1.0, True), (0.95, False), (0.4, False), (0.22, False)])
def test_bfloat16_tells_them_apart_too(chat, multiplier, known):
    engine = TorchEngine(tiny_model("Granite", residual_multiplier=multiplier), chat, precision="bf16")
    drawn(engine)
    assert (engine._fused is not None) == known


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


@compiled
@both_types
@pytest.mark.parametrize("rows", [1, 16, 50, 300])
@pytest.mark.parametrize("bias", [False, True])
def test_a_head_on_the_left_is_the_head(dtype, rows, bias):
    head = torch.nn.Linear(24, 333, bias=bias, dtype=dtype)
    hidden_N_D = random(rows, 24).to(dtype)
    with torch.no_grad():
        found, expected = LeftHead(head, native.library(dtype))(hidden_N_D), head(hidden_N_D)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.skipif(not can_pack(torch.bfloat16, torch.device("cpu")), reason="needs a CPU with bfloat16 products")
@compiled
def test_packing_keeps_no_second_copy_of_the_head(chat):
    engine = TorchEngine(build("Llama"), chat, precision="bf16")
    drawn(engine)
    assert engine._head.head is engine._model.get_output_embeddings()
    assert not engine._head.head.weight.is_meta


def test_an_engine_shares_or_takes(chat):
    with pytest.raises(SawyerError, match="choose one"):
        TorchEngine(build("Llama"), chat, share=True, take=True)
