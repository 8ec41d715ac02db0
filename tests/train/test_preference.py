"""Objectives of preference: every loss learns a toy, sums do not depend on packing, and what trees carry is right."""

import pytest
import torch

from sawyer.journal import Silent
from sawyer.losses import preference as losses
from sawyer.losses.completions import Completions, Pairs
from sawyer.losses.registry import LOSSES
from sawyer.train.loop import forward_backward, measure, train
from sawyer.train.preference import (
    DESIRABLE,
    REFERENCE,
    SCORE,
    SHARED_REFERENCE,
    Weighted,
    completions_of,
    kto,
    mismatched,
    preference,
    shared,
)
from sawyer.train.reference import with_reference
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree, TreeBatch

TREE_LOSSES = [loss for loss in LOSSES.values() if loss.data != "labelled"]
BOLD = {"sppo": {"beta": 0.05}, "simpo": {"gamma": 0.5}}


def carrying(trees, scores=(0.9, 0.5, 0.1)):
    """The trees with scores, best first."""
    return [
        TokenTree(
            tree.prompt,
            tree.completions,
            values={**tree.values, SCORE: [scores[0], *scores[-len(tree.completions) + 1 :]]},
        )
        for tree in trees
    ]


@pytest.fixture
def referred(tiny_policy):
    def build(trees, budget=100):
        return with_reference(
            lambda: tiny_policy("llama"),
            trees,
            precision="fp32",
            token_budget=budget,
            journal=Silent(),
            also_shared=True,
        )

    return build


@pytest.mark.parametrize("loss", TREE_LOSSES, ids=lambda loss: loss.name)
def test_every_loss_learns_to_prefer_the_chosen(loss, policy, toy, referred, optimizer):
    trees, held_out = (referred(carrying(toy(n, seed=seed))) for n, seed in [(64, 0), (32, 1)])
    objective = preference([Weighted(loss, options=BOLD.get(loss.name, {}))])
    model = policy()
    settings = optimizer(steps=30, batch_size=8, learning_rate=1e-2, token_budget=512)
    before = measure(model, held_out, objective, 512)
    train(model, trees, objective, settings, precision="fp32", seed=0, journal=Silent(), title="toy")
    after = measure(model, held_out, objective, 512)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > 0.8
    assert after["logp_chosen"] - after["logp_rejected"] > before["logp_chosen"] - before["logp_rejected"]


def test_kto_learns_from_labels_alone(policy, toy, referred, optimizer):
    def labelled(count, seed):
        trees, good = [], []
        for i, tree in enumerate(toy(count, seed=seed)):
            trees.append(TokenTree(tree.prompt, [tree.completions[i % 2]]))
            good.append(i % 2 == 0)
        return referred(mismatched(trees, good))

    objective, model = kto(), policy()
    settings = optimizer(steps=30, batch_size=8, learning_rate=1e-2, token_budget=512)
    train(model, labelled(64, 0), objective, settings, precision="fp32", seed=0, journal=Silent(), title="toy")
    after = measure(model, labelled(32, 1), objective, 512)
    assert after["loss"] < 0.45
    assert after["reward_desirable"] > 0.1 > -0.1 > after["reward_undesirable"]


def test_a_mismatched_tree_has_another_trees_completion():
    trees = [TokenTree([1], [[2, i]], values={"x": [0.0]}) for i in (5, 6, 7)]
    made = mismatched(trees, [True, False, True])
    assert [tree.completions for tree in made] == [[[2, 5], [2, 6]], [[2, 6], [2, 7]], [[2, 7], [2, 5]]]
    assert [tree.values[DESIRABLE] for tree in made] == [[1, -1], [0, -1], [1, -1]]


def test_ktos_baseline_is_the_mean_of_the_others_and_not_below_zero(policy, toy):
    trees = mismatched([TokenTree(tree.prompt, tree.completions[:1]) for tree in toy(6)], [True, False] * 3)
    model = policy()
    own = torch.tensor(score_trees(model, trees))
    for shift, expected in ((2.5, 2.5), (-2.5, 0.0)):
        moved = [
            TokenTree(tree.prompt, tree.completions, values={**tree.values, REFERENCE: [float(a), float(b) - shift]})
            for tree, (a, b) in zip(trees, own, strict=True)
        ]
        found = measure(model, moved, kto({"beta": 0.2}), 4096)
        assert found["baseline"] == pytest.approx(expected, abs=1e-4)
        u, z = torch.zeros(1), torch.tensor(expected)
        good, bad = (1 - torch.sigmoid(sign * 0.2 * (u - z)) for sign in (1, -1))
        assert found["loss"] == pytest.approx(((good + bad) / 2).item(), abs=1e-4)


@pytest.mark.parametrize("loss", [loss for loss in TREE_LOSSES if not loss.couples], ids=lambda loss: loss.name)
def test_packing_changes_nothing(loss, policy, toy, referred):
    trees = referred(carrying(toy(7)))
    objective = preference([Weighted(loss)])
    model = policy()
    grads = []
    for budget in (20, 4096):
        model.zero_grad()
        terms = forward_backward(model, trees, objective, budget)
        grads.append(
            (terms["loss"].item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        )
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-4)
    assert (grads[0][1] - grads[1][1]).norm() < 1e-3 * grads[1][1].norm()


def test_a_mixture_is_the_weighted_sum(policy, toy, referred):
    trees, model = referred(toy(5)), policy()

    def loss(*parts):
        return measure(model, trees, preference(parts), 4096)["loss"]

    dpo, nll = Weighted(LOSSES["dpo"], 0.7, {"beta": 0.3}), Weighted(LOSSES["nll"], 0.2)
    alone = loss(Weighted(LOSSES["dpo"], 1.0, {"beta": 0.3})), loss(Weighted(LOSSES["nll"]))
    assert loss(dpo, nll) == pytest.approx(0.7 * alone[0] + 0.2 * alone[1], rel=1e-5)
    rpo = loss(Weighted(LOSSES["rpo"], options={"beta": 0.3, "nll_weight": 0.5}))
    assert rpo == pytest.approx(alone[0] + 0.5 * alone[1], rel=1e-5)


def test_bcos_shift_is_the_mean_reward_of_the_row(policy, toy, referred):
    trees, model = referred(toy(5)), policy()
    moved = [
        TokenTree(t.prompt, t.completions, values={REFERENCE: [v - 3.0 for v in t.values[REFERENCE]]}) for t in trees
    ]
    found = measure(model, moved, preference([Weighted(LOSSES["bco"], options={"beta": 0.5})]), 4096)["loss"]
    one, u = torch.ones(1), torch.tensor([3.0])
    pair = Pairs(Completions(u, one, torch.zeros(1)), Completions(u, one, torch.zeros(1)))
    assert found == pytest.approx(losses.bco(pair, beta=0.5, shift=1.5).item(), abs=1e-4)


def test_of_a_ranking_losses_of_pairs_take_the_best_and_the_worst(policy, toy, referred):
    model = policy()
    rankings, pairs = [], []
    for i, tree in enumerate(referred(toy(6, k=3))):
        moved = [value + shift for value, shift in zip(tree.values[REFERENCE], (i - 2.5, 9.0, 2.0), strict=True)]
        rankings.append(TokenTree(tree.prompt, tree.completions, values={REFERENCE: moved}))
        pairs.append(TokenTree(tree.prompt, tree.completions[::2], values={REFERENCE: moved[::2]}))
    objective = preference([Weighted(LOSSES["dpo"])])
    expected = measure(model, pairs, objective, 4096)
    assert 0 < expected["accuracy"] < 1
    assert measure(model, [*rankings, *pairs], objective, 4096) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_shared_sums_are_those_of_the_first_tokens(policy, toy, referred):
    trees = referred(toy(5, k=3))
    model = policy()
    batch = TreeBatch.of(trees)
    with torch.no_grad():
        found = completions_of(model(batch), batch, True)
    expected = [x for row in score_trees(model, [shared(tree) for tree in trees]) for x in row]
    torch.testing.assert_close(found.shared_logp_S, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    reference = [x for tree in trees for x in tree.values[SHARED_REFERENCE]]  # by the same model
    torch.testing.assert_close(torch.tensor(reference), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    for tree in trees:
        assert {sum(flags) for flags in shared(tree).scored} == {min(map(len, tree.completions))}


def test_displacement_is_how_far_the_chosen_has_moved(policy, toy, referred):
    trees, model = referred(toy(5)), policy()
    moved = [
        TokenTree(t.prompt, t.completions, values={REFERENCE: [v + 2.0 for v in t.values[REFERENCE]]}) for t in trees
    ]
    assert measure(model, moved, preference([Weighted(LOSSES["dpo"])]), 4096)["displacement"] == pytest.approx(
        -2, abs=1e-3
    )
    free = measure(model, toy(5), preference([Weighted(LOSSES["simpo"])]), 4096)
    assert "displacement" not in free


def test_the_reference_is_kept_with_its_shared_sums(tiny_policy, toy, tmp_path):
    file = tmp_path / "reference.json"
    settings = {"precision": "fp32", "token_budget": 100, "journal": Silent(), "file": file, "also_shared": True}
    first = with_reference(lambda: tiny_policy("llama"), toy(4), **settings)
    again = with_reference(lambda: pytest.fail("it is on disk"), toy(4), **settings)
    assert [tree.values for tree in first] == [tree.values for tree in again]
    assert set(first[0].values) == {REFERENCE, SHARED_REFERENCE}
    assert isinstance(TreePolicy, type)
