"""Who sees whom in a packed row: completions see their prompt and themselves, and nothing else."""

import dataclasses

import pytest
import torch

from sawyer.errors import SawyerError
from sawyer.trees import attention
from sawyer.trees.model import TreeDecoder, TreePolicy
from sawyer.trees.tree import Branches, TokenTree, TreeBatch

ARCHITECTURES = ("llama", "qwen2", "gemma2", "mistral", "gpt2")
LENGTHS = [(9, 7, 12), (6, 5, 8), (12, 4, 4)]


@torch.no_grad()
def hidden(model, trees) -> torch.Tensor:
    return TreeDecoder(model).hidden(TreeBatch.of(trees))


def spans(trees, r: int) -> tuple[slice, slice, slice]:
    """Where the prompt and the two completions of tree r lie in the row."""
    start = sum(tree.tokens for tree in trees[:r])
    ends = [start, *(start + len(trees[r].prompt) + n for n in (0, len(trees[r].completions[0])))]
    ends.append(start + trees[r].tokens)
    return slice(ends[0], ends[1]), slice(ends[1], ends[2]), slice(ends[2], ends[3])


def other(ids):
    return [(i + 1) % 90 + 3 for i in ids]


@pytest.mark.parametrize("kernel", [1024, 0])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rejected_cannot_see_chosen_nor_chosen_rejected(arch, kernel, decoder, grow, monkeypatch):
    monkeypatch.setattr(attention, "DENSE_UP_TO", {torch.float32: kernel})
    model, trees = decoder(arch), grow(LENGTHS)
    before = hidden(model, trees)
    prompt, chosen, rejected = spans(trees, 1)
    for k, (touched, untouched) in enumerate([(chosen, rejected), (rejected, chosen)]):
        completions = list(trees[1].completions)
        completions[k] = other(completions[k])
        after = hidden(model, [trees[0], dataclasses.replace(trees[1], completions=completions), trees[2]])
        assert torch.equal(after[untouched], before[untouched])
        assert torch.equal(after[prompt], before[prompt])
        assert (after[touched] != before[touched]).any(dim=1).all()


@pytest.mark.parametrize("kernel", [1024, 0])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_trees_cannot_see_each_other(arch, kernel, decoder, grow, monkeypatch):
    monkeypatch.setattr(attention, "DENSE_UP_TO", {torch.float32: kernel})
    model, trees = decoder(arch), grow(LENGTHS)
    before = hidden(model, trees)
    tree = trees[1]
    changed = TokenTree(other(tree.prompt), [other(c) for c in tree.completions])
    after = hidden(model, [trees[0], changed, trees[2]])
    mine = slice(trees[0].tokens, trees[0].tokens + trees[1].tokens)
    assert (after[mine] != before[mine]).any(dim=1).all()
    rest = torch.ones(len(before), dtype=torch.bool)
    rest[mine] = False
    assert torch.equal(after[rest], before[rest])


def test_a_completion_sees_its_whole_prompt(decoder, grow):
    model, trees = decoder("llama"), grow(LENGTHS)
    before = hidden(model, trees)
    _, chosen, rejected = spans(trees, 1)
    for i in range(len(trees[1].prompt)):
        ids = list(trees[1].prompt)
        ids[i] = other(ids)[i]
        after = hidden(model, [trees[0], dataclasses.replace(trees[1], prompt=ids), trees[2]])
        for completion in (chosen, rejected):
            assert (after[completion] != before[completion]).any(dim=1).all()


def test_later_tokens_are_not_seen(decoder, grow):
    model, trees = decoder("llama"), grow(LENGTHS)
    before = hidden(model, trees)
    _, chosen, _ = spans(trees, 1)
    completions = [list(c) for c in trees[1].completions]
    completions[0][4:] = other(completions[0][4:])
    after = hidden(model, [trees[0], dataclasses.replace(trees[1], completions=completions), trees[2]])
    assert torch.equal(after[chosen][:4], before[chosen][:4])


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_mask_is_what_each_completion_would_see_in_a_pass_of_its_own(window):
    tree = Branches(start=0, prompt=4, completions=(3, 5, 1))
    mask = attention.tree_mask(tree, window)
    begin = tree.prompt
    for length in tree.completions:
        own = [*range(tree.prompt), *range(begin, begin + length)]
        n = torch.arange(len(own))
        alone = n[:, None] >= n
        if window is not None:
            alone &= n[:, None] - n < window
        assert torch.equal(mask[own][:, own], alone)
        siblings = [i for i in range(tree.length) if i not in own]
        assert not mask[begin : begin + length][:, siblings].any()
        begin += length


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_kernel_follows_the_mask(groups, window, softcap, grow, monkeypatch):
    layout = TreeBatch.of(grow([(4, 3, 5, 1), (1, 6), (7, 2, 2)])).layout
    generator = torch.Generator().manual_seed(0)
    shape = (layout.length, 16)
    query = torch.randn(1, 4, *shape, generator=generator)
    key, value = (torch.randn(1, groups, *shape, generator=generator) for _ in range(2))

    mask = torch.block_diag(*[attention.tree_mask(tree, window) for tree in layout.trees]).bool()
    scores = 0.3 * query @ key.repeat_interleave(4 // groups, 1).transpose(2, 3)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = (weights @ value.repeat_interleave(4 // groups, 1)).transpose(1, 2)

    def by_tree(kernel, *more):
        rows = [slice(tree.start, tree.start + tree.length) for tree in layout.trees]
        parts = [(query[:, :, s], key[:, :, s], value[:, :, s]) for s in rows]
        return torch.cat(
            [kernel(*p, layout, tree, 0.3, window, *more) for p, tree in zip(parts, layout.trees, strict=True)], 1
        )

    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(by_tree(attention._dense, softcap), expected, **close)
    if softcap is None:
        torch.testing.assert_close(by_tree(attention._sdpa), expected, **close)
    monkeypatch.setattr(attention, "BLOCK", 4)
    for up_to in (1024, 0):
        monkeypatch.setattr(attention, "DENSE_UP_TO", {torch.float32: up_to})
        torch.testing.assert_close(
            attention._by_tree(query, key, value, layout, 0.3, window, softcap), expected, **close
        )
    flex = attention._flex(query, key, value, layout, 0.3, window, softcap).transpose(1, 2)
    torch.testing.assert_close(flex, expected, **close)


def test_few_scores_of_siblings_are_computed(grow, monkeypatch):
    layout = TreeBatch.of(grow([(100, *[64] * 8)])).layout
    scores = []
    kernel = attention._sdpa
    monkeypatch.setattr(
        attention, "_sdpa", lambda q, k, *more: scores.append(q.shape[2] * k.shape[2]) or kernel(q, k, *more)
    )
    row = torch.zeros(1, 2, layout.length, 8)
    attention._by_tree(row, row, row, layout, 1.0, None, None)
    needed = 100 * 101 / 2 + 8 * (64 * 100 + 64 * 65 / 2)
    assert sum(scores) < 2 * needed
    assert sum(scores) < 0.4 * layout.length**2


@pytest.mark.parametrize("arch", ["mamba", "lfm2", "gptj", "gpt_neo", "bloom", "gpt_oss"])
def test_models_in_which_packed_completions_would_mix_are_refused(arch, decoder, grow):
    with pytest.raises(SawyerError, match="model"):
        TreePolicy(decoder(arch))(TreeBatch.of(grow(LENGTHS)))


def test_attention_dropout_is_refused(decoder, grow):
    model = decoder("llama", attention_dropout=0.1).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    with pytest.raises(SawyerError, match="dropout"):
        TreePolicy(model)(TreeBatch.of(grow(LENGTHS)))
