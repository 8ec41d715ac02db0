"""A reward of many attributes: each step does what it says on data where the answer is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from sawyer.data.records import Conversation, assistant, user
from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.models.multi_objective import MultiObjectiveHead, log_lengths
from sawyer.train.multi_objective import Pairs, length_penalty, ratings_of, regress, spearman, train_gate


def talk(attributes):
    info = {} if attributes is None else {"attributes": attributes}
    return Conversation((user("What?"), assistant("This.")), info)


def test_ratings_may_be_missing_anywhere():
    names, ratings = ratings_of([talk({"honest": 3, "clear": 1.5}), talk(None), talk({"clear": None, "brief": 2})])
    assert names == ["brief", "clear", "honest"]
    np.testing.assert_array_equal(ratings, [[np.nan, 1.5, 3], [np.nan] * 3, [2, np.nan, np.nan]])


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([talk(None)], "no conversation has ratings"),
        ([talk({"clear": "good"})], "conversation 1: `attributes` in its `info` must map names to numbers"),
        ([talk({"clear": 1}), talk([1, 2])], "conversation 2"),
        ([talk({"clear": True})], "conversation 1"),
    ],
)
def test_ratings_that_are_none_are_one_sentence(records, sentence):
    with pytest.raises(SawyerError, match=sentence):
        ratings_of(records)


def features(count=400, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)), rng


def test_regression_finds_the_direction_and_ignores_what_is_not_rated():
    hidden, rng = features()
    true = rng.normal(size=12)
    rating = 5 + 2 * hidden @ true + 0.1 * rng.normal(size=400)
    rating[::3] = np.nan
    fit = regress(hidden, rating, np.arange(400) % 5 == 0, "clear")
    assert fit.n == np.isfinite(rating).sum()
    assert fit.r2 > 0.99
    guess = (hidden @ fit.weight_D + fit.bias) * fit.sd + fit.mean
    np.testing.assert_allclose(guess, 5 + 2 * hidden @ true, atol=0.1)


def test_noise_wants_a_stronger_ridge_than_signal():
    hidden, rng = features(count=60, size=50)
    held = np.arange(60) % 4 == 0
    noise = regress(hidden, rng.normal(size=60), held, "noise")
    signal = regress(hidden[:, :5], hidden[:, :5] @ np.ones(5), held, "signal")
    assert noise.alpha > signal.alpha


@pytest.mark.parametrize(
    ("rating", "sentence"),
    [
        (np.where(np.arange(400) < 12, 1.0, np.nan), "has 12 ratings"),
        (np.ones(400), "all ratings of the attribute 'clear' are the same"),
    ],
)
def test_an_attribute_that_cannot_be_learned_is_one_sentence(rating, sentence):
    hidden, _ = features()
    with pytest.raises(SawyerError, match=sentence):
        regress(hidden, rating, np.arange(400) % 5 == 0, "clear")


@pytest.mark.parametrize("slope", [0.8, -0.5, 0.0])
def test_a_penalised_rating_is_no_longer_ordered_by_length(slope):
    rng = np.random.default_rng(1)
    length = rng.normal(size=600)
    rating = slope * length + rng.normal(size=600)
    penalty, before, after = length_penalty(rating, length, 0.03)
    assert before == pytest.approx(stats.spearmanr(rating, length).statistic)
    assert abs(after) <= 0.03
    assert after == pytest.approx(stats.spearmanr(rating - penalty * length, length).statistic)
    assert penalty == pytest.approx(slope, abs=0.15)
    if penalty:  # the smallest that does
        assert abs(spearman(rating - (penalty - 0.01 * np.sign(penalty)) * length, length)) > 0.03


def test_what_does_not_vary_is_correlated_with_nothing():
    assert spearman(np.ones(5), np.arange(5.0)) == 0
    assert length_penalty(np.ones(5), np.arange(5.0), 0.03) == (0, 0, 0)


def test_the_gate_learns_which_attribute_counts_for_which_prompt():
    g = torch.Generator().manual_seed(0)
    prompt = torch.randn(600, 6, generator=g)
    first = prompt[:, 0] > 0  # of these prompts the first attribute decides, of the others the second
    decides = torch.randn(600, generator=g).abs()
    other = torch.randn(600, generator=g)
    chosen = torch.stack([torch.where(first, decides, other), torch.where(first, other, decides)], 1)
    pairs = Pairs(prompt, chosen, torch.zeros(600, 2))
    head = MultiObjectiveHead(["a", "b"], 6, hidden=16, layers=2, temperature=1.0, seed=0)
    figures = train_gate(
        head, pairs, learning_rate=1e-2, steps=150, batch_size=64, seed=0, journal=Silent(), title="toy"
    )
    weights = head.weights(prompt)
    torch.testing.assert_close(weights.sum(1), torch.ones(600))
    assert (weights[first, 0] > 0.5).float().mean() > 0.9
    assert (weights[~first, 1] > 0.5).float().mean() > 0.9
    assert figures["accuracy"] > 0.9
    assert head.log_scale.item() > 0.3  # the labels are certain, so probabilities should be sharper than the ratings


def test_the_gate_depends_on_its_seed_only():
    pairs = Pairs(torch.randn(20, 4), torch.randn(20, 2), torch.zeros(20, 2))

    def trained(seed):
        head = MultiObjectiveHead(["a", "b"], 4, hidden=8, layers=1, seed=seed)
        train_gate(head, pairs, learning_rate=1e-2, steps=5, batch_size=7, seed=seed, journal=Silent(), title="toy")
        return head.weights(pairs.prompt_P_D)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_a_head_that_was_saved_computes_the_same(tmp_path):
    head = MultiObjectiveHead(["a", "b"], 4, hidden=8, layers=2, temperature=3.0, seed=0)
    with torch.no_grad():
        for tensor in (head.weight_A_D, head.penalty_A, head.prompt_mean_D, head.log_scale):
            tensor.uniform_(-1, 1)
    head.length = log_lengths(torch.tensor([2, 4, 8]))
    head.save(tmp_path)
    again = MultiObjectiveHead.load(tmp_path)
    inputs = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([1, 2, 3, 4, 50])
    assert torch.equal(again.contributions(*inputs), head.contributions(*inputs))
    assert again.attributes == ("a", "b")
    (tmp_path / "multi_objective.safetensors").unlink()
    with pytest.raises(SawyerError, match="cannot be read"):
        MultiObjectiveHead.load(tmp_path)


def test_equal_lengths_have_a_deviation_to_divide_by():
    torch.testing.assert_close(log_lengths(torch.tensor([1, 1])), torch.tensor([0.0, 1.0]))
