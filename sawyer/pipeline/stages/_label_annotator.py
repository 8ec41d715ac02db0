"""Labels of stage `label` by the simulated annotator."""

from __future__ import annotations

import random
from typing import Any

from sawyer.data.records import Comparison, Prompt
from sawyer.feedback.annotator import SimulatedAnnotator


def rankings(
    settings: Any, annotator: SimulatedAnnotator, prompts: list[Prompt], texts: list[list[str]], seed: int
) -> list[Comparison]:
    """Each prompt's different completions, ranked; of `extremes` the first and the last, of `best_random` the first and
    any other."""
    asked = [(prompt, list(dict.fromkeys(own))) for prompt, own in zip(prompts, texts, strict=True)]
    asked = [(prompt, own) for prompt, own in asked if len(own) > 1]

    def kept(ranking: list[Any], prompt: Prompt) -> list[Any]:
        if settings.form == "best_random":
            return [ranking[0], random.Random(f"{seed}/{prompt.text}").choice(ranking[1:])]
        return ranking if settings.form == "rankings" else [ranking[0], ranking[-1]]

    ranked = annotator.rank([prompt for prompt, _ in asked], [own for _, own in asked], seed)
    return [
        Comparison(
            prompt.prompt,
            tuple(own[i] for i in kept(ranking, prompt)),
            tuple(kept(_win_rates(len(own)), prompt)) if settings.win_rates else None,
            prompt.info,
        )
        for (prompt, own), ranking in zip(asked, ranked, strict=True)
    ]


def pairs(
    settings: Any, annotator: SimulatedAnnotator, prompts: list[Prompt], texts: list[list[str]], seed: int
) -> list[Comparison]:
    """Some pairs of each prompt's completions, drawn at random."""
    asked, drawn = [], []
    for prompt, own in zip(prompts, texts, strict=True):
        unlike = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :] if a != b]
        random.Random(f"{seed}/{prompt.text}").shuffle(unlike)
        for pair in unlike[: settings.pairs]:
            asked.append(prompt)
            drawn.append(pair)
    return [
        Comparison(
            prompt.prompt,
            pair if won else pair[::-1],
            tuple(_win_rates(2)) if settings.win_rates else None,
            prompt.info,
        )
        for prompt, pair, won in zip(asked, drawn, annotator.label(asked, drawn, seed), strict=True)
    ]


def _win_rates(count: int) -> list[float]:
    """Of so many ranked completions, best first: which share of them each one wins against, itself counted as half."""
    return [(count - rank - 0.5) / count for rank in range(count)]
