"""Losses of reward models: worked values, gradients, and stability at margins no training should ever see."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from sawyer.losses.reward import bradley_terry, correlation, disentangled, plackett_luce


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(("margin", "value"), [(0.0, 0.201413), (1.0, 0.474077)])
def test_bradley_terry_equals_its_worked_value(margin, value):
    assert bradley_terry(torch.tensor([2.0]), torch.tensor([0.5]), margin_P=margin).item() == pytest.approx(
        value, abs=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ({"label_smoothing": 0.1}, 0.351413),
        ({"label_smoothing": 0.1, "margin_P": torch.tensor([1.0])}, 0.524077),
        ({"weight_P": torch.tensor([2.0])}, 0.402826),
        ({"scale_P": torch.tensor([4.0])}, 0.002476),
        ({"scale_P": torch.tensor([4.0]), "margin_P": torch.tensor([6.0])}, math.log(2)),
        ({"weight_P": torch.tensor([0.0]), "centring": 0.01}, 0.0625),
    ],
)
def test_what_shapes_a_pairs_loss_equals_its_worked_value(shape, value):
    assert bradley_terry(torch.tensor([2.0]), torch.tensor([0.5]), **shape).item() == pytest.approx(value, abs=1e-6)


def test_a_gap_belongs_to_its_pair_and_not_to_the_batch():
    """SAWYER's code multiplied `[B, 1]` differences by `[B]` squared gaps: every pair by the gaps of all."""
    chosen, rejected, gap = torch.tensor([1.0, 0.2, 2.0]), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 3.0, 0.0])
    theirs = -F.logsigmoid((chosen - rejected)[:, None] * gap**2)
    assert theirs.shape == (3, 3)
    ours = bradley_terry(chosen, rejected, scale_P=gap**2)
    torch.testing.assert_close(ours, theirs.diagonal())
    assert abs(ours.mean() - theirs.mean()) > 0.05
    for name in ("scale_P", "margin_P", "weight_P"):
        with pytest.raises(ValueError, match="must all have the shape"):
            bradley_terry(chosen[:, None], rejected[:, None], **{name: gap**2})


def test_the_best_difference_under_smoothing_is_the_logit_of_the_label():
    d = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    bradley_terry(d, torch.zeros_like(d), label_smoothing=0.1).backward()
    assert d.grad.item() == pytest.approx(0, abs=1e-12)


TOKENS = torch.tensor([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("quality", "length", "value"),
    [
        ((1, -1, -1, 1), (10, 20, 30, 40), 0),  # as it should be
        ((1, 2, 3, 4), (10, 20, 30, 40), 1),  # quality is length
        ((4, 3, 2, 1), (10, 20, 30, 40), 1),
        ((1, -1, -1, 1), (4, 3, 2, 1), 2),  # the length head has it the wrong way round
        ((1, 2, 2, 1), (1, 2, 3, 5), 1 - 13 / math.sqrt(5 * 35)),
        ((5, 5, 5, 5), (1, 2, 3, 4), 0),
    ],
)
def test_disentangled_equals_its_worked_value(quality, length, value):
    heads = [torch.tensor(head, dtype=torch.float32) for head in (quality, length)]
    assert disentangled(*heads, TOKENS)[0].item() == pytest.approx(value, abs=1e-5)


def test_correlation_is_pearsons():
    a, b = doubles(2, 20).detach()
    assert correlation(a, b).item() == pytest.approx(torch.corrcoef(torch.stack([a, b]))[0, 1].item(), abs=1e-9)


def test_two_completions_have_no_correlation():
    heads = doubles(2, 2)
    apart, *correlations = disentangled(*heads, torch.tensor([3.0, 5.0]))
    assert apart.item() == 0
    assert [c.item() for c in correlations] == [0, 0]


def test_plackett_luce_equals_its_worked_value():
    assert plackett_luce(torch.tensor([[3.0, 1.0, 0.0]])).item() == pytest.approx(0.483108, abs=1e-6)


def test_plackett_luce_of_two_is_bradley_terry():
    reward_R_2 = doubles(20, 2)
    torch.testing.assert_close(plackett_luce(reward_R_2), bradley_terry(reward_R_2[:, 0], reward_R_2[:, 1]))


def test_plackett_luce_probabilities_of_all_rankings_sum_to_one():
    rewards = torch.tensor([1.5, -0.3, 0.2, 2.0], dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    assert plackett_luce(rewards[orders]).neg().exp().sum().item() == pytest.approx(1.0)


def test_reward_gradients():
    chosen, rejected = doubles(2, 4).unbind()
    margin = torch.rand(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w, l: bradley_terry(w, l, margin_P=margin, centring=0.1),  # noqa: E741
        (chosen, rejected),
    )
    assert torch.autograd.gradcheck(plackett_luce, (doubles(3, 5),))
    tokens = torch.arange(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, l: disentangled(q, l, tokens)[0], tuple(doubles(2, 6).unbind()))  # noqa: E741
    assert torch.autograd.gradcheck(
        lambda w, l: bradley_terry(w, l, scale_P=margin, weight_P=margin, label_smoothing=0.2),  # noqa: E741
        (chosen, rejected),
    )


@pytest.mark.parametrize("margin", [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30])
def test_stable_at_huge_margins(margin):
    zero = torch.zeros(1)
    chosen = torch.tensor([margin], requires_grad=True)
    ranking = torch.tensor([[margin, 0.0, -margin]], requires_grad=True)
    for loss, leaf in [
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
