"""Blocks with hand-written backwards give the same numbers and gradients as the model's own."""

import copy

import pytest
import torch

from sawyer.models.lean import slim


def outputs_and_gradients(model, ids):
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.float().square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("arch", "blocks"), [("llama", 7), ("qwen2", 7), ("mistral", 7), ("gemma", 0), ("gpt2", 0)])
def test_slim_blocks_equal_the_models_own(tiny_policy, arch, blocks):
    model = tiny_policy(arch)
    ids = torch.randint(3, 300, (2, 17), generator=torch.Generator().manual_seed(1))
    logits, gradients = outputs_and_gradients(model, ids)
    assert slim(model) == blocks
    slim_logits, slim_gradients = outputs_and_gradients(model, ids)
    torch.testing.assert_close(slim_logits, logits, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(slim_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_slimming_twice_changes_nothing_more(tiny_policy):
    model = tiny_policy("llama")
    assert slim(model) == 7
    assert slim(model) == 0


def test_a_block_that_only_looks_alike_is_left_alone(tiny_policy):
    model = tiny_policy("llama")
    norm_class = type(model.model.norm)
    original = norm_class.forward
    norm_class.forward = lambda self, hidden: original(self, hidden) * 1.5
    try:
        assert slim(model) == 2  # the two MLPs, no norm
    finally:
        norm_class.forward = original


def test_a_copy_of_a_slim_model_has_weights_of_its_own(tiny_policy):
    model = tiny_policy("llama")
    slim(model)
    copied = copy.deepcopy(model)
    ids = torch.arange(3, 20)[None]
    before = model(input_ids=ids).logits
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(input_ids=ids).logits, before)
    assert copied(input_ids=ids).logits.abs().max() == 0
