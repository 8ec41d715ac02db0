"""Losses: worked values of the specification, gradients, and stability at margins no training should ever see."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from sawyer.losses.preference import dpo
from sawyer.losses.reward import bradley_terry, plackett_luce

WORKED = tuple(torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5))  # chosen, rejected, and the reference's


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(("smoothing", "value"), [(0.0, 0.620957), (0.1, 0.635957)])
def test_dpo_equals_its_worked_value(smoothing, value):
    assert dpo(*WORKED, beta=0.1, label_smoothing=smoothing).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("margin", "value"), [(0.0, 0.201413), (1.0, 0.474077)])
def test_bradley_terry_equals_its_worked_value(margin, value):
    assert bradley_terry(torch.tensor([2.0]), torch.tensor([0.5]), margin_P=margin).item() == pytest.approx(
        value, abs=1e-6
    )


def test_plackett_luce_equals_its_worked_value():
    assert plackett_luce(torch.tensor([[3.0, 1.0, 0.0]])).item() == pytest.approx(0.483108, abs=1e-6)


def test_plackett_luce_of_two_is_bradley_terry():
    reward_R_2 = doubles(20, 2)
    torch.testing.assert_close(plackett_luce(reward_R_2), bradley_terry(reward_R_2[:, 0], reward_R_2[:, 1]))


def test_plackett_luce_probabilities_of_all_rankings_sum_to_one():
    rewards = torch.tensor([1.5, -0.3, 0.2, 2.0], dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    assert plackett_luce(rewards[orders]).neg().exp().sum().item() == pytest.approx(1.0)


def test_at_the_reference_every_pair_costs_log_two():
    logp_P = doubles(5)
    loss_P = dpo(logp_P, logp_P - 3, logp_P, logp_P - 3, beta=0.7)
    torch.testing.assert_close(loss_P, torch.full_like(loss_P, math.log(2)))


def test_the_best_margin_under_smoothing_is_the_logit_of_the_label():
    """With labels wrong at rate e the loss is least where sigmoid(beta h) = 1 - e."""
    zero = torch.zeros(1, dtype=torch.float64)
    h = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    dpo(h, zero, zero, zero, beta=1.0, label_smoothing=0.1).backward()
    assert h.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_gradient(smoothing):
    chosen, rejected, *reference = doubles(4, 3).unbind()
    function = lambda w, l: dpo(w, l, *reference, beta=0.5, label_smoothing=smoothing)  # noqa: E741
    assert torch.autograd.gradcheck(function, (chosen, rejected))


def test_reward_gradients():
    chosen, rejected = doubles(2, 4).unbind()
    margin = torch.rand(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w, l: bradley_terry(w, l, margin_P=margin, centring=0.1),  # noqa: E741
        (chosen, rejected),
    )
    assert torch.autograd.gradcheck(plackett_luce, (doubles(3, 5),))


@pytest.mark.parametrize("margin", [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30])
def test_stable_at_huge_margins(margin):
    zero = torch.zeros(1)
    chosen = torch.tensor([margin], requires_grad=True)
    ranking = torch.tensor([[margin, 0.0, -margin]], requires_grad=True)
    for loss, leaf in [
        (dpo(chosen, zero, zero, zero, beta=1.0), chosen),
        (dpo(chosen, zero, zero, zero, beta=1.0, label_smoothing=0.1), chosen),
        (bradley_terry(chosen, zero), chosen),
        (plackett_luce(ranking), ranking),
    ]:
        leaf.grad = None
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(leaf.grad).all()


def test_plackett_luce_gradient_is_exact_at_a_wide_spread():
    spread = torch.tensor([[0.0, 90.0, -90.0, 30.0]])
    single, double = spread.clone().requires_grad_(), spread.double().requires_grad_()
    plackett_luce(single).sum().backward()
    rest = [torch.logsumexp(double[0, k:], 0) - double[0, k] for k in range(4)]
    sum(rest).backward()
    torch.testing.assert_close(single.grad.double(), double.grad, atol=1e-5, rtol=1e-5)


def test_centring_pulls_the_mean_reward_to_zero_and_not_the_margin():
    chosen, rejected = doubles(2, 4).unbind()
    plain, centred = bradley_terry(chosen, rejected), bradley_terry(chosen, rejected, centring=0.01)
    torch.testing.assert_close(centred - plain, 0.01 * (chosen + rejected) ** 2)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_dpo_equals_the_formula_of_trl(beta):
    """TRL 1.16 `DPOTrainer._compute_loss`, loss types `sigmoid` (which ignores label smoothing) and `robust`.

    It has no function of its own to call: the lines are repeated here.
    """
    chosen, rejected, ref_chosen, ref_rejected = doubles(4, 16).unbind()
    delta = (chosen - ref_chosen) - (rejected - ref_rejected)
    torch.testing.assert_close(dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta), -F.logsigmoid(beta * delta))
    e = 0.1
    clean, flipped = -(1 - e) * F.logsigmoid(beta * delta), -e * F.logsigmoid(-beta * delta)
    torch.testing.assert_close(
        dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta, label_smoothing=e), clean + flipped
    )
