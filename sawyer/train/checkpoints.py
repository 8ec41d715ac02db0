"""The newest state of a training on disk, with what goes along with it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sawyer.atomic import write_atomically
from sawyer.journal import Journal
from sawyer.train.optim import MasterWeights
from sawyer.trees.model import TreeModel

COMPANION = "companion-"
"""What the names of its tensors begin with in a checkpoint."""


class Companion:
    """What goes along with a training, and outlives a kill with it: a reference that moves, a measurement, a source
    that works ahead. Each overrides what it needs."""

    def begin(self, model: TreeModel, weights: MasterWeights) -> None:
        """Before the first update, when the model holds what training starts from; also where a checkpoint will be
        loaded."""

    def after(self, step: int, last: bool) -> dict[str, float]:
        """After update `step` (from 1): figures worth a curve."""
        return {}

    def state(self) -> Mapping[str, torch.Tensor]:
        """What a continuation needs, for a checkpoint."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state()`."""


class Checkpoints:
    """Keeps the newest state of a training in a folder, written beside the last and renamed into its place."""

    SECONDS = 120.0

    def __init__(
        self, folder: Path | None, every: int | None, writes: bool, companions: Sequence[Companion] = ()
    ) -> None:
        self.folder = folder and folder / "checkpoint"
        self.every = every
        self.writes = writes
        self.companions = companions
        self.written = time.monotonic()
        self.carried: Mapping[str, Any] = {}
        """What else the state held that `resume` found."""

    def resume(self, weights: MasterWeights, journal: Journal) -> tuple[int, list[dict[str, float]]]:
        """Load what is there into `weights`, rewind the journal to it, and return the next update's number and the
        figures of the last updates before it."""
        if self.folder is None:
            return 0, []
        # the older one counts where a kill came between the two renames
        found = next((f for f in (self.folder, self.folder.with_suffix(".old")) if f.exists()), None)
        if found is None:
            self._begin(journal)
            return 0, []
        state = json.loads((found / "state.json").read_text())
        tensors = load_file(found / "state.safetensors")
        torch.set_rng_state(tensors.pop("rng"))
        weights.load(tensors)
        for i, companion in enumerate(self.companions):
            prefix = f"{COMPANION}{i}/"
            companion.load({name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)})
        journal.rewind(state["position"])
        self.carried = state.get("carried", {})
        return state["step"], state["recent"]

    def _begin(self, journal: Journal) -> None:
        """Drop what an earlier session logged that was killed before its first checkpoint."""
        assert self.folder is not None
        began = self.folder.with_name("began.json")
        if began.exists():
            journal.rewind(json.loads(began.read_text()))
        elif self.writes:
            began.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(began, json.dumps(journal.position()))

    def after(
        self,
        step: int,
        weights: MasterWeights,
        journal: Journal,
        recent: Sequence[dict[str, float]] = (),
        carried: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write a checkpoint when one is due, and say whether one was.

        Args:
            carried: whatever else a continuation needs, as JSON.
        """
        due = step % self.every == 0 if self.every else time.monotonic() - self.written > self.SECONDS
        if self.folder is None or not due or not self.writes:
            return False
        fresh, old = self.folder.with_suffix(".new"), self.folder.with_suffix(".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        beside = {
            f"{COMPANION}{i}/{name}": tensor.contiguous()
            for i, companion in enumerate(self.companions)
            for name, tensor in companion.state().items()
        }
        save_file({**weights.state(), **beside, "rng": torch.get_rng_state()}, fresh / "state.safetensors")
        state = {"step": step, "position": journal.position(), "recent": list(recent), "carried": carried or {}}
        (fresh / "state.json").write_text(json.dumps(state))
        for file in fresh.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if self.folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        fresh.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        self.written = time.monotonic()
        return True

    def kept(self) -> str:
        """What a stopped training can say of its last checkpoint."""
        if self.folder is None or not self.folder.exists():
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is kept in {self.folder}"
