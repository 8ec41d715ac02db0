"""`sawyer eval reward`: what a reward model gets right on held-out pairs, how sure it is, and what fools it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.measuring import fingerprint, measure_all
from sawyer.apps.plain_page import Line, plain_page
from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.apps.scorers import Scorer, make_scorer
from sawyer.apps.work import check_out, work_folder
from sawyer.atomic import write_atomically
from sawyer.data.files import raw_rows
from sawyer.data.records import Prompt
from sawyer.data.rewardbench import Trial, load_bench
from sawyer.errors import SawyerError
from sawyer.evals import probes, reward_bias, reward_models
from sawyer.feedback.protocol import logit
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, write_json
from sawyer.pipeline.progress import Voice


@dataclass(frozen=True)
class Request:
    """What `sawyer eval reward` was asked for."""

    data: str
    """Pairs: a file or a folder."""
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    out: Path | None = None
    """Where the figures go, as JSON."""
    page: Path | None = None
    """Where a page with tables and plots goes, as HTML."""
    calibrate: str | None = None
    """Other pairs, to fit the temperature on: a file or a folder."""
    samples: Path | None = None
    """What `sawyer generate` wrote, several samples a prompt: for the heat map of reward and length."""
    probes: bool = True
    bins: int = 10
    limit: int | None = None
    max_bad: float = 0.05
    overwrite: bool = False


def evaluate(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Score the pairs, and the probes and samples with them, and say what came out.

    Returns:
        What `evals.reward_models.evaluate` returns, and beside it `length_differences`, `sources` (None where the
        authors are not known), `probes` and `heat_map` (None where not asked for). Lengths are in characters.

    Raises:
        SawyerError: the request cannot be met.
    """
    voice = voice or Voice()
    for place, suffix in ((request.out, ".json"), (request.page, ".html")):
        if place is not None:
            check_out(place, request.overwrite, suffix)
    scorer = make_scorer(request.scorer)
    if scorer.kind == "judge" or scorer.protocol.get("ensemble") in ("majority", "reliability"):
        raise SawyerError("`sawyer eval reward` needs scores or probabilities, and verdicts are neither")
    if scorer.prefers and request.samples is not None:
        raise SawyerError("--samples needs a model that scores completions by themselves, not --scorer pairwise")
    if len(scorer.members) > 1 and request.calibrate is not None:
        raise SawyerError("--calibrate is for single models: an ensemble's members are scaled by the pairs of --data")
    bench = load_bench(request.data, 1, max_bad=request.max_bad, limit=request.limit)
    other = [] if request.calibrate is None else load_bench(request.calibrate, 1, max_bad=request.max_bad).trials
    _check_apart(bench.trials, other)
    if bench.report.dropped:
        voice.say(str(bench.report))
    made = _probes(bench.trials, request.scorer.seed) if request.probes else {}
    sampled = [] if request.samples is None else read_samples(request.samples)
    with _folder(request, scorer, [*bench.trials, *other, *sampled]) as folder:
        margins, of_probe, rewards, truncated = _scored(scorer, bench.trials, made, sampled, folder, voice)
        fitting = _scored(scorer, other, {}, [], folder / "calibrate", voice)[0] if other else None
        result = {
            "model": scorer.name,
            "scorer": scorer.kind,
            "data": request.data,
            "calibrate": request.calibrate,
            "report": bench.report.as_dict(),
            "protocol": scorer.protocol,
            "truncated": truncated,
            "length_unit": "characters",
            "sawyer": __version__,
            **_figures(bench.trials, margins, fitting, request),
            "probes": probes.evaluate(
                of_probe,
                {name: [bench.trials[i].prompt_id for i, _ in pairs] for name, pairs in made.items()},
                seed=request.scorer.seed,
            )
            if request.probes
            else None,
            "heat_map": reward_bias.length_heat_map(
                rewards, [[len(text) for text in trial.completions] for trial in sampled], seed=request.scorer.seed
            )
            if request.samples is not None
            else None,
        }
        for place in (request.out, request.page):
            if place is not None:
                with disk_errors(place.parent):
                    write_json(place, result) if place is request.out else write_atomically(place, page(result))
    return result


def _check_apart(trials: Sequence[Trial], other: Sequence[Trial]) -> None:
    """Raises SawyerError where a temperature would be fitted on what it is measured on."""
    shared = {trial.prompt_id for trial in trials} & {trial.prompt_id for trial in other}
    if shared:
        raise SawyerError(
            f"{len(shared)} prompts of --data stand in --calibrate too, so the temperature would be measured on "
            "what it was fitted on; split the pairs by prompt"
        )


def read_samples(path: Path) -> list[Trial]:
    """The prompts of a file of `sawyer generate` that have at least two samples; one trial each.

    Raises:
        SawyerError: the file cannot be read, or holds no such prompt.
    """
    trials = []
    for row in raw_rows(path):
        try:
            texts = [sample["text"] for sample in row.value["samples"]]
            prompt = Prompt(tuple(row.value["prompt"]), row.value.get("info") or {})
        except (TypeError, KeyError, SawyerError):
            raise SawyerError(
                f"row {row.number} of {path} has no `prompt` and `samples`; give a file that `sawyer generate` wrote"
            ) from None
        if len(texts) > 1:
            trials.append(Trial(str(row.number), "samples", prompt, (texts[0],), tuple(texts[1:])))
    if not trials:
        raise SawyerError(f"{path} has no prompt with several samples; generate them with --n 8")
    return trials


# --- scoring ----------------------------------------------------------------------------------------------------------

Made = dict[str, list[tuple[int, str]]]


def _probes(trials: Sequence[Trial], seed: int) -> Made:
    return probes.probe_pairs([trial.prompt_id for trial in trials], [trial.chosen[0] for trial in trials], seed)


def _scored(
    scorer: Scorer, trials: Sequence[Trial], made: Made, sampled: Sequence[Trial], folder: Path, voice: Voice
) -> tuple[list[float], dict[str, Sequence[float]], list[list[float]], int]:
    """Margins of the pairs, margins of each probe's pairs, rewards of the samples, and texts cut.

    A model that scores reads the bad completions of a prompt in one tree with the good one.
    """
    if scorer.prefers:
        bad = [replace(trials[i], rejected=(text,)) for pairs in made.values() for i, text in pairs]
        measured = measure_all(scorer, [*trials, *bad], 1, folder, voice)
        values = [logit(row["p"]) for row in measured.rows]
        rest = iter(values[len(trials) :])
        return values[: len(trials)], {n: [next(rest) for _ in p] for n, p in made.items()}, [], measured.truncated
    added: list[list[str]] = [[] for _ in trials]
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in made}
    for name, pairs in made.items():
        for i, text in pairs:
            places[name].append((i, 2 + len(added[i])))
            added[i].append(text)
    whole = [replace(t, rejected=(*t.rejected, *texts)) for t, texts in zip(trials, added, strict=True)]
    # the pairs alone set the scale of an ensemble's members: what else is looked at changes nothing of them
    scaled_by = [*[2] * len(whole), *[0] * len(sampled)]
    measured = measure_all(scorer, [*whole, *sampled], 2, folder, voice, scaled_by=scaled_by)
    scores = [row["scores"] for row in measured.rows]
    margins = [own[0] - own[1] for own in scores[: len(trials)]]
    of_probe: dict[str, Sequence[float]] = {
        name: [scores[i][0] - scores[i][at] for i, at in where] for name, where in places.items()
    }
    return margins, of_probe, scores[len(trials) :], measured.truncated


@contextmanager
def _folder(request: Request, scorer: Scorer, trials: Sequence[Trial]) -> Iterator[Path]:
    """Where finished parts are kept: beside the output, so that a killed evaluation goes on; else nowhere for long."""
    place = request.out or request.page
    if place is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    work = digest([fingerprint(scorer, trials, 2), request.probes, request.scorer.seed, request.calibrate])
    with disk_errors(place.parent), work_folder(place, work, "writing") as folder:
        yield folder
        shutil.rmtree(folder.parent)


def _figures(
    trials: Sequence[Trial], margins: list[float], fitting: list[float] | None, request: Request
) -> dict[str, Any]:
    chosen, rejected = [len(trial.chosen[0]) for trial in trials], [len(trial.rejected[0]) for trial in trials]
    prompts = [trial.prompt_id for trial in trials]
    differences = [a - b for a, b in zip(chosen, rejected, strict=True)]
    known = [i for i, trial in enumerate(trials) if trial.chosen_source and trial.rejected_source]
    return {
        **reward_models.evaluate(
            margins, chosen, rejected, prompts=prompts, fitting=fitting, bins=request.bins, seed=request.scorer.seed
        ),
        "length_differences": reward_bias.by_length_difference(margins, differences, prompts),
        "sources": reward_bias.by_source(
            [margins[i] for i in known],
            [str(trials[i].chosen_source) for i in known],
            [str(trials[i].rejected_source) for i in known],
            [differences[i] for i in known],
            [prompts[i] for i in known],
        )
        if known
        else None,
    }


# --- showing ----------------------------------------------------------------------------------------------------------


def table_rows(result: dict[str, Any]) -> list[Line]:
    """What, figure, interval and n of everything, in the order in which it matters."""
    calibration = result["calibration"]
    lines = [
        _share("accuracy", result["accuracy"]),
        _share("choosing the longer", result["longer_wins"]),
        *([_share("knowing the authors", result["sources"]["source_only"])] if result["sources"] else []),
        _number("log loss", result["log_loss"]),
        _number("Brier score", result["brier"]),
        _number("ECE", calibration["ece"]),
        _number("adaptive ECE", calibration["adaptive_ece"]),
    ]
    if "temperature" in calibration:
        measured = "ECE" if calibration["measured_on"] == result["pairs"] else "ECE on half"
        if measured != "ECE":
            lines.append(_number(measured, calibration["ece_before"]))
        title = f"{measured}, divided by T = {calibration['temperature']:.2f}"
        lines.append(_number(title, calibration["ece_after"]))
    for group in result["length_differences"]:
        title = f"  {group['low']:+.0f} to {group['high']:+.0f} characters longer"
        lines.append(_share(title, group["accuracy"]))
    for pair in (result["sources"] or {}).get("pairs", [])[:20]:
        lines.append(_share(f"  {pair['chosen']} over {pair['rejected']}", pair["accuracy"]))
    for name, figures in (result["probes"] or {}).items():
        lines.append(_share(f"  good over {name.replace('_', ' ')}", figures["accuracy"]))
    heat_map = result["heat_map"]
    if heat_map is not None and heat_map["correlation"] is not None:
        lines.append(_number("correlation of reward and length", heat_map["correlation"]))
    return lines


def page(result: dict[str, Any]) -> str:
    """The figures and plots as one HTML page that asks nothing of the network."""
    from sawyer.pipeline.report import judging_plots

    drawn = [judging_plots.reliability(result, "pairs", f"Calibration of {result['model']}")]
    drawn.append(judging_plots.length_heat_map(result["heat_map"]) if result["heat_map"] is not None else None)
    measured = f"{result['pairs']} pairs of {result['prompts']} prompts from {result['data']}."
    intro = f"{measured} {result['level']:.0%} intervals."
    return plain_page(f"Reward model {result['model']}", [intro], drawn, table_rows(result))


def _share(name: str, figure: dict[str, Any]) -> Line:
    return _line(name, figure, lambda value: f"{100 * value:.1f} %")


def _number(name: str, figure: dict[str, Any]) -> Line:
    return _line(name, figure, lambda value: f"{value:.3f}")


def _line(name: str, figure: dict[str, Any], form: Any) -> Line:
    interval = "" if figure["low"] is None else f"{form(figure['low']).removesuffix(' %')} to {form(figure['high'])}"
    return name, form(figure["mean"]), interval, str(figure["n"])
