"""`sawyer eval rewardbench` and `sawyer eval leaderboard`.

OUT              the result: `subsets`, `sections`, `overall`, intervals, and how they came about
OUT.rows.jsonl   (result.rows.jsonl for result.json) the scores of every row
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.measuring import fingerprint, measure_all
from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.apps.scorers import check_pairs, make_scorer
from sawyer.apps.work import check_out, work_folder
from sawyer.data.files import write_rows
from sawyer.data.rewardbench import TIES, load_bench
from sawyer.errors import SawyerError
from sawyer.evals import leaderboard as tables
from sawyer.evals import rewardbench
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.progress import Voice
from sawyer.rollout.api_settings import ApiSettings

FOLDER = Path("runs") / "rewardbench"
"""Where results go that were given no place."""


@dataclass(frozen=True)
class Request:
    """What `sawyer eval rewardbench` was asked for."""

    data: str
    """A file, a folder, or `hub`."""
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    api: ApiSettings | None = None
    cache: Path | None = None
    out: Path | None = None
    version: int | None = None
    prior: bool = False
    limit: int | None = None
    ties: str | None = None
    max_bad: float = 0.05
    overwrite: bool = False


def evaluate(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Score every row of the benchmark, or continue to, and write the result and the rows.

    Returns:
        What is written to the result file.

    Raises:
        SawyerError: the request cannot be met; what was scored is kept for the same request.
    """
    voice = voice or Voice()
    if request.ties not in (None, *rewardbench.TIE_POLICIES):
        raise SawyerError(f"--ties is {request.ties!r}; choose {' or '.join(rewardbench.TIE_POLICIES)}")
    if request.prior and request.data != "hub":
        raise SawyerError("--prior is for --data hub; the prior sets of a folder are read where they are")
    if request.out is not None:
        check_out(request.out, request.overwrite, ".json")
    scorer = make_scorer(request.scorer, request.api, request.cache)
    bench = load_bench(request.data, request.version, prior=request.prior, max_bad=request.max_bad, limit=request.limit)
    check_pairs(scorer, len(bench.trials) if bench.version == 1 else None)
    if request.ties is not None and bench.version == 2:
        raise SawyerError("--ties is for version 1; in version 2 completions that are level at the top share the point")
    for line in bench.left_out:
        voice.say(f"left out: {line}")
    if bench.report.dropped:
        voice.say(str(bench.report))
    out = request.out or FOLDER / f"{_file_name(scorer.name)}-v{bench.version}.json"
    if request.out is None:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_out(out, request.overwrite, ".json")
    ties = request.ties or ("half" if scorer.prefers else "wrong")
    began = time.monotonic()
    work = fingerprint(scorer, bench.trials, bench.version)
    with disk_errors(out.parent), work_folder(out, work, "writing") as folder:
        measured = measure_all(scorer, bench.trials, bench.version, folder, voice)
        evaluation = rewardbench.evaluate(measured.rows, bench.version, ties=ties, seed=request.scorer.seed)
        result = {
            "benchmark": "rewardbench",
            "model": scorer.name,
            "scorer": scorer.kind,
            **evaluation,
            "protocol": scorer.protocol,
            "truncated": measured.truncated,
            "unread": measured.unread,
            "data": request.data,
            "limit": request.limit,
            "report": bench.report.as_dict(),
            "rows_file": os.fspath(rows_file(out)),
            "seconds": round(time.monotonic() - began, 3),
            "sawyer": __version__,
        }
        write_rows(rows_file(out), [_with_outcome(row, bench.version, ties) for row in measured.rows])
        write_json(out, result)
        shutil.rmtree(folder.parent)
    return result


def leaderboard(files: Sequence[Path]) -> str:
    """The results in some files as Markdown.

    Raises:
        SawyerError: a file is no result of RewardBench.
    """
    results = []
    for file in files:
        result = read_json(file) if file.is_file() else None
        wanted = {"model", "scorer", "version", "sections", "overall", "intervals", "missing", "ties"}
        if not isinstance(result, dict) or not wanted <= result.keys() or result["version"] not in tables.COLUMNS:
            raise SawyerError(f"{file} is not a result of `sawyer eval rewardbench`; give the .json that it wrote")
        results.append(result)
    return tables.leaderboard(results)


def rows_file(out: Path) -> Path:
    """Where the scores of the rows go."""
    return out.with_suffix(".rows.jsonl")


def table_rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, score, interval and number of rows of everything that was measured, the whole first."""
    lines = [("overall", _percent(result["overall"]), _span(result["intervals"]["overall"]), str(result["rows"]))]
    subsets = result["subsets"]
    for section, score in result["sections"].items():
        own = {name: figure for name, figure in subsets.items() if figure["section"] == section}
        n = sum(figure["n"] for figure in own.values())
        lines.append((section, _percent(score), _span(result["intervals"]["sections"][section]), str(n)))
        if list(own) != [section]:
            lines += [_subset_line(f"  {name}", figure) for name, figure in own.items()]
    if result["other"] is not None:
        lines.append(
            ("other subsets", _percent(result["other"]["accuracy"]), _span(result["other"]), str(result["other"]["n"]))
        )
        lines += [_subset_line(f"  {name}", subsets[name]) for name in result["other"]["subsets"]]
    return lines


def summary_lines(result: dict[str, Any]) -> list[str]:
    """What a table does not say."""
    counted = {"half": "count half", "wrong": "count as wrong", rewardbench.SHARED: "share the point"}
    lines = [f"ties {counted[result['ties']]}"]
    if result["truncated"]:
        lines.append(
            f"{result['truncated']} texts were longer than --max-tokens, or than the model reads, and were cut"
        )
    if result["unread"]:
        lines.append(f"{result['unread']} questions to the judge got no verdict")
    if result["missing"]:
        lines.append(f"not measured: {', '.join(result['missing'])}")
    lines.append(f"scores of every row: {result['rows_file']}")
    return lines


def _subset_line(name: str, figure: dict[str, Any]) -> tuple[str, str, str, str]:
    return name, _percent(figure["accuracy"]), _span(figure), str(figure["n"])


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"


def _span(interval: dict[str, Any]) -> str:
    return "" if interval["low"] is None else f"{_percent(interval['low'])}–{_percent(interval['high'])}"


def _with_outcome(row: dict[str, Any], version: int, ties: str) -> dict[str, Any]:
    """A row as it is saved: with what it was worth, but in Ties, where a score is of all rows together."""
    if version == 2 and row["subset"] == TIES:
        return row
    return {**row, "outcome": rewardbench.outcome(row, version, ties)}


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "model"
