"""Nash-MD's loss: its value and gradient by hand, and TRL's formula where the two agree."""

import pytest
import torch

from sawyer.losses.nash import nash_md


def test_value_and_gradient_by_hand():
    logp, reference = torch.tensor([-10.0, -3.0], requires_grad=True), torch.tensor([-11.0, -2.5])
    loss = nash_md(logp, reference, torch.tensor([0.8, 0.25]), beta=0.1)
    # P - 1/2 - beta u: 0.3 - 0.1 and -0.25 + 0.05
    assert loss.tolist() == pytest.approx([0.2 * 10, -0.2 * 3])
    loss.sum().backward()
    assert logp.grad.tolist() == pytest.approx([-0.2, 0.2])


def test_of_one_token_it_is_trls_formula():
    logp, reference, won = torch.tensor([-2.0]), torch.tensor([-1.2]), torch.tensor([0.7])
    beta = 0.3
    theirs = beta * (logp - reference) * logp - (won - 0.5) * logp
    assert nash_md(logp, reference, won, beta=beta).item() == pytest.approx(theirs.item())


def test_the_expected_gradient_is_that_of_the_regularised_game():
    """Over all answers, the gradient of sum pi (P - 1/2) - beta KL(pi, ref)."""
    torch.manual_seed(0)
    logits, reference = torch.randn(5, requires_grad=True), torch.randn(5).log_softmax(0)
    won, beta = torch.rand(5), 0.2
    logp = logits.log_softmax(0)
    value = (logp.exp() * (won - 0.5)).sum() - beta * (logp.exp() * (logp - reference)).sum()
    (wanted,) = torch.autograd.grad(value, logits, retain_graph=True)
    estimate = (logp.exp().detach() * nash_md(logp, reference, won, beta=beta)).sum()
    (found,) = torch.autograd.grad(-estimate, logits)
    assert torch.allclose(found, wanted, atol=1e-6)
