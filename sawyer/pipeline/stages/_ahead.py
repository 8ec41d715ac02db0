"""Answers of the next update, drawn while the present one trains.

Those of an update are drawn by the weights before the update before it. A continuation cannot draw them again, as its
checkpoint has newer weights; so they are kept beside each checkpoint that is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from sawyer.atomic import write_atomically
from sawyer.pipeline.processes import Processes
from sawyer.rollout.protocol import Completion
from sawyer.train.checkpoints import Companion

Drawn = list[list[list[Completion]]]
"""By who answered, prompt and sample."""


class Ahead(Companion):
    """One batch of answers at a time, drawn in a thread of its own; with several processes, in the main one. It goes
    along with the training (`checkpoints.Companion`).

    Args:
        draw: the answers of an update, given its number, by the weights that the engine has.
        scratch: where answers are kept for a continuation.
    """

    def __init__(self, draw: Callable[[int], Drawn], scratch: Path, processes: Processes) -> None:
        self.draw, self.folder, self.processes = draw, scratch / "ahead", processes
        # a new thread has OpenMP's own number of threads, and with another number sums are rounded otherwise
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
        self._step: int | None = None
        self._drawing: Future[Drawn] | None = None
        self._kept: list[int] = []

    def start(self, step: int) -> None:
        """Begin to draw the answers of an update. The engine's weights must stay as they are until `take`."""
        self._step = step
        if self.processes.is_main:
            self._drawing = self._thread.submit(self.draw, step)

    @property
    def begun(self) -> bool:
        """Whether this process draws, or has drawn, what `take` will give."""
        return self._drawing is not None

    def wait(self) -> None:
        """Until the engine is free for other weights. What was drawn stays for `take`."""
        if self._drawing is not None:
            self._drawing.result()

    def drop(self) -> None:
        """Forget what was begun: it is of weights that the policy has gone back from."""
        self.wait()
        self._drawing = self._step = None

    def take(self, step: int) -> Drawn:
        """The answers of an update: those that were begun, those that a checkpoint kept, or, of the first update of a
        training, new ones."""
        return self.processes.on_main(lambda: self._take(step))

    def state(self) -> Mapping[str, torch.Tensor]:
        """Nothing for the checkpoint, but in a file of its own what is being drawn, once it is. That of the checkpoint
        before is kept, too, until the next time."""
        if self._drawing is None:
            return {}
        self.folder.mkdir(exist_ok=True)
        rows = [[[one.row() for one in own] for own in side] for side in self._drawing.result()]
        assert self._step is not None
        write_atomically(self._file(self._step), json.dumps(rows))
        for file in self.folder.glob("*.json"):
            if file not in (self._file(self._step), *map(self._file, self._kept)):
                file.unlink()
        self._kept = [self._step]
        return {}

    def close(self) -> None:
        """Wait for what is being drawn, and begin no more."""
        self._thread.shutdown(cancel_futures=True)

    def _take(self, step: int) -> Drawn:
        if self._drawing is not None:
            drawing, self._drawing = self._drawing, None
            return drawing.result()
        if self._file(step).exists():
            self._kept = [step]
            rows: Any = json.loads(self._file(step).read_text())
            return [[[Completion.from_row(one) for one in own] for own in side] for side in rows]
        return self.draw(step)

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}.json"
