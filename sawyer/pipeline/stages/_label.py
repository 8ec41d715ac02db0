"""The work of stage `label`: completions of several stages joined by prompt, labelled, and written as comparisons.

Of labels by a judge `ratings/PART.csv` has a row for each completion: its `id`, the prompt, its text (`a`), who wrote
it (`a_model`), each aspect and the `overall` score. `sawyer eval agreement` reads it beside people's labels, and this
stage reads it back as a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sawyer.data.csv_rows import write_csv
from sawyer.data.files import write_records
from sawyer.data.records import Comparison, Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback
from sawyer.methods import labelling
from sawyer.methods.labelling import Scored, answer_id
from sawyer.numerics import release
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages import _label_annotator as annotator
from sawyer.pipeline.stages._common import completion_parts, mean
from sawyer.pipeline.stages._gold import gold_of

TOKEN_BUDGET = 4096
"""Tokens in one packed row of a gold reward that is a model."""


@dataclass
class Part:
    """The prompts of one part, and what was answered to each."""

    prompts: list[Prompt]
    answers: list[list[Scored]]

    @property
    def texts(self) -> list[list[str]]:
        return [[one.text for one in own] for own in self.answers]

    def scored(self, scores: Sequence[Sequence[Scored]]) -> Part:
        return Part(self.prompts, [list(own) for own in scores])


def label(settings: Any, context: Context) -> dict[str, Any]:
    """Comparisons of every part, and figures of them."""
    parts = joined(context, settings.sources)
    if settings.by == "annotator":
        return _by_annotator(settings, context, parts)
    from sawyer.pipeline.stages._label_by import by_file, by_judge

    scored, figures = (by_judge if settings.by == "judge" else by_file)(settings, context, parts)
    release()  # the judge, before a gold model needs the room
    gold = gold_of(context, settings, TOKEN_BUDGET)
    for name, part in scored.items():
        made = labelling.comparisons(
            part.prompts, part.answers, settings.form,
            pairs=settings.pairs, min_margin=settings.min_margin, seed=context.seed, labelled_by=_who(settings),
        )  # fmt: skip
        if not made:
            raise SawyerError(
                f"stage {context.name}: no two completions of a prompt of part '{name}' have scores that differ, so "
                "there is no pair: give more or other completions, or a judge that tells them apart"
            )
        if settings.by == "judge":
            write_csv(context.folder / "ratings" / f"{name}.csv", _rows(part, settings))
        write_records(context.folder / f"{name}.jsonl", made)
        figures[name] = len(made)
        figures[f"{name}_without_pair"] = len({_messages(prompt) for prompt in part.prompts}) - len(
            {_messages(comparison) for comparison in made}
        )
        figures[f"{name}_chosen"] = _chosen(made)
        if gold is not None:
            figures[f"{name}_agrees_with_gold"] = mean(_agreement(gold, made))
    return figures


def joined(context: Context, refs: Sequence[str]) -> dict[str, Part]:
    """The completions of one stage as they are, or of several by part and prompt.

    Of several, equal texts to a prompt are kept once, as the first writer's. What some of them lack is said.
    """
    found, writers = {ref: completion_parts(context, ref) for ref in refs}, _writers(context, refs)
    if len(refs) == 1:
        return {
            name: Part(prompts, [[Scored(text, writers[refs[0]]) for text in own] for own in texts])
            for name, (prompts, texts) in found[refs[0]].items()
        }
    parts: dict[str, Part] = {}
    for name in dict.fromkeys(name for own in found.values() for name in own):
        lacking = [ref for ref in refs if name not in found[ref]]
        if lacking:
            context.say(f"part '{name}' is not among the completions of {', '.join(lacking)}")
        prompts: dict[str, Prompt] = {}
        answers: dict[str, dict[str, Scored]] = {}
        answered: dict[str, int] = {}
        for ref in refs:
            for prompt, texts in zip(*found[ref].get(name, ([], [])), strict=True):
                key = _messages(prompt)
                prompts.setdefault(key, prompt)
                answered[key] = answered.get(key, 0) + 1
                for text in texts:
                    answers.setdefault(key, {}).setdefault(text, Scored(text, writers[ref]))
        some = sum(count < len(refs) - len(lacking) for count in answered.values())
        if some:
            context.say(f"{some} of {len(prompts)} prompts of part '{name}' were not answered by all of {len(refs)}")
        parts[name] = Part(list(prompts.values()), [list(answers[key].values()) for key in prompts])
    return parts


def _writers(context: Context, refs: Sequence[str]) -> dict[str, str]:
    """Who wrote the completions of each stage: the policy; where one wrote several, with the stage's name."""
    policies = {ref: context.artifact(ref).manifest.get("settings", {}).get("model", ref) for ref in refs}
    several = [policy for policy in policies.values() if list(policies.values()).count(policy) > 1]
    return {ref: f"{policy} ({ref})" if policy in several else policy for ref, policy in policies.items()}


def _by_annotator(settings: Any, context: Context, parts: dict[str, Part]) -> dict[str, Any]:
    from sawyer.feedback.annotator import SimulatedAnnotator
    from sawyer.feedback.rules import VerifiableReward

    gold = VerifiableReward()
    simulated = SimulatedAnnotator(gold, settings.temperature, settings.error_rate)
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        labelled = annotator.pairs if settings.form == "pairs" else annotator.rankings
        made = labelled(settings, simulated, part.prompts, part.texts, context.seed)
        if len(settings.sources) > 1:
            made = _with_writers(part, made)
        write_records(context.folder / f"{name}.jsonl", made)
        figures[name] = len(made)
        figures[f"{name}_agrees_with_gold"] = mean(_agreement(gold, made))
    return figures


def _with_writers(part: Part, made: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with `models` in their `info`."""
    of = {
        (_messages(prompt), one.text): one.writer
        for prompt, own in zip(part.prompts, part.answers, strict=True)
        for one in own
    }
    return [
        replace(one, info={**one.info, "models": [of[_messages(one), text] for text in one.completions]})
        for one in made
    ]


def _rows(part: Part, settings: Any) -> list[dict[str, Any]]:
    """What `ratings/PART.csv` says."""
    return [
        {
            "id": answer_id(prompt.prompt, one.text),
            "prompt": prompt.text if len(prompt.prompt) == 1 else json.dumps(list(prompt.prompt), ensure_ascii=False),
            "a": one.text,
            "a_model": one.writer,
            **{aspect: one.details.get(aspect) for aspect in settings.aspects},
            "overall": None if math.isnan(one.score) else one.score,
        }
        for prompt, own in zip(part.prompts, part.answers, strict=True)
        for one in {one.text: one for one in own}.values()
    ]


def _who(settings: Any) -> str:
    if settings.by == "file":
        return "file"
    return settings.judge.remote or settings.judge.model


def _chosen(made: Sequence[Comparison]) -> dict[str, float]:
    """Of the comparisons that a writer's answers are in, the share in which one of them is the best."""
    best = [one.info["models"][0] for one in made]
    among = [set(one.info["models"]) for one in made]
    writers = sorted({writer for own in among for writer in own})
    return {w: mean([float(b == w) for b, own in zip(best, among, strict=True) if w in own]) for w in writers}


def _messages(record: Any) -> str:
    return json.dumps([[turn["role"], turn["content"]] for turn in record.prompt])


def _agreement(gold: Feedback, made: Sequence[Comparison]) -> list[float]:
    """For each comparison whether its best truly scores above its worst; equal scores count half."""
    scores = gold.score([Prompt(c.prompt, c.info) for c in made], [c.completions for c in made])
    return [1.0 if own[0] > own[-1] else 0.5 if own[0] == own[-1] else 0.0 for own in scores]
