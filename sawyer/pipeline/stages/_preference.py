"""Training on preferences with any loss: what the stages `dpo` and `preference` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sawyer.data.records import Comparison, Labelled
from sawyer.errors import SawyerError
from sawyer.pipeline.stage import Context

if TYPE_CHECKING:
    from sawyer.data.chat import ChatFormat
    from sawyer.train.preference import Weighted
    from sawyer.trees.tree import TokenTree


def train(settings: Any, context: Context, mix: Sequence[Weighted]) -> dict[str, Any]:
    """Train `settings.model` on `settings.data`, save it, and return the figures.

    Raises:
        SawyerError: the data lacks what a loss needs.
    """
    from sawyer.models.adapters import Trainable
    from sawyer.models.load import load_policy
    from sawyer.pipeline.stages._common import chat_of, fit, save_trained
    from sawyer.train.preference import kto, preference
    from sawyer.train.reference import with_reference
    from sawyer.trees.model import TreePolicy

    context.track(settings.trackers)
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    trees = _trees(context, settings, chat, mix, settings.part, settings.limit)
    held_out = _trees(context, settings, chat, mix, settings.validation) if settings.validation else []
    if any(part.loss.reference for part in mix):
        both = with_reference(
            lambda: load_policy(context.model(settings.reference or settings.model)),
            [*trees, *held_out],
            precision=context.precision,
            token_budget=settings.token_budget,
            file=context.scratch / "reference.json",
            journal=context,
            device=context.accelerator.device,
            writes=context.is_main,
            also_shared=any(part.loss.name == "ld_dpo" for part in mix),
        )
        trees, held_out = both[: len(trees)], both[len(trees) :]
    trainable = Trainable(lambda: load_policy(name), settings.lora, seed=context.seed)
    objective = kto(mix[0].options) if mix[0].loss.data == "labelled" else preference(mix)
    result = fit(context, settings, TreePolicy(trainable.model), trees, objective, held_out)
    save_trained(context, trainable, result.weights, chat)
    what = {"pairs": "pairs", "rankings": "rankings", "labelled": "completions"}[mix[0].loss.data]
    return {what: len(trees), **result.figures}


def _trees(
    context: Context,
    settings: Any,
    chat: ChatFormat,
    mix: Sequence[Weighted],
    part: str,
    limit: int | None = None,
) -> list[TokenTree]:
    """The trees of one part of the data, with what the losses need of it."""
    from sawyer.pipeline.stages._common import trees_of
    from sawyer.train.preference import SCORE
    from sawyer.trees.build import comparison_tree

    if mix[0].loss.data == "labelled":
        return _labelled(context, settings, chat, part, limit)
    whole, scored = any(p.loss.data == "rankings" for p in mix), any(p.loss.scores for p in mix)
    make = lambda record: comparison_tree(chat, record, pair=not whole)
    trees, records = trees_of(context, settings, settings.data, part, (Comparison,), make, limit)
    if not scored:
        return trees
    scores = [_scores(record, number, mix, whole) for number, record in enumerate(records, 1)]
    return [
        replace(tree, values={**tree.values, SCORE: own}) for tree, own in zip(trees, scores, strict=True)
    ]  # fmt: skip


def _scores(record: Comparison, number: int, mix: Sequence[Weighted], whole: bool) -> list[float]:
    who = next(part.loss.name for part in mix if part.loss.scores)
    if record.scores is None:
        raise SawyerError(
            f"the loss {who} needs the `scores` of all completions, and comparison {number} has none: choose a loss "
            "that needs none (`sawyer losses`), or give data with scores"
        )
    scores = list(record.scores) if whole else [record.scores[0], record.scores[-1]]
    if who == "sppo" and not all(0 <= score <= 1 for score in scores):
        raise SawyerError(
            f"the loss sppo takes scores for probabilities of winning, and one of comparison {number} is not between 0 "
            "and 1: give win rates as `scores`"
        )
    return scores


def _labelled(context: Context, settings: Any, chat: ChatFormat, part: str, limit: int | None) -> list[TokenTree]:
    """Trees of single completions with a label, each beside a completion that is not its prompt's."""
    from sawyer.pipeline.stages._common import read_part
    from sawyer.train.preference import mismatched
    from sawyer.trees.build import build, completions_tree

    records = read_part(context, settings.data, part, (Labelled, Comparison), limit)
    singles: list[tuple[Any, str, bool]] = []
    for record in records:
        if isinstance(record, Labelled):
            singles.append((record.prompt, record.completion, record.label))
        else:  # a pair is two labels
            singles += [(record.prompt, record.chosen, True), (record.prompt, record.rejected, False)]
    if len({desirable for *_, desirable in singles}) < 2:
        raise SawyerError(
            f"the loss kto needs desirable and undesirable completions, and all {len(singles)} of "
            f"{settings.data}/{part} are alike: give both kinds"
        )
    kept = build(
        singles,  # type: ignore[type-var]  # anything that `make` takes
        lambda single: completions_tree(chat, single[0], [single[1]]),
        max_tokens=settings.max_tokens,
        max_dropped=settings.max_dropped,
        what=f"completions of {settings.data}/{part}",
    )
    if kept.dropped:
        context.say(f"{kept.dropped} of {len(singles)} completions of {settings.data}/{part} are too long")
    return mismatched(kept.trees, [singles[i][2] for i in kept.indices])
