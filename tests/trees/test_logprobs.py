"""Log-probs in tiles equal the plain formula, whatever the tiles, and never hold tokens x vocabulary."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sawyer.trees import logprobs
from sawyer.trees.logprobs import token_logprobs, token_spread
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TreeBatch

N, D, V = 23, 8, 61
SIZES = [(2048, 4096), (5, 7), (1, 61), (23, 1), (7, 60)]


def plain(hidden, head, target, softcap=None, scale=1.0):
    logits = head(hidden) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.log_softmax(logits, dim=-1).gather(1, target[:, None])[:, 0]


def problem(bias: bool = True, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(D, V, bias=bias, dtype=dtype)
        return torch.randn(N, D, dtype=dtype, requires_grad=True), head, torch.randint(V, (N,)), torch.randn(N)


def run(function, hidden, head, target, weight, **options):
    hidden.grad = None
    head.zero_grad()
    logp = function(hidden, head, target, **options)
    (logp * weight).sum().backward()
    return [logp.detach(), hidden.grad.clone(), *(p.grad.clone() for p in head.parameters())]


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}, {"scale": 0.3}, {"softcap": 1.5, "scale": 3.0}])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_tile_and_chunk_sizes_change_nothing(sizes, bias, options, monkeypatch):
    monkeypatch.setattr(logprobs, "TOKENS", sizes[0])
    monkeypatch.setattr(logprobs, "TILE", sizes[1])
    hidden, head, target, weight = problem(bias)
    ours = run(token_logprobs, hidden, head, target, weight, **options)
    expected = run(plain, hidden, head, target, weight, **options)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5, "scale": 3.0}])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_spread_is_that_of_the_whole_distribution(sizes, tiled, options, monkeypatch):
    monkeypatch.setattr(logprobs, "TOKENS", sizes[0])
    monkeypatch.setattr(logprobs, "TILE", sizes[1])
    hidden, head, target, weight = problem()
    with torch.no_grad():
        hidden *= 2
    read = head if tiled else nn.Sequential(head)
    logp, spread = token_spread(hidden, read, target, **options)
    assert torch.equal(logp, token_logprobs(hidden, read, target, **options))
    every = torch.stack([plain(hidden, head, torch.full((N,), v), **options) for v in range(V)], 1).double()
    torch.testing.assert_close(spread.entropy_N.double(), -(every.exp() * every).sum(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread.collision_N.double(), (2 * every).exp().sum(1).log(), atol=1e-5, rtol=1e-5)
    assert not any(value.requires_grad for value in (spread.entropy_N, spread.collision_N))
    gradient = torch.autograd.grad((logp * weight).sum(), hidden)[0]
    without = torch.autograd.grad((token_logprobs(hidden, read, target, **options) * weight).sum(), hidden)[0]
    assert torch.equal(gradient, without)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_spread_of_certain_and_of_even_distributions(dtype):
    head = nn.Linear(2, 5, bias=False, dtype=dtype)
    head.weight.data = torch.tensor([[90.0, 0.0], [-90.0, 0.0], [0, 0], [0, 0], [0, 0]], dtype=dtype)
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    _, spread = token_spread(hidden, head, torch.tensor([1, 1]))
    even = torch.tensor(5.0).log()
    torch.testing.assert_close(spread.entropy_N, torch.stack([torch.zeros(()), even]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread.collision_N, torch.stack([torch.zeros(()), -even]), atol=1e-5, rtol=1e-5)


def test_a_second_backward_through_the_same_graph_gives_the_same():
    hidden, head, target, weight = problem()
    loss = (token_logprobs(hidden, head, target, softcap=1.5, scale=3.0) * weight).sum()
    first, second = (torch.autograd.grad(loss, [hidden, head.weight], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_head_that_is_no_plain_linear_layer_gives_the_same():
    hidden, head, target, weight = problem()
    wrapped = nn.Sequential(head)
    ours = run(token_logprobs, hidden, wrapped, target, weight, softcap=1.5, scale=2.0)
    expected = run(plain, hidden, head, target, weight, softcap=1.5, scale=2.0)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_only_the_gradients_asked_for_are_made():
    hidden, head, target, weight = problem()
    expected = run(token_logprobs, hidden, head, target, weight)
    head.requires_grad_(False)
    hidden.grad = None
    (token_logprobs(hidden, head, target) * weight).sum().backward()
    torch.testing.assert_close(hidden.grad, expected[1])
    head.requires_grad_(True)
    head.zero_grad()
    (token_logprobs(hidden.detach(), head, target) * weight).sum().backward()
    torch.testing.assert_close(head.weight.grad, expected[2])


@pytest.mark.parametrize("tiled", [True, False])
def test_no_scored_token_gives_no_logprob_and_no_gradient(tiled):
    hidden, head, target, _ = problem()
    logp = token_logprobs(hidden[:0], head if tiled else nn.Sequential(head), target[:0])
    assert logp.shape == (0,)
    logp.sum().backward()
    for parameter in head.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    assert hidden.grad is None or not hidden.grad.any()


def test_stable_where_logits_are_huge():
    hidden, head, target, weight = problem()
    with torch.no_grad():
        hidden *= 1e4
    for found in run(token_logprobs, hidden, head, target, weight):
        assert torch.isfinite(found).all()


def test_bfloat16_keeps_logprobs_in_float32_close_to_the_exact_ones():
    hidden, head, target, weight = problem(dtype=torch.bfloat16)
    logp, *gradients = run(token_logprobs, hidden, head, target, weight)
    exact, *exact_gradients = run(plain, hidden.detach().float().requires_grad_(), head.float(), target, weight)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, exact, atol=0.02, rtol=0)
    for found, wanted in zip(gradients, exact_gradients, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.02)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor any operation makes, and the largest of given width."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes():
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "gpt2"])
def test_no_tensor_of_tokens_by_vocabulary_is_ever_made(arch, decoder, grow, monkeypatch):
    monkeypatch.setattr(logprobs, "TOKENS", 64)
    monkeypatch.setattr(logprobs, "TILE", 128)
    sizes = {}
    for vocabulary in (4000, 8000):
        model = decoder(arch, vocab_size=vocabulary, max_position_embeddings=128, hidden_size=32)
        trees = grow([(4, 90)] * 6)
        batch = TreeBatch.of(trees)
        with Largest() as largest:
            TreePolicy(model)(batch).sum().backward()
        # the embedding and its gradient are the only things that may grow with the vocabulary
        assert largest.numel <= vocabulary * 32, arch
        assert largest.numel < batch.scored_tokens * vocabulary / 10
        sizes[vocabulary] = largest.numel
    assert sizes[8000] == 2 * sizes[4000] == 8000 * 32


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_whole_distributions_at_some_positions_hold_the_log_probs(arch, decoder, grow):
    policy, batch = TreePolicy(decoder(arch)), TreeBatch.of(grow([(4, 9), (3, 5)]))
    index = torch.tensor([0, 5, 13])
    with torch.no_grad():
        logp_N, spread = policy(batch, spread=True)
        found = policy.distributions(batch, index)
    torch.testing.assert_close(found.gather(1, batch.target_ids[index][:, None])[:, 0], logp_N[index])
    torch.testing.assert_close(-(found.exp() * found).sum(1), spread.entropy_N[index], atol=1e-5, rtol=1e-5)
