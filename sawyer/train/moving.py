"""TR-DPO: a reference that follows the policy while it trains (Gorbatovski et al. 2024, arXiv 2404.09656).

    after every `every` updates:  ref <- alpha pi + (1 - alpha) ref      (their soft update; alpha 1 is the hard one)

There is one model. The reference is no module but weights, which stand in for the policy's own during a forward pass
over each packed row, just before the policy's; nothing is copied for that. What it costs: that pass (a third of an
update), since log-probs under a reference that moves cannot be kept; and in memory 4 bytes a weight in fp32, in bf16 2
(hard) or 6 (soft, which adds up in float32). With adapters the weights are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from sawyer.errors import SawyerError
from sawyer.train.checkpoints import Companion
from sawyer.train.loop import Objective, Terms
from sawyer.train.optim import MasterWeights
from sawyer.train.preference import REFERENCE, SHARED_REFERENCE, shared_sums
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TreeBatch


class MovingReference(Companion):
    """The weights of a reference that follows the policy; goes along with a training (`checkpoints.Companion`).

    Args:
        every: updates of the policy between two of the reference (tau).
        alpha: the policy's share in the new reference; 1 makes it the policy as it is.
        start: the first reference's weights in float32, by name; the policy's own where None.
    """

    def __init__(self, every: int, alpha: float, start: Mapping[str, torch.Tensor] | None = None) -> None:
        self.every, self.alpha, self.start = every, alpha, start
        self.exact: dict[str, torch.Tensor] = {}
        """What updates add up in: float32 for soft ones; for hard ones the same tensors as `read`."""
        self.read: dict[str, torch.Tensor] = {}
        """What computes: in the policy's precision."""

    def begin(self, model: TreeModel, weights: MasterWeights) -> None:
        """Take the first reference.

        Raises:
            SawyerError: its weights are not of the policy's shapes.
        """
        self.weights = weights
        first = weights.masters
        if self.start is not None:
            first = {name: self.start.get(name.removeprefix("model."), torch.empty(0)) for name in weights.masters}
            odd = next((name for name, own in weights.masters.items() if first[name].shape != own.shape), None)
            if odd is not None:
                raise SawyerError(
                    f"a reference that moves is a mean of its weights and the policy's, and the two differ in the "
                    f"shape of {odd.removeprefix('model.')}: give a `reference` of the policy's architecture"
                )
            self.start = None
        self._hold({name: tensor.to(weights.masters[name].device) for name, tensor in first.items()})

    def _hold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy weights: in float32 where soft updates add up, and in what computes."""
        self.read = {name: tensors[name].to(p.dtype, copy=True) for name, p in self.weights.weights.items()}
        soft = self.alpha < 1 and self.weights.copies
        self.exact = {name: tensors[name].float().clone() for name in self.read} if soft else self.read

    @torch.no_grad()
    def after(self, step: int, last: bool) -> dict[str, float]:
        """Move the reference when an update of it is due."""
        if step % self.every == 0:
            for name, master in self.weights.masters.items():
                exact = self.exact[name]
                exact.copy_(master) if self.alpha == 1 else exact.lerp_(master, self.alpha)
                if exact is not self.read[name]:
                    self.read[name].copy_(exact)
        return {}

    def state(self) -> Mapping[str, torch.Tensor]:
        """The reference's weights."""
        return self.exact

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state()`."""
        self._hold({name: tensors[name].to(own.device) for name, own in self.read.items()})

    @contextmanager
    def in_place(self, model: TreeModel) -> Iterator[None]:
        """The model is the reference meanwhile, without gradients."""
        own = {name: weight.data for name, weight in self.weights.weights.items()}
        training = model.training
        model.eval()
        try:
            for name, weight in self.weights.weights.items():
                weight.data = self.read[name]
            with torch.no_grad():
                yield
        finally:
            for name, weight in self.weights.weights.items():
                weight.data = own[name]
            model.train(training)

    def against(self, objective: Objective) -> Objective:
        """The objective with log-probs under this reference; trees that carry some already keep them (those of a
        validation, which is measured against the first reference throughout)."""

        def terms(model: TreeModel, batch: TreeBatch) -> Terms:
            if REFERENCE not in batch.values:
                with self.in_place(model):
                    logp_N = model(batch)
                    own = {
                        REFERENCE: batch.sum_by_completion(logp_N),
                        SHARED_REFERENCE: shared_sums(logp_N, batch),
                    }
                batch = replace(batch, values={**batch.values, **own})
            return objective.terms(model, batch)

        return replace(objective, terms=terms)
