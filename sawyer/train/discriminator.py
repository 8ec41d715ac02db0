"""A reward model that goes on learning beside the policy whose answers it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, Prompt
from sawyer.feedback.reward_model import regrouped
from sawyer.journal import Journal, Silent
from sawyer.models.adapters import Trainable
from sawyer.models.precision import cast
from sawyer.train.checkpoints import Companion
from sawyer.train.loop import train
from sawyer.train.objectives import reward_model
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.build import comparison_tree, truncated_trees
from sawyer.trees.model import TreeReward
from sawyer.trees.score import score_trees

if TYPE_CHECKING:
    from accelerate import Accelerator


class Discriminator(Companion):
    """A scalar reward model, a decoder, as feedback that can be fitted (Bradley-Terry) at any time.

    Between fits it holds its weights in float32 and a copy in compute precision, and no optimiser: each fit begins with
    a fresh one. It is a `Companion` of the policy's training.

    Args:
        trainable: a sequence classifier with one output; all of its weights or adapters learn.
        chat: how it reads conversations.
        settings: of each fit; its `epochs` are given there.
        centring: weight of (r_w + r_l)^2 in the loss.
    """

    name = "discriminator"

    def __init__(
        self,
        trainable: Trainable,
        chat: ChatFormat,
        settings: OptimizerSettings,
        *,
        centring: float = 0.0,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
        accelerator: Accelerator | None = None,
    ) -> None:
        self.trainable, self.chat, self.settings = trainable, chat, settings
        self.model = TreeReward(trainable.model).to(device)
        self._objective = reward_model(centring=centring)
        self._precision, self._accelerator = precision, accelerator
        self._keep()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`; what is longer than the context loses its beginning."""
        trees, _ = truncated_trees(self.chat, [prompt.prompt for prompt in prompts], completions, self.model.context)
        return regrouped(score_trees(self.model, trees, token_budget=self.settings.token_budget), completions)

    def fit(
        self,
        pairs: Sequence[Comparison],
        epochs: float,
        *,
        seed: int,
        title: str,
        scratch: Path | None = None,
        journal: Journal | None = None,
    ) -> dict[str, float]:
        """Learn from pairs, passing over them `epochs` times, and return the figures of the last updates; of no pairs,
        or none that fit into the context, nothing is learned.

        The global random state is left as it was.

        Raises:
            SawyerError: the loss is not a number.
        """
        trees = [comparison_tree(self.chat, pair, pair=True) for pair in pairs]
        trees = [tree for tree in trees if self.model.context is None or tree.longest_path <= self.model.context]
        if not trees:
            return {}
        self.trainable.take(self._learned)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            trained = train(
                self.model, trees, self._objective, self.settings.model_copy(update={"epochs": epochs}),
                precision=self._precision, seed=seed, journal=journal or Silent(), title=title, scratch=scratch,
                accelerator=self._accelerator,
            )  # fmt: skip
        trained.weights.install()
        self._keep()
        return trained.figures

    def state(self) -> dict[str, torch.Tensor]:
        """What it has learned, in float32."""
        return self._learned

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state()`."""
        self.trainable.take(tensors)
        self._keep()

    def save(self, folder: Path) -> None:
        """Write it as a reward model that any stage takes. It cannot score afterwards."""
        self.trainable.take(self._learned)
        self.trainable.save(folder, self.chat)

    def _keep(self) -> None:
        """Remember the float32 weights that the model has now, and let it compute in its precision."""
        self._learned = self.trainable.learned()
        cast(self.model, self._precision)
        self.model.eval()
