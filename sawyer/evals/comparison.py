"""From the answers of several models to the same prompts, by one way of decoding or several, to what can be said of
them.

Pure arithmetic, like `policies`, whose figures it takes. A row is one completion,

    {"model": str, "decoding": str, "prompt_id": int, "seed": int, "sample": int, "text": str, "finished": bool,
     "tokens": int | None, "rewards": {feedback: float | None}, "logp", "reference_logp", "entropy": float | None,
     "reference_tokens": int | None, "embedding": list[float] | None}

with `logp` and `reference_logp` the log-probs (nats) of its tokens under the model and under the reference, and
`entropy` the mean entropy of the model's distributions along it. A game is one pair of answers that a feedback judged,

    {"feedback": str, "decoding": str, "a": str, "b": str, "prompt_id": int, "p": float, "games": [...] | None}

with `p` the probability that the answer of `b` is better. A missing number is left out, never counted as zero.

All tests of rewards are one family: `p_holm` is corrected for all of them, whatever the reward, the decoding and the
pair of models. A difference is told only where the corrected p is at most `alpha` and the interval leaves out zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from sawyer.errors import SawyerError
from sawyer.evals import diversity, policies, stats
from sawyer.evals.crossed import crossed_mean

Row = Mapping[str, Any]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Design:
    """How the comparison was set up.

    Attributes:
        models: in their order; the first is the baseline of tables.
        decodings: names of ways of decoding.
        rewards: feedbacks that score answers.
        preferences: feedbacks that judge pairs of answers.
        against: `all` compares every two models, `first` each with the first.
        trained_seeds: whether the seeds are those of trainings, so that intervals have to cover their choice too.
        unbiased: the decodings that draw from the model's own distribution, whose mean log-ratio is the KL divergence.
        level, draws, seed: of intervals and tests.
        alpha: what a corrected p must not exceed for a difference to be told.
        power: with which probability the detectable difference would be found.
    """

    models: tuple[str, ...]
    decodings: tuple[str, ...]
    rewards: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    against: str = "all"
    trained_seeds: bool = False
    unbiased: tuple[str, ...] = ()
    level: float = 0.95
    draws: int = 10_000
    seed: int = 0
    alpha: float = 0.05
    power: float = 0.8

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(against, model): who is compared with whom."""
        return [
            (a, b) for i, a in enumerate(self.models) for b in self.models[i + 1 :] if i == 0 or self.against == "all"
        ]


def compare(rows: Sequence[Row], games: Sequence[Row], design: Design) -> dict[str, Any]:
    """Every model by itself, and every two of them.

    Returns:
        `{"figures": [...], "comparisons": [...], "tests"}`: of each model and decoding its figures, with `rewards` by
        feedback; of each two models and decoding the differences of `rewards`, model minus against, and the win rates
        of `preferences`, each with interval, p, p_holm, the smallest difference that would have been found, and a
        `verdict`: better, worse or none.

    Raises:
        SawyerError: a model has no answers by one of the decodings.
    """
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["model"], row["decoding"]].append(row)
    for decoding in design.decodings:
        for model in design.models:
            if not cells[model, decoding]:
                raise SawyerError(f"{model} has no answers by {decoding} to compare")
            cells[model, decoding].sort(key=lambda row: (row["prompt_id"], row["seed"], row["sample"]))
    embeddings = _directions(rows)
    figures = [
        {"model": model, "decoding": decoding} | _figures(cells[model, decoding], embeddings, design, decoding)
        for decoding in design.decodings
        for model in design.models
    ]
    comparisons: list[dict[str, Any]] = []
    for decoding in design.decodings:
        for against, model in design.pairs:
            ours, theirs = cells[model, decoding], cells[against, decoding]
            played = [game for game in games if (game["decoding"], game["a"], game["b"]) == (decoding, against, model)]
            comparisons.append(
                {"model": model, "against": against, "decoding": decoding}
                | {"rewards": _rewards(ours, theirs, design), "preferences": _preferences(played, design)}
                | {"words": _words(ours, theirs, design)}
            )
    _judge(comparisons, design)
    tests = sum(len(one["rewards"]) + len(one["preferences"]) for one in comparisons)
    return {"figures": figures, "comparisons": comparisons, "tests": tests}


def tested(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By feedback, what a comparison found: rewards and preferences alike."""
    return {**comparison["rewards"], **comparison["preferences"]}


def _figures(
    rows: Sequence[Row], embeddings: Mapping[int, np.ndarray], design: Design, decoding: str
) -> dict[str, Any]:
    """What one model does by one way of decoding."""
    how = (design.level, design.draws, design.seed)
    as_rows = [{**row, "kl": _log_ratio(row)} for row in rows]
    found = policies.figures_of(as_rows, *how)
    found["empty"] = sum(not row["text"].strip() for row in rows)
    found["kl_unbiased"] = decoding in design.unbiased
    found["rewards"] = {
        name: told for name in design.rewards if (told := _distribution(rows, name, design)) is not None
    }
    prompts = [row["prompt_id"] for row in rows]
    counts = [float(len(diversity.words(row["text"]))) for row in rows]
    found["words"] = policies.as_json(stats.bootstrap_mean(counts, prompts, *how))
    uncertain = [(row["prompt_id"], row["entropy"]) for row in rows if row.get("entropy") is not None]
    if uncertain:
        of, values = zip(*uncertain, strict=True)
        found["entropy"] = policies.as_json(stats.bootstrap_mean(values, of, *how))
    if (perplexity := _perplexity(rows, design)) is not None:
        found["perplexity"] = perplexity
    apart: dict[Any, list[np.ndarray]] = defaultdict(list)
    for row in rows:
        if id(row) in embeddings:
            apart[row["prompt_id"]].append(embeddings[id(row)])
    spread = [one for own in apart.values() if (one := diversity.dispersion(np.array(own))) is not None]
    if spread:
        found["dispersion"] = policies.as_json(stats.bootstrap_mean(spread, None, *how))
    return found


def _directions(rows: Sequence[Row]) -> dict[int, np.ndarray]:
    """The embedding of each row that has one, by its identity, without what the embeddings of all have in common."""
    held = [row for row in rows if row.get("embedding") is not None]
    if not held:
        return {}
    return dict(zip(map(id, held), diversity.centred([row["embedding"] for row in held]), strict=True))


def _log_ratio(row: Row) -> float | None:
    if row.get("logp") is None or row.get("reference_logp") is None:
        return None
    return row["logp"] - row["reference_logp"]


def _perplexity(rows: Sequence[Row], design: Design) -> dict[str, Any] | None:
    """exp of the reference's mean negative log-prob a token, over all tokens; whole prompts are resampled."""
    told = [
        (row["prompt_id"], -row["reference_logp"], row["reference_tokens"])
        for row in rows
        if row.get("reference_logp") is not None and row.get("reference_tokens")
    ]
    if not told:
        return None
    prompts, nats, tokens = zip(*told, strict=True)
    sums, _ = stats.cluster_sums(np.array(nats, dtype=np.float64), prompts)
    counts, _ = stats.cluster_sums(np.array(tokens, dtype=np.float64), prompts)
    mean, low, high = math.exp(float(sums.sum() / counts.sum())), None, None
    if len(sums) > 1:
        tails = (1 - design.level) / 2, (1 + design.level) / 2
        means = stats.resampled_means(sums, counts, design.draws, design.seed)
        low, high = (math.exp(float(end)) for end in np.quantile(means, tails))
    return {"mean": mean, "low": low, "high": high, "n": len(sums)}


def _distribution(rows: Sequence[Row], name: str, design: Design) -> dict[str, Any] | None:
    """How a reward is distributed over answers: its mean with an interval, its spread, its quantiles."""
    told = [(row["prompt_id"], row["rewards"].get(name)) for row in rows]
    known = [(prompt, float(value)) for prompt, value in told if value is not None]
    if not known:
        return None
    prompts, values = zip(*known, strict=True)
    mean = policies.as_json(stats.bootstrap_mean(values, prompts, design.level, design.draws, design.seed))
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))
    return mean | {"sd": float(np.std(values)), "quantiles": quantiles, "missing": len(told) - len(known)}


def _rewards(ours: Sequence[Row], theirs: Sequence[Row], design: Design) -> dict[str, Any]:
    how = (design.level, design.draws, design.seed)
    found = {}
    for name in design.rewards:
        left, right = ([{**row, name: row["rewards"].get(name)} for row in side] for side in (ours, theirs))
        a, b = policies.by_prompt(left, name), policies.by_prompt(right, name)
        if not any(prompt in b for prompt in a):
            continue
        told = policies.difference(a, b, *how)
        told["length_matched"] = policies.length_matched(left, right, name, *how)
        if (seeds := _over_seeds(left, right, name, design.level)) is not None:
            told["over_seeds"] = seeds
            if design.trained_seeds:
                told |= {key: seeds[key] for key in ("mean", "low", "high", "n", "p_value", "sd")}
        found[name] = told
    return found


def _over_seeds(ours: Sequence[Row], theirs: Sequence[Row], name: str, level: float) -> dict[str, Any] | None:
    """The same difference with an interval over seeds and prompts, which are crossed; None with a single seed."""
    tables = [_by_seed(side, name) for side in (ours, theirs)]
    seeds = [seed for seed in tables[0] if seed in tables[1]]
    if len(seeds) < 2:
        return None
    both = [{p: v - tables[1][s][p] for p, v in tables[0][s].items() if p in tables[1][s]} for s in seeds]
    prompts = sorted(set.intersection(*map(set, both)))
    if not prompts:
        return None
    table = np.array([[own[prompt] for prompt in prompts] for own in both])
    crossed = crossed_mean(table, level)
    ends = {end: value if math.isfinite(value := getattr(crossed, end)) else None for end in ("low", "high")}
    p_value = crossed.p_value if math.isfinite(crossed.p_value) else 1.0
    # of a prompt, as if the seeds added nothing: what the interval says of the standard error, times the root of n
    sd = None if ends["high"] is None else (ends["high"] - crossed.mean) / _normal(level) * math.sqrt(crossed.n)
    by_seed = dict(zip(map(str, seeds), table.mean(1).tolist(), strict=True))
    told = {"mean": crossed.mean, **ends, "n": crossed.n, "seeds": len(seeds), "p_value": p_value, "sd": sd}
    return told | {"by_seed": by_seed}


def _normal(level: float) -> float:
    """How many standard errors an interval of the normal distribution reaches to each side."""
    return float(special.ndtri((1 + level) / 2))


def _by_seed(rows: Sequence[Row], name: str) -> dict[int, dict[Any, float]]:
    """By seed and prompt, the mean of its samples."""
    found: dict[int, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row[name] is not None:
            found[row["seed"]][row["prompt_id"]].append(float(row[name]))
    return {seed: {p: float(np.mean(v)) for p, v in own.items()} for seed, own in found.items()}


def _preferences(games: Sequence[Row], design: Design) -> dict[str, Any]:
    """How often the model's answer was preferred; what is tested is the difference to one half."""
    found = {}
    for name in design.preferences:
        own = [game for game in games if game["feedback"] == name]
        if not own:
            continue
        prompts = [game["prompt_id"] for game in own]
        won = stats.proportion([game["p"] for game in own], prompts, design.level)
        even = stats.paired_difference(
            [game["p"] for game in own], [0.5] * len(own), prompts, design.level, design.draws, design.seed
        )
        asked = [game["games"] for game in own if game.get("games")]
        twice = [games for games in asked if len(games) == 2]  # two equal answers are not shown to a judge
        found[name] = policies.as_json(even) | {
            "p_value": even.p_value,
            "effect_size": even.effect_size if math.isfinite(even.effect_size) else None,
            "sd": even.sd if math.isfinite(even.sd) else None,
            "win_rate": policies.as_json(won),
            "pairs": len(own),
            "both_orders": len(twice),
            "consistent": sum(a is not None and a == b for a, b in twice) / len(twice) if twice else None,
            "without_verdict": sum(game is None for games in twice for game in games),
        }
    return found


def _words(ours: Sequence[Row], theirs: Sequence[Row], design: Design) -> dict[str, Any]:
    """By how many words the answers of the one are longer; described, not tested."""
    left, right = (
        policies.by_prompt([{**row, "words": len(diversity.words(row["text"]))} for row in side], "words")
        for side in (ours, theirs)
    )
    told = policies.difference(left, right, design.level, design.draws, design.seed)
    return {key: told[key] for key in ("mean", "low", "high", "n")}


def _judge(comparisons: Sequence[dict[str, Any]], design: Design) -> None:
    """Correct the p values of all tests, and say which differences can be told."""
    every = [found for one in comparisons for found in (*one["rewards"].values(), *one["preferences"].values())]
    for found, p in zip(every, stats.holm([found["p_value"] for found in every]), strict=True):
        found["p_holm"] = p
        # what the strictest step of Holm's procedure would find
        sd, alpha = found["sd"], design.alpha / len(every)
        found["detectable"] = (
            None if sd is None else stats.minimum_detectable_difference(sd, found["n"], design.power, alpha)
        )
        apart = found["low"] is not None and (found["low"] > 0 or found["high"] < 0)
        told = apart and p <= design.alpha
        found["verdict"] = ("better" if found["mean"] > 0 else "worse") if told else "none"
