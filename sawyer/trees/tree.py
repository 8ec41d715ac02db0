"""One prompt and its K completions, and many of them packed end to end into one row.

Legend for shapes: T packed tokens, N scored tokens, C completions, R trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

WINDOW = 1024


@dataclass(frozen=True)
class TokenTree:
    """One prompt and its K completions, as token ids.

    Completion k attends to the prompt and to itself, never to its siblings, and its positions continue from the
    prompt, so each completion gets exactly what it would get in a pass of its own.

    Attributes:
        prompt: the shared prefix, at least one token (the first completion token is predicted from its last).
        completions: the branches, each at least one token.
        scored: for each completion, which of its tokens count; None counts all. A conversation with several
            assistant turns is a tree with one completion whose user turns are not scored.
        values: numbers that travel with the completions: name to one number a completion (reference log-probs,
            rewards, margins).
        token_values: numbers that travel with the scored tokens: name to `[scored_tokens]` float32 (advantages).
    """

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    scored: Sequence[Sequence[bool]] | None = None
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    token_values: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a tree needs at least one prompt token: there is nothing to predict its completions from")
        if not self.completions or not all(self.completions):
            raise ValueError("a tree needs at least one completion, and every completion at least one token")
        if self.scored is not None and [len(s) for s in self.scored] != [len(c) for c in self.completions]:
            raise ValueError("`scored` must have one flag for each completion token")
        if any(len(value_N) != self.scored_tokens for value_N in self.token_values.values()):
            raise ValueError("`token_values` must have one number for each scored token")

    @cached_property
    def tokens(self) -> int:
        """Length in the packed row: the prompt once, and every completion."""
        return len(self.prompt) + sum(len(c) for c in self.completions)

    @property
    def longest_path(self) -> int:
        """Tokens of the prompt and its longest completion: what must fit into the model's context."""
        return len(self.prompt) + max(len(completion) for completion in self.completions)

    @cached_property
    def scored_tokens(self) -> int:
        """How many tokens get a log-prob."""
        if self.scored is None:
            return sum(len(c) for c in self.completions)
        return sum(sum(s) for s in self.scored)


@dataclass(frozen=True)
class Branches:
    """Where one tree lies in the packed row: `[start, start + prompt)` and then its completions, end to end."""

    start: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.prompt + sum(self.completions)


@dataclass(frozen=True)
class Layout:
    """The shape of a packed row: all that attention has to know of it."""

    trees: tuple[Branches, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def cache(self) -> dict:
        """Masks derived from this layout, made once and shared by all layers."""
        return {}

    @property
    def length(self) -> int:
        return self.trees[-1].start + self.trees[-1].length

    @cached_property
    def branch_T(self) -> torch.Tensor:
        """For each token its branch number, unique in the row; the prompt of tree r has number `-(r + 1)`."""
        numbers, lengths, branch = [], [], 0
        for r, tree in enumerate(self.trees):
            numbers.append(-(r + 1))
            lengths.append(tree.prompt)
            for length in tree.completions:
                numbers.append(branch)
                lengths.append(length)
                branch += 1
        return torch.tensor(numbers).repeat_interleave(torch.tensor(lengths)).to(self.device)

    @cached_property
    def tree_T(self) -> torch.Tensor:
        """For each token the number of its tree."""
        lengths = torch.tensor([tree.length for tree in self.trees])
        return torch.arange(len(self.trees)).repeat_interleave(lengths).to(self.device)


@dataclass(frozen=True)
class TreeBatch:
    """Many trees packed end to end into one row, without padding.

    Attributes:
        input_ids: `[T]` the tokens.
        position_ids: `[T]` each token's position in its own prompt + completion.
        layout: where the trees lie.
        predict_index: `[N]` the packed position whose hidden state predicts each scored token.
        target_ids: `[N]` the scored tokens.
        completion_index: `[N]` the completion each scored token belongs to, counted through the row.
        last_index: `[C]` the packed position of each completion's last token (where a reward model reads).
        tree_index: `[C]` the tree each completion belongs to, counted through the row.
        values: name to `[C]` what the trees carried.
        token_values: name to `[N]` what they carried for each scored token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    layout: Layout
    predict_index: torch.Tensor
    target_ids: torch.Tensor
    completion_index: torch.Tensor
    last_index: torch.Tensor
    tree_index: torch.Tensor
    values: Mapping[str, torch.Tensor]
    token_values: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def trees(self) -> int:
        return len(self.layout.trees)

    @property
    def completions(self) -> int:
        return self.last_index.numel()

    @property
    def scored_tokens(self) -> int:
        return self.target_ids.numel()

    @classmethod
    def of(cls, trees: Sequence[TokenTree], device: torch.device | str = "cpu") -> TreeBatch:
        """Pack `trees` in the order given."""
        ids: list[int] = []
        positions: list[int] = []
        branches: list[Branches] = []
        predict: list[int] = []
        targets: list[int] = []
        owner: list[int] = []
        last: list[int] = []
        tree_of: list[int] = []
        for r, tree in enumerate(trees):
            start, prompt = len(ids), len(tree.prompt)
            branches.append(Branches(start, prompt, tuple(len(c) for c in tree.completions)))
            ids.extend(tree.prompt)
            positions.extend(range(prompt))
            for k, completion in enumerate(tree.completions):
                begin, length = len(ids), len(completion)
                predicted_from = [start + prompt - 1, *range(begin, begin + length - 1)]
                keep = range(length) if tree.scored is None else [i for i in range(length) if tree.scored[k][i]]
                predict.extend(predicted_from[i] for i in keep)
                targets.extend(completion[i] for i in keep)
                owner.extend([len(last)] * len(keep))
                ids.extend(completion)
                positions.extend(range(prompt, prompt + length))
                last.append(begin + length - 1)
                tree_of.append(r)
        names = trees[0].values.keys()
        device = torch.device(device)

        def tensor(numbers: list[int]) -> torch.Tensor:
            return torch.tensor(numbers, dtype=torch.long).to(device)

        return cls(
            input_ids=tensor(ids),
            position_ids=tensor(positions),
            layout=Layout(tuple(branches), device),
            predict_index=tensor(predict),
            target_ids=tensor(targets),
            completion_index=tensor(owner),
            last_index=tensor(last),
            tree_index=tensor(tree_of),
            values={
                name: torch.tensor([v for tree in trees for v in tree.values[name]], dtype=torch.float32).to(device)
                for name in names
            },
            token_values={
                name: torch.cat([tree.token_values[name] for tree in trees]).to(device)
                for name in trees[0].token_values
            },
        )

    def sum_by_completion(self, value_N: torch.Tensor) -> torch.Tensor:
        """`[C]` the sum of a per-token quantity over each completion's scored tokens."""
        return value_N.new_zeros(self.completions).index_add(0, self.completion_index, value_N)

    def tokens_by_completion(self) -> torch.Tensor:
        """`[C]` how many scored tokens each completion has."""
        return torch.bincount(self.completion_index, minlength=self.completions)

    def by_tree(self, value_C: torch.Tensor) -> torch.Tensor:
        """`[R, K]` a per-completion quantity, one row a tree.

        Raises:
            ValueError: the trees do not all have the same number of completions.
        """
        if len({len(tree.completions) for tree in self.layout.trees}) > 1:
            raise ValueError("these trees differ in their number of completions; there is no [R, K] view of them")
        return value_C.view(self.trees, -1)


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Put trees of these lengths into as few rows of at most `budget` tokens as first-fit decreasing finds.

    A tree longer than the budget gets a row of its own: the budget bounds memory in the common case, the context
    length of the model bounds a tree.

    Returns:
        rows of indices into `lengths`; every index exactly once, each row in ascending order, rows ordered by their
        first index. Depends on nothing but the arguments.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if row is None:
            rows.append([i])
            room.append(budget - lengths[i])
        else:
            rows[row].append(i)
            room[row] -= lengths[i]
    return sorted(sorted(row) for row in rows)


def batches(
    trees: Sequence[TokenTree], budget: int, device: torch.device | str = "cpu"
) -> Iterable[tuple[list[int], TreeBatch]]:
    """The trees as packed rows of at most `budget` tokens, each with the indices of its trees in `trees`.

    Packs `WINDOW` trees at a time: enough to fill rows, and linear in the number of trees.
    """
    for start in range(0, len(trees), WINDOW):
        window = trees[start : start + WINDOW]
        for row in pack([tree.tokens for tree in window], budget):
            yield [start + i for i in row], TreeBatch.of([window[i] for i in row], device)
