"""`sawyer score`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sawyer.cli_eval import Overwrite, remote_judge, worked
from sawyer.console import AsJson


def score(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Rows to score: .jsonl, .json (both also .gz), .parquet; of any size.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, with the same choice of suffixes.")],
    column: Annotated[str, typer.Option(help="What the list of scores is called in each row.")] = "scores",
    format: Annotated[str, typer.Option(help="Format of the rows: alpaca, sharegpt, messages, trl, hh.")] = "auto",
    max_dropped: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that may hold nothing to score.")
    ] = 0.05,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    overwrite: Overwrite = False,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="A remote judge at this base URL.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Remote judge: folder of answers not to ask for again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add to each row of a file the scores of its completions; run it again to continue what was interrupted.

    A row may have chosen and rejected, a ranking, samples of `sawyer generate`, a single completion, or a conversation,
    whose last answer is scored. Its scores are a list in the same order. A pairwise model gives the mean probability to
    beat the row's other completions, a judge a rating.

    Example: sawyer score --model runs/hh/reward --data pairs.jsonl.gz --out scored.jsonl

    Example: sawyer score --model runs/hh/dpo --reference runs/hh/sft --data answers.jsonl --out scored.parquet

    Example: sawyer score --model a --model b --ensemble mean-std --data pairs.parquet --out scored.jsonl --json

    Example: sawyer score --scorer rule --rule reading_grade --data talks.jsonl --column grade --out graded.jsonl
    """
    from sawyer.apps import score as work
    from sawyer.apps.scorer_settings import ScorerSettings
    from sawyer.options import given, settings_from

    request = work.Request(
        data=data,
        out=out,
        scorer=settings_from(ScorerSettings, given(context, ScorerSettings)),
        api=remote_judge(context, endpoint),
        cache=cache,
        format=format,
        column=column,
        max_dropped=max_dropped,
        limit=limit,
        overwrite=overwrite,
    )
    summary = worked(work.score, request)
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    for line in work.summary_lines(summary):
        print(line)
