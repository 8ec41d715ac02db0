"""How far a policy has moved from its reference: the exact KL divergence, at a few positions of the data.

    KL(pi || ref) = sum_v pi(v | x, y_<t) [log pi(v | x, y_<t) - log ref(v | x, y_<t)],  in nats a token

over the whole vocabulary, a mean over positions t of completions y in the data. It is no KL of whole completions, for
which the policy would have to write them (stage `evaluate` does that), and no log-ratio of the data's tokens, which may
fall below 0 and is no divergence (`displacement` is one). What it takes is kept small: the reference's distributions at
`POSITIONS` positions of a few trees are kept (4 bytes times the vocabulary each), and a measurement is a forward pass
over these trees.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from sawyer.errors import SawyerError
from sawyer.train.checkpoints import Companion
from sawyer.train.optim import MasterWeights
from sawyer.trees.model import TreeModel, TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch, pack

POSITIONS = 64
TREES = 8
KL = "kl"
"""The name of the figure."""


class Divergence(Companion):
    """Measures the KL divergence of a policy in training from its reference (`checkpoints.Companion`).

    Args:
        trees: what to measure on; see `sample`.
        every: updates between two measurements; one after the last update in any case.
        token_budget: tokens of a forward pass.
        file: where the reference's distributions are kept, so that a continuation and a later training of the same
            stage measure from the same; the policy at the start of the first is the reference unless it is there.
        writes: whether this process writes it.
    """

    def __init__(
        self, trees: Sequence[TokenTree], every: int, *, token_budget: int, file: Path, writes: bool = True
    ) -> None:
        self.trees, self.every, self.token_budget = list(trees), every, token_budget
        self.file, self.writes = file, writes
        self.reference_P_V: torch.Tensor | None = None

    def keep(self, reference: TreeModel) -> None:
        """Take this model for the reference, unless there is one already."""
        if self.reference_P_V is None and self.file.exists():
            self.reference_P_V = load_file(self.file)["logp"].to(reference.device)
        if self.reference_P_V is None:
            self.reference_P_V = self._read(reference)
            if self.writes:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                partial = self.file.with_name(f".{self.file.name}.partial")
                save_file({"logp": self.reference_P_V.contiguous()}, partial)
                partial.rename(self.file)

    def begin(self, model: TreeModel, weights: MasterWeights) -> None:
        """The model at the start is the reference, unless there is one already.

        Raises:
            SawyerError: the two differ in the size of their vocabularies.
        """
        self.policy = model
        self.keep(model)
        assert self.reference_P_V is not None
        rows = cast(Any, model.core.get_output_embeddings()).weight.shape[0]
        if rows != self.reference_P_V.shape[1]:
            raise SawyerError(
                f"the policy's vocabulary has {rows} rows and its reference's {self.reference_P_V.shape[1]}, so there "
                "is no KL divergence between them: set `kl_every` to 0"
            )

    def after(self, step: int, last: bool) -> dict[str, float]:
        """The divergence, when it is due."""
        return {KL: self.measure(self.policy)} if last or step % self.every == 0 else {}

    def state(self) -> Mapping[str, torch.Tensor]:
        """Nothing: the reference's distributions are in the file."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing to go back to."""

    def measure(self, policy: TreeModel) -> float:
        """The mean over the positions, in nats a token."""
        assert self.reference_P_V is not None
        logp_P_V = self._read(policy)
        return float((logp_P_V.exp() * (logp_P_V - self.reference_P_V)).sum(1).mean())

    @torch.no_grad()
    def _read(self, model: TreeModel) -> torch.Tensor:
        """`[P, V]` the model's distributions at the positions, in the order of the trees."""
        assert isinstance(model, TreePolicy)
        wanted = _positions([tree.scored_tokens for tree in self.trees], POSITIONS)
        training = model.training
        model.eval()
        parts: list[torch.Tensor] = [torch.empty(0)] * len(self.trees)
        for row in pack([tree.tokens for tree in self.trees], self.token_budget):
            batch = TreeBatch.of([self.trees[i] for i in row], model.device)
            begins = torch.tensor([0, *(self.trees[i].scored_tokens for i in row)]).cumsum(0).tolist()
            index = [begins[k] + t for k, i in enumerate(row) for t in wanted[i]]
            if not index:
                continue
            read = model.distributions(batch, torch.tensor(index, device=model.device))
            for i, part in zip(row, read.split([len(wanted[i]) for i in row]), strict=True):
                parts[i] = part
        model.train(training)
        return torch.cat([part for part, own in zip(parts, wanted, strict=True) if own])


def sample(trees: Sequence[TokenTree], most: int, seed: int) -> list[TokenTree]:
    """`TREES` trees, or `most` if that is fewer, drawn at random; none of what they carry."""
    drawn = random.Random(seed).sample(range(len(trees)), min(TREES, most, len(trees)))
    return [TokenTree(trees[i].prompt, trees[i].completions, trees[i].scored) for i in sorted(drawn)]


def _positions(scored: Sequence[int], count: int) -> list[list[int]]:
    """`count` of all trees' scored tokens, evenly spaced, as indices into each tree's own."""
    total = sum(scored)
    count = min(count, total)
    places = [(2 * k + 1) * total // (2 * count) for k in range(count)]
    wanted, begin = [], 0
    for own in scored:
        wanted.append([place - begin for place in places if begin <= place < begin + own])
        begin += own
    return wanted
