"""Stage `label`: pairs or rankings of a policy's completions, by a simulated annotator with known noise."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.settings import Settings as BaseSettings

if TYPE_CHECKING:
    from sawyer.data.records import Comparison, Prompt
    from sawyer.feedback.annotator import SimulatedAnnotator
    from sawyer.feedback.rules import VerifiableReward


class Settings(BaseSettings):
    data: Annotated[str, Ref("completions")]
    """The completions to compare."""
    form: Literal["pairs", "rankings", "extremes"] = "pairs"
    """`pairs` compares two completions of a prompt at a time, `rankings` orders all at once, `extremes` does the same
    and keeps the best and the worst."""
    pairs: int = Field(default=1, ge=1)
    """With `pairs`: how many are drawn of each prompt's completions, without repetition; equal texts are no pair."""
    temperature: float = Field(default=0.1, gt=0)
    """Noise of the annotator, in units of the gold reward: P(a over b) = sigmoid((gold_a - gold_b) / temperature)."""
    error_rate: float = Field(default=0.0, ge=0, le=0.5)
    """With `pairs`: share of labels that are flipped on top of that."""
    win_rates: bool = False
    """Write as `scores` which share of the compared completions each one wins against by the labels, itself counted as
    half: of two 0.75 and 0.25, of the best and worst of four 0.875 and 0.125. For losses that need scores (`sppo`,
    `dno`, `infonca`), and nothing that is not in the labels."""

    @model_validator(mode="after")
    def _pairs_only(self) -> Settings:
        if self.form != "pairs" and (self.error_rate > 0 or self.pairs != 1):
            raise ValueError("`pairs` and `error_rate` are for `form: pairs`; a ranking orders all completions")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.data.files import write_records
    from sawyer.feedback.annotator import SimulatedAnnotator
    from sawyer.feedback.rules import VerifiableReward
    from sawyer.pipeline.stages._common import completion_parts, mean

    if not context.is_main:
        return {}
    gold = VerifiableReward()
    annotator = SimulatedAnnotator(gold, settings.temperature, settings.error_rate)
    figures: dict[str, Any] = {}
    for part, (prompts, texts) in completion_parts(context, settings.data).items():
        label = _pairs if settings.form == "pairs" else _rankings
        comparisons = label(settings, annotator, prompts, texts, context.seed)
        write_records(context.folder / f"{part}.jsonl", comparisons)
        figures[part] = len(comparisons)
        figures[f"{part}_agrees_with_gold"] = mean(_agreement(gold, comparisons))
    return figures


def _rankings(
    settings: Settings, annotator: SimulatedAnnotator, prompts: list[Prompt], texts: list[list[str]], seed: int
) -> list[Comparison]:
    """Each prompt's different completions, ranked; of `extremes` the first and the last."""
    from sawyer.data.records import Comparison

    asked = [(prompt, list(dict.fromkeys(own))) for prompt, own in zip(prompts, texts, strict=True)]
    asked = [(prompt, own) for prompt, own in asked if len(own) > 1]

    def kept(ranking: list[Any]) -> list[Any]:
        return ranking if settings.form == "rankings" else [ranking[0], ranking[-1]]

    rankings = annotator.rank([prompt for prompt, _ in asked], [own for _, own in asked], seed)
    return [
        Comparison(
            prompt.prompt,
            tuple(own[i] for i in kept(ranking)),
            tuple(kept(_win_rates(len(own)))) if settings.win_rates else None,
            prompt.info,
        )
        for (prompt, own), ranking in zip(asked, rankings, strict=True)
    ]


def _pairs(
    settings: Settings, annotator: SimulatedAnnotator, prompts: list[Prompt], texts: list[list[str]], seed: int
) -> list[Comparison]:
    """Some pairs of each prompt's completions, drawn at random."""
    from sawyer.data.records import Comparison

    asked, pairs = [], []
    for prompt, own in zip(prompts, texts, strict=True):
        unlike = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :] if a != b]
        random.Random(f"{seed}/{prompt.text}").shuffle(unlike)
        for pair in unlike[: settings.pairs]:
            asked.append(prompt)
            pairs.append(pair)
    return [
        Comparison(
            prompt.prompt,
            pair if won else pair[::-1],
            tuple(_win_rates(2)) if settings.win_rates else None,
            prompt.info,
        )
        for prompt, pair, won in zip(asked, pairs, annotator.label(asked, pairs, seed), strict=True)
    ]


def _win_rates(count: int) -> list[float]:
    """Of so many ranked completions, best first: which share of them each one wins against, itself counted as half."""
    return [(count - rank - 0.5) / count for rank in range(count)]


def _agreement(gold: VerifiableReward, comparisons: list[Comparison]) -> list[float]:
    """For each comparison whether its best truly scores above its worst; equal scores count half."""
    from sawyer.data.records import Prompt

    scores = gold.score([Prompt(c.prompt, c.info) for c in comparisons], [c.completions for c in comparisons])
    return [1.0 if own[0] > own[-1] else 0.5 if own[0] == own[-1] else 0.0 for own in scores]


STAGE = Stage("label", Settings, run, makes="data", help="pairs or rankings of completions by a simulated annotator")
