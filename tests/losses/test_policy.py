"""Losses of reinforcement learning and KL estimators, against slow loops and what is known of them."""

import math

import pytest
import torch
from torch.nn import functional as F

from sawyer.losses import kl, policy
from sawyer.trees.logprobs import token_entropy


@pytest.fixture
def tokens():
    g = torch.Generator().manual_seed(0)
    return lambda n=50, scale=0.3: torch.randn(n, generator=g) * scale


@pytest.mark.parametrize("clip_high", [None, 0.5])
def test_the_clipped_policy_loss_is_the_loop_of_the_paper(tokens, clip_high):
    logp, old, advantage = tokens(), tokens(), tokens(scale=1.0)
    loss_N, clipped_N = policy.clipped_policy(logp, old, advantage, clip=0.2, clip_high=clip_high)
    for i in range(len(logp)):
        rho, a = math.exp(float(logp[i] - old[i])), float(advantage[i])
        held = min(max(rho, 0.8), 1.2 if clip_high is None else 1.5)
        assert float(loss_N[i]) == pytest.approx(-min(rho * a, held * a), abs=1e-6)
        assert bool(clipped_N[i]) == (held * a < rho * a)


def test_at_the_old_policy_the_gradient_is_reinforce(tokens):
    logp, advantage = tokens().requires_grad_(), tokens(scale=1.0)
    policy.clipped_policy(logp, logp.detach().clone(), advantage)[0].sum().backward()
    torch.testing.assert_close(logp.grad, -advantage)


def test_beyond_the_clip_there_is_no_gradient_to_go_on():
    logp = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)
    policy.clipped_policy(logp, torch.zeros(4), torch.tensor([1.0, -1.0, -1.0, 1.0]))[0].sum().backward()
    assert [bool(g) for g in logp.grad] == [False, False, True, True]  # the way back is always open


@pytest.mark.parametrize("clip", [0.2, None])
def test_the_value_loss_takes_the_worse_of_clipped_and_plain(tokens, clip):
    value, old, wanted = tokens(scale=1.0), tokens(scale=1.0), tokens(scale=1.0)
    loss_N = policy.clipped_value(value, old, wanted, clip=clip)
    for i in range(len(value)):
        v, o, r = float(value[i]), float(old[i]), float(wanted[i])
        near = v if clip is None else o + min(max(v - o, -clip), clip)
        assert float(loss_N[i]) == pytest.approx(0.5 * max((v - r) ** 2, (near - r) ** 2), abs=1e-6)


def test_importance_weights_are_capped_and_carry_no_gradient(tokens):
    logp, drawn = tokens().requires_grad_(), tokens()
    weight_N = policy.importance_weights(logp, drawn, cap=1.1)
    assert not weight_N.requires_grad
    assert weight_N.tolist() == pytest.approx(
        [min(math.exp(float(a - b)), 1.1) for a, b in zip(logp, drawn, strict=True)]
    )


def test_importance_weights_undo_a_temperature():
    """E_mu[w f] = E_pi[f]."""
    logits, f = torch.randn(6, generator=torch.Generator().manual_seed(1)), torch.arange(6.0)
    pi, mu = logits.log_softmax(0), (logits / 0.7).log_softmax(0)
    weighted = (mu.exp() * policy.importance_weights(pi, mu, cap=None) * f).sum()
    assert float(weighted) == pytest.approx(float((pi.exp() * f).sum()), rel=1e-5)


def test_explained_variance():
    wanted = torch.tensor([1.0, 2.0, 4.0])
    assert policy.explained_variance(wanted + 3, wanted) == pytest.approx(1)
    assert policy.explained_variance(torch.zeros(3), wanted) == pytest.approx(0)
    assert policy.explained_variance(-wanted, wanted) == pytest.approx(-3)
    assert policy.explained_variance(wanted, torch.ones(3)) == 0


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("tokens_", [7, 300])
def test_the_entropy_in_chunks_is_that_of_the_logits(softcap, tokens_):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 90)
    hidden = torch.randn(tokens_, 16, requires_grad=True)
    logits = head(hidden) * 0.5
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    slow = policy.entropy(logits)
    (wanted,) = torch.autograd.grad(slow.sum(), hidden)
    fast = token_entropy(hidden, head, softcap=softcap, scale=0.5)
    (found,) = torch.autograd.grad(fast.sum(), hidden)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(found, wanted)


def distributions(size=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=g).log_softmax(0), torch.randn(size, generator=g).log_softmax(0)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    pi, ref = distributions()
    true = float(F.kl_div(ref, pi, log_target=True, reduction="sum"))
    means = {name: float((pi.exp() * estimate(pi, ref)).sum()) for name, estimate in kl.ESTIMATORS.items()}
    assert means["k1"] == pytest.approx(true, rel=1e-5)
    assert means["k3"] == pytest.approx(true, rel=1e-5)
    assert abs(means["k2"] - true) > 1e-3


def test_k2_and_k3_are_never_negative_and_all_are_0_at_the_reference():
    pi, ref = distributions(seed=1)
    assert bool((kl.k2(pi, ref) >= 0).all())
    assert bool((kl.k3(pi, ref) >= 0).all())
    assert bool((kl.k1(pi, ref) < 0).any())
    for estimate in kl.ESTIMATORS.values():
        assert not bool(estimate(pi, pi).any())


def test_what_the_gradients_of_the_estimators_are_on_average():
    """sum_v pi(v) grad k(v): 0 for k1, of KL(pi || ref) for k2, of KL(ref || pi) for k3."""
    logits, (_, ref) = torch.randn(8, generator=torch.Generator().manual_seed(2)).requires_grad_(), distributions()

    def mean_gradient(estimate):
        pi = logits.log_softmax(0)
        return torch.autograd.grad((pi.detach().exp() * estimate(pi, ref)).sum(), logits)[0]

    pi = logits.log_softmax(0)
    (reverse,) = torch.autograd.grad((pi.exp() * (pi - ref)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((ref.exp() * (ref - pi)).sum(), logits)
    torch.testing.assert_close(mean_gradient(kl.k1), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_gradient(kl.k2), reverse, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(mean_gradient(kl.k3), forward, atol=1e-6, rtol=1e-4)
