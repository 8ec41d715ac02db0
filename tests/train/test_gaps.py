"""The difference of a pair's scores in the loss: of each pair its own, whatever shares a row."""

import pytest
import torch
import torch.nn.functional as F

from sawyer.data.records import Comparison, user
from sawyer.errors import SawyerError
from sawyer.train import objectives
from sawyer.train.gaps import mean_gap, score_gaps, with_gaps
from sawyer.train.loop import measure
from sawyer.trees.tree import TreeBatch

GAPS = [0.0, 1.0, 3.0, 2.0, 9.0]


def comparison(*scores):
    return Comparison((user("What?"),), tuple("abc"[: len(scores)]), scores)


def test_gaps_are_chosen_less_rejected():
    assert score_gaps([comparison(7, 4), comparison(1, 3)]) == [3, 2]


def test_gaps_need_pairs_with_scores():
    with pytest.raises(SawyerError, match="comparison 2 has none"):
        score_gaps([comparison(2, 1), Comparison((user("What?"),), ("a", "b"))])
    with pytest.raises(SawyerError, match="comparison 1 has 3 completions"):
        score_gaps([comparison(3, 2, 1)])


def test_weights_have_a_mean_of_one(toy):
    trees = with_gaps(toy(5), GAPS, "weight", mean=mean_gap(GAPS))
    weights = [tree.values[objectives.WEIGHT] for tree in trees]
    assert all(first == second for first, second in weights)
    assert sum(first for first, _ in weights) / 5 == pytest.approx(1)


@pytest.mark.parametrize("how", ["margin", "weight", "square"])
def test_the_loss_is_the_sum_of_each_pairs_own(how, reward, toy):
    model, pairs = reward(), toy(5)
    trees = with_gaps(pairs, GAPS, how, scale=0.5, mean=3.0)
    with torch.no_grad():
        reward_R_2 = model(TreeBatch.of(pairs)).view(5, 2)
    d, gap = reward_R_2[:, 0] - reward_R_2[:, 1], torch.tensor(GAPS)
    slow = {
        "margin": -F.logsigmoid(d - 0.5 * gap),
        "weight": -F.logsigmoid(d) * gap / 3,
        "square": -F.logsigmoid(d * (0.5 * gap) ** 2),
    }[how]
    for budget in (4096, 16):
        found = measure(model, trees, objectives.reward_model(), budget)["loss"]
        assert found == pytest.approx(slow.mean().item(), rel=1e-5)


def test_rankings_of_more_than_two_take_weights_only(reward, toy):
    weighted = [
        tree.__class__(tree.prompt, tree.completions, values={objectives.WEIGHT: [2.0] * 3}) for tree in toy(3, k=3)
    ]
    plain = measure(reward(), toy(3, k=3), objectives.reward_model(), 4096)["loss"]
    assert measure(reward(), weighted, objectives.reward_model(), 4096)["loss"] == pytest.approx(2 * plain, rel=1e-5)
    with pytest.raises(ValueError, match="for pairs"):
        measure(reward(), toy(2, k=3), objectives.reward_model(label_smoothing=0.1), 4096)
    with pytest.raises(ValueError, match="for pairs"):
        measure(reward(), toy(2, k=3, values=(objectives.MARGIN,)), objectives.reward_model(), 4096)
