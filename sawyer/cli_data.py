"""The verbs of `sawyer data`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sawyer.console import AsJson, print_table, table

app = typer.Typer(
    name="data",
    help="Published sets, of preferences mostly: build, count, look at and check them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Setting = typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the source: --set min_ratio=3")
Local = typer.Option(
    "--path", metavar="PATH", help="Local file or folder of the set; of mix1 and mix2, of all of them."
)


@app.command(short_help="Write a data set, cleaned and split, into a folder.")
def build(
    what: Annotated[str, typer.Argument(metavar="SOURCE|RECIPE", help="A source by name, or a recipe's data stage.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    path: Annotated[list[str] | None, Local] = None,
    settings: Annotated[list[str] | None, Setting] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="NAME=SHARE", help="A part and its share of the prompts.")
    ] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Keep prompts together that are as similar as this (0.5 to 1; 0.8, say).")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Drop what overlaps with these evaluation prompts.")
    ] = None,
    against_words: Annotated[int | None, typer.Option(help="Words in a row that are an overlap. Default: 13.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which data stage, of a recipe with several.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Which prompts go to which part. Default: 0.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that was built before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a data set into a folder: a file of records for each part, and data.json on how they were made.

    Without --path a set is loaded from the Hugging Face hub. Sources are hh, shp, helpsteer, pku, ultrafeedback,
    ultrainteract, code-ultrafeedback, argilla-math, orca, capybara, summarize, nectar, webgpt, oasst, gpt4-llm,
    alpaca-farm, dolly, and the mixtures mix1 and mix2.

    Example: sawyer data build shp --out data/shp --set max_pairs=1 --split train=0.9 --split test=0.1

    Example: sawyer data build oasst --path en_trees.jsonl --out data/oasst --near-duplicates 0.8 --split train=0.8
    --split test=0.2

    Example: sawyer data build mix2 --out data/mix2 --set limit_each=1000 --against reward-bench.parquet

    Example: sawyer data build hh.yaml --out data/hh
    """
    from sawyer.apps import data as work

    request = work.BuildRequest(
        what=what,
        out=out,
        stage=stage,
        path=tuple(path or ()),
        assignments=tuple(settings or ()),
        split=tuple(split or ()),
        near_duplicates=near_duplicates,
        against=tuple(against or ()),
        against_words=against_words,
        split_seed=split_seed,
        overwrite=overwrite,
    )
    made = work.build(request)
    if as_json:
        print(json.dumps(made, indent=2, ensure_ascii=False))
        return
    parts = {name: n for name, n in made.items() if isinstance(n, int)}
    print(f"{', '.join(f'{n:,} records in {name}' for name, n in parts.items())}: {made['out']}")


@app.command(short_help="Count prompts, pairs and lengths.")
def stats(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE|DIR", help="Files or folders of records.")] = None,
    source: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A source, read and cleaned first.")] = None,
    path: Annotated[list[str] | None, Local] = None,
    settings: Annotated[list[str] | None, Setting] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Whose tokens lengths are counted in; `words`: what white space parts.")
    ] = "smollm2",
    as_json: AsJson = False,
) -> None:
    """Count what a data set holds, in the columns of the RLHF Workflow's table 5: prompts, mean length of prompts, of
    chosen and of rejected completions, pairs, who wrote and who labelled.

    Lengths are in tokens of --tokenizer, smollm2's without it; the paper's are another tokenizer's. A ranking of K
    completions counts as K (K - 1) / 2 pairs.

    Example: sawyer data stats data/shp

    Example: sawyer data stats --source helpsteer --path train.jsonl.gz --tokenizer words --json
    """
    from sawyer.apps import data as work
    from sawyer.errors import SawyerError

    sources = list(source or [])
    if (path or settings) and len(sources) != 1:
        raise SawyerError("--path and --set are for one --source; name one, or drop them")
    requests = [work.SourceRequest(name, tuple(path or ()), tuple(settings or ())) for name in sources]
    rows = work.stats(files or [], requests, tokenizer)
    if as_json:
        print(json.dumps({"tokenizer": tokenizer, "sets": [row.as_dict() for row in rows]}, indent=2))
        return
    shown = table("set", "prompts", "prompt", "chosen", "rejected", "pairs", "written by", "labelled by")
    for row in rows:
        shown.add_row(*work.cells(row))
    for column in shown.columns[:-2]:
        column.no_wrap = True
    print_table(shown)
    unit = "words between white space" if tokenizer == work.WORDS else f"tokens of {tokenizer}"
    print(f"prompt, chosen, rejected: mean length in {unit}")


@app.command(short_help="Show the first records of a file.")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A file or folder of records.")],
    n: Annotated[int, typer.Option("--n", help="How many records.")] = 3,
    whole: Annotated[bool, typer.Option("--whole", help="Do not cut long texts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show records: the prompt, and each completion with who wrote it and its score.

    Example: sawyer data show data/shp/train.jsonl --n 5
    """
    from rich.console import Console

    from sawyer.apps import data as work
    from sawyer.apps.show_data import show as print_records

    records = work.first(file, n)
    if as_json:
        print(json.dumps([record.row() for record in records], indent=2, ensure_ascii=False))
    else:
        print_records(records, Console(highlight=False, markup=False), whole=whole)


@app.command(short_help="Look for evaluation prompts in training data.")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A file or folder of records.")],
    against: Annotated[
        list[Path], typer.Option(metavar="PATH", help="File or folder of evaluation prompts; may be repeated.")
    ],
    words: Annotated[
        list[int] | None, typer.Option("--words", help="Words in a row that are an overlap. Default: 13, and 8.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="The field of the evaluation rows that holds the prompt.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what does not overlap, by the first of --words.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for training prompts that share a run of words with a prompt of an evaluation set.

    Evaluation prompts are lines of a .txt file, or rows of .csv, .jsonl, .json or .parquet, in a field such as prompt,
    question, instruction or turns.

    Example: sawyer data check data/mix2 --against reward-bench.parquet --against alpaca_eval.json

    Example: sawyer data check pairs.jsonl --against gsm8k.jsonl --words 8 --out clean.jsonl
    """
    from sawyer.apps import data as work

    found = work.check(file, against, words or [13, 8], field=field, out=out)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for line in work.check_lines(found):
        print(line)


@app.command(short_help="List the published sets.")
def sets(as_json: AsJson = False) -> None:
    """List the published sets that can be built: by which name, where they lie on the hub, and what they hold.

    Example: sawyer data sets
    """
    from sawyer.apps import data as work

    found = work.sets()
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    shown = table("source", "set", "hub", "holds")
    for entry in found:
        shown.add_row(*entry.values())
    print_table(shown)
