"""`sawyer eval agreement`: how far raters agree, people and judges alike, and what moves a judge beside the answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sawyer import __version__
from sawyer.apps.show_agreement import ARROW, page
from sawyer.apps.work import check_out
from sawyer.atomic import write_atomically
from sawyer.data.labels import Labels, read_labels
from sawyer.errors import SawyerError
from sawyer.evals import agreement, judge_bias, monotone, stats
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import write_json
from sawyer.pipeline.progress import Voice

MOST_LABELS = 20
"""So many different labels are listed with their counts."""


@dataclass(frozen=True)
class Request:
    """What `sawyer eval agreement` was asked for."""

    files: Sequence[Path]
    out: Path | None = None
    """Where the figures go, as JSON."""
    page: Path | None = None
    """Where a page with tables and plots goes, as HTML."""
    raters: Sequence[str] = ()
    """The columns that are raters; all that have no other meaning when left out."""
    tie: float | None = None
    """The number that is a tie, in labels that are verdicts on two completions."""
    prefers_a: str = "low"
    """Which side of `tie` prefers the first completion."""
    model_of: Sequence[str] = ()
    """RATER=MODEL: what a judge is called in the columns `a_model` and `b_model`; its own name when left out."""
    folds: int = 5
    level: float = 0.95
    draws: int = 2_000
    seed: int = 0
    overwrite: bool = False


def evaluate(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Read the labels, measure, say what had to be left out.

    Returns:
        what is written to the file: `raters` (labels, missing ones, whether they are numbers), `pairs` (see
        `agreement.pair_agreement`; `calibrated` and `curves` by direction), `alpha`, `biases` by rater, and `notes`, a
        sentence for everything that was left out.

    Raises:
        SawyerError: the request cannot be met, or there is nothing to compare.
    """
    voice = voice or Voice()
    for place, suffix in ((request.out, ".json"), (request.page, ".html")):
        if place is not None:
            check_out(place, request.overwrite, suffix)
    labels = read_labels(request.files, request.raters)
    notes = labels.notes
    raters = dict(_usable(labels))
    if request.prefers_a == "high" and request.tie is None:
        raise SawyerError("--prefers-a is about numbers; say with --tie which of them is a tie")
    biases = _biases(raters, labels, request)
    if len(raters) < 2:
        only = f"one rater only, {next(iter(raters))}" if raters else "no rater with any label"
        files = ", ".join(os.fspath(file) for file in request.files)
        if not biases:
            why = f" ({'; '.join(notes)})" if notes else ""
            raise SawyerError(f"{files}: there is {only}; give a column for each of at least two raters{why}")
        notes.append(f"there is {only}, so there is no agreement to measure")
    with voice.progress(len(agreement.pairs(raters)), "comparing raters", "pair") as bar:
        pairs = []
        for a, b in agreement.pairs(raters):
            pairs += _pair(a, b, raters, labels.prompts, notes, request)
            bar.advance()
    if len(raters) > 1 and not pairs and not biases:
        raise SawyerError(f"no two raters have labelled the same item ({'; '.join(notes)}); check the ids")
    result = {
        "files": [os.fspath(file) for file in request.files],
        "items": len(labels.ids),
        "prompts": len(set(labels.prompts)),
        "clusters": "prompt" if labels.has_prompts else "item",
        "level": request.level,
        "draws": request.draws,
        "folds": request.folds,
        "seed": request.seed,
        "raters": {name: _described(own) for name, own in raters.items()},
        "pairs": pairs,
        "alpha": _alpha(raters, labels.prompts, request) if pairs else None,
        "biases": biases,
        "notes": notes,
        "sawyer": __version__,
    }
    for note in notes:
        voice.say(f"note: {note}")
    for place in (request.out, request.page):
        if place is not None:
            with disk_errors(place.parent):
                write_json(place, result) if place is request.out else write_atomically(place, page(result))
    return result


# --- agreement --------------------------------------------------------------------------------------------------------


def _usable(labels: Labels) -> Iterator[tuple[str, agreement.Labels]]:
    """The raters with labels; what is odd about any is noted."""
    for name, own in labels.raters.items():
        given = [label for label in own if label is not None]
        if not given:
            labels.notes.append(f"rater {name} has no label at all and is left out")
            continue
        if len(given) < len(own):
            labels.notes.append(f"rater {name}: {len(own) - len(given)} of {len(own)} labels are missing")
        texts = [label for label in given if isinstance(label, str)]
        if texts:
            labels.notes.append(
                f"rater {name}: {len(texts)} of {len(given)} labels are not numbers (such as {texts[0]!r}), "
                "so only measures that need none are taken"
            )
        if len(set(given)) == 1:
            labels.notes.append(f"rater {name} always says {_shown(given[0])}, so correlations are not defined")
        yield name, own


def _pair(
    a: str,
    b: str,
    raters: Mapping[str, agreement.Labels],
    prompts: Sequence[str],
    notes: list[str],
    request: Request,
) -> list[dict[str, Any]]:
    """The measures of two raters; nothing where they have no item in common."""
    x, y = raters[a], raters[b]
    where = agreement.shared(x, y)
    if not len(where):
        notes.append(f"raters {a} and {b} have no item in common")
        return []
    names = [prompts[i] for i in where]
    how: dict[str, Any] = {"level": request.level, "draws": request.draws, "seed": request.seed}
    if not {x[i] for i in where} & {y[i] for i in where}:
        notes.append(
            f"raters {a} and {b} never use the same label, so exact agreement and kappa say nothing about them"
        )
    found: dict[str, Any] = {
        "a": a,
        "b": b,
        "items": len(where),
        "prompts": len(set(names)),
        "measures": agreement.pair_agreement(x, y, prompts, **how),
        "calibrated": {},
        "curves": {},
    }
    if agreement.is_numeric(x) and agreement.is_numeric(y):
        if found["prompts"] < 2:
            notes.append(f"raters {a} and {b} share one prompt only, so nothing is calibrated")
            return [found]
        for first, second in ((a, b), (b, a)):
            u, v = (np.array([raters[name][i] for i in where], dtype=np.float64) for name in (first, second))
            values, nearest = monotone.cross_fitted(u, v, names, folds=request.folds, seed=request.seed)
            direction = f"{first}{ARROW}{second}"
            found["calibrated"][direction] = agreement.calibrated_agreement(values, nearest, v, names, **how)
            found["curves"][direction] = monotone.curve(u, v, values, names, level=request.level)
    return [found]


def _alpha(raters: Mapping[str, agreement.Labels], prompts: Sequence[str], request: Request) -> dict[str, Any]:
    """Nominal alpha of all raters, the others of those whose labels are numbers."""
    how: dict[str, Any] = {"level": request.level, "draws": request.draws, "seed": request.seed}
    found = agreement.krippendorff_alpha(list(raters.values()), prompts, **how)
    numeric = {name: own for name, own in raters.items() if agreement.is_numeric(own)}
    if 1 < len(numeric) < len(raters):
        of_numbers = agreement.krippendorff_alpha(list(numeric.values()), prompts, **how)
        found |= {name: of_numbers[name] for name in ("ordinal", "interval")}
    among = list(raters) if "ordinal" not in found else list(numeric)
    return {**found, "raters": list(raters), "numeric_raters": among if "ordinal" in found else []}


def _described(own: agreement.Labels) -> dict[str, Any]:
    given = [label for label in own if label is not None]
    kinds = sorted(set(given), key=lambda label: (isinstance(label, str), label))
    return {
        "labels": len(given),
        "missing": len(own) - len(given),
        "numeric": agreement.is_numeric(own),
        "counts": {_shown(kind): given.count(kind) for kind in kinds} if len(kinds) <= MOST_LABELS else None,
    }


def _shown(label: float | str) -> str:
    return label if isinstance(label, str) else f"{label:g}"


# --- biases -----------------------------------------------------------------------------------------------------------


def _biases(raters: Mapping[str, agreement.Labels], labels: Labels, request: Request) -> dict[str, Any]:
    """What can be measured of each rater whose labels are verdicts; p values corrected for all tests together."""
    model_of = _models(request.model_of, raters)
    verdicts: dict[str, np.ndarray] = {}
    for name, own in raters.items():
        found, unread = judge_bias.verdicts(own, request.tie, request.prefers_a)
        asked = request.tie is not None or labels.swapped or labels.context
        if np.isfinite(found).any() and (asked or not unread):
            verdicts[name] = found
            if unread:
                examples = ", ".join(list(unread)[:3])
                labels.notes.append(
                    f"rater {name}: {sum(unread.values())} labels are no verdict ({examples}) and count for no bias"
                )
        elif asked and agreement.is_numeric(own):
            labels.notes.append(f"rater {name}: say with --tie which number is a tie, then biases are measured too")
        elif asked:
            labels.notes.append(f"rater {name}: no label is A, B or tie, so no bias is measured")
    lengths = _lengths(labels)
    authors = [labels.context.get(column) for column in ("a_model", "b_model")]
    found_of: dict[str, dict[str, Any]] = {}
    for name, verdict in verdicts.items():
        side = None
        if authors[0] is not None and authors[1] is not None:
            side = judge_bias.own(model_of.get(name, name), authors[0], authors[1])
        swapped = None
        if name in labels.swapped:
            swapped, unread = judge_bias.verdicts(labels.swapped[name], request.tie, request.prefers_a)
            if unread:
                labels.notes.append(
                    f"rater {name}, swapped: {sum(unread.values())} labels are no verdict ({', '.join(unread)[:60]})"
                )
        first = np.ones(len(verdict))
        found_of[name] = {
            "verdicts": int(np.isfinite(verdict).sum()),
            "tie_rate": judge_bias.tie_rate(verdict, labels.prompts, request.level),
            "first_preferred": judge_bias.preference(verdict, first, labels.prompts, request.level),
            "position": judge_bias.position(verdict, swapped, labels.prompts, **_how(request))
            if swapped is not None
            else None,
            "longer": _side(name, verdicts, lengths, labels.prompts, request),
            "own": _side(name, verdicts, side, labels.prompts, request),
        }
    tests = list(_tests(found_of))
    for test, p in zip(tests, stats.holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = p
    return found_of


def _side(
    name: str, verdicts: Mapping[str, np.ndarray], side: np.ndarray | None, prompts: Sequence[str], request: Request
) -> dict[str, Any] | None:
    """How much a rater favours a side, alone and against each other rater; None where no item has such a side."""
    preferred = None if side is None else judge_bias.preference(verdicts[name], side, prompts, request.level)
    if side is None or preferred is None:
        return None
    against = {
        other: judge_bias.preference_against(verdicts[name], theirs, side, prompts, **_how(request))
        for other, theirs in verdicts.items()
        if other != name
    }
    return {"preferred": preferred, "against": {other: found for other, found in against.items() if found is not None}}


def _how(request: Request) -> dict[str, Any]:
    return {"level": request.level, "draws": request.draws, "seed": request.seed}


def _lengths(labels: Labels) -> np.ndarray | None:
    """The side of the longer completion, by the columns of lengths, else by the characters of the texts."""
    context = labels.context
    if "a_length" in context and "b_length" in context:
        sides = [[_number(value) for value in context[column]] for column in ("a_length", "b_length")]
        bad = sum(np.isnan(a) or np.isnan(b) for a, b in zip(*sides, strict=True))
    elif "a" in context and "b" in context:
        sides = [
            [float(len(value)) if isinstance(value, str) else np.nan for value in context[column]]
            for column in ("a", "b")
        ]
        bad = sum(np.isnan(a) or np.isnan(b) for a, b in zip(*sides, strict=True))
    else:
        return None
    if bad:
        labels.notes.append(
            f"{bad} of {len(labels.ids)} items have no length of a or b, and do not count for verbosity bias"
        )
    return judge_bias.longer(*sides)


def _models(given: Sequence[str], raters: Mapping[str, agreement.Labels]) -> dict[str, str]:
    found = {}
    for pair in given:
        rater, equals, model = pair.partition("=")
        if not equals or rater not in raters or not model:
            raise SawyerError(f"--model-of {pair} is not RATER=MODEL with one of the raters {', '.join(raters)}")
        found[rater] = model
    return found


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _tests(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for each in found.values():
        if each["position"] is not None:
            yield each["position"]["first"]
        for side in ("longer", "own"):
            if each[side] is not None:
                yield from (against["more"] for against in each[side]["against"].values())
