"""An engine whose answers are kept on disk, so that work that was killed asks nothing again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sawyer.data.records import Prompt
from sawyer.journal import Journal
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine, Sampling

if TYPE_CHECKING:
    import torch

CHUNK = 256
"""Completions written at a time, and at most lost to a kill."""


class KeptEngine:
    """An `Engine` that answers as another does, and keeps the answers to each call in a folder of its own.

    For what takes an engine and not a folder: judges and critics. The weights are no part of what a folder is found by,
    so `folder` must belong to one state of the engine.

    Args:
        engine: what answers.
        folder: where answers are kept.
        journal: is shown how far each call is.
        title: of that.
    """

    def __init__(self, engine: Engine, folder: Path, journal: Journal, title: str) -> None:
        self.engine, self.folder, self.journal, self.title = engine, folder, journal, title

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; `progress` is not called: the journal is."""
        asked = [sampling.model_dump(mode="json"), n, seed, [list(prompt.prompt) for prompt in prompts]]
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        return generate_resumably(
            self.engine,
            prompts,
            sampling,
            n,
            seed=seed,
            folder=self.folder / name,
            journal=self.journal,
            title=self.title,
            completions_per_chunk=CHUNK,
            keep_failed=keep_failed,
        )

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the trainer's weights to the engine; what it answered before is another engine's (see above)."""
        self.engine.load(weights)
