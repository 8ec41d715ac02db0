"""A model as a stage trains it: what it learned, taken out, put back, and merged."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from sawyer.data.chat import ChatFormat
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_policy
from sawyer.models.lora import LoraSettings


def changed(trainable):
    """The trainable, with every weight that trains moved away from its start."""
    with torch.no_grad():
        for parameter in trainable.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.ndim))
    return trainable


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)])
def test_merged_weights_are_those_that_are_saved(tiny_policy, tiny_tokenizer, tmp_path, arch, lora):
    body = tiny_policy(arch)
    trainable = changed(Trainable(lambda: copy.deepcopy(body), lora))
    trainable.save(tmp_path, ChatFormat(tiny_tokenizer))
    saved = load_file(tmp_path / "model.safetensors")
    merged = trainable.merged()
    assert set(saved) <= set(merged) == {name for name, _ in body.named_parameters()}
    for name, tensor in saved.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(p, merged[name]) for name, p in body.named_parameters())


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)])
def test_what_was_learned_can_be_taken_again(tiny_policy, lora):
    body = tiny_policy("llama")
    first = changed(Trainable(lambda: copy.deepcopy(body), lora))
    learned = {name: tensor.clone() for name, tensor in first.learned().items()}
    assert all(("lora" in name) == (lora is not None) for name in learned)
    second = Trainable(lambda: copy.deepcopy(body), lora, seed=5)
    for parameter in second.model.parameters():  # as training in bf16 leaves it
        parameter.data = parameter.data.bfloat16()
    second.take(learned)
    assert {name: tensor.dtype for name, tensor in second.learned().items()} == dict.fromkeys(learned, torch.float32)
    assert all(torch.equal(second.learned()[name], tensor) for name, tensor in learned.items())


def test_adapters_alone_are_small_and_load_as_the_merged_model(saved_policy, tiny_tokenizer, tmp_path):
    body = saved_policy("llama")
    load = lambda: load_policy(body)
    whole, alone = (changed(Trainable(load, LoraSettings(r=2, merge=merge))) for merge in (True, False))
    whole.save(tmp_path / "whole", ChatFormat(tiny_tokenizer))
    alone.save(tmp_path / "alone", ChatFormat(tiny_tokenizer))
    assert (tmp_path / "whole" / "model.safetensors").exists()
    assert not list((tmp_path / "alone").glob("model*.safetensors"))
    assert (tmp_path / "alone" / "adapter_model.safetensors").stat().st_size < 100_000
    left, right = (dict(load_policy(str(tmp_path / name)).named_parameters()) for name in ("whole", "alone"))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=1e-7)


def test_an_adapter_is_merged_before_it_is_rounded(saved_policy, tiny_tokenizer, tmp_path):
    """In bfloat16 a small change on a rounded weight would often be lost."""
    body = saved_policy("llama")
    trainable = changed(Trainable(lambda: load_policy(body), LoraSettings(r=2, merge=False)))
    trainable.save(tmp_path / "alone", ChatFormat(tiny_tokenizer))
    exact = dict(load_policy(str(tmp_path / "alone")).named_parameters())
    for name, parameter in load_policy(str(tmp_path / "alone"), dtype=torch.bfloat16).named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, exact[name].bfloat16())


def test_an_adapter_trained_on_an_adapter_finds_both(saved_policy, tiny_tokenizer, tmp_path):
    place = saved_policy("llama")
    for name in ("first", "second"):
        body = place
        changed(Trainable(lambda body=body: load_policy(body), LoraSettings(r=2, merge=False))).save(
            tmp_path / name, ChatFormat(tiny_tokenizer)
        )
        place = str(tmp_path / name)
    once, twice = (dict(load_policy(str(tmp_path / name)).named_parameters()) for name in ("first", "second"))
    start = dict(load_policy(saved_policy("llama")).named_parameters())
    name = next(name for name in start if not torch.equal(start[name], once[name]))
    torch.testing.assert_close(twice[name] - once[name], once[name] - start[name], rtol=1e-4, atol=1e-5)
