"""The work of stage `judge_tuning`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sawyer.data.files import write_records
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant
from sawyer.data.sources import as_conversations
from sawyer.errors import SawyerError
from sawyer.feedback.scales import ADDITIVE
from sawyer.methods.self_rewarding import agreeing, balanced, people_points
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean, read_part
from sawyer.pipeline.stages._raters import Rater, rater_of

Judgements = tuple[list[Conversation], list[float], dict[str, float]]
"""Judgements as conversations, the points of each, and figures."""


def judge_tuning(settings: Any, context: Context) -> dict[str, Any]:
    """Judgements of every part as conversations, and figures of them."""
    rater = None if settings.judge is None else rater_of(settings.judge, context, "judgements")
    figures: dict[str, Any] = {}
    for part in settings.parts:
        records: list[Comparison] = read_part(context, settings.data, part, (Comparison,), settings.limit)
        made, points, about = _judged(rater, records) if rater is not None else _from_people(records)
        if not made:
            raise SawyerError(
                f"stage {context.name}: not one judgement of part '{part}' agrees with the ranks of {settings.data}: "
                "take a model that judges better or more `samples`, or learn from the ranks alone (`by: ranks`)"
            )
        chosen = balanced(list(zip(made, points, strict=True)), points, settings.most, context.seed)
        beside = _beside(context, settings, part)
        write_records(context.folder / f"{part}.jsonl", [*beside, *(one for one, _ in chosen)])
        counts = Counter(value for _, value in chosen)
        figures[part] = len(chosen) + len(beside)
        figures[f"{part}_judgements"] = len(chosen)
        figures[f"{part}_points"] = {f"{value:g}": counts[value] for value in sorted(counts)}
        figures |= {f"{part}_{name}": value for name, value in about.items()}
    return figures


def _judged(rater: Rater, records: list[Comparison]) -> Judgements:
    """The judge's own judgements that agree with the ranks, their points, and how many did."""
    prompts, texts = [Prompt(record.prompt) for record in records], [record.completions for record in records]
    rated = rater.rate(ADDITIVE, prompts, texts)
    made, points, agreed = [], [], []
    for record, own in zip(records, rated, strict=True):
        samples = agreeing([one.values for one in own])
        agreed.append(len(samples) / len(own[0].values))
        for text, one in zip(record.completions, own, strict=True):
            for sample in samples:
                made.append(_conversation(record, text, one.replies[sample], rater.settings.explain))
                points.append(one.values[sample] or 0.0)
    unread = mean([one.unread / len(one.values) for own in rated for one in own])
    return made, points, {"agree": mean(agreed), "unread": unread}


def _from_people(records: list[Comparison]) -> Judgements:
    """What the ranks or scores stand for, without a word besides."""
    made, points = [], []
    for record, own in zip(records, people_points(records, ADDITIVE.low, ADDITIVE.high), strict=True):
        for text, value in zip(record.completions, own, strict=True):
            made.append(_conversation(record, text, f"Score: {value}", False))
            points.append(float(value))
    return made, points, {}


def _conversation(record: Comparison, text: str, reply: str, explain: bool) -> Conversation:
    return Conversation((*ADDITIVE.ask(record.prompt, text, explain).prompt, assistant(reply)))


def _beside(context: Context, settings: Any, part: str) -> list[Conversation]:
    if settings.seeds is None:
        return []
    return as_conversations(read_part(context, settings.seeds, part, (Conversation, Comparison, Labelled)))
