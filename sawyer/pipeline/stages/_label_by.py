"""Scores of stage `label`, by a judge aspect by aspect or by a file of labels."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sawyer.data.labels import Labels, read_labels
from sawyer.data.records import user
from sawyer.errors import SawyerError
from sawyer.feedback.ratings import overall
from sawyer.feedback.scales import ASPECTS
from sawyer.methods.labelling import Scored, answer_id
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean
from sawyer.pipeline.stages._raters import rater_of

if TYPE_CHECKING:
    from sawyer.pipeline.stages._label import Part

NAMED = 3
"""So many examples are named in a sentence."""


def by_judge(settings: Any, context: Context, parts: dict[str, Part]) -> tuple[dict[str, Part], dict[str, Any]]:
    """Every completion rated for every aspect. One that lacks an aspect has no score.

    Raises:
        SawyerError: too few of the judge's replies can be read, or an endpoint is down.
    """
    rater = rater_of(settings.judge, context, "ratings of an aspect")
    scored: dict[str, Part] = {}
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        rated = {}
        for aspect in settings.aspects:
            rated[aspect] = rater.rate(ASPECTS[aspect], part.prompts, part.texts)
        scored[name] = part.scored(
            [
                [
                    _judged(one, {aspect: rated[aspect][i][k].mean for aspect in settings.aspects}, settings.aspects)
                    for k, one in enumerate(own)
                ]
                for i, own in enumerate(part.answers)
            ]
        )
        every = [one for own in scored[name].answers for one in own]
        figures[f"{name}_unscored"] = sum(math.isnan(one.score) for one in every)
        figures[f"{name}_unread"] = mean(
            [one.unread / len(one.values) for of_aspect in rated.values() for own in of_aspect for one in own]
        )
        figures[f"{name}_ratings"] = {
            aspect: mean([value for own in rated[aspect] for one in own if not math.isnan(value := one.mean)])
            for aspect in settings.aspects
        }
    if rater.unread:
        context.say(f"{rater.unread} of {rater.asked} of the judge's replies could not be read")
    return scored, figures


def _judged(one: Scored, means: dict[str, float], weights: dict[str, float]) -> Scored:
    details = {aspect: None if math.isnan(value) else value for aspect, value in means.items()}
    return replace(one, score=overall(means, weights), details=details)


def by_file(settings: Any, context: Context, parts: dict[str, Part]) -> tuple[dict[str, Part], dict[str, Any]]:
    """Every completion with the mean of the raters' labels. What has none, and what is unknown, is counted and said.

    Raises:
        SawyerError: a file cannot be read, no rater gives numbers, or no completion has a label.
    """
    paths = [settings.labels] if isinstance(settings.labels, str) else settings.labels
    labels = read_labels(paths, settings.raters)
    for note in labels.notes:
        context.say(note)
    known = {
        answer_id(prompt.prompt, one.text)
        for part in parts.values()
        for prompt, own in zip(part.prompts, part.answers, strict=True)
        for one in own
    }
    scores = _scores(labels, known, context)
    unknown = [name for name in scores if name not in known]
    if len(unknown) == len(scores):
        raise SawyerError(
            f"stage {context.name}: none of the {len(scores)} labels in {', '.join(map(str, paths))} is about a "
            f"completion of {', '.join(settings.sources)}; the first is about {unknown[0]!r}: take `id` from the "
            "ratings of a `label` stage of the same completions, or give `prompt` and the completion's text as `a`"
        )
    if unknown:
        context.say(
            f"{len(unknown)} labels are about no completion of {', '.join(settings.sources)} and are left out "
            f"({', '.join(unknown[:NAMED])}{', ...' if len(unknown) > NAMED else ''})"
        )
    scored: dict[str, Part] = {}
    figures: dict[str, Any] = {"unknown_ids": len(unknown)}
    for name, part in parts.items():
        scored[name] = part.scored(
            [
                [replace(one, score=scores.get(answer_id(prompt.prompt, one.text), math.nan)) for one in own]
                for prompt, own in zip(part.prompts, part.answers, strict=True)
            ]
        )
        every = [one for own in scored[name].answers for one in own]
        lacking = sum(math.isnan(one.score) for one in every)
        figures[f"{name}_unscored"] = lacking
        if lacking:
            context.say(f"{lacking} of {len(every)} completions of part '{name}' have no label and are left out")
    return scored, figures


def _scores(labels: Labels, known: set[str], context: Context) -> dict[str, float]:
    """The mean of the numbers that the raters gave to each item, by the id of a completion where it has one."""
    texts = {
        name: sum(isinstance(value, str) for value in own)
        for name, own in labels.raters.items()
        if any(isinstance(value, str) for value in own)
    }
    for name, count in texts.items():
        context.say(f"rater {name}: {count} labels are not numbers and do not count")
    scores: dict[str, float] = {}
    for i, name in enumerate(_ids(labels, known)):
        given = [own[i] for own in labels.raters.values()]
        numbers = [value for value in given if isinstance(value, float)]
        if numbers:
            scores[name] = sum(numbers) / len(numbers)
    if not scores:
        raise SawyerError(
            f"stage {context.name}: the files of labels hold no number in any column of a rater "
            f"({', '.join(labels.raters) or 'there is none'}): give at least one such column"
        )
    return scores


def _ids(labels: Labels, known: set[str]) -> list[str]:
    """What the items are called: their ids, or where these are of nothing known, what prompt and text make."""
    texts = labels.context.get("a")
    if texts is None or not labels.has_prompts:
        return labels.ids
    return [
        answer_id(_turns(prompt), text) if name not in known and isinstance(text, str) else name
        for name, prompt, text in zip(labels.ids, labels.prompts, texts, strict=True)
    ]


def _turns(prompt: str) -> list[Any]:
    """The conversation of a `prompt` that is one turn's text, or the JSON of several."""
    try:
        turns = json.loads(prompt)
    except ValueError:
        return [user(prompt)]
    whole = isinstance(turns, list) and all(isinstance(t, dict) and {"role", "content"} <= set(t) for t in turns)
    return turns if whole and turns else [user(prompt)]
