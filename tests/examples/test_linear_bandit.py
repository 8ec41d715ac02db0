"""The example that runs Algorithm 1 exactly: its closed forms against brute force, and what it shows."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

FILE = Path(__file__).parents[2] / "examples" / "linear_bandit.py"


@pytest.fixture(scope="module")
def bandit():
    spec = importlib.util.spec_from_file_location("linear_bandit", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["linear_bandit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["linear_bandit"]


def small(bandit, d=3, prompts=2, alike=3, seed=0, eta=0.4):
    return bandit.make_problem(np.random.default_rng(seed), d, prompts=prompts, alike=alike, eta=eta, bound=2.0)


def policies(rng, problem):
    return rng.dirichlet(np.ones(problem.prior_X_A.shape[1]), len(problem.prior_X_A))


def test_the_best_policy_is_the_one_that_a_search_finds(bandit):
    problem = small(bandit)

    def loss(logits):
        weights = np.exp(logits.reshape(problem.prior_X_A.shape))
        return -bandit.value(problem, weights / weights.sum(-1, keepdims=True))

    found = optimize.minimize(loss, np.zeros(problem.prior_X_A.size), tol=1e-12)
    assert -found.fun == pytest.approx(bandit.best_value(problem), abs=1e-6)
    assert bandit.value(problem, bandit.best_policy(problem)) == pytest.approx(bandit.best_value(problem), abs=1e-12)


def test_the_regret_is_the_difference_of_values(bandit):
    rng = np.random.default_rng(1)
    for seed in range(5):
        problem = small(bandit, seed=seed)
        policy = policies(rng, problem)
        difference = bandit.best_value(problem) - bandit.value(problem, policy)
        assert bandit.regret(problem, policy) == pytest.approx(difference, abs=1e-10)
        assert bandit.theorem_gap(problem, policy) > difference > 0
    assert bandit.theorem_gap(problem, bandit.best_policy(problem)) == pytest.approx(0, abs=1e-12)


def test_the_learned_reward_maximises_the_likelihood(bandit):
    rng = np.random.default_rng(2)
    difference = rng.normal(size=(60, 4))
    difference *= np.where(rng.random(60) < 1 / (1 + np.exp(-difference @ [1.0, -2.0, 0.5, 0.0])), 1, -1)[:, None]
    loss = lambda theta: np.logaddexp(0, -difference @ theta).sum() + 0.25 * theta @ theta
    found = optimize.minimize(loss, np.zeros(4), tol=1e-12)
    np.testing.assert_allclose(bandit.maximum_likelihood(difference, 0.5), found.x, atol=1e-5)
    assert not bandit.maximum_likelihood(np.zeros((0, 4)), 0.5).any()


def test_many_labels_find_the_true_reward(bandit):
    rng = np.random.default_rng(3)
    problem = small(bandit, alike=7)
    phi = problem.features_X_A_D
    x, a, b = rng.integers(0, 2, 100_000), rng.integers(0, 8, 100_000), rng.integers(0, 8, 100_000)
    difference = phi[x, a] - phi[x, b]
    wins = rng.random(100_000) < 1 / (1 + np.exp(-difference @ problem.theta_D))
    theta = bandit.maximum_likelihood(np.where(wins[:, None], difference, -difference), 1.0)
    np.testing.assert_allclose(theta, problem.theta_D, atol=0.06)


def test_coverage_is_the_expectation_over_all_pairs_of_answers(bandit):
    problem, rng = small(bandit), np.random.default_rng(4)
    main, other = policies(rng, problem), policies(rng, problem)
    slow = np.zeros((3, 3))
    for x in range(2):
        for a in range(4):
            for b in range(4):
                difference = problem.features_X_A_D[x, a] - problem.features_X_A_D[x, b]
                slow += main[x, a] * other[x, b] * np.outer(difference, difference) / 2
    np.testing.assert_allclose(bandit.coverage(problem, main, other), slow, atol=1e-12)


def grid(answers, steps):
    """All distributions over so many answers whose chances are multiples of 1 / steps, in these."""
    if answers == 1:
        return [[steps]]
    return [[first, *rest] for first in range(steps + 1) for rest in grid(answers - 1, steps - first)]


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_allowed_policy_on_a_grid_gains_more_than_the_enhancer(bandit, seed, width):
    rng = np.random.default_rng(seed)
    problem = small(bandit, prompts=1, seed=seed)
    main = policies(rng, problem)
    noise = rng.normal(size=(3, 3))
    sigma = 0.1 * np.eye(3) + noise @ noise.T
    inverse = np.linalg.inv(sigma)
    policy = bandit.enhancer(problem, main, sigma, width)
    gain = bandit.information_gain(problem, main, policy, inverse, width)
    assert policy.sum() == pytest.approx(1)
    assert problem.eta * bandit.kl(policy, main) <= gain + 1e-9
    candidates = np.array(grid(4, 40), dtype=float)[:, None, :] / 40
    gains = np.array([bandit.information_gain(problem, main, one, inverse, width) for one in candidates])
    allowed = problem.eta * np.array([bandit.kl(one, main) for one in candidates]) <= gains
    assert gain >= gains[allowed].max(initial=0.0) - 0.02 * gains.max()


def test_draws_have_the_chances_asked_for(bandit):
    chances = np.tile([0.1, 0.0, 0.6, 0.3], (50_000, 1))
    drawn = np.bincount(bandit._draw(np.random.default_rng(5), chances), minlength=4) / 50_000
    np.testing.assert_allclose(drawn, chances[0], atol=0.01)


def test_rounds_are_counted_until_the_gap_is_small(bandit):
    assert bandit.rounds_until([0.5, 0.3, 0.1, 0.2], 0.3) == 1
    assert bandit.rounds_until([0.5, 0.4], 0.1) == 2


def test_answers_that_differ_little_are_many_and_the_others_few(bandit):
    problem = small(bandit, d=6, alike=20)
    for phi in problem.features_X_A_D:
        np.testing.assert_allclose(np.linalg.norm(phi, axis=-1), 1)
        assert np.linalg.matrix_rank(phi[:20], tol=1e-9) == 2
        assert np.linalg.matrix_rank(phi, tol=1e-9) == 6
    assert np.abs(problem.reward_X_A[:, :20]).max() <= 1 + 1e-9
    np.testing.assert_allclose(problem.prior_X_A, 1 / 24)


def test_the_enhancer_beats_random_and_greedy_exploration(bandit, tmp_path, capsys):
    bandit.main(["--dimensions", "6", "--seeds", "12", "--rounds", "12", "--json", "--out", str(tmp_path / "x.svg")])
    found = json.loads(capsys.readouterr().out)
    for how in ("random", "greedy"):
        assert found["against"]["6"][how]["low"] > 0, found["against"]
    gaps = found["curves"]["6"]["enhancer"]["gap"]["mean"]
    assert gaps[-1] < 0.2 * gaps[0]
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_the_figures_are_printed_and_repeat(bandit, tmp_path, capsys):
    arguments = ["--dimensions", "3", "4", "--seeds", "3", "--rounds", "4", "--out", str(tmp_path / "x.svg")]
    bandit.main(arguments)
    said = capsys.readouterr().out
    assert "3 seeds, 4 rounds" in said
    assert "d = 4, 16 labels a round" in said
    bandit.main(arguments)
    assert capsys.readouterr().out.splitlines()[:-2] == said.splitlines()[:-2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2"),
        (["--dimensions", "8", "4"], "--dimensions must be ascending, and at least 3"),
        (["--alike", "0", "--dimensions", "3"], "leave less than two answers to a prompt"),
        (["--eta", "0"], "--eta must be above 0"),
        (["--rounds", "none"], "invalid int value"),
    ],
)
def test_bad_options_are_one_sentence(bandit, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        bandit.parse(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
