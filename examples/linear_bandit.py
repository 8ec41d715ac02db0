"""Algorithm 1 of the RLHF Workflow, exactly, where nothing has to be approximated.

    python -m examples.linear_bandit                    # under a minute on one core; writes linear_bandit.svg
    python -m examples.linear_bandit --alike 0          # no answer is rarer than another
    python -m examples.linear_bandit --json             # the figures, and nothing else

The algorithm (Dong et al. 2024, arXiv 2405.07863, section 3.2; Xiong et al. 2024, arXiv 2312.11456) has a main agent
that plays the best policy under the reward it has learned, and an enhancer that answers differently, to learn more. For
language models both can only be imitated. Where the reward is linear in known features, with finitely many prompts and
answers, each line of it has a closed form or a search that can be checked:

    for t = 1 .. T:
        theta_t = the maximum-likelihood reward of all labels so far            (Bradley-Terry; Newton's method)
        pi1 = argmax E[<theta_t, phi>] - eta KL(pi || pi0)                      (equation 7; a softmax)
        pi2 = argmax G(pi1, pi2)  where  eta KL(pi2 || pi1) <= G(pi1, pi2)      (equation 8; `enhancer`)
        m prompts, an answer of pi1 and one of pi2 to each, and a label for each pair

with the information gain G(pi1, pi2) = beta |E_pi1 phi - E_pi2 phi| in the norm of Sigma_t^-1, where Sigma_t = lambda I
+ sum_s E[(phi(x, a1) - phi(x, a2)) (...)^T] is what earlier rounds have covered.

What is plotted is what Theorem 1 bounds, J(pi*) - J(pi1) + eta KL(pi* || pi1), against the labels bought so far; the
regret J(pi*) - J(pi1) summed over rounds; and, for several d, how many rounds of m = `--labels-per-d` x d labels it
takes until the first is below `--target`. By the theorem O~(d) rounds of O(d / epsilon^2) labels are enough; it is an
upper bound, and what is seen lies below it. Beside the enhancer stand `greedy` (both answers are the main agent's) and
`random` (the second answer is any of them, all equally likely).

What exploring gains depends on the problem. Here the answers that are worth most are rare (`make_problem`): the
enhancer goes for them, chance rarely meets them, and the main agent alone does not know what it misses.

Made simpler than the theorem: its constants are replaced by one, `--width`, and |theta| <= B by a ridge.

Legend of names: X prompts, A answers, D features, N labels, K directions tried at once.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logsumexp, softmax

Array = NDArray[np.float64]

EXPLORATIONS = ("enhancer", "random", "greedy")
COLOURS = {"enhancer": "#5b6cf0", "random": "#7d8799", "greedy": "#ef6c3a"}
CLIMBS, HALVINGS = 4, 20
"""Of `enhancer`: how often its directions are improved, and how finely the length of a step is found."""


@dataclass(frozen=True)
class Problem:
    """Prompts x, equally likely; answers a; r(x, a) = <theta, phi(x, a)>, which the algorithm may not see."""

    features_X_A_D: Array
    prior_X_A: Array
    """pi0."""
    theta_D: Array
    eta: float

    @property
    def reward_X_A(self) -> Array:
        return self.features_X_A_D @ self.theta_D

    @property
    def d(self) -> int:
        return len(self.theta_D)


def make_problem(rng: np.random.Generator, d: int, *, prompts: int, alike: int, eta: float, bound: float) -> Problem:
    """Features of norm 1, and a uniform pi0.

    To each prompt there are `alike` answers that say much the same in other words: their features lie in a plane, the
    same one for all prompts, and their rewards between -1 and 1. And there is one answer more for each other direction,
    to one side of it or to the other, with rewards of standard deviation `bound`: what is worth most is said rarely.
    """
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    plain = np.zeros((prompts, alike, d))
    plain[..., :2] = rng.normal(size=(prompts, alike, 2))
    plain /= np.linalg.norm(plain, axis=-1, keepdims=True)
    rare = rng.choice([-1.0, 1.0], size=(prompts, d - 2, 1)) * np.eye(d)[2:]
    features = np.concatenate([plain, rare], axis=1)
    theta = rng.normal(size=d)
    theta[:2] /= np.linalg.norm(theta[:2])
    theta[2:] *= bound
    return Problem(features @ rotation, np.full(features.shape[:2], 1 / features.shape[1]), theta @ rotation, eta)


def tilted(policy_X_A: Array, scores_X_A: Array) -> Array:
    """pi exp(score), normalised: with score r / eta the policy that maximises E r - eta KL(. || pi) (equation 7)."""
    with np.errstate(divide="ignore"):
        return softmax(np.log(policy_X_A) + scores_X_A, axis=-1)


def kl(left_X_A: Array, right_X_A: Array) -> Array:
    """KL(left || right) averaged over prompts, in nats; more dimensions in front are kept."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(left_X_A > 0, left_X_A * (np.log(left_X_A) - np.log(right_X_A)), 0.0)
    return terms.sum(-1).mean(-1)


def value(problem: Problem, policy_X_A: Array) -> float:
    """J(pi) = E[r] - eta KL(pi || pi0)."""
    return float((policy_X_A * problem.reward_X_A).sum(-1).mean() - problem.eta * kl(policy_X_A, problem.prior_X_A))


def best_policy(problem: Problem) -> Array:
    """pi*, which plays the true reward."""
    return tilted(problem.prior_X_A, problem.reward_X_A / problem.eta)


def best_value(problem: Problem) -> float:
    """J(pi*) = eta E_x log sum_a pi0(a|x) exp(r(x, a) / eta)."""
    return float(problem.eta * logsumexp(problem.reward_X_A / problem.eta, axis=-1, b=problem.prior_X_A).mean())


def regret(problem: Problem, policy_X_A: Array) -> float:
    """J(pi*) - J(pi), which is eta KL(pi || pi*)."""
    return float(problem.eta * kl(policy_X_A, best_policy(problem)))


def theorem_gap(problem: Problem, policy_X_A: Array) -> float:
    """What Theorem 1 bounds by epsilon: J(pi*) - J(pi) + eta KL(pi* || pi)."""
    return regret(problem, policy_X_A) + float(problem.eta * kl(best_policy(problem), policy_X_A))


def maximum_likelihood(difference_N_D: Array, ridge: float, steps: int = 50) -> Array:
    """theta that maximises sum log sigmoid(<theta, difference>) - ridge / 2 |theta|^2, by Newton's method.

    Args:
        difference_N_D: phi(x, winner) - phi(x, loser) of each label.
    """
    d = difference_N_D.shape[1]
    theta = np.zeros(d)
    loss = lambda at: -np.log(expit(difference_N_D @ at)).sum() + ridge / 2 * at @ at
    for _ in range(steps):
        p = expit(difference_N_D @ theta)
        gradient = -difference_N_D.T @ (1 - p) + ridge * theta
        if np.abs(gradient).max() < 1e-9 * max(1, len(p)):
            break
        hessian = (difference_N_D * (p * (1 - p))[:, None]).T @ difference_N_D + ridge * np.eye(d)
        step, scale, before = np.linalg.solve(hessian, gradient), 1.0, loss(theta)
        while loss(theta - scale * step) > before and scale > 1e-6:
            scale /= 2
        theta = theta - scale * step
    return theta


def coverage(problem: Problem, main_X_A: Array, other_X_A: Array) -> Array:
    """E[(phi(x, a1) - phi(x, a2)) (...)^T] with a1 of one policy and a2 of the other: what a round adds to Sigma."""
    phi = problem.features_X_A_D
    second = [np.einsum("xa,xad,xae->de", policy, phi, phi) / len(phi) for policy in (main_X_A, other_X_A)]
    means = [np.einsum("xa,xad->xd", policy, phi) for policy in (main_X_A, other_X_A)]
    cross = np.einsum("xd,xe->de", means[0], means[1]) / len(phi)
    return second[0] + second[1] - cross - cross.T


def information_gain(problem: Problem, main_X_A: Array, other_X_A: Array, inverse_D_D: Array, width: float) -> float:
    """width x |E phi under one policy - E phi under the other| in the norm of Sigma^-1."""
    shift = ((other_X_A - main_X_A)[..., None] * problem.features_X_A_D).sum(1).mean(0)
    return float(width * math.sqrt(max(shift @ inverse_D_D @ shift, 0.0)))


def enhancer(problem: Problem, main_X_A: Array, sigma_D_D: Array, width: float) -> Array:
    """The policy of the largest information gain within eta KL(. || main) <= the gain (equation 8).

    The gain is the largest over directions v of <v, E phi - E_main phi>, |v| = width in the norm of Sigma. For one v
    the best policy is `main` tilted by <v, phi>, as far as the constraint allows; for one policy the best v is its own
    shift. Taking turns never lowers the gain: the policy found for the new v is, at the same KL, at least as far in
    that direction. It starts at both ends of every axis of Sigma, all at once, and the best end is kept.
    """
    phi = problem.features_X_A_D
    prompts, answers, d = phi.shape
    inverse = np.linalg.inv(sigma_D_D)
    _, axes = np.linalg.eigh(sigma_D_D)
    v_K_D = np.concatenate([axes.T, -axes.T])
    log_main = np.log(np.maximum(main_X_A, 1e-300))
    mean_D = np.einsum("xa,xad->d", main_X_A, phi) / prompts
    best, best_gain = main_X_A, -1.0
    for _ in range(CLIMBS):
        score_K_X_A = (phi.reshape(-1, d) @ v_K_D.T).T.reshape(-1, prompts, answers)
        spread = (score_K_X_A.max(-1) - score_K_X_A.min(-1)).max(-1)
        low, high = np.zeros(len(v_K_D)), 200.0 / np.maximum(spread, 1e-12)
        at_K = high.copy()  # if that is allowed nothing has to be found
        for halving in range(HALVINGS + 1):
            policy_K_X_A = softmax(log_main + at_K[:, None, None] * score_K_X_A, axis=-1)
            shift_K_D = (policy_K_X_A.reshape(len(at_K), -1) @ phi.reshape(-1, d)) / prompts - mean_D
            gain_K = width * np.sqrt(np.maximum(np.einsum("kd,de,ke->k", shift_K_D, inverse, shift_K_D), 0))
            allowed = problem.eta * kl(policy_K_X_A, main_X_A) <= gain_K
            if allowed.any() and gain_K[allowed].max() > best_gain:
                k = int(np.argmax(np.where(allowed, gain_K, -1.0)))
                best, best_gain = policy_K_X_A[k], float(gain_K[k])
            low, high = np.where(allowed, at_K, low), np.where(allowed, high, at_K)
            if halving < HALVINGS:
                at_K = (low + high) / 2
        v_K_D = shift_K_D @ inverse
        v_K_D /= np.maximum(np.linalg.norm(v_K_D, axis=1, keepdims=True), 1e-300)
    return best


def second_policy(how: str, problem: Problem, main_X_A: Array, sigma_D_D: Array, width: float) -> Array:
    """Whom the main agent's answer is compared with."""
    if how == "enhancer":
        return enhancer(problem, main_X_A, sigma_D_D, width)
    return main_X_A if how == "greedy" else np.full_like(main_X_A, 1 / main_X_A.shape[1])


def learn(
    problem: Problem, how: str, rng: np.random.Generator, *, rounds: int, labels: int, ridge: float, width: float
) -> dict[str, list[float]]:
    """Algorithm 1: of each round's main agent, before its labels, the regret and what Theorem 1 bounds.

    Args:
        labels: m, bought in each round.
        ridge: of the likelihood of all labels; lambda is ridge / m, since Sigma counts rounds.
        width: beta is width x sqrt(d / m).
    """
    phi, prior = problem.features_X_A_D, problem.prior_X_A
    sigma = ridge / labels * np.eye(problem.d)
    beta = width * math.sqrt(problem.d / labels)
    differences = np.zeros((0, problem.d))
    told: dict[str, list[float]] = {"regret": [], "gap": []}
    for _ in range(rounds):
        theta = maximum_likelihood(differences, ridge)
        main = tilted(prior, phi @ theta / problem.eta)
        told["regret"].append(regret(problem, main))
        told["gap"].append(theorem_gap(problem, main))
        other = second_policy(how, problem, main, sigma, beta)
        x = rng.integers(0, len(phi), labels)
        first, second = (_draw(rng, policy[x]) for policy in (main, other))
        difference = phi[x, first] - phi[x, second]
        wins = rng.random(labels) < expit(difference @ problem.theta_D)
        differences = np.concatenate([differences, np.where(wins[:, None], difference, -difference)])
        sigma = sigma + coverage(problem, main, other)
    return told


def _draw(rng: np.random.Generator, chances_N_A: Array) -> NDArray[np.int64]:
    """One answer of each row."""
    ends = chances_N_A.cumsum(-1)
    return (rng.random((len(ends), 1)) * ends[:, -1:] > ends).sum(-1)


def rounds_until(gaps: Sequence[float], target: float) -> int:
    """The number of rounds of labels before the gap first is at most `target`; all of them where it never is."""
    return next((t for t, gap in enumerate(gaps) if gap <= target), len(gaps))


def experiment(options: argparse.Namespace) -> dict:
    """Every exploration on the same problems, for every d and seed."""
    began = time.perf_counter()
    curves: dict[str, dict] = {str(d): {} for d in options.dimensions}
    needed: dict[str, dict[str, list[int]]] = {how: {} for how in EXPLORATIONS}
    for d in options.dimensions:
        for how in EXPLORATIONS:
            runs = []
            for seed in range(options.seeds):
                problem = make_problem(
                    np.random.default_rng([seed, d]), d, prompts=options.prompts, alike=options.alike * (d - 2),
                    eta=options.eta, bound=options.bound,
                )  # fmt: skip
                runs.append(
                    learn(
                        problem, how, np.random.default_rng([seed, d, 1]), rounds=options.rounds,
                        labels=options.labels_per_d * d, ridge=options.ridge, width=options.width,
                    )
                )  # fmt: skip
            gaps = np.array([run["gap"] for run in runs])
            regrets = np.array([run["regret"] for run in runs]).cumsum(1)
            needed[how][str(d)] = [rounds_until(run["gap"], options.target) for run in runs]
            curves[str(d)][how] = {"gap": _interval(gaps), "regret": _interval(regrets)}
            curves[str(d)][how]["regrets"] = regrets[:, -1].tolist()
    return {
        "settings": {name: value for name, value in vars(options).items() if name not in ("json", "out")},
        "curves": curves,
        "against": {str(d): _against(curves[str(d)]) for d in options.dimensions},
        "rounds_needed": {
            how: {d: {"by_seed": own, **_interval(np.array(own, float))} for d, own in of.items()}
            for how, of in needed.items()
        },
        "seconds": round(time.perf_counter() - began, 2),
    }


def _against(curves: dict[str, dict]) -> dict[str, dict[str, float]]:
    """By how much the others' regret exceeds the enhancer's in the end, on the same problems."""
    own = np.array(curves["enhancer"]["regrets"])
    return {how: _interval(np.array(curves[how]["regrets"]) - own) for how in EXPLORATIONS[1:]}


def _interval(by_seed: Array) -> dict:
    """Mean over seeds (in front) with Student's 95 % interval, of one figure or of every column of several."""
    mean = by_seed.mean(0)
    half = stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(0, ddof=1) / math.sqrt(len(by_seed))
    return {"mean": mean.tolist(), "low": (mean - half).tolist(), "high": (mean + half).tolist()}


def plot(found: dict, path: Path) -> None:
    """Gap, summed regret, and rounds needed against d."""
    from matplotlib.figure import Figure

    settings = found["settings"]
    shown = str(settings["dimensions"][-1])
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bought = settings["labels_per_d"] * int(shown) * np.arange(settings["rounds"])
    for how in EXPLORATIONS:
        for axes, column in ((left, "gap"), (middle, "regret")):
            curve = found["curves"][shown][how][column]
            axes.fill_between(bought, np.maximum(curve["low"], 1e-6), curve["high"], color=COLOURS[how], alpha=0.16)
            axes.plot(bought, curve["mean"], color=COLOURS[how], label=how)
        own = found["rounds_needed"][how]
        mean, low, high = (np.array([of[end] for of in own.values()]) for end in ("mean", "low", "high"))
        right.errorbar(list(map(int, own)), mean, [mean - low, high - mean], color=COLOURS[how], marker="o", label=how)
    left.set_yscale("log")
    left.axhline(settings["target"], color="#1a2233", linewidth=0.8, linestyle=":")
    left.set_title(f"what Theorem 1 bounds, d = {shown}", fontsize=11)
    middle.set_title(f"regret summed over rounds, d = {shown}", fontsize=11)
    right.set_title(f"rounds until the bounded gap is {settings['target']:g}", fontsize=11)
    start = found["rounds_needed"]["enhancer"][str(settings["dimensions"][0])]["mean"]
    line = [start * d / settings["dimensions"][0] for d in settings["dimensions"]]
    right.plot(settings["dimensions"], line, color="#1a2233", linewidth=0.8, linestyle=":", label="in proportion to d")
    of_d = f"d (labels in a round: {settings['labels_per_d']} d)"
    for axes, what in ((left, "labels"), (middle, "labels"), (right, of_d)):
        axes.set_xlabel(what)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def print_figures(found: dict) -> None:
    """What was found, in words."""
    settings = found["settings"]
    print(f"{settings['seeds']} seeds, {settings['rounds']} rounds; means with 95 % intervals over seeds")
    for d in map(str, settings["dimensions"]):
        print(f"d = {d}, {settings['labels_per_d'] * int(d)} labels a round")
        for how in EXPLORATIONS:
            curve, needed = found["curves"][d][how]["regret"], found["rounds_needed"][how][d]
            print(
                f"  {how:9s} regret {curve['mean'][-1]:.2f} ({curve['low'][-1]:.2f} to {curve['high'][-1]:.2f}), "
                f"rounds until the gap is {settings['target']:g}: {needed['mean']:.1f} ({needed['low']:.1f} to "
                f"{needed['high']:.1f})"
            )
        for how, more in found["against"][d].items():
            said = "more" if more["low"] > 0 else "less" if more["high"] < 0 else "not shown to differ"
            print(f"  {how} - enhancer: {more['mean']:+.2f} ({more['low']:+.2f} to {more['high']:+.2f}), {said}")
    print(f"{found['seconds']} s")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dimensions", type=int, nargs="+", default=[4, 8, 12], help="features d, ascending; curves are of the last")
    add("--seeds", type=int, default=20, help="problems and draws; default 20")
    add("--rounds", type=int, default=24, help="T; default 24")
    add("--labels-per-d", type=int, default=4, help="labels of a round, m, over d; default 4")
    add("--prompts", type=int, default=4, help="default 4")
    add("--alike", type=int, default=10, help="answers that differ in a plane only, to each other one; default 10")
    add("--eta", type=float, default=0.5, help="price of the KL; default 0.5")
    add("--bound", type=float, default=3.0, help="standard deviation of the other answers' rewards; default 3")
    add("--width", type=float, default=1.0, help="beta over sqrt(d / m); default 1")
    add("--ridge", type=float, default=1.0, help="of the likelihood; default 1")
    add("--target", type=float, default=0.5, help="epsilon of the rounds needed; default 0.5")
    add("--json", action="store_true", help="print the figures as JSON, and nothing else")
    add("--out", type=Path, default=Path("linear_bandit.svg"), help="where the plot goes; default linear_bandit.svg")
    options = parser.parse_args(arguments)
    for name, least in {"seeds": 2, "rounds": 1, "labels_per_d": 1, "prompts": 1, "alike": 0}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if min(options.dimensions) < 3 or sorted(set(options.dimensions)) != options.dimensions:
        parser.error("--dimensions must be ascending, and at least 3")
    if (options.alike + 1) * (min(options.dimensions) - 2) < 2:
        parser.error("--alike and --dimensions leave less than two answers to a prompt")
    for name in ("eta", "bound", "width", "ridge", "target"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above 0")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    found = experiment(options)
    plot(found, options.out)
    if options.json:
        print(json.dumps(found))
        return
    print_figures(found)
    print(f"plot: {options.out}")


if __name__ == "__main__":
    main()
