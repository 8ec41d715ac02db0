"""Preference losses: worked values of the specification, TRL's own numbers, gradients, and what the registry says."""

import inspect
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sawyer.errors import SawyerError
from sawyer.losses import preference
from sawyer.losses.completions import Completions, Pairs
from sawyer.losses.registry import DIVERGENCES, LOSSES, check_options, find_loss


def side(logp, tokens, reference, score=None, shared=None, shared_reference=None):
    given = [logp, tokens, reference, score, shared, shared_reference]
    return Completions(*(None if value is None else torch.as_tensor([value], dtype=torch.float64) for value in given))


WORKED = Pairs(side(-10, 5, -11, 0.8, -10, -11), side(-12, 8, -11.5, 0.2, -9, -8))


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("dpo", {}, 0.620957),
        ("cdpo", {}, 0.635957),
        ("cdpo", {"label_smoothing": 0.0}, 0.620957),
        ("robust", {}, 0.602207),
        ("ipo", {}, 12.25),
        ("ipo_average", {}, 22.4439),
        ("hinge", {}, 0.85),
        ("slic_hf", {}, 1.0),
        ("exo", {}, 2.505517),
        ("nca", {}, 1.350825),
        ("bco", {}, 1.312856),
        ("bco", {"shift": 0.05}, -F.logsigmoid(torch.tensor(0.05)) - F.logsigmoid(torch.tensor(0.1))),
        ("sppo_hard", {}, 36.25),
        ("sppo", {"beta": 0.1}, 5.125),
        ("apo_zero", {}, 0.962523),
        ("apo_down", {}, 0.987549),
        ("aot", {}, 0.620957),
        ("aot_unpaired", {}, 0.620957),
        ("rpo", {}, 2.620957),
        ("cpo", {"nll_weight": 0.0}, 0.598139),
        ("cpo", {}, 2.598139),
        ("simpo", {}, 2.126928),
        ("orpo", {}, 2.104206),
        ("dpo_norm", {"beta": 1.0}, -F.logsigmoid(torch.tensor(0.2625))),
        ("wpo", {}, math.exp(-3.5) * 0.620957),
        ("ld_dpo", {"alpha": 1.0}, 0.620957),
        ("ld_dpo", {"alpha": 0.0}, -F.logsigmoid(torch.tensor(0.1 * (1 - -1)))),
        ("dno", {}, 0.620957 + (1 - torch.sigmoid(torch.tensor(0.6))) * 0.15),
        ("nll", {}, 2.0),
        ("dpo", {"divergence": "forward_kl"}, -F.logsigmoid(torch.tensor(0.1 * (math.exp(0.5) - math.exp(-1))))),
        ("dpo", {"divergence": "js"}, 0.660652),
        ("dpo", {"divergence": "alpha"}, -F.logsigmoid(torch.tensor(0.2 * (math.exp(0.25) - math.exp(-0.5))))),
    ],
)  # fmt: skip
def test_a_loss_equals_its_worked_value(name, options, value):
    assert getattr(preference, name)(WORKED, **options).item() == pytest.approx(float(value), abs=2e-5, rel=1e-6)


@pytest.mark.parametrize(("desirable", "value"), [(True, 0.480011), (False, 0.482507)])
def test_kto_equals_its_worked_value(desirable, value):
    own = WORKED.chosen if desirable else WORKED.rejected
    found = preference.kto(own, torch.tensor([desirable]), baseline=0.2)
    assert found.item() == pytest.approx(value, abs=1e-6)
    double = preference.kto(own, torch.tensor([desirable]), baseline=0.2, desirable_weight=2.0, undesirable_weight=2.0)
    assert double.item() == pytest.approx(2 * value, abs=2e-6)


def test_every_loss_has_a_worked_value():
    named = {
        mark.args[1][i][0] for mark in test_a_loss_equals_its_worked_value.pytestmark for i in range(len(mark.args[1]))
    }
    assert named | {"kto", "infonca", "wpo_normalised"} == set(LOSSES)


def test_normalised_wpo_weighs_by_what_sampling_would_give():
    """As TRL: log-probs less log sum p^2, averaged over the tokens of each side, the weight at most 1."""
    with_collision = [
        Completions(c.logp_S, c.tokens_S, c.reference_logp_S, collision_S=torch.tensor([collision]).double())
        for c, collision in ((WORKED.chosen, -7.5), (WORKED.rejected, -11.2))
    ]
    weight = math.exp((-10 + 7.5) / 5 + (-12 + 11.2) / 8)
    assert preference.wpo_normalised(Pairs(*with_collision)).item() == pytest.approx(weight * 0.620957, rel=1e-5)
    typical = [Completions(c.logp_S, c.tokens_S, c.reference_logp_S, collision_S=c.logp_S) for c in with_collision]
    assert preference.wpo_normalised(Pairs(*typical)).item() == pytest.approx(0.620957, rel=1e-5)
    with pytest.raises(ValueError, match="this loss needs `collision_S`"):
        preference.wpo_normalised(WORKED)


def test_infonca_is_least_where_rewards_tell_completions_apart_as_scores_do():
    score = torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64)
    u = (score / 0.5 / 0.1).requires_grad_()
    zero = torch.zeros_like(score)
    loss = preference.infonca(Completions(u, torch.ones_like(score), zero, score), beta=0.1, temperature=0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), u)
    assert gradient.abs().max() < 1e-12
    q = torch.softmax(score / 0.5, -1)
    assert loss.item() == pytest.approx(-(q * q.log()).sum().item())


def test_infonca_of_pairs_with_a_certain_winner_is_dpo():
    score = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    both = Completions(torch.tensor([[-10.0, -12.0]]).double(), score, torch.tensor([[-11.0, -11.5]]).double(), score)
    assert preference.infonca(both, temperature=1e-3).item() == pytest.approx(0.620957, abs=1e-6)


def random_pairs(count=6, seed=0, requires_grad=False):
    draw = torch.Generator().manual_seed(seed)

    def one():
        logp = -20 * torch.rand(count, generator=draw, dtype=torch.float64) - 1
        tokens = torch.randint(1, 9, (count,), generator=draw)
        shared, both = 0.6 * logp.detach(), -20 * torch.rand(2, count, generator=draw, dtype=torch.float64)
        score = torch.rand(count, generator=draw, dtype=torch.float64)
        collision = 0.8 * logp.detach()
        return Completions(logp.requires_grad_(requires_grad), tokens, both[0], score, shared, both[1], collision)

    return Pairs(one(), one())


PAIRWISE = [loss for loss in LOSSES.values() if loss.data == "pairs"]


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_gradients_and_one_number_a_pair(loss):
    pairs = random_pairs(requires_grad=True)
    leaves = pairs.chosen.logp_S, pairs.rejected.logp_S

    def function(chosen, rejected):
        own = Pairs(
            Completions(chosen, *[getattr(pairs.chosen, n) for n in FIELDS]),
            Completions(rejected, *[getattr(pairs.rejected, n) for n in FIELDS]),
        )
        return loss.function(own)

    assert loss.function(pairs).shape == (6,)
    if not loss.name.startswith("wpo"):  # whose weight is a constant: see below
        assert torch.autograd.gradcheck(function, leaves)


FIELDS = ("tokens_S", "reference_logp_S", "score_S", "shared_logp_S", "shared_reference_logp_S", "collision_S")


def test_no_gradient_goes_through_the_weight_of_wpo():
    pairs = random_pairs(requires_grad=True)
    weight = (pairs.chosen.mean_logp_S + pairs.rejected.mean_logp_S).exp().clamp_max(1).detach()
    leaves = pairs.chosen.logp_S, pairs.rejected.logp_S
    found = torch.autograd.grad(preference.wpo(pairs).sum(), leaves)
    expected = torch.autograd.grad((weight * preference.dpo(pairs)).sum(), leaves)
    torch.testing.assert_close(found, expected)

    relative = [(own.logp_S - own.collision_S) / own.tokens_S for own in (pairs.chosen, pairs.rejected)]
    weight = (relative[0] + relative[1]).exp().clamp_max(1).detach()
    found = torch.autograd.grad(preference.wpo_normalised(pairs).sum(), leaves)
    expected = torch.autograd.grad((weight * preference.dpo(pairs)).sum(), leaves)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [loss for loss in PAIRWISE if loss.couples], ids=lambda loss: loss.name)
def test_losses_that_couple_pairs_do(loss):
    if loss.name == "bco":
        return  # through `shift`, which the objective gives it
    pairs = random_pairs()
    alone = torch.cat([loss.function(Pairs(pairs.chosen.at([i]), pairs.rejected.at([i]))) for i in range(6)])
    assert not torch.allclose(alone.sum(), loss.function(pairs).sum())


@pytest.mark.parametrize("loss", [loss for loss in PAIRWISE if not loss.couples], ids=lambda loss: loss.name)
def test_other_losses_do_not(loss):
    pairs = random_pairs()
    alone = torch.cat([loss.function(Pairs(pairs.chosen.at([i]), pairs.rejected.at([i]))) for i in range(6)])
    torch.testing.assert_close(alone, loss.function(pairs))


@pytest.mark.parametrize("margin", [-1e6, -1e3, 1e3, 1e6])
@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_finite_at_huge_margins(loss, margin):
    one = torch.ones(1)
    logp = torch.tensor([min(0.0, margin)], requires_grad=True)
    other = torch.tensor([min(0.0, -margin)], requires_grad=True)
    zero = torch.zeros(1)
    found = loss.function(
        Pairs(
            Completions(logp, one, zero, one, zero, zero, zero), Completions(other, one, zero, zero, zero, zero, zero)
        )
    )
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in (logp, other))


@pytest.mark.parametrize("margin", [-1e6, 1e6])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences_are_finite_at_huge_margins(divergence, margin):
    one, zero = torch.ones(1), torch.zeros(1)
    for chosen, rejected in ((margin, -margin), (margin, margin)):
        logp = torch.tensor([chosen], requires_grad=True)
        pairs = Pairs(Completions(logp, one, zero), Completions(torch.tensor([rejected]), one, zero))
        found = preference.dpo(pairs, divergence=divergence)
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert torch.isfinite(logp.grad).all()


# --- TRL ------------------------------------------------------------------------------------------------------------

TRLS = {
    "dpo": ("sigmoid", {}),
    "hinge": ("hinge", {}),
    "ipo_average": ("ipo", {}),
    "exo": ("exo_pair", {"label_smoothing": 1e-3}),
    "nca": ("nca_pair", {}),
    "robust": ("robust", {"label_smoothing": 0.1}),
    "bco": ("bco_pair", {}),
    "sppo_hard": ("sppo_hard", {}),
    "aot": ("aot", {"label_smoothing": 0.2}),
    "aot_unpaired": ("aot_unpaired", {"label_smoothing": 0.2}),
    "apo_zero": ("apo_zero", {}),
    "apo_down": ("apo_down", {}),
    "dpo_norm": ("sigmoid_norm", {"beta": 5.0}),
    "ld_dpo": ("sigmoid", {"ld_alpha": 0.5}),
    "dpo forward_kl": ("sigmoid", {"f_divergence_type": "forward_kl"}),
    "dpo js": ("sigmoid", {"f_divergence_type": "js_divergence"}),
    "dpo alpha": ("sigmoid", {"f_divergence_type": "alpha_divergence"}),
}


@pytest.mark.parametrize("case", TRLS)
def test_a_loss_is_trls(case):
    """`DPOTrainer._compute_loss` itself, on made-up log-probs of 6 pairs of up to 8 tokens."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer", reason="needs TRL").DPOTrainer
    name, _, divergence = case.partition(" ")
    theirs, settings = TRLS[case]
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 9, (12,), generator=draw)
    mask = torch.cat([torch.zeros(12, 1), (torch.arange(8) < lengths[:, None]).float()], 1)
    logps = -3 * torch.rand(12, 8, generator=draw) * mask[:, 1:]
    reference = -3 * torch.rand(12, 8, generator=draw) * mask[:, 1:]
    shared = torch.minimum(lengths[:6], lengths[6:]).repeat(2)
    within = (torch.arange(8) < shared[:, None]).float()
    sums, shared_sums = reference.sum(1), (reference * within).sum(1)
    alpha = settings.get("ld_alpha")
    given = sums if alpha is None else shared_sums + alpha * (sums - shared_sums)
    said = SimpleNamespace(log_probs=logps, entropy=logps, mean_logits=logps, is_top1=logps > -1)
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    own = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=alpha,
        precompute_ref_logps=True, f_divergence_type=settings.get("f_divergence_type", "reverse_kl"),
        f_alpha_divergence_coef=0.5, loss_types=[theirs], loss_weights=[1.0], beta=settings.get("beta", 0.1),
        label_smoothing=settings.get("label_smoothing", 0.0), use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(12, 9, dtype=torch.long), "attention_mask": torch.ones(12, 9),
        "completion_mask": mask.long(), "ref_chosen_logps": given[:6], "ref_rejected_logps": given[6:],
    }  # fmt: skip
    expected = trainer._compute_loss(own, lambda **_: said, inputs, False)

    def ours(rows):
        return Completions(
            logps.sum(1)[rows], lengths[rows], sums[rows], None, (logps * within).sum(1)[rows], shared_sums[rows]
        )  # fmt: skip

    options = {key: value for key, value in settings.items() if key in LOSSES[name].options}
    options |= {"divergence": divergence} if divergence else {}
    found = getattr(preference, name)(Pairs(ours(slice(0, 6)), ours(slice(6, 12))), **options)
    torch.testing.assert_close(found.mean(), expected)


# --- the registry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_the_registry_says_what_the_function_takes(loss):
    parameters = inspect.signature(loss.function).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    given_by_us = {"kto": {"baseline"}, "bco": {"shift"}}.get(loss.name, set())
    assert {name: value for name, value in defaults.items() if name not in given_by_us} == dict(loss.options)
    assert inspect.getdoc(loss.function)


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_the_registry_says_what_a_loss_needs(loss):
    pairs = random_pairs()
    blank = {"reference_logp_S": loss.reference, "score_S": loss.scores}
    for name, needed in blank.items():
        without = [
            Completions(own.logp_S, *[None if n == name else getattr(own, n) for n in FIELDS])
            for own in (pairs.chosen, pairs.rejected)
        ]
        if needed:
            with pytest.raises(ValueError, match=f"needs `{name}`"):
                loss.function(Pairs(*without))
        else:
            loss.function(Pairs(*without))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpo", {"gamma": 1.0}, "the loss dpo has no option 'gamma'; it takes beta, divergence, alpha"),
        ("nll", {"beta": 1.0}, "has no option 'beta'; it takes no options"),
        ("dpo", {"beta": 0.0}, "the option beta of the loss dpo must be above 0, it is 0"),
        ("dpo", {"beta": "high"}, "must be a number, it is 'high'"),
        ("dpo", {"divergence": "ks"}, "there is no divergence 'ks'"),
        ("dpo", {"alpha": 1.0}, "must be another number than 1"),
        ("robust", {"label_smoothing": 0.5}, "below 0.5"),
        ("exo", {"label_smoothing": 0.0}, "above 0"),
        ("ld_dpo", {"alpha": 1.5}, "from 0 to 1"),
        ("simpo", {"gamma": -1.0}, "at least 0"),
    ],
)
def test_options_that_a_loss_does_not_take(name, options, message):
    with pytest.raises(SawyerError, match=message):
        check_options(find_loss(name), options)


def test_a_loss_that_does_not_exist():
    with pytest.raises(SawyerError, match="did you mean 'simpo'"):
        find_loss("simp0")
    with pytest.raises(SawyerError, match="see `sawyer losses`"):
        find_loss("zzz")
