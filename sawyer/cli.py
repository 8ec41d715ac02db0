"""The command line: every verb parses, calls and prints; what it calls is imported inside, so that help is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sawyer import __version__
from sawyer.cli_compare import API as COMPARE_API
from sawyer.cli_compare import NOT_ASKED, SAMPLING, best_of_n, compare
from sawyer.cli_data import app as data_verbs
from sawyer.cli_eval import API, SCORER
from sawyer.cli_eval import app as evaluation_verbs
from sawyer.cli_judge import judge
from sawyer.cli_score import score
from sawyer.cli_seeds import print_seeds
from sawyer.console import INCOMPLETE, INTERRUPTED, USER_ERROR, AsJson, print_table, table
from sawyer.errors import SawyerError
from sawyer.options import with_settings

app = typer.Typer(
    name="sawyer",
    help="Take a language model and feedback, return an aligned model, and show how much better it is.\n\n"
    "Example: sawyer run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_verbs)
evaluation_verbs.command(
    "best-of-n",
    short_help="What best-of-n would reach, for every n, by proxy and by gold.",
    cls=with_settings(SAMPLING, COMPARE_API, leave_out=NOT_ASKED),
)(best_of_n)
app.add_typer(evaluation_verbs)

_SEED = (
    "The same seed gives the same completions: in fp32 whatever is generated beside them; in bf16, where "
    "rounding depends on the batch, for the same prompts, --n, --batch and --token-budget on the same machine. To an "
    "endpoint it is a wish."
)
_SEEDS = (
    "Run it once for each seed, into OUT/seed-0, OUT/seed-1, ...: a list (0,1,2), or how many (3). Every seed runs "
    "every stage."
)
_BY = (
    "With --best-of: a reward model, by folder or hub name; or verifiable, the gold reward, for prompts that carry "
    "their constraints."
)
_ATTRIBUTES = (
    "What a model that was trained with attributes is asked for: helpfulness=4,verbosity=1. Those that are not named "
    "get their usual value."
)
_TOKEN_BUDGET = (
    "Engine torch: most tokens in memory at a time, prompts included; where prompt and --max-tokens are long, fewer "
    "sequences than --batch run. 32768."
)


def main() -> None:
    """The `sawyer` command: exit code 0, 2 with one sentence for a mistake of the user, 130 when interrupted."""
    try:
        app()
    except SawyerError as error:
        from sawyer.pipeline.processes import MainProcessFailed

        if not isinstance(error, MainProcessFailed):
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sawyer {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Run a recipe, or continue it.")
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled recipe.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a part of the recipe: --set stages.sft.epochs=1"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder; runs/NAME without it, with --seeds NAME-seeds.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="LIST|COUNT", help=_SEEDS)] = None,
    check: Annotated[bool, typer.Option("--check", help="Check recipe, models and files; run nothing.")] = False,
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in a browser at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe; run it again to continue what was interrupted, and to repeat only what changed.

    With --seeds, what the stages `evaluate` found is put together in seeds.json and seeds.html: the mean of each figure
    over seeds and prompts, with an interval that covers the choice of both. Seeds that are done are skipped, so more of
    them can be added.

    Example: sawyer run quickstart --set seed=1 --out runs/seed-1

    Example: sawyer run quickstart --seeds 0,1,2

    Example: sawyer run quickstart --seeds 5 --out runs/five
    """
    from sawyer.numerics import prepare
    from sawyer.pipeline import seeds as several
    from sawyer.pipeline.processes import Processes
    from sawyer.pipeline.recipe import load_recipe
    from sawyer.pipeline.run import run_recipe
    from sawyer.pipeline.summary import read_summary

    numbers = None if seeds is None else several.parse_seeds(seeds)
    if check:
        from sawyer.pipeline.plan import plan

        stages = list(plan(load_recipe(recipe, settings or [])).fingerprints)
        print(json.dumps({"stages": stages}) if as_json else f"nothing is wrong with it; stages: {', '.join(stages)}")
        return
    processes, done = Processes(), False
    try:
        checked = load_recipe(recipe, settings or [])
        prepare()
        if numbers is None:
            folder = run_recipe(checked, out)
        else:
            folder = several.run_seeds(recipe, settings or [], numbers, out)
        done = True
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue where it stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        processes.leave(failed=not done)
    if not processes.is_main:
        return
    if numbers is None:
        _print_run(read_summary(folder), as_json)
    else:
        print_seeds(several.read_seeds(folder), as_json)
    report = folder / ("report.html" if numbers is None else several.PAGE)
    if open_report and report.exists():
        import webbrowser

        webbrowser.open(report.resolve().as_uri())


@app.command(
    short_help="Write completions of the prompts in a file.",
    cls=with_settings(
        "sawyer.rollout.sampling:Sampling", "sawyer.rollout.api_settings:ApiSettings", leave_out=["endpoint"]
    ),
)
def generate(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Folder, .gguf file, hub name or smollm2; with --endpoint a remote name.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Prompts: .txt (one a line), .jsonl, .json, .parquet.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write: .jsonl or .parquet.")],
    n: Annotated[int, typer.Option("--n", help="Completions of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help=_SEED)] = 0,
    system: Annotated[str | None, typer.Option(help="A system turn for the prompts that have none.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")] = False,
    best_of: Annotated[int | None, typer.Option(metavar="N", help="Draw N candidates for each, keep the best.")] = None,
    by: Annotated[str | None, typer.Option(metavar="REWARD", help=_BY)] = None,
    attributes: Annotated[str | None, typer.Option(metavar="NAME=VALUE,...", help=_ATTRIBUTES)] = None,
    as_json: AsJson = False,
    engine: Annotated[str, typer.Option(metavar="torch|vllm", help="What runs a local model.")] = "torch",
    gpus: Annotated[int | None, typer.Option(help="With --engine vllm: how many GPUs to split the model over.")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|bf16", help="Local model; fp32, or vLLM's own.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Local model: most sequences at a time; 256, or vLLM's own.")
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help=_TOKEN_BUDGET)] = None,
    chat_template: Annotated[str | None, typer.Option(help="Local model: template, by name or as Jinja text.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Ask a remote model at this base URL.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Remote model: folder of answers not to ask for again.")] = None,
) -> None:
    """Write completions of the prompts in a file; run it again to continue what was interrupted.

    Prompts that cannot be answered are reported, the others are kept, and the exit code is 3; with --overwrite the same
    command then asks once more for what an endpoint or vLLM failed to give, and for nothing else.

    Example: sawyer generate --model smollm2 --prompts questions.txt --n 4 --out answers.jsonl

    Example: sawyer generate --model runs/quickstart/sft --prompts test.parquet --temperature 0 --out answers.parquet

    Example: sawyer generate --engine vllm --gpus 4 --model org/model --prompts questions.jsonl --out answers.jsonl

    Example: sawyer generate --endpoint http://localhost:8000/v1 --model qwen3-8b --prompts questions.jsonl
    --out answers.jsonl --concurrency 32 --vendor-options --top-k 20

    Example: sawyer generate --model runs/quickstart/sft --prompts questions.txt --best-of 8
    --by runs/quickstart/reward --out best.jsonl

    Example: sawyer generate --model runs/steerlm/steer --prompts questions.txt --attributes gold=4,length=1
    --out short.jsonl
    """
    from sawyer.apps import generate as work
    from sawyer.data.attributes import parse_attributes
    from sawyer.numerics import prepare
    from sawyer.options import flag, given, settings_from
    from sawyer.rollout.api_settings import ApiSettings
    from sawyer.rollout.sampling import Sampling

    remote = given(context, ApiSettings)
    if endpoint is None and remote:
        raise SawyerError(f"{flag(next(iter(remote)))} is for remote models; give --endpoint too, or drop it")
    api = None if endpoint is None else settings_from(ApiSettings, {**remote, "endpoint": endpoint})
    if api is None:
        prepare()
    request = work.Request(
        model=model,
        prompts=prompts,
        out=out,
        n=n,
        seed=seed,
        sampling=settings_from(Sampling, given(context, Sampling)),
        system=system,
        overwrite=overwrite,
        best_of=best_of,
        by=by,
        attributes=None if attributes is None else parse_attributes(attributes),
        engine=engine,
        gpus=gpus,
        precision=precision,
        batch=batch,
        token_budget=token_budget,
        chat_template=chat_template,
        api=api,
        cache=cache,
    )
    try:
        summary = work.generate(request)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue where it stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for line in work.failure_lines(summary["failed"]):
        print(line, file=sys.stderr)
    print(json.dumps(summary, indent=2, ensure_ascii=False) if as_json else work.summary_line(summary))
    if summary["failed"]:
        raise typer.Exit(INCOMPLETE)


app.command(
    short_help="Add scores to the rows of a file.", cls=with_settings(SCORER, API, leave_out=["endpoint", "logprobs"])
)(score)
app.command(
    short_help="Let judges compare answers, and measure how far they agree with people.",
    cls=with_settings(
        "sawyer.feedback.judge_settings:JudgeForm", API, leave_out=["endpoint", "logprobs", "both_orders"]
    ),
)(judge)


app.command(
    short_help="Compare models on the same prompts.", cls=with_settings(SAMPLING, COMPARE_API, leave_out=NOT_ASKED)
)(compare)


@app.command(short_help="List the recipes that come with Sawyer.")
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that come with Sawyer.

    Example: sawyer recipes
    """
    from sawyer.pipeline.recipe import outline_of_bundled

    found = outline_of_bundled()
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif not found:
        print("No recipes come with this installation; `sawyer run FILE` runs a recipe of your own.")
    else:
        shown = table("recipe", "title", "stages")
        for entry in found:
            shown.add_row(entry["name"], entry["title"], ", ".join(entry["stages"]))
        print_table(shown)


@app.command(short_help="List the preference losses.")
def losses(
    name: Annotated[str | None, typer.Argument(help="One loss, with its options; all of them without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the losses of the stage `preference`: formula, what they need, and where they come from.

    u is the log-ratio of policy and reference of a completion, h = u_w - u_l of a pair, p the mean log-prob a token,
    b beta, s the sigmoid.

    Example: sawyer losses simpo
    """
    from sawyer.losses.registry import LOSSES, find_loss

    found = list(LOSSES.values()) if name is None else [find_loss(name)]
    if as_json:
        rows = [
            {
                "name": loss.name, "formula": loss.formula, "needs": loss.needs, "options": dict(loss.options),
                "paper": loss.paper, "over_rows": loss.couples,
            }
            for loss in found
        ]  # fmt: skip
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = table("loss", "formula", "needs", "options", "paper")
    for loss in found:
        options = ", ".join(f"{option} {value}" for option, value in loss.options.items())
        shown.add_row(loss.name, loss.formula, ", ".join(loss.needs), options, loss.paper)
    print_table(shown)


@app.command(short_help="Show the stages and figures of a run.")
def show(
    run: Annotated[str, typer.Argument(help="The folder of a run or of several seeds, or its name in runs/.")],
    as_json: AsJson = False,
) -> None:
    """Show a run: its stages, how far they are, how long they took, their figures; of several seeds what they found.

    Example: sawyer show runs/quickstart
    """
    from sawyer.pipeline.seeds import find_seeds, read_seeds
    from sawyer.pipeline.summary import read_summary

    seeds = find_seeds(run)
    if seeds is not None:
        print_seeds(read_seeds(seeds), as_json)
        return
    _print_run(read_summary(run), as_json)


def _print_run(summary: dict[str, Any], as_json: bool) -> None:
    from sawyer.pipeline.progress import duration

    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    print(
        f"{summary['folder']}: {summary['state']}, {duration(summary['wall_seconds'])}. {summary['title']}".rstrip(". ")
    )
    shown = table("stage", "kind", "state", "time", "figures")
    for name, stage in summary["stages"].items():
        time = duration(stage["wall_seconds"]) if "wall_seconds" in stage else ""
        shown.add_row(name, stage["kind"], stage["state"], time, _headline(stage.get("figures", {})))
    print_table(shown)


def _headline(figures: dict[str, Any]) -> str:
    """The figures that are single values, as text that may be broken between words."""
    shown = {name.replace("_", " "): value for name, value in figures.items() if not isinstance(value, (dict, list))}
    return ", ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in shown.items())


if __name__ == "__main__":
    main()
