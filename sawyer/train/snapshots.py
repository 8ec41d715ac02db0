"""Policies kept from the middle of a training, to draw from later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from sawyer.train.checkpoints import Companion


class Snapshots(Companion):
    """Writes what a model has learned after certain updates (`checkpoints.Companion`).

    A training that is continued from before such an update writes the file again, with the same bits.

    Args:
        files: after which update (from 1) each is written.
        learned: gives what is to be written.
        writes: whether this process writes.
    """

    def __init__(
        self, files: Mapping[Path, int], learned: Callable[[], Mapping[str, torch.Tensor]], *, writes: bool = True
    ) -> None:
        self.files, self.learned, self.writes = files, learned, writes

    def after(self, step: int, last: bool) -> dict[str, float]:
        """Write the files that are due."""
        for file in [file for file, due in self.files.items() if due == step and self.writes]:
            partial = file.with_name(f".{file.name}.partial")
            save_file({name: tensor.contiguous() for name, tensor in self.learned().items()}, partial)
            partial.rename(file)
        return {}
