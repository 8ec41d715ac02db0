"""The work of stage `attributes`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sawyer.data.attributes import check_name, counts_of, nearest
from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, Record, assistant
from sawyer.data.sources import of_prompt
from sawyer.errors import SawyerError
from sawyer.feedback.computed import computed_reward
from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import completion_parts

if TYPE_CHECKING:
    from sawyer.feedback.multi_objective import MultiObjectiveReward
    from sawyer.pipeline.stages.attributes import Settings

CHUNK = 256
"""Prompts rated at a time, for the progress bar."""


def relabel(settings: Settings, context: Context) -> dict[str, Any]:
    """Measure every answer, write each as a conversation with its attributes, and return how often each value came."""
    model = _attribute_model(settings, context)
    figures: dict[str, Any] = {}
    every: list[Mapping[str, int]] = []
    for part, (prompts, texts) in _answers(settings, context).items():
        values = _measured(settings, prompts, texts)
        if model is not None:
            for own, rated in zip(values, _rated(settings, context, model, prompts, texts, part), strict=True):
                for value, more in zip(own, rated, strict=True):
                    value |= more
        records = [
            Conversation((*prompt.prompt, assistant(text)), {**prompt.info, "attributes": value})
            for prompt, own, of_own in zip(prompts, texts, values, strict=True)
            for text, value in zip(own, of_own, strict=True)
        ]
        write_records(context.folder / f"{part}.jsonl", records)
        figures[part] = len(records)
        every += [value for own in values for value in own]
    figures["attributes"] = counts_of(every)
    for name, counts in figures["attributes"].items():
        shown = ", ".join(f"{value}: {count / len(every):.0%}" for value, count in counts.items())
        context.say(f"{name}: {shown}")
    if model is not None and model.truncated:
        context.say(f"{model.truncated} answers exceed {settings.max_tokens} tokens and were rated without a beginning")
    return figures


def _attribute_model(settings: Settings, context: Context) -> MultiObjectiveReward | None:
    """The model, if there is one.

    Raises:
        SawyerError: it has one score only, lacks an attribute that is wanted, or rates one that is measured too.
    """
    if settings.model is None:
        return None
    from sawyer.feedback.multi_objective import MultiObjectiveReward
    from sawyer.pipeline.stages._common import reward_model_of

    model = reward_model_of(context, settings.model, settings.token_budget, settings.max_tokens)
    if not isinstance(model, MultiObjectiveReward):
        raise SawyerError(
            f"stage {context.name}: {settings.model} gives one score and no attributes; name a model that a stage "
            "`multi_objective` made"
        )
    for name in settings.only:
        if name not in model.head.attributes:
            hint = did_you_mean(name, model.head.attributes, "it rates")
            raise SawyerError(f"stage {context.name}: {settings.model} rates no attribute '{name}'{hint}")
    for name in settings.only or model.head.attributes:
        check_name(name)
        if name in settings.measured:
            raise SawyerError(
                f"stage {context.name}: '{name}' is measured, and {settings.model} rates it too; rename it under "
                "`measured`, or name the others in `only`"
            )
    return model


def _answers(settings: Settings, context: Context) -> dict[str, tuple[list[Prompt], list[list[str]]]]:
    """By part: the prompts, and the answers to each that are to be measured."""
    if context.artifact(settings.data).manifest.get("makes") == "completions":
        found = completion_parts(context, settings.data)
    else:
        folder = context.artifact(settings.data).folder
        names = [file.stem for file in sorted(folder.glob("*.jsonl")) if file.stem != "metrics"]
        found = {name: _split(read_records(folder / f"{name}.jsonl")) for name in names}
    for part in settings.parts or found:
        if part not in found:
            raise SawyerError(f"stage {context.name}: {settings.data} has no part '{part}'; it has {', '.join(found)}")
    found = {part: found[part] for part in settings.parts or found}
    for part, (prompts, _) in found.items():
        if not prompts:
            raise SawyerError(f"stage {context.name}: part '{part}' of {settings.data} has prompts and no answers")
    return found


def _split(records: Sequence[Record]) -> tuple[list[Prompt], list[list[str]]]:
    """The prompts and answers of records; what has no answer, or does not end with one, is left out."""
    prompts, texts = [], []
    for record in records:
        match record:
            case Conversation() if record.messages[-1]["role"] == "assistant":
                prompt, own = record.messages[:-1], [record.messages[-1]["content"]]
            case Comparison():
                prompt, own = record.prompt, list(record.completions)
            case Labelled():
                prompt, own = record.prompt, [record.completion]
            case _:
                continue
        if prompt:
            prompts.append(Prompt(prompt, of_prompt(record)))
            texts.append(own)
    return prompts, texts


def _measured(settings: Settings, prompts: Sequence[Prompt], texts: list[list[str]]) -> list[list[dict[str, int]]]:
    """The attributes that are computed, of each answer."""
    values: list[list[dict[str, int]]] = [[{} for _ in own] for own in texts]
    for name, measure in settings.measured.items():
        scores = computed_reward(measure.by, measure.words).score(prompts, texts)
        for own, of_own in zip(values, scores, strict=True):
            for value, score in zip(own, of_own, strict=True):
                value[name] = bisect_right(measure.edges, score)
    return values


def _rated(
    settings: Settings,
    context: Context,
    model: MultiObjectiveReward,
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    part: str,
) -> list[list[dict[str, int]]]:
    """The attributes that the model rates, of each answer, rounded and within the scale."""
    names = settings.only or list(model.head.attributes)
    values: list[list[dict[str, int]]] = []
    with context.progress(len(prompts), f"attributes of {part}", unit="prompt") as bar:
        for start in range(0, len(prompts), CHUNK):
            end = start + CHUNK
            for own in model.ratings(prompts[start:end], texts[start:end]):
                values.append([{name: _on_scale(rating[name], settings) for name in names} for rating in own])
            bar.advance(min(end, len(prompts)) - start)
    return values


def _on_scale(rating: float, settings: Settings) -> int:
    return min(settings.highest, max(settings.lowest, nearest(rating)))
