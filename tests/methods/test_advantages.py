"""Advantages over ragged completions, against loops over one completion at a time."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.methods.advantages import advantages, dr_grpo, gae, grpo, rloo, spans, to_go, token_rewards, whiten
from sawyer.methods.estimators import ESTIMATORS

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def ragged(lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    index_N = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return index_N, torch.randn(total, generator=g), torch.randn(total, generator=g)


def by_completion(value_N, lengths):
    return [own.tolist() for own in value_N.split(lengths)]


@given(LENGTHS, st.sampled_from([1.0, 0.9]), st.sampled_from([1.0, 0.95, 0.0]))
@settings(max_examples=40, deadline=None)
def test_gae_is_the_loop_from_the_last_token(lengths, gamma, lam):
    index_N, reward_N, value_N = ragged(lengths)
    found = by_completion(gae(reward_N, value_N, index_N, gamma=gamma, gae_lambda=lam), lengths)
    for own, rewards, values in zip(
        found, by_completion(reward_N, lengths), by_completion(value_N, lengths), strict=True
    ):
        ahead = 0.0
        for t in reversed(range(len(rewards))):
            following = values[t + 1] if t + 1 < len(values) else 0.0
            ahead = rewards[t] + gamma * following - values[t] + gamma * lam * ahead
            assert own[t] == pytest.approx(ahead, abs=1e-5)


@given(LENGTHS, st.sampled_from([1.0, 0.8]))
@settings(max_examples=40, deadline=None)
def test_returns_to_go_stop_at_their_completion(lengths, discount):
    index_N, value_N, _ = ragged(lengths)
    for own, values in zip(
        by_completion(to_go(value_N, index_N, discount), lengths), by_completion(value_N, lengths), strict=True
    ):
        for t in range(len(values)):
            rest = sum(discount**k * value for k, value in enumerate(values[t:]))
            assert own[t] == pytest.approx(rest, abs=1e-5)


def test_with_lambda_1_an_advantage_is_the_return_less_the_value():
    index_N, reward_N, value_N = ragged([3, 1, 5])
    found = gae(reward_N, value_N, index_N, gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(found, to_go(reward_N, index_N) - value_N)


def test_rewards_of_tokens_are_the_penalty_and_at_last_the_score():
    index_N, kl_N, _ = ragged([2, 1, 3])
    reward_N = token_rewards(torch.tensor([1.0, 2.0, 3.0]), index_N, kl_N, 0.5)
    assert reward_N.tolist() == pytest.approx(
        [-0.5 * k + s for k, s in zip(kl_N.tolist(), [0, 1, 2, 0, 0, 3], strict=True)]
    )
    assert token_rewards(torch.tensor([1.0, 2.0, 3.0]), index_N).tolist() == [0, 1, 2, 0, 0, 3]


@given(st.lists(st.integers(2, 6), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_baselines_of_a_prompt_are_those_of_its_own_completions(sizes):
    g = torch.Generator().manual_seed(sum(sizes))
    return_C = torch.randn(sum(sizes), generator=g)
    tree_C = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    for found, of_prompt in (
        (rloo(return_C, tree_C), lambda own, i: own[i] - statistics.mean(own[:i] + own[i + 1 :])),
        (dr_grpo(return_C, tree_C), lambda own, i: own[i] - statistics.mean(own)),
        (grpo(return_C, tree_C), lambda own, i: (own[i] - statistics.mean(own)) / (statistics.stdev(own) + 1e-4)),
    ):
        for ours, own in zip(found.split(sizes), return_C.split(sizes), strict=True):
            wanted = [of_prompt(own.tolist(), i) for i in range(len(own))]
            assert ours.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_prompt_whose_answers_earn_the_same_teaches_nothing():
    same = torch.tensor([0.7, 0.7, 0.7])
    for estimate in (rloo, grpo, dr_grpo):
        assert estimate(same, torch.zeros(3, dtype=torch.long)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_whitening_is_over_the_whole_batch_and_keeps_which_completion_was_better():
    plain_N = torch.tensor([1.0, 1.1, 0.9, 1.0, -1.0, -1.1, -0.9, -1.0])
    white_N = whiten(plain_N)
    assert float(white_N.mean()) == pytest.approx(0, abs=1e-6)
    assert float(white_N.std()) == pytest.approx(1, rel=1e-5)
    assert bool((white_N[:4] > 0).all() and (white_N[4:] < 0).all())
    alone = torch.cat([whiten(own) for own in plain_N.split(4)])  # what a mini-batch of one completion would make of it
    assert bool((alone[:4] < 0).any())
    assert whiten(torch.tensor([3.0])).tolist() == [0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_by_name(name):
    lengths = [3, 2, 4, 1]
    index_N, reward_N, value_N = ragged(lengths)
    tree_C = torch.tensor([0, 0, 1, 1])
    found = advantages(name, reward_N, index_N, tree_C, value_N=value_N, baseline=0.25, gae_lambda=0.9)
    total_C = torch.stack([own.sum() for own in reward_N.split(lengths)])
    wanted = {
        "gae": lambda: gae(reward_N, value_N, index_N, gae_lambda=0.9),
        "reinforce++": lambda: to_go(reward_N, index_N),
        "reinforce": lambda: (total_C - 0.25)[index_N],
        "rloo": lambda: rloo(total_C, tree_C)[index_N],
        "grpo": lambda: grpo(total_C, tree_C)[index_N],
        "dr_grpo": lambda: dr_grpo(total_C, tree_C)[index_N],
    }[name]()
    torch.testing.assert_close(found, wanted)


def test_estimators_that_lack_something_are_refused():
    index_N, reward_N, _ = ragged([2])
    with pytest.raises(ValueError, match="needs values"):
        advantages("gae", reward_N, index_N, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="no estimator 'a2c'"):
        advantages("a2c", reward_N, index_N, torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(("index", "count"), [([0, 1, 0], 2), ([0, 0, 2], 3), ([0, 1], 3), ([0, 1, 2], 2)])
def test_tokens_that_are_not_end_to_end_are_refused(index, count):
    with pytest.raises(ValueError, match="completion after completion"):
        spans(torch.tensor(index), count)


def test_no_tokens_are_no_advantages():
    index_N, value_N, _ = ragged([2])
    assert to_go(value_N[:0], index_N[:0]).shape == (0,)
