"""An engine whose completions are kept on disk, so that what a killed process has asked is not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.journal import Journal, Silent
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine, Sampling

if TYPE_CHECKING:
    import torch

CHUNK = 64
"""Completions that are written at a time, and at most lost to a kill."""


class KeptEngine:
    """Another engine, and a folder of what it has answered.

    Each call's answers lie under a hash of all that they depend on, in chunks that do not depend on where a call was
    interrupted: an interrupted and continued call equals an uninterrupted one to the bit.

    Args:
        engine: what generates. An API engine keeps its answers itself, one by one.
        folder: where; it may serve several engines.
        identity: what tells the engine's completions from those of another with the same seed, such as a hash of its
            weights; a JSON value.
        journal, title: where progress is shown, and what is said there.
        chunk: completions that are written at a time.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        identity: Any,
        *,
        journal: Journal | None = None,
        title: str = "ask",
        chunk: int = CHUNK,
    ) -> None:
        self.engine, self._folder, self._identity = engine, folder, identity
        self._journal, self._title, self._chunk = journal or Silent(), title, chunk

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
        """See `Engine.generate`. What is read back generates no tokens, so `progress` does not hear of it."""
        asked = [self._identity, [list(prompt.prompt) for prompt in prompts], sampling.model_dump(mode="json"), n, seed]
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return generate_resumably(
            self.engine if progress is None else _Telling(self.engine, progress),
            prompts,
            sampling,
            n,
            seed=seed,
            folder=self._folder / name[:24],
            journal=self._journal,
            title=self._title,
            completions_per_chunk=self._chunk,
            keep_failed=keep_failed,
        )

    def around(self, engine: Engine, identity: Any) -> KeptEngine:
        """Another engine, that depends on this one's and on more, in the same folder."""
        return KeptEngine(engine, self._folder, [self._identity, identity], journal=self._journal, title=self._title)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """New weights would answer otherwise than what was kept.

        Raises:
            SawyerError: always.
        """
        raise SawyerError("an engine whose answers are kept cannot take other weights; make another one")


class _Telling:
    """An engine that tells of new tokens twice."""

    def __init__(self, engine: Engine, told: Callable[[int], None]) -> None:
        self._engine, self._told, self.load = engine, told, engine.load

    def generate(
        self, *asked: Any, progress: Callable[[int], None] | None = None, **more: Any
    ) -> list[list[Completion]]:
        def tell(new: int) -> None:
            self._told(new)
            if progress is not None:
                progress(new)

        return self._engine.generate(*asked, progress=tell, **more)
