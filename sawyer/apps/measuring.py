"""Scoring many trials by one scorer, in parts that a killed process does not do again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.apps.scorers import Member, Scorer, measure
from sawyer.data.rewardbench import Trial
from sawyer.errors import SawyerError
from sawyer.feedback.ensemble import combine, combine_preferences, scale_of
from sawyer.feedback.protocol import Feedback
from sawyer.numerics import release
from sawyer.pipeline.files import digest, read_json, write_json
from sawyer.pipeline.progress import Voice

COUNTED = ("truncated", "unread")
"""What sources of feedback count as they go, those that have it."""


@dataclass
class Measured:
    """The numbers of all trials, in order; how many texts were cut to be scored; and how many questions to judges
    remained without a verdict."""

    rows: list[dict[str, Any]]
    truncated: int
    unread: int


def fingerprint(scorer: Scorer, trials: Sequence[Trial], version: int) -> str:
    """A hash of all that the numbers depend on."""
    asked = [[list(trial.prompt.prompt), trial.completions, trial.subset] for trial in trials]
    return digest([version, [member.depends_on for member in scorer.members], digest(asked)])


def measure_all(
    scorer: Scorer,
    trials: Sequence[Trial],
    version: int,
    folder: Path,
    voice: Voice,
    *,
    scaled_by: Sequence[int] | None = None,
) -> Measured:
    """Score every trial by every member, and combine the members of an ensemble.

    Args:
        scaled_by: how many of each trial's completions, the first ones, an ensemble's members are brought to one scale
            by; all when left out.

    Returns:
        rows as `evals.rewardbench` takes them; those of an ensemble have the numbers of its `members` too.

    Raises:
        SawyerError: as the scorer does; a score that is not finite.
    """
    each, counts = [], dict.fromkeys(COUNTED, 0)
    for number, member in enumerate(scorer.members):
        rows, own = _of_member(member, scorer.chunk, trials, version, folder / str(number), voice)
        each.append(rows)
        counts = {name: counts[name] + own[name] for name in COUNTED}
    rule = scorer.protocol.get("ensemble")
    combined = each[0] if rule is None else _combined(each, rule, scorer.protocol.get("k", 1.0), scaled_by)
    named = [
        {"id": trial.id, "subset": trial.subset, "prompt_id": trial.prompt_id, "num_correct": len(trial.chosen), **row}
        for trial, row in zip(trials, combined, strict=True)
    ]
    return Measured(named, **counts)


def _of_member(
    member: Member, chunk: int, trials: Sequence[Trial], version: int, folder: Path, voice: Voice
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(trials), chunk)
    parts = [trials[start : start + chunk] for start in starts]
    # a part says which trials it is of: another time, more or fewer may be scored at once
    files = [folder / f"{start}-{len(part)}.json" for start, part in zip(starts, parts, strict=True)]
    kept = [read_json(file) for file in files]
    done = sum(len(part) for part, known in zip(parts, kept, strict=True) if known is not None)
    feedback = member.load(folder) if done < len(trials) else None
    with voice.progress(len(trials), f"score with {member.name}", "row", start=done) as bar:
        for k, part in enumerate(parts):
            if kept[k] is None:
                assert feedback is not None
                before = counts_of(feedback)
                rows = measure(feedback, part, version)
                for row, trial in zip(rows, part, strict=True):
                    numbers = [row["p"]] if "p" in row else row["scores"]
                    check_finite(numbers, member.name, f"row {trial.id!r} of {trial.subset}")
                kept[k] = {"rows": rows, **{name: n - before[name] for name, n in counts_of(feedback).items()}}
                write_json(files[k], kept[k])
                bar.advance(len(part))
    if feedback is not None:
        tell_cost(feedback, voice)
        del feedback
        release()
    rows = [row for part in kept for row in part["rows"]]
    return rows, {name: sum(part[name] for part in kept) for name in COUNTED}


def counts_of(feedback: Feedback) -> dict[str, int]:
    """What a source of feedback has counted so far."""
    return {name: getattr(feedback, name, 0) for name in COUNTED}


def tell_cost(feedback: Feedback, voice: Voice) -> None:
    """Say what the calls of a remote model came to."""
    ledger = getattr(getattr(feedback, "engine", None), "ledger", None)
    if ledger is not None and ledger.used:
        voice.say(str(ledger))


def check_finite(scores: Sequence[float], name: str, where: str) -> None:
    """JSON has no NaN, so it is refused before it is kept."""
    if not all(math.isfinite(score) for score in scores):
        raise SawyerError(
            f"{name} gave {where} a score that is not a finite number; its weights are damaged, or --precision fp32 is "
            "needed"
        )


def _combined(
    each: Sequence[Sequence[dict[str, Any]]], rule: Any, k: float, scaled_by: Sequence[int] | None
) -> list[dict[str, Any]]:
    """One row a trial from those of the members; scores are brought to scale over all trials of a member."""
    if "p" in each[0][0]:
        columns = [[row["p"] for row in rows] for rows in each]
        together = combine_preferences(columns, rule)
        return [{"p": p, "members": list(own)} for p, *own in zip(together, *columns, strict=True)]
    scores = [[row["scores"] for row in rows] for rows in each]
    counts = [len(own) for own in scores[0]] if scaled_by is None else scaled_by
    scales = [scale_of([own[:n] for own, n in zip(member, counts, strict=True)]) for member in scores]
    combined = combine(scores, rule, k=k, scales=scales)
    return [{"scores": own, "members": list(members)} for own, *members in zip(combined, *scores, strict=True)]
