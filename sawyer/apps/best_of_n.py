"""`sawyer eval best-of-n`: what keeping the best of n answers by a proxy reward would reach, for every n at once, by
the proxy and by gold; and how far from the model that is.

    OUT.json    the curve              OUT.rows.jsonl    of each prompt, its samples' rewards
    .OUT.json.work/                    what a kill leaves (`answering`)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.answering import Bench, Generating, missing
from sawyer.apps.compare_request import check_remote, held_out
from sawyer.apps.compared_models import Compared, find_model
from sawyer.apps.evaluate_pairs import read_samples
from sawyer.apps.named_feedback import Asking, NamedFeedback, find_feedback
from sawyer.apps.plain_page import Line, plain_page
from sawyer.apps.work import check_out, work_folder
from sawyer.atomic import write_atomically
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.evals import best_of_n as arithmetic
from sawyer.evals import policies, stats
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, write_json
from sawyer.pipeline.progress import Voice
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.sampling import Sampling, is_own_distribution
from sawyer.rollout.unanswered import left_out


@dataclass(frozen=True)
class Request:
    """What `sawyer eval best-of-n` was asked for: a model and prompts, or samples that are there already."""

    proxy: str
    """What the best is kept by; with several in `gold`, none of them."""
    gold: tuple[str, ...] = ()
    """By what else the kept answers are judged."""
    model: str | None = None
    prompts: str | None = None
    samples: Path | None = None
    """What `sawyer generate` wrote, several samples of each prompt."""
    n: int = 16
    """Samples of each prompt, and the largest n."""
    limit: int = 100
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    out: Path | None = None
    page: Path | None = None
    level: float = 0.95
    generating: Generating = field(default_factory=Generating)
    judge_tokens: int = 2048
    api: ApiSettings = field(default_factory=ApiSettings)
    cache: Path | None = None
    overwrite: bool = False

    @property
    def place(self) -> Path:
        """Where the curve goes."""
        if self.out is not None:
            return self.out
        return Path(f"best-of-n-{Path((self.model or str(self.samples)).partition('@')[0]).stem}.json")


def evaluate(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Draw the samples, or read them, score them, and write the curve; or go on with it.

    Returns:
        `points`, one for each n: `n`, its `kl` in nats, and for the proxy and each gold a mean with an interval over
        prompts; and `peak`, by gold, the n where its mean is highest.

    Raises:
        SawyerError: the request cannot be met; what is done is kept for the same request.
    """
    voice = voice or Voice()
    model = _check(request)
    if model is None:
        assert request.samples is not None
        prompts, texts = _read(request.samples, request.n, voice)
    else:
        assert request.prompts is not None
        prompts, texts = held_out(request.prompts, request.limit, voice.say), []
    feedback = _feedback(request, model, prompts)
    subject = str(request.samples) if model is None else model.content(request.seed)
    key = digest([__version__, subject, [list(prompt.prompt) for prompt in prompts]])
    with disk_errors(request.place.parent), work_folder(request.place, key, "measuring into") as folder:
        bench = Bench(folder, request.generating, request.api, request.cache, voice)
        if model is not None:
            prompts, texts = _drawn(request, model, prompts, bench, voice)
        scores = {one.name: _complete(one, bench.scores(one, prompts, texts)) for one in feedback}
        result = {
            "model": request.model,
            "samples_from": None if request.samples is None else str(request.samples),
            "prompts": len(prompts),
            "samples": len(texts[0]),
            "sampling": request.sampling.model_dump(mode="json", exclude_defaults=True) if model is not None else None,
            "seed": request.seed if model is not None else None,
            "own_distribution": model is not None and is_own_distribution(request.sampling),
            "proxy": feedback[0].as_dict(),
            "gold": [one.as_dict() for one in feedback[1:]],
            "level": request.level,
            "sawyer": __version__,
            **curve(scores, feedback[0].name, request.level),
        }
        _write(request, prompts, scores, result)
        shutil.rmtree(folder.parent)
    return result


def curve(scores: Mapping[str, Sequence[Sequence[float]]], proxy: str, level: float) -> dict[str, Any]:
    """The points and peaks, from each prompt's samples' rewards by name."""
    sizes = arithmetic.sizes(len(scores[proxy][0]))
    reached = {name: arithmetic.curve(scores[proxy], values, sizes) for name, values in scores.items()}
    points: list[dict[str, Any]] = []
    for k, n in enumerate(sizes):
        means = {name: stats.bootstrap_mean(own[:, k], level=level) for name, own in reached.items()}
        gains = {
            name: stats.bootstrap_mean(own[:, k] - own[:, 0], level=level) for name, own in reached.items() if n > 1
        }
        points.append(
            {"n": n, "kl": arithmetic.kl(n)}
            | {"rewards": {name: policies.as_json(mean) for name, mean in means.items()}}
            | {"gains": {name: policies.as_json(gain) for name, gain in gains.items()}}
        )
    golds = [name for name in scores if name != proxy]
    peak = {name: max(points, key=lambda point: point["rewards"][name]["mean"])["n"] for name in golds}
    return {"points": points, "peak": peak}


def _read(path: Path, n: int, voice: Voice) -> tuple[list[Prompt], list[list[str]]]:
    """The prompts of a file of `sawyer generate` and the first n samples of each.

    Raises:
        SawyerError: the file cannot be read, or has no prompt with so many samples.
    """
    trials = read_samples(path)
    enough = [trial for trial in trials if len(trial.completions) >= n]
    if not enough:
        raise SawyerError(f"no prompt of {path} has {n} samples; give a smaller --n, or generate more")
    if len(enough) < len(trials):
        voice.say(f"{len(trials) - len(enough)} prompts of {path} have fewer than {n} samples and are left out")
    return [trial.prompt for trial in enough], [list(trial.completions[:n]) for trial in enough]


def _check(request: Request) -> Compared | None:
    """The model that answers, or None where samples were given."""
    if request.n < 2:
        raise SawyerError(f"--n is {request.n}; the best of fewer than two is no choice")
    if request.limit < 1:
        raise SawyerError(f"--limit is {request.limit}; give at least 1")
    check_out(request.place, request.overwrite, ".json")
    if request.page is not None:
        check_out(request.page, request.overwrite, ".html")
    if (request.samples is None) == (request.model is None):
        raise SawyerError("give either --model with --prompts, or --samples that `sawyer generate` wrote")
    if request.model is None:
        if request.prompts is not None:
            raise SawyerError("--samples has its own prompts; drop --prompts")
        return None
    if request.prompts is None:
        raise SawyerError("--model needs --prompts to answer")
    if request.sampling.temperature == 0:
        raise SawyerError(f"with --temperature 0 all {request.n} samples are equal: set a temperature above 0")
    model = find_model(request.model)
    check_remote([model], {"these options": request.sampling}, request.api)
    return model


def _feedback(request: Request, model: Compared | None, prompts: Sequence[Prompt]) -> list[NamedFeedback]:
    """The proxy, then gold."""
    asking = Asking(
        "bf16" if request.generating.precision == "bf16" else "fp32",
        request.generating.token_budget,
        request.judge_tokens,
        request.seed,
        request.api,
        request.cache,
    )
    found = find_feedback([request.proxy, *request.gold], [] if model is None else [model], prompts, asking)
    pairs = next((one for one in found if one.prefers), None)
    if pairs is not None:
        raise SawyerError(f"{pairs.given} judges pairs of answers, and best-of-n needs a number for each; take another")
    return found


def _drawn(
    request: Request, model: Compared, prompts: list[Prompt], bench: Bench, voice: Voice
) -> tuple[list[Prompt], list[list[str]]]:
    answers = bench.answers(model, prompts, request.sampling, request.n, request.seed)
    bench.let_go()
    lacking = missing(model, answers)
    if lacking:
        voice.say(left_out(prompts, lacking, "prompts"))
    kept = [i for i in range(len(prompts)) if i not in lacking]
    return [prompts[i] for i in kept], [[one.text for one in answers[i]] for i in kept]


def _complete(feedback: NamedFeedback, scores: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The scores, where there are all of them.

    Raises:
        SawyerError: a judge left an answer without a rating, and the best cannot be kept by what is not there.
    """
    lost = sum(score is None for own in scores for score in own)
    if lost:
        raise SawyerError(
            f"{feedback.given} left {lost} answers without a rating; give another, or more --judge-tokens"
        )
    return [[score for score in own if score is not None] for own in scores]


def _write(
    request: Request, prompts: Sequence[Prompt], scores: Mapping[str, Sequence[Sequence[float]]], result: dict[str, Any]
) -> None:
    rows = [
        {"prompt": list(prompt.prompt), **{name: own[i] for name, own in scores.items()}}
        for i, prompt in enumerate(prompts)
    ]
    write_atomically(request.place.with_suffix(".rows.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    if request.page is not None:
        write_atomically(request.page, page(result))
    write_json(request.place, result)


def names_of(result: Mapping[str, Any]) -> list[str]:
    """The proxy, then gold."""
    return [result["proxy"]["name"], *(one["name"] for one in result["gold"])]


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """n, KL and its root, and each reward with its interval."""
    return [
        [str(point["n"]), f"{point['kl']:.2f}", f"{point['kl'] ** 0.5:.2f}"]
        + [_span(point["rewards"][name]) for name in names_of(result)]
        for point in result["points"]
    ]


def headline(result: Mapping[str, Any]) -> str:
    """What the choice by the proxy does to gold, in one sentence."""
    proxy, last = result["proxy"]["name"], result["points"][-1]
    size = f"n = {result['prompts']} prompts x {result['samples']} samples"
    said = f"The best of {last['n']} by {proxy} gains {_span(last['gains'][proxy], '+')} {proxy}"
    for one in result["gold"]:
        name, gain = one["name"], last["gains"][one["name"]]
        told = gain["low"] is not None and (gain["low"] > 0 or gain["high"] < 0)
        said += f", and {_span(gain, '+')} {name}" + ("" if told else ", which cannot be told from none")
        peak = result["peak"][name]
        if peak < last["n"]:
            said += f" (highest at n = {peak})"
    return f"{said} ({size})."


def page(result: Mapping[str, Any]) -> str:
    """The curve as one HTML page that asks nothing of the network."""
    from sawyer.pipeline.report import plots

    who = result["model"] or result["samples_from"]
    drawn = []
    for number, name in enumerate(names_of(result)):
        points = [{"n": one["n"], "kl": one["kl"], name: one["rewards"][name]} for one in result["points"]]
        drawn.append(plots.over_root_kl({"best_of_n": {"points": points}, "policies": {}}, name, {}, str(number)))
    lines: list[Line] = [
        (f"best of {point['n']}, KL {point['kl']:.2f}: {name}", *_cells(point["rewards"][name]))
        for point in result["points"]
        for name in names_of(result)
    ]
    text = [
        headline(result),
        f"Answers of {who}; the best is kept by {result['proxy']['given']}. For every n the mean over all subsets of n "
        f"of the {result['samples']} samples of a prompt, without bias; {100 * result['level']:g} % intervals are "
        "over prompts. KL is log n - (n - 1) / n, an upper bound where samples have equal scores, to "
        + ("the model itself." if result["own_distribution"] else "what the samples were drawn from."),
    ]
    return plain_page("Best of n", text, drawn, lines)


def _cells(figure: Mapping[str, Any]) -> tuple[str, str, str]:
    span = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
    return f"{figure['mean']:.3f}", span, str(figure["n"])


def _span(figure: Mapping[str, Any], sign: str = "") -> str:
    mean = format(figure["mean"], f"{sign}.3f")
    return mean if figure["low"] is None else f"{mean} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"
