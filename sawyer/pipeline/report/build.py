"""One self-contained page that says what a run did, how much better the result is, and how sure one can be of that.

The page asks nothing of the network and runs no script. What models wrote is untrusted text: the template escapes
everything but our own plots, and the page's content security policy forbids scripts besides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.evals import policies
from sawyer.pipeline.progress import duration
from sawyer.pipeline.report import judging_plots, plots, red_team
from sawyer.pipeline.report.contents import Run, Stage, read_run
from sawyer.pipeline.summary import training

REPORT = "report.html"
MOST_PROMPTS = 12
"""Prompts whose completions are shown."""
OPEN_PROMPTS = 3
"""How many of them are unfolded from the start."""
MOST_CHARACTERS = 4_000
"""Of one text; what is longer is cut, and the cut is said."""
KL_UNBIASED = "KL is the mean of log pi(y) - log pi_ref(y), which is an unbiased estimate."
KL_BIASED = (
    "KL is the mean of log pi(y) - log pi_ref(y) of what was sampled; since that is not drawn from pi itself, it is no "
    "unbiased estimate of the KL divergence."
)


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder, from whatever the run has so far, and return its path.

    The same run gives the same bytes. An older report is replaced at once, never left half-written.

    Raises:
        SawyerError: the folder is no run, holds no stage yet, or one of its JSON files is broken.
    """
    run = read_run(Path(run_folder))
    return put_page(template().render(**_context(run)), run.folder / REPORT)


def put_page(page: str, path: Path) -> Path:
    """Write a page at once: an older one is replaced, never left half-written."""
    unfinished = path.with_suffix(".html.part")
    unfinished.write_text(page, encoding="utf-8", errors="replace")
    os.replace(unfinished, path)
    return path


def _context(run: Run) -> dict[str, Any]:
    """Everything the template shows."""
    took = training({stage.name: stage.summary for stage in run.stages})
    comparisons = [_comparison(stage, took) for stage in run.stages if stage.compares_policies]
    reward_models = [
        {
            "stage": stage,
            "evaluation": stage.evaluation,
            "plot": judging_plots.reliability(stage.evaluation, stage.name),
        }
        for stage in run.stages
        if stage.judges_a_reward_model
    ]
    curves = [
        {"stage": stage, "plot": plot}
        for stage in run.stages
        for draw in (plots.reward_curve, plots.loss_curve)
        if (plot := draw(stage.name, stage.metrics))
    ]
    return {
        "run": run,
        "headline": _headline(run, reward_models),
        "tiles": _tiles(run, comparisons, reward_models),
        "comparisons": comparisons,
        "reward_models": reward_models,
        "curves": curves,
        "red": red_team.red_teams(run.stages),
        "critiques": red_team.critiques(run.stages),
        "transcripts": [(stage, _transcripts(stage)) for stage in run.stages if stage.samples],
        "facts": _facts(run),
        "open_prompts": OPEN_PROMPTS,
    }


def _comparison(stage: Stage, took: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One evaluate stage: its table, plots and samples."""
    evaluation = stage.evaluation
    palette = plots.colours(evaluation["order"], evaluation["baseline"])
    palette = {name: palette[name] for name in evaluation["order"]}
    measured = [c for c in policies.COMPARED if any(c in figures for figures in evaluation["policies"].values())]
    return {
        "stage": stage,
        "evaluation": evaluation,
        "drawn": _drawn(evaluation),
        "palette": palette,
        "measured": measured,
        "rows": [_policy_row(evaluation, name) | {"training": took.get(name, {})} for name in evaluation["order"]],
        "distributions": _some(plots.reward_distributions(stage.completions, c, palette) for c in measured),
        "workflow": _some(plots.over_workflow(evaluation, c, palette) for c in measured),
        "kl": _some(_cost(evaluation, c, palette) for c in measured),
        "previous": any("previous" in one["roles"] for one in evaluation["comparisons"]),
        "trained": any(name in took for name in evaluation["order"]),
        "labelled": any("gold_labels" in took.get(name, {}) for name in evaluation["order"]),
        "samples": _samples(stage.completions, evaluation["order"]),
        "decodings": [
            (way, plain(one["sampling"]), [_policy_row(one, name) for name in one["order"]])
            for way, one in evaluation.get("decodings", {}).items()
        ],
    }


def _cost(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """What the policies paid for their reward, beside what best-of-n pays where that was measured."""
    if "best_of_n" in evaluation:
        return plots.over_root_kl(evaluation, column, palette)
    return plots.kl_against(evaluation, column, palette)


def _drawn(evaluation: Mapping[str, Any]) -> str:
    """Where the completions come from: seeds, sampling, prompts that are missing, and what the KL column is."""
    trained = evaluation["training_seeds"]
    sampling = ", ".join(f"{name} {plain(value)}" for name, value in evaluation["sampling"].items())
    said = [f"Trained with {policies.seeds(trained)}."] if trained else []
    said.append(f"Completions were drawn with seed {evaluation['generation_seed']} ({sampling}).")
    said.append(f"Intervals come from {evaluation['draws']:,} resamples with seed {evaluation['seed']}.")
    if evaluation["unanswered"]:
        said.append(f"{evaluation['unanswered']} prompts could not be answered by every policy and are left out.")
    if any("kl" in figures for figures in evaluation["policies"].values()):
        said.append(KL_UNBIASED if evaluation["kl_unbiased"] else KL_BIASED)
    return " ".join(said)


def _policy_row(evaluation: Mapping[str, Any], name: str) -> dict[str, Any]:
    order = list(evaluation["order"])
    before = order[order.index(name) - 1] if order.index(name) else None
    return {
        "name": name,
        "figures": evaluation["policies"][name],
        "against_baseline": policies.comparison_of(evaluation, name) or {},
        "against_previous": (policies.comparison_of(evaluation, name, before) if before else None) or {},
    }


def _headline(run: Run, reward_models: Sequence[Mapping[str, Any]]) -> str:
    """The last comparison's headline; without one, what the reward model can; without that, what the last red team
    found, or what has been done."""
    for stage in reversed(run.stages):
        if stage.compares_policies:
            return policies.headline(stage.evaluation)
    if reward_models:
        accuracy = reward_models[-1]["evaluation"]["accuracy"]
        interval = "" if accuracy["low"] is None else f", interval {accuracy['low']:.1%} to {accuracy['high']:.1%}"
        seed = "" if run.seed is None else f", {policies.seeds([run.seed])}"
        return (
            f"The reward model ranks {accuracy['mean']:.1%} of held-out pairs right "
            f"(n = {accuracy['n']}{interval}{seed})."
        )
    attacked = [stage for stage in run.stages if stage.red_team and "headline" in stage.figures]
    if attacked:
        return attacked[-1].figures["headline"]
    done = sum(stage.finished for stage in run.stages)
    return f"{done} of {len(run.stages)} stages are done; nothing has been evaluated yet."


def _tiles(
    run: Run, comparisons: Sequence[Mapping[str, Any]], reward_models: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """The few numbers to see first."""
    tiles = []
    if comparisons:
        evaluation = comparisons[-1]["evaluation"]
        subject, baseline = evaluation["subject"], evaluation["baseline"]
        compared = policies.comparison_of(evaluation, subject) or {}
        for column in (c for c in policies.COMPARED if c in compared):
            tiles.append(_tile(f"{column} reward, {subject} vs {baseline}", compared[column], "+.2f"))
        first = next((c for c in policies.COMPARED if c in compared), None)
        if first:
            tiles.append(_tile(f"win rate by {first} reward", compared[first]["win_rate"], ".0%"))
        if "kl" in evaluation["policies"][subject]:
            tiles.append(_tile("KL to the reference, nats", evaluation["policies"][subject]["kl"], ".1f"))
    for reward_model in reward_models[-1:]:
        tiles.append(_tile("reward-model accuracy", reward_model["evaluation"]["accuracy"], ".0%"))
    for stage in [stage for stage in run.stages if stage.red_team][-1:]:
        for label, group, share in (
            ("attack success", "attacks", "attack_success"),
            ("over-refusal", "benign", "refused"),
        ):
            if stage.red_team[group]:
                tiles.append(_tile(f"{label}, {stage.red_team['target']}", stage.red_team[group][share], ".0%"))
    seconds = [stage.wall_seconds for stage in run.stages if stage.wall_seconds is not None]
    if seconds:
        tiles.append(
            {"label": "wall time", "value": duration(sum(seconds)), "interval": f"{len(run.stages)} stages in all"}
        )
    return tiles


def _tile(label: str, figure: Mapping[str, Any], form: str) -> dict[str, str]:
    return {"label": label, "value": number(figure["mean"], form), "interval": interval(figure, form)}


def _samples(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Each policy's first sample of up to MOST_PROMPTS prompts, evenly spaced over all, so that nobody chose them."""
    first: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        of_prompt = first.setdefault(row.get("prompt_id"), {})
        name = str(row.get("policy"))
        if name in order and (name not in of_prompt or row.get("sample", 0) < of_prompt[name].get("sample", 0)):
            of_prompt[name] = row
    prompts = sorted((prompt for prompt in first if first[prompt]), key=lambda prompt: (str(type(prompt)), prompt))
    step = max(1.0, len(prompts) / MOST_PROMPTS)
    chosen = [prompts[int(i * step)] for i in range(min(MOST_PROMPTS, len(prompts)))]
    return [
        {
            "id": prompt,
            "turns": _turns(next(iter(first[prompt].values())).get("prompt")),
            "completions": [(name, first[prompt][name]) for name in order if name in first[prompt]],
        }
        for prompt in chosen
    ]


def _transcripts(stage: Stage) -> list[dict[str, Any]]:
    """Answers to up to MOST_PROMPTS prompts by the policy before the training, at its best and at its end."""
    steps = sorted({row["step"] for row in stage.samples})
    shown = dict.fromkeys(step for step in (steps[0], stage.figures.get("best"), steps[-1]) if step in steps)
    by_prompt: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in stage.samples:
        by_prompt.setdefault(json.dumps(row["prompt"]), {})[row["step"]] = row
    return [
        {"turns": _turns(json.loads(prompt)), "answers": [(step, rows[step]) for step in shown if step in rows]}
        for prompt, rows in list(by_prompt.items())[:MOST_PROMPTS]
    ]


def _turns(prompt: Any) -> list[Mapping[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [turn for turn in prompt or [] if isinstance(turn, Mapping)]


def _facts(run: Run) -> list[tuple[str, str]]:
    """Seed, hardware and versions, said once where all stages agree."""
    facts: dict[str, list[str]] = {} if run.seed is None else {"seed": [str(run.seed)]}
    for stage in run.stages:
        for key in ("hardware", "versions"):
            for name, value in stage.manifest.get(key, {}).items():
                if value not in (None, []):
                    facts.setdefault(name, []).append(plain(value))
    return [(name, ", ".join(dict.fromkeys(values))) for name, values in facts.items()]


def plain(value: Any) -> str:
    """A value of a manifest as a reader would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def number(value: Any, form: str) -> str:
    """A number in a format, with a true minus sign; a dash where there is none."""
    if not isinstance(value, int | float):
        return "–"
    return format(value, form).replace("-", "−").replace("%", " %")


def interval(figure: Mapping[str, Any] | None, form: str) -> str:
    """The interval of a figure, "low to high"; nothing where there is none."""
    if not figure or figure.get("low") is None:
        return ""
    return f"{number(figure['low'], form).removesuffix(' %')} to {number(figure['high'], form)}"


def p_value(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def clip(text: Any) -> str:
    """A text of at most MOST_CHARACTERS, with what was cut said."""
    text = str(text)
    over = len(text) - MOST_CHARACTERS
    return text if over <= 0 else f"{text[:MOST_CHARACTERS]}… ({over} more characters in completions.jsonl)"


def _some(plots_or_none: Any) -> list[str]:
    return [plot for plot in plots_or_none if plot]


def template(name: str = "report.html.j2") -> Any:
    """A template of this folder, with the filters that all of them use; it escapes what it is given."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("sawyer.pipeline.report", "."),
        autoescape=True,
        undefined=ChainableUndefined,  # a run has parts or has not
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "p_value": p_value,
        "duration": lambda seconds: "–" if seconds is None else duration(seconds),
        "clip": clip,
        "plain": plain,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    }
    return environment.get_template(name)
