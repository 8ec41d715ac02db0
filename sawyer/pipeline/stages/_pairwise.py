"""What stage `pairwise` is made of: questions from comparisons, and how well the answers agree with the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, Prompt
from sawyer.errors import SawyerError
from sawyer.evals import reward_models
from sawyer.feedback.pairwise import in_both_orders
from sawyer.feedback.pairwise_format import both_orders, chosen_is_first, letter_ids, question_tree, structural_fault
from sawyer.feedback.protocol import logit
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean, read_part
from sawyer.trees.build import build
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

if TYPE_CHECKING:
    from sawyer.pipeline.stages.pairwise import Settings


@dataclass(frozen=True)
class Questions:
    """The trees of one part, each with the letter of the chosen answer, the pairs they ask about, and what was left
    out: reason to number of comparisons."""

    trees: list[TokenTree]
    pairs: list[Comparison]
    filtered: dict[str, int]


def question_trees(
    context: Context, settings: Settings, part: str, chat: ChatFormat, limit: int | None = None
) -> Questions:
    """The questions that one part of the data gives.

    Raises:
        SawyerError: more than `max_filtered` of the comparisons are malformed, or more than `max_dropped` too long.
    """
    records = read_part(context, settings.data, part, (Comparison,), limit)
    faults = [structural_fault(record) for record in records]
    filtered = Counter(fault for fault in faults if fault is not None)
    if filtered.total() > settings.max_filtered * len(records):
        worst, count = filtered.most_common(1)[0]
        raise SawyerError(
            f"{filtered.total()} of {len(records)} comparisons of {settings.data}/{part} cannot be used ({count} have "
            f"{worst}); mend the data, or allow more with `max_filtered`"
        )
    sound = [record for record, fault in zip(records, faults, strict=True) if fault is None]
    pairs = split_pairs(sound)
    for reason, count in filtered.items():
        context.say(f"{count} of {settings.data}/{part} left out: {reason}")
    letters = letter_ids(chat)

    def make(pair: Comparison) -> TokenTree:
        first = chosen_is_first(pair, context.seed)
        a, b = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
        return question_tree(chat, pair.prompt, a, b, letters=[letters[0 if first else 1]])

    what = f"pairs of {settings.data}/{part}"
    kept = build(pairs, make, max_tokens=settings.max_tokens, max_dropped=settings.max_dropped, what=what)
    if kept.dropped:
        context.say(f"{kept.dropped} of {len(pairs)} {what} exceed {settings.max_tokens} tokens")
    return Questions(kept.trees, [pairs[i] for i in kept.indices], dict(filtered))


def split_pairs(records: Sequence[Comparison]) -> list[Comparison]:
    """Every pair of each comparison's completions, better first."""
    return [
        Comparison(record.prompt, pair, None, record.info)
        for record in records
        for pair in combinations(record.completions, 2)
    ]


def evaluation_of(
    policy: TreePolicy, pairs: Sequence[Comparison], chat: ChatFormat, token_budget: int, seed: int
) -> dict[str, Any]:
    """How the letters agree with held-out pairs, P(chosen is better) being the mean of both orders.

    `position` says what a single order is worth: the mean probability of the first answer, which is 1/2 without bias,
    and the share of pairs whose verdict a swap of the answers changes.
    """
    prompts = [Prompt(pair.prompt) for pair in pairs]
    asked, _ = in_both_orders(policy, chat, prompts, [(p.chosen, p.rejected) for p in pairs], token_budget=token_budget)
    evaluation = reward_models.evaluate(
        [logit(both_orders(forth, back)) for forth, back in asked],
        [len(chat.completion_ids(pair.chosen)) for pair in pairs],
        [len(chat.completion_ids(pair.rejected)) for pair in pairs],
        prompts=[str(pair.prompt) for pair in pairs],
        seed=seed,
    )
    changed = [(forth > 0.5) == (back > 0.5) for forth, back in asked]
    first = mean([p for orders in asked for p in orders])
    position = {"first": first, "changed_by_order": mean([float(c) for c in changed])}
    return {**evaluation, "position": position}
