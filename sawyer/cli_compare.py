"""`sawyer compare` and `sawyer eval best-of-n`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli_eval import Overwrite, worked
from sawyer.console import AsJson, print_table, table

if TYPE_CHECKING:
    from sawyer.rollout.api_settings import ApiSettings

SAMPLING, API = "sawyer.rollout.sampling:Sampling", "sawyer.rollout.api_settings:ApiSettings"
NOT_ASKED = ["endpoint", "logprobs", "full_logps"]
"""Settings that are no options here: models name their endpoints themselves."""

_MODELS = "A folder, a run or a stage of it, several seeds, a hub name, smollm2, or NAME@URL behind an endpoint."
_PROMPTS = "A file (.txt, .jsonl, .json, .parquet); verifiable; or a published set, NAME or NAME/SPLIT."
_FEEDBACK = (
    "What judges the answers; repeat. A rule (verifiable: gold), a reward model, pairwise:MODEL, judge:MODEL (pairs, "
    "both orders), rating:MODEL (1 to 10), dpo:POLICY,REFERENCE. A judge may be NAME@URL. verifiable, if nothing."
)
_DECODING = "sample, greedy, nucleus (0.95, top-k 50), beam (5), contrastive, or grid: the last four; repeat."
_SEEDS = "Seeds to answer with: a list (0,1,2), or how many (3). Intervals stay over prompts."
_REFERENCE = "KL and perplexity are measured by it; the first local model without it."
_EMBEDDER = "Its hidden states say how far answers are apart; the reference's without it."

Limit = Annotated[int, typer.Option(help="Most prompts, evenly spaced over the file.")]
Precision = Annotated[str, typer.Option(metavar="fp32|bf16", help="Local models: what they compute in.")]
Batch = Annotated[int | None, typer.Option(help="Local models: most sequences at a time; 256.")]
TokenBudget = Annotated[int, typer.Option(help="Local models: tokens in one forward pass where texts are read.")]
JudgeTokens = Annotated[int, typer.Option(help="A judge's longest answer.")]
Cache = Annotated[Path | None, typer.Option(help="Endpoints: folder of answers not to ask for again.")]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")]


def compare(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="A B...", help=_MODELS)],
    prompts: Annotated[str, typer.Option(metavar="FILE|NAME", help=_PROMPTS)],
    feedback: Annotated[list[str] | None, typer.Option(metavar="FEEDBACK", help=_FEEDBACK)] = None,
    decoding: Annotated[list[str] | None, typer.Option(metavar="NAME", help=_DECODING)] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder; runs/compare/A-B without it.")] = None,
    limit: Limit = 100,
    n: Annotated[int, typer.Option("--n", help="Answers to each prompt, of each seed.")] = 2,
    seeds: Annotated[str | None, typer.Option(metavar="LIST|COUNT", help=_SEEDS)] = None,
    seed: Annotated[int, typer.Option(help="One seed to answer with.")] = 0,
    reference: Annotated[str | None, typer.Option(metavar="MODEL", help=_REFERENCE)] = None,
    embedder: Annotated[str | None, typer.Option(metavar="MODEL", help=_EMBEDDER)] = None,
    against: Annotated[
        str, typer.Option(metavar="all|first", help="Compare every two, or each with the first.")
    ] = "all",
    drop_shared: Annotated[bool, typer.Option("--drop-shared", help="Leave out prompts that were trained on.")] = False,
    level: Level = 0.95,
    draws: Annotated[int, typer.Option(min=100, help="Resamples of intervals, and random sign flips.")] = 10_000,
    precision: Precision = "fp32",
    batch: Batch = None,
    token_budget: TokenBudget = 4096,
    judge_tokens: JudgeTokens = 2048,
    cache: Cache = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another comparison in the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare models on the same held-out prompts. Run it again to go on after a kill, or with more models or feedback.

    It says which is better, by how much and how sure that is, with paired tests corrected for all that is compared;
    what difference would have been seen; and how long, diverse and far from the reference the answers are.
    comparison.json and comparison.html are written. What is done stays in the folder, and nothing is done twice.

    Example: sawyer compare runs/quickstart/sft runs/quickstart/iterate --prompts runs/quickstart/prompts/test.jsonl

    Example: sawyer compare smollm2 runs/a/sft runs/a/ppo --prompts test.jsonl --feedback verifiable
    --feedback runs/a/reward --feedback judge:qwen3-8b@http://localhost:8000/v1

    Example: sawyer compare runs/a runs/b --prompts dolly/train --feedback org/reward-model --decoding grid
    """
    from sawyer.apps import compare as work
    from sawyer.apps.answering import Generating
    from sawyer.apps.compare_request import Request
    from sawyer.apps.show_compare import behaviour_table, rewards_table
    from sawyer.pipeline.seeds import parse_seeds

    names = "-".join(Path(model.partition("@")[0]).name for model in models)[:100]
    request = Request(
        models=tuple(models),
        prompts=prompts,
        feedback=tuple(feedback or ()),
        decoding=tuple(decoding or ()),
        sampling=_sampling(context),
        out=out or Path("runs") / "compare" / names,
        limit=limit,
        n=n,
        seeds=(seed,) if seeds is None else tuple(parse_seeds(seeds)),
        reference=reference,
        embedder=embedder,
        against=against,
        level=level,
        draws=draws,
        drop_shared=drop_shared,
        generating=Generating(precision, batch, token_budget),
        judge_tokens=judge_tokens,
        api=_api(context),
        cache=cache,
        overwrite=overwrite,
    )
    result = worked(work.compare, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for titles, rows in (rewards_table(result), behaviour_table(result)):
        shown = table(*titles)
        for row in rows:
            shown.add_row(*row)
        print_table(shown)
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"{request.out / work.PAGE}")
    print(result["headline"])


def best_of_n(
    context: typer.Context,
    by: Annotated[str, typer.Option(metavar="FEEDBACK", help="The proxy: what the best is kept by, as in `compare`.")],
    gold: Annotated[
        list[str] | None, typer.Option(metavar="FEEDBACK", help="What the kept answers are judged by; repeat.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help=_MODELS)] = None,
    prompts: Annotated[str | None, typer.Option(metavar="FILE|NAME", help=_PROMPTS)] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="In place of both: what `sawyer generate` wrote.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Samples of each prompt, and the largest n.")] = 16,
    limit: Limit = 100,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The .json; best-of-n-MODEL.json without it.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots into this .html.")] = None,
    level: Level = 0.95,
    precision: Precision = "fp32",
    batch: Batch = None,
    token_budget: TokenBudget = 4096,
    judge_tokens: JudgeTokens = 2048,
    cache: Cache = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """What the best of n answers by a proxy reward would reach, by the proxy and by gold, for every n from one set of
    samples, without bias; with the KL of best-of-n, log n - (n - 1) / n. Run it again to go on after a kill.

    Example: sawyer eval best-of-n --model runs/quickstart/sft --prompts runs/quickstart/prompts/test.jsonl
    --by runs/quickstart/reward --gold verifiable --n 32 --page best-of-n.html

    Example: sawyer eval best-of-n --samples answers.jsonl --by length --gold runs/hh/reward --n 8 --json
    """
    from sawyer.apps import best_of_n as work
    from sawyer.apps.answering import Generating
    from sawyer.options import given, settings_from
    from sawyer.rollout.sampling import Sampling

    request = work.Request(
        proxy=by,
        gold=tuple(gold or ()),
        model=model,
        prompts=prompts,
        samples=samples,
        n=n,
        limit=limit,
        seed=seed,
        sampling=settings_from(Sampling, given(context, Sampling)),
        out=out,
        page=page,
        level=level,
        generating=Generating(precision, batch, token_budget),
        judge_tokens=judge_tokens,
        api=_api(context),
        cache=cache,
        overwrite=overwrite,
    )
    result = worked(work.evaluate, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    names = work.names_of(result)
    shown = table("n", "KL", "root", f"{names[0]} (kept by)", *names[1:])
    for row in work.table_rows(result):
        shown.add_row(*row)
    print_table(shown)
    print(work.headline(result))


def _sampling(context: typer.Context) -> dict[str, Any]:
    """The settings of how completions are drawn that were given, and no others."""
    from sawyer.options import given, settings_from
    from sawyer.rollout.sampling import Sampling

    asked = given(context, Sampling)
    sampling = settings_from(Sampling, asked)
    return {name: getattr(sampling, name) for name in asked}


def _api(context: typer.Context) -> ApiSettings:
    """How endpoints are asked, whichever they are."""
    from sawyer.options import given, settings_from
    from sawyer.rollout.api_settings import ApiSettings

    return settings_from(ApiSettings, given(context, ApiSettings))
