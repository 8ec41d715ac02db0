"""`sawyer eval ...`: the verbs that measure reward models and raters. Thin, as in `cli.py`: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.console import INTERRUPTED, AsJson, print_table, table
from sawyer.options import with_settings

if TYPE_CHECKING:
    from sawyer.rollout.api_settings import ApiSettings

app = typer.Typer(
    name="eval",
    help="Measure reward models, on RewardBench or on pairs of your own, and how far raters agree.",
    short_help="Measure reward models and raters.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SCORER, API = "sawyer.apps.scorer_settings:ScorerSettings", "sawyer.rollout.api_settings:ApiSettings"
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Share of rows that may be unusable.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many rows of each subset.")]


@app.command(
    short_help="Score a reward model on RewardBench.",
    cls=with_settings(SCORER, API, leave_out=["endpoint", "logprobs"]),
)
def rewardbench(
    context: typer.Context,
    data: Annotated[str, typer.Option(metavar="PATH|hub", help="File or folder in the published columns, or hub.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The .json to write; runs/rewardbench/MODEL without it.")
    ] = None,
    version: Annotated[int | None, typer.Option(metavar="1|2", help="What the rows are; seen from them.")] = None,
    prior: Annotated[bool, typer.Option("--prior", help="With --data hub: the prior sets too.")] = False,
    limit: Limit = None,
    ties: Annotated[
        str | None, typer.Option(metavar="wrong|half", help="What equal scores count; half for pairwise and judge.")
    ] = None,
    max_bad: MaxBad = 0.05,
    overwrite: Overwrite = False,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="A remote judge at this base URL.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Remote judge: folder of answers not to ask for again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a reward model, a DPO policy, a judge or a baseline on RewardBench; run it again to go on after a kill.

    Rows of other subsets are scored too and reported apart. Beside the result, the scores of every row are written.

    Example: sawyer eval rewardbench --model runs/hh/reward --data hub --out reward.json

    Example: sawyer eval rewardbench --model runs/hh/dpo --reference runs/hh/sft --data bench/

    Example: sawyer eval rewardbench --model a --model b --ensemble mean-std --data filtered.parquet

    Example: sawyer eval rewardbench --endpoint http://localhost:8000/v1 --model qwen3-8b --both-orders --data hub

    Example: sawyer eval rewardbench --scorer length --data pairs.jsonl --json
    """
    from sawyer.apps import evaluate_rewards as work
    from sawyer.apps.scorer_settings import ScorerSettings
    from sawyer.options import given, settings_from

    request = work.Request(
        data=data,
        scorer=settings_from(ScorerSettings, given(context, ScorerSettings)),
        api=remote_judge(context, endpoint),
        cache=cache,
        out=out,
        version=version,
        prior=prior,
        limit=limit,
        ties=ties,
        max_bad=max_bad,
        overwrite=overwrite,
    )
    result = worked(work.evaluate, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f"{result['model']} ({result['scorer']}) on RewardBench, version {result['version']}")
    print_lines("", "score", "interval", "rows", rows=work.table_rows(result))
    for line in work.summary_lines(result):
        print(line)


@app.command(short_help="Results of RewardBench as a Markdown table.")
def leaderboard(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What `sawyer eval rewardbench` wrote.")],
) -> None:
    """Results of RewardBench as a Markdown table, the best first; a table for each version.

    Example: sawyer eval leaderboard runs/rewardbench/reward-v1.json runs/rewardbench/length-v1.json
    """
    from sawyer.apps.evaluate_rewards import leaderboard as made

    print(made(files), end="")


@app.command(short_help="What a reward model gets right, how sure it is, what fools it.", cls=with_settings(SCORER))
def reward(
    context: typer.Context,
    data: Annotated[str, typer.Option(metavar="PATH", help="Pairs, in any format that training takes.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures into this .json.")] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots into this .html.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(metavar="PATH", help="Other pairs to fit the temperature on; else half of these.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Samples of `sawyer generate`, for length bias by prompt.")
    ] = None,
    probes: Annotated[bool, typer.Option("--probes/--no-probes", help="Score spoilt completions too.")] = True,
    bins: Annotated[int, typer.Option(min=1, help="Bins of the calibration.")] = 10,
    limit: Limit = None,
    max_bad: MaxBad = 0.05,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Accuracy on held-out pairs, calibration before and after a fitted temperature, accuracy by length and author
    beside what length or author alone would score, and whether good completions beat spoilt ones.

    Example: sawyer eval reward --model runs/hh/reward --data test.jsonl --page reward.html

    Example: sawyer eval reward --model runs/hh/reward --data test.jsonl --samples answers.jsonl --json
    """
    from sawyer.apps import evaluate_pairs as work
    from sawyer.apps.scorer_settings import ScorerSettings
    from sawyer.options import given, settings_from

    request = work.Request(
        data=data,
        scorer=settings_from(ScorerSettings, given(context, ScorerSettings)),
        out=out,
        page=page,
        calibrate=calibrate,
        samples=samples,
        probes=probes,
        bins=bins,
        limit=limit,
        max_bad=max_bad,
        overwrite=overwrite,
    )
    result = worked(work.evaluate, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f"{result['model']} ({result['scorer']}): {result['pairs']} pairs of {result['prompts']} prompts")
    print_lines("", "", "interval", "n", rows=work.table_rows(result))


@app.command(short_help="How far raters agree, people and judges, and what biases judges.")
def agreement(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Labels: a row an item, a column a rater.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures into this .json.")] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots into this .html.")] = None,
    rater: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column that is a rater; repeat. Else all others are.")
    ] = None,
    tie: Annotated[float | None, typer.Option(help="The number that is a tie, such as 5 of 1 to 9.")] = None,
    prefers_a: Annotated[str, typer.Option(metavar="low|high", help="Numbers that prefer a, seen from --tie.")] = "low",
    model_of: Annotated[
        list[str] | None, typer.Option(metavar="RATER=MODEL", help="A judge's name in a_model and b_model; repeat.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the prompts, to fit calibrations on the others.")] = 5,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the resampling and of the folds.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Agreement of every two raters of the same items: exact and within one, errors, correlations, kappas, before and
    after a monotone calibration on other prompts; Krippendorff's alpha of all; and biases of judges of two completions.

    Every column is a rater but id, prompt, and a, b, a_length, b_length, a_model, b_model and NAME:swapped, which tell
    what was compared and what rater NAME says with b shown first. Several files are joined by id. Labels are numbers or
    texts; for biases they are A, B and tie, or numbers with --tie.

    Example: sawyer eval agreement labels.csv --page agreement.html

    Example: sawyer eval agreement people.csv judge.jsonl --out agreement.json

    Example: sawyer eval agreement labels.csv --tie 5 --model-of judge=qwen3-8b --json
    """
    from sawyer.apps import evaluate_agreement as work
    from sawyer.apps.show_agreement import table_rows

    request = work.Request(
        files=files,
        out=out,
        page=page,
        raters=rater or (),
        tie=tie,
        prefers_a=prefers_a,
        model_of=model_of or (),
        folds=folds,
        level=level,
        draws=draws,
        seed=seed,
        overwrite=overwrite,
    )
    result = worked(work.evaluate, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f"{len(result['raters'])} raters of {result['items']} items, {result['prompts']} prompts")
    print_lines("", "", "interval", "n", rows=table_rows(result))


def remote_judge(context: typer.Context, endpoint: str | None) -> ApiSettings | None:
    """How a remote judge is asked; None without an endpoint.

    Raises:
        SawyerError: options are for a remote judge, and there is none; or an option's value is not what it takes.
    """
    from sawyer.errors import SawyerError
    from sawyer.options import flag, given, settings_from
    from sawyer.rollout.api_settings import ApiSettings

    remote = given(context, ApiSettings)
    if endpoint is not None:
        return settings_from(ApiSettings, {**remote, "endpoint": endpoint})
    if remote:
        raise SawyerError(f"{flag(next(iter(remote)))} is for remote judges; give --endpoint too, or drop it")
    return None


def worked(work: Callable[[Any], dict[str, Any]], request: Any) -> dict[str, Any]:
    """What the work returns; an interruption says how to go on."""
    from sawyer.numerics import prepare

    prepare()
    try:
        return work(request)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue where it stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def print_lines(*columns: str, rows: list[tuple[str, str, str, str]]) -> None:
    shown = table(*columns)
    for row in rows:
        shown.add_row(*row)
    print_table(shown)
