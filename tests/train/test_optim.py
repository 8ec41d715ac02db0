"""The schedule, weight decay, and float32 masters under a bfloat16 model."""

import math

import pytest
import torch
from torch import nn

from sawyer.train.optim import MasterWeights, learning_rate


def test_the_rate_rises_over_the_warm_up_and_falls_along_the_cosine(optimizer):
    settings = optimizer(learning_rate=1.0, warmup_ratio=0.2, final_learning_rate=0.1)
    rates = [learning_rate(step, 20, settings) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.55)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert learning_rate(20, 20, settings) == pytest.approx(0.1)
    assert rates[16] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.75)))


def test_the_linear_schedule_is_a_line_and_the_constant_one_stays(optimizer):
    linear = optimizer(learning_rate=1.0, warmup_ratio=0.0, schedule="linear")
    assert [learning_rate(step, 4, linear) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    constant = optimizer(learning_rate=1.0, warmup_ratio=0.5, schedule="constant", final_learning_rate=0.3)
    assert [learning_rate(step, 4, constant) for step in range(4)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("total", [1, 2])
def test_the_shortest_schedules_have_a_rate(total, ratio, optimizer):
    for step in range(total):
        assert 0 < learning_rate(step, total, optimizer(warmup_ratio=ratio)) <= 1e-3


def with_gradient(weights: MasterWeights, value: float) -> None:
    """A backward whose gradient is `value` everywhere."""
    sum((parameter * value).sum() for parameter in weights.weights.values()).backward()


def test_weight_decay_shrinks_matrices_only(optimizer):
    layer = nn.Linear(3, 3)
    norm = nn.LayerNorm(3)
    model = nn.Sequential(layer, norm)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = MasterWeights(model, optimizer(weight_decay=0.1), "fp32")
    with_gradient(weights, 0.0)
    weights.update(rate=0.5)
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.1 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_masters_keep_steps_smaller_than_bfloat16_can_hold(optimizer):
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    weights = MasterWeights(model, optimizer(), "bf16")
    assert model.weight.dtype == torch.bfloat16
    for step in range(16):  # Adam's steps are of the size of the rate: 2^-10, where bfloat16 near 1 knows 2^-8
        with_gradient(weights, 1.0)
        weights.update(rate=2.0**-10)
        if step == 0:
            assert (model.weight == 1.0).all()
    torch.testing.assert_close(weights.masters["weight"], torch.full((4, 4), 1 - 16 * 2.0**-10), rtol=0, atol=1e-5)
    assert (model.weight == weights.masters["weight"].bfloat16()).all()
    assert (model.weight < 1.0).all()


def test_gradients_of_rows_are_added_up_in_float32(optimizer):
    model = nn.Linear(1, 1, bias=False)
    weights = MasterWeights(model, optimizer(), "bf16")
    for _ in range(1000):
        with_gradient(weights, 1.0)
    assert weights.masters["weight"].grad.item() == 1000  # a bfloat16 sum stops at 256


def test_gradients_are_clipped_to_the_global_norm(optimizer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    count = sum(p.numel() for p in model.parameters())
    weights = MasterWeights(model, optimizer(max_grad_norm=1.0, betas=(0.0, 0.0), eps=1.0), "fp32")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with_gradient(weights, 7.0)
    assert weights.update(rate=1.0) == pytest.approx(7 * count**0.5, rel=1e-6)
    g = 1 / count**0.5
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - g / (g + 1.0))


def test_a_gradient_that_is_not_a_number_changes_no_weight(optimizer):
    model = nn.Linear(2, 2)
    weights = MasterWeights(model, optimizer(), "fp32")
    before = {name: value.clone() for name, value in weights.masters.items()}
    with_gradient(weights, float("nan"))
    assert math.isnan(weights.update(rate=1.0))
    assert all(torch.equal(value, before[name]) for name, value in weights.masters.items())
    with_gradient(weights, 1.0)  # and nothing of it stays behind
    assert math.isfinite(weights.update(rate=1.0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_state_holds_all_that_an_exact_continuation_needs(precision, optimizer):
    def fresh() -> MasterWeights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MasterWeights(
                nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), optimizer(weight_decay=0.1), precision
            )

    def step(weights: MasterWeights, i: int) -> None:
        with_gradient(weights, 0.1 * (i + 1))
        weights.update(rate=0.01 * (i + 1))

    whole = fresh()
    for i in range(6):
        step(whole, i)
    half = fresh()
    for i in range(3):
        step(half, i)
    rest = fresh()
    rest.load({name: tensor.clone() for name, tensor in half.state().items()})
    for i in range(3, 6):
        step(rest, i)
    assert whole.state().keys() == rest.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, rest.state()[name]), name
    for name, parameter in whole.weights.items():
        assert torch.equal(parameter, rest.weights[name])


def test_frozen_weights_have_no_master_and_stay(optimizer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    weights = MasterWeights(model, optimizer(weight_decay=0.1), "fp32")
    assert set(weights.masters) == {"1.weight", "1.bias"}
    with_gradient(weights, 1.0)
    weights.update(rate=0.1)
    assert torch.equal(model[0].weight, before)
