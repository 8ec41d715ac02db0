"""`sawyer judge`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sawyer.cli_eval import Overwrite, print_lines, remote_judge, worked
from sawyer.console import AsJson


def judge(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(metavar="FILE", help="Pairs: prompt, a, b and columns of raters; or LLMBar's layout.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The rows with the verdicts: .jsonl, .json or .parquet.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A judge: folder, hub name, smollm2; or a remote name. Repeat.")
    ] = None,
    rater: Annotated[
        list[str] | None, typer.Option(metavar="length|shorter|random", help="A judge without a model. Repeat.")
    ] = None,
    panel: Annotated[
        str | None,
        typer.Option(metavar="mean|median|majority|reliability", help="Add what all judges say together."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer of the judges into this .jsonl.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots into this .html.")] = None,
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="Local models: what they compute in.")] = "fp32",
    chat_template: Annotated[
        str | None, typer.Option(help="Local models: template, by name or as Jinja text; the model's own, else plain.")
    ] = None,
    max_dropped: Annotated[float, typer.Option(min=0, max=1, help="Share of rows that may be no pairs.")] = 0.05,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pairs.")] = None,
    seed: Annotated[int, typer.Option(help="Of the judges' answers, of random, and of resampling.")] = 0,
    overwrite: Overwrite = False,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="The models are remote, at this URL.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Remote models: folder of answers not to ask for again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let judges say which of two answers is better, and measure how far they agree with people and with each other.

    Every judge is asked in both orders: its column says A, B or tie, NAME:swapped what it says with b shown first, and
    what has no verdict is empty. `sawyer eval agreement OUT` measures the same again. Run it again to go on after a
    kill: what is answered is kept until the output is written.

    Example: sawyer judge pairs.jsonl --rater length --rater random --out labels.jsonl

    Example: sawyer judge pairs.csv --model smollm2 --read forced --out labels.jsonl --page agreement.html

    Example: sawyer judge pairs.jsonl --endpoint http://localhost:8000/v1 --model qwen3-8b --tries 3 --out labels.jsonl

    Example: sawyer judge pairs.jsonl --model a --model b --rater length --panel reliability --out labels.jsonl --json
    """
    from sawyer.apps import judge as work
    from sawyer.apps.show_agreement import table_rows
    from sawyer.feedback.judge_settings import JudgeForm
    from sawyer.options import given, settings_from

    request = work.Request(
        data=data,
        out=out,
        judge=settings_from(JudgeForm, given(context, JudgeForm)),
        models=model or (),
        raters=rater or (),
        api=remote_judge(context, endpoint),
        cache=cache,
        panel=panel,
        answers=answers,
        page=page,
        precision=precision,
        chat_template=chat_template,
        max_dropped=max_dropped,
        limit=limit,
        seed=seed,
        overwrite=overwrite,
    )
    result = worked(work.judge, request)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for line in work.summary_lines(result):
        print(line)
    if result["agreement"] is not None:
        print_lines("", "", "interval", "n", rows=table_rows(result["agreement"]))
