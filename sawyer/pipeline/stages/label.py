"""Stage `label`: pairs of a policy's completions, labelled by a simulated annotator with known noise."""

from __future__ import annotations

import random
from typing import Annotated, Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.settings import Settings as BaseSettings


class Settings(BaseSettings):
    data: Annotated[str, Ref("completions")]
    """The completions to compare."""
    pairs: int = Field(default=1, ge=1)
    """Pairs drawn from each prompt's completions, without repetition; pairs of equal texts are not drawn."""
    temperature: float = Field(default=0.1, gt=0)
    """Noise of the annotator, in units of the gold reward: P(a over b) = sigmoid((gold_a - gold_b) / temperature)."""
    error_rate: float = Field(default=0.0, ge=0, le=0.5)
    """Share of labels that are flipped on top of that."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.data.files import write_records
    from sawyer.data.records import Comparison
    from sawyer.feedback.annotator import SimulatedAnnotator
    from sawyer.feedback.rules import VerifiableReward
    from sawyer.pipeline.stages._common import completion_parts, mean

    if not context.is_main:
        return {}
    gold = VerifiableReward()
    annotator = SimulatedAnnotator(gold, settings.temperature, settings.error_rate)
    figures: dict[str, Any] = {}
    for part, (prompts, texts) in completion_parts(context, settings.data).items():
        asked, pairs = [], []
        for prompt, own in zip(prompts, texts, strict=True):
            unlike = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :] if a != b]
            random.Random(f"{context.seed}/{prompt.text}").shuffle(unlike)
            for pair in unlike[: settings.pairs]:
                asked.append(prompt)
                pairs.append(pair)
        first_wins = annotator.label(asked, pairs, context.seed)
        right = [
            1.0 if (a > b) == won else 0.5 if a == b else 0.0
            for (a, b), won in zip(gold.score(asked, pairs), first_wins, strict=True)
        ]
        comparisons = [
            Comparison(prompt.prompt, pair if won else pair[::-1], None, prompt.info)
            for prompt, pair, won in zip(asked, pairs, first_wins, strict=True)
        ]
        write_records(context.folder / f"{part}.jsonl", comparisons)
        figures[part] = len(comparisons)
        figures[f"{part}_agrees_with_gold"] = mean(right)
    return figures


STAGE = Stage("label", Settings, run, makes="data", help="pairs of completions labelled by a simulated annotator")
