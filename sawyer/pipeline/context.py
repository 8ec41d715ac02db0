"""What a stage's function is given: where to write, what came before, and a voice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.pipeline.metrics import MetricsLog
from sawyer.pipeline.processes import PATIENCE, Processes
from sawyer.pipeline.progress import Bar, Voice

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sawyer.pipeline.trackers import Trackers

METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """What a finished stage made: a folder of files with a manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The stage's name in the recipe."""
        return self.manifest["name"]

    @property
    def kind(self) -> str:
        """What the artifact is: `policy`, `reward_model`, `prompts`, ..."""
        return self.manifest["makes"]

    @property
    def figures(self) -> Mapping[str, Any]:
        """The headline figures the stage returned."""
        return self.manifest["figures"]

    @property
    def sha256(self) -> str:
        """The hash of the result files' content."""
        return self.manifest["content"]["sha256"]


@dataclass
class Context:
    """One session of one stage.

    `folder` is empty at the start of every session but for `metrics.jsonl`; what the stage writes there becomes its
    artifact. `scratch` outlives a kill: checkpoints go there, and whether one is there tells the stage if it
    continues. It is removed when the stage finishes. In a run of several processes all of them share both folders,
    and only the one that `is_main` should write.
    """

    name: str
    """The stage's name in the recipe."""
    folder: Path
    scratch: Path
    seed: int
    """In [0, 2^31): derived from the recipe's seed and the stage's name, so that stages draw independent numbers."""
    precision: str = "fp32"
    """`fp32` or `bf16`."""
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    """The earlier stages that the settings refer to."""
    models: Mapping[str, str] = field(default_factory=dict)
    """`base` and the recipe's named models that the settings refer to: hub name, folder or built-in alias."""
    processes: Processes = field(default_factory=Processes)
    voice: Voice = field(default_factory=Voice)
    on_activity: Callable[[], None] = lambda: None
    """Called, at most every few seconds, when the stage reports anything."""
    cache: Path | None = None
    """What later stages and runs into the same folder may use again; None where there is no run. Anything in it may be
    deleted at any time."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """What the content is of each artifact or model that the settings refer to."""
    tracker_folder: Path = Path("trackers")
    """Where experiment trackers that write files put them."""
    _trackers: Trackers | None = field(default=None, repr=False)
    _heard: float = field(default=0.0, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.processes.is_main

    def artifact(self, ref: str) -> Artifact:
        """An earlier stage's artifact, by the name that a `Ref` setting holds.

        Raises:
            KeyError: no `Ref` setting of this stage names it.
        """
        if ref not in self.artifacts:
            raise KeyError(f"'{ref}' is not an artifact this stage refers to; mark the setting that names it with Ref")
        return self.artifacts[ref]

    def model(self, ref: str) -> str:
        """What to load for a reference: the artifact's folder, or the hub name, folder or alias of a named model."""
        return self.models[ref] if ref in self.models else str(self.artifact(ref).folder)

    def identity(self, ref: str) -> str:
        """What the weights of a reference are: the same text only for the same content."""
        if ref in self.identities:
            return self.identities[ref]
        from sawyer.pipeline.files import path_sha256

        place = Path(self.model(ref))
        return path_sha256(place) if place.exists() else self.model(ref)

    def track(self, names: Sequence[str]) -> None:
        """Send what is logged from now on to these experiment trackers too."""
        if names and self.is_main:
            from sawyer.pipeline.trackers import Trackers

            self._trackers = Trackers(names, self.name, self.tracker_folder, self._metrics.path)

    def log(self, **figures: Any) -> None:
        """Append one line to `metrics.jsonl`. Numbers, text, lists and mappings; not finite becomes null."""
        if self.is_main:
            self._metrics.append(figures)
            self._active()
            if self._trackers is not None:
                self._trackers.log(figures)

    def position(self) -> int:
        """How far `metrics.jsonl` has come (bytes): keep it in a checkpoint."""
        return self._metrics.position() if self.is_main else 0

    def rewind(self, position: int) -> None:
        """Drop the lines of `metrics.jsonl` after the position that a checkpoint kept."""
        if self.is_main:
            self._metrics.rewind(position)

    @contextmanager
    def progress(self, total: int | None, title: str, unit: str = "step", start: int = 0) -> Iterator[Bar]:
        """A progress bar: call `.advance(n=1, **fields)` on it. `start` units were done by earlier sessions."""
        with self.voice.progress(total, title, unit, start) as bar:
            bar.watchers.append(self._active)
            yield bar

    def say(self, text: str) -> None:
        """Tell the user something, in one line."""
        self.voice.say(f"  {text}")

    @cached_property
    def accelerator(self) -> Accelerator:
        """Accelerate's view of the devices and processes; on the CPU where there is no accelerator."""
        import torch
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        patience = InitProcessGroupKwargs(timeout=PATIENCE)
        return Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience])

    def close(self) -> None:
        """Let go of what the accelerator holds, and end the trackers."""
        if self._trackers is not None:
            self._trackers.finish()
        if "accelerator" in self.__dict__:
            self.accelerator.free_memory()

    @cached_property
    def _metrics(self) -> MetricsLog:
        return MetricsLog(self.folder / METRICS)

    def _active(self) -> None:
        now = time.monotonic()
        if self.is_main and now - self._heard > 5:
            self._heard = now
            self.on_activity()


def derived_seed(seed: int, name: str) -> int:
    """A stage's own seed in [0, 2^31), stable across machines and versions."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, name]).encode()).digest()[:4], "big") >> 1
