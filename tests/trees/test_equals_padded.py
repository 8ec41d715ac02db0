"""Packing trees changes nothing: log-probs, losses and every gradient equal the padded reference, float32, to 1e-5."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, TaskType, get_peft_model

from sawyer.train import objectives
from sawyer.trees import attention
from sawyer.trees.model import TreePolicy, TreeReward
from sawyer.trees.tree import TreeBatch
from tests.reference import completion_sums, eager, padded_logprobs, padded_rewards

ISSUE = ("llama", "qwen2", "gemma2", "mistral", "gpt2")
MORE = ("gemma3_text", "phi", "qwen3", "stablelm", "gpt_neox", "granite", "cohere2", "opt")
PAIRS = [(9, 7, 12), (3, 14, 5), (12, 1, 2)]
KERNELS = {"dense": 1024, "sdpa": 0}


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def gradients_equal(ours: torch.nn.Module, reference: torch.nn.Module) -> None:
    expected = dict(reference.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        theirs = expected[name].grad
        if parameter.grad is None:
            assert theirs is None or not theirs.any(), name
            continue
        torch.testing.assert_close(parameter.grad, theirs, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        compared += 1
    assert compared > 0


@pytest.mark.parametrize("block", [4, attention.BLOCK])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", [*ISSUE, *MORE])
def test_logprobs_and_all_gradients_equal_the_padded_reference(arch, kernel, block, decoder, grow, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "DENSE_UP_TO", {torch.float32: KERNELS[kernel]})
    model = decoder(arch)
    reference = eager(model)
    trees = grow([(9, 7), (3, 14, 5), (12, 1, 8, 2, 3)])  # K = 1, 2, 4 in one row
    weight = torch.linspace(-1, 1, sum(tree.scored_tokens for tree in trees))

    ours, theirs = TreePolicy(model)(TreeBatch.of(trees)), padded_logprobs(reference, trees)
    close(ours, theirs)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients_equal(model, reference)


@pytest.mark.parametrize("arch", ISSUE)
def test_sft_loss_over_several_spans_equals_the_padded_reference(arch, decoder, grow):
    model = decoder(arch)
    reference = eager(model)
    trees = grow([(4, 20), (9, 11), (2, 3)], spans=True)

    loss = objectives.sft().terms(TreePolicy(model), TreeBatch.of(trees))["loss"] / 20
    expected = -padded_logprobs(reference, trees).sum() / 20
    close(loss, expected)
    loss.backward()
    expected.backward()
    gradients_equal(model, reference)


@pytest.mark.parametrize("arch", ISSUE)
def test_dpo_loss_equals_the_padded_reference(arch, decoder, grow):
    model = decoder(arch)
    reference = eager(model)
    trees = grow(PAIRS, values=[objectives.REFERENCE])

    loss = objectives.dpo(beta=0.3).terms(TreePolicy(model), TreeBatch.of(trees))["loss"]
    sums = completion_sums(padded_logprobs(reference, trees), trees)
    ratios = [logp - value for logp, value in zip(sums, _flat(trees, objectives.REFERENCE), strict=True)]
    expected = sum(-F.logsigmoid(0.3 * (w - l)) for w, l in zip(ratios[::2], ratios[1::2], strict=True))  # noqa: E741
    close(loss, expected)
    loss.backward()
    expected.backward()
    gradients_equal(model, reference)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", [*ISSUE, "qwen3", "gpt_neox", "stablelm", "phi"])
def test_reward_loss_equals_the_padded_reference(arch, kernel, decoder, grow, monkeypatch):
    monkeypatch.setattr(attention, "DENSE_UP_TO", {torch.float32: KERNELS[kernel]})
    model = decoder(arch, reward=True)
    reference = eager(model)
    trees = grow(PAIRS)

    loss = objectives.reward_model(centring=0.01).terms(TreeReward(model), TreeBatch.of(trees))["loss"]
    score = padded_rewards(reference, trees).view(-1, 2)
    expected = (-F.logsigmoid(score[:, 0] - score[:, 1]) + 0.01 * score.sum(1) ** 2).sum()
    close(loss, expected)
    loss.backward()
    expected.backward()
    gradients_equal(model, reference)


@pytest.mark.parametrize("arch", ISSUE)
def test_gradient_checkpointing_changes_nothing(arch, decoder, grow):
    trees = grow([(9, 7, 12), (3, 14, 5)])
    found = []
    for checkpointing in (False, True):
        model = decoder(arch).train()
        policy = TreePolicy(model)
        if checkpointing:
            policy.checkpoint_activations()
        logp = policy(TreeBatch.of(trees))
        logp.sum().backward()
        found.append((logp.detach(), model))
    assert torch.equal(found[0][0], found[1][0])
    gradients_equal(found[1][1], found[0][1])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_equal_the_padded_reference(checkpointing, decoder, grow):
    model = _with_adapters(decoder("llama", tie_word_embeddings=False), TaskType.CAUSAL_LM)
    reference = eager(model)
    policy = TreePolicy(model)
    if checkpointing:
        policy.checkpoint_activations()
        model.train()
    trees = grow([(9, 7), (3, 14, 5)])

    ours, theirs = policy(TreeBatch.of(trees)), padded_logprobs(reference, trees)
    close(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    gradients_equal(model, reference)
    assert all("lora" in name for name, p in model.named_parameters() if p.grad is not None)


def test_adapters_on_the_output_embedding_equal_the_padded_reference(decoder, grow):
    model = _with_adapters(decoder("qwen2"), TaskType.CAUSAL_LM, ["lm_head", "q_proj"])
    reference = eager(model)
    trees = grow([(9, 7), (3, 14, 5)])

    ours, theirs = TreePolicy(model)(TreeBatch.of(trees)), padded_logprobs(reference, trees)
    close(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    gradients_equal(model, reference)


def test_reward_adapters_train_the_score_head_too(decoder, grow):
    model = _with_adapters(decoder("llama", reward=True), TaskType.SEQ_CLS)
    reference = eager(model)
    trees = grow(PAIRS)

    ours, theirs = TreeReward(model)(TreeBatch.of(trees)), padded_rewards(reference, trees)
    close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    gradients_equal(model, reference)
    assert any("score" in name for name, p in model.named_parameters() if p.grad is not None)


def test_the_final_logits_are_those_of_the_model_itself(decoder, grow):
    model = decoder("hyperclovax")
    trees = grow([(5, 4)])
    close(TreePolicy(model)(TreeBatch.of(trees)), padded_logprobs(eager(model), trees))


def _with_adapters(model, task, targets=("q_proj", "v_proj", "down_proj")):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), task_type=task))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # zero at first: an adapter that does nothing would prove nothing
                    parameter.normal_(0, 0.1)
    return model.eval()


def _flat(trees, name):
    return [value for tree in trees for value in tree.values[name]]
