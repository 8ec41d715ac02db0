"""One recipe with several seeds, and what they found together.

    DIR/seed-0/ ...    a run like any other for each seed: skipped where it is done, continued where it was killed
    DIR/seeds.json     every figure of the stages `evaluate`, over seeds and prompts
    DIR/seeds.html     the same as a page

Every seed runs every stage. Stages `data` make the same of every seed, since which prompts are held out does not depend
on it; that is what lets the seeds be compared prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.processes import Processes
from sawyer.pipeline.progress import Voice
from sawyer.pipeline.provenance import command
from sawyer.pipeline.recipe import Recipe, load_recipe
from sawyer.pipeline.run import RECIPE, refuse_foreign_folder, run_recipe, write_report
from sawyer.pipeline.summary import read_summary, training

SEEDS = "seeds.json"
PAGE = "seeds.html"


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as the list it is, `3` as the first three seeds.

    Raises:
        SawyerError: it is neither, a seed is named twice, or there is only one.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SawyerError(f"--seeds {text!r} is no list of seeds: give whole numbers (0,1,2), or how many (3)")
    numbers = [int(part) for part in parts]
    seeds = list(range(numbers[0])) if len(numbers) == 1 else numbers
    repeated = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if repeated is not None:
        raise SawyerError(f"--seeds names the seed {repeated} twice; give each once")
    if len(seeds) < 2:
        raise SawyerError(
            f"--seeds {text} names no two seeds, and one says nothing of how others would do: give at least two, or "
            "leave it out and set one with --set seed=N"
        )
    return seeds


def run_seeds(
    recipe: str | Path,
    overrides: Sequence[str],
    seeds: Sequence[int],
    out: str | Path | None = None,
    *,
    voice: Voice | None = None,
    report: Callable[[Path], Path | None] = write_report,
) -> Path:
    """Run what is not done yet of a recipe with each seed, and write what they found together; returns the folder.

    Args:
        recipe: a file, or the name of a bundled recipe.
        overrides: `a.b=value`, as of `--set`.
        seeds: at least two.
        out: the folder; `runs/NAME-seeds` where it is None.
        report: what writes the report of each run.

    Raises:
        SawyerError: as `run_recipe`; the overrides name a seed; the folder is of another recipe. Folders are looked at
            before anything runs.
    """
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise SawyerError("--seeds says which seeds to run; leave out --set seed=...")
    recipes = {seed: load_recipe(recipe, [*overrides, f"seed={seed}"]) for seed in seeds}
    first = recipes[seeds[0]]
    folder = Path(out) if out is not None else Path("runs") / f"{first.name}-seeds"
    processes, voice = Processes(), voice or Voice()
    voice.quiet = voice.quiet or not processes.is_main
    processes.on_main(lambda: _refuse_foreign_folders(folder, first.name, seeds))
    for number, (seed, own) in enumerate(recipes.items(), 1):
        voice.say(f"seed {seed} ({number} of {len(seeds)})")
        run_recipe(own, place(folder, seed), voice=voice, report=report)
    processes.on_main(lambda: _write(folder, first, seeds, voice))
    return folder


def place(folder: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return folder / f"seed-{seed}"


def find_seeds(name: str | Path) -> Path | None:
    """The folder of several seeds, given as such or by its name in `runs/`; None where that is none."""
    return next((folder for folder in (Path(name), Path("runs") / name) if (folder / SEEDS).is_file()), None)


def read_seeds(folder: Path) -> dict[str, Any]:
    """What `run_seeds` wrote.

    Raises:
        SawyerError: the folder has no whole seeds.json.
    """
    found = read_json(folder / SEEDS)
    if not isinstance(found, dict):
        raise SawyerError(f"{folder} has no {SEEDS} that can be read; run the recipe with --seeds again to write it")
    return {"folder": str(folder), **found}


def _refuse_foreign_folders(folder: Path, recipe: str, seeds: Sequence[int]) -> None:
    if (folder / RECIPE).is_file():
        raise SawyerError(f"{folder} is a single run; give the seeds a folder of their own with --out")
    earlier = read_json(folder / SEEDS)
    if isinstance(earlier, dict) and earlier.get("recipe") != recipe:
        raise SawyerError(
            f"{folder} has the seeds of the recipe '{earlier.get('recipe')}', not of '{recipe}'; give another folder "
            "with --out"
        )
    if earlier is None and folder.is_dir():
        strange = [path for path in folder.iterdir() if not path.name.startswith((".", "seed-"))]
        if strange:
            raise SawyerError(f"{folder} has other files in it ({strange[0].name}); give a new folder with --out")
    if folder.exists() and not folder.is_dir():
        raise SawyerError(f"{folder} is a file; give a folder with --out")
    for seed in seeds:
        refuse_foreign_folder(place(folder, seed), recipe)


def _write(folder: Path, recipe: Recipe, seeds: Sequence[int], voice: Voice) -> None:
    """`seeds.json` and `seeds.html` from the finished runs."""
    runs = {seed: place(folder, seed) for seed in seeds}
    summaries = {seed: read_summary(run) for seed, run in runs.items()}
    took = {seed: training(summary["stages"]) for seed, summary in summaries.items()}
    evaluations = {
        planned.name: found
        for planned in recipe.stages
        if planned.stage.makes == "evaluation" and (found := _together(runs, planned.name, took)) is not None
    }
    if not evaluations:
        voice.say("the recipe has no stage that evaluates policies, so there are no figures to average over seeds")
    write_json(
        folder / SEEDS,
        {
            "recipe": recipe.name,
            "title": recipe.title,
            "command": command(),
            "seeds": list(seeds),
            "runs": {str(seed): run.name for seed, run in runs.items()},
            "wall_seconds": {str(seed): summary["wall_seconds"] for seed, summary in summaries.items()},
            "evaluations": evaluations,
        },
    )
    from sawyer.pipeline.report.over_seeds import write_page

    voice.say(f"report: {write_page(read_seeds(folder), folder / PAGE)}")


def _together(runs: dict[int, Path], stage: str, took: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """One stage's evaluation over all seeds, with what training took; None where it compared no policies."""
    from sawyer.evals.over_seeds import over_seeds

    evaluations = {seed: read_json(run / stage / "evaluation.json") or {} for seed, run in runs.items()}
    if not all(evaluation.get("policies") for evaluation in evaluations.values()):
        return None
    rows = {seed: _rows(run / stage / "completions.jsonl") for seed, run in runs.items()}
    best_of_n = {seed: _rows(run / stage / "best_of_n.jsonl") for seed, run in runs.items()}
    return over_seeds(evaluations, rows, best_of_n, took)


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
