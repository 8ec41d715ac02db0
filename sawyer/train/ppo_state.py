"""What reinforcement learning carries from step to step besides the weights, and the best policy so far on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from sawyer.journal import Journal
from sawyer.methods.collapse import CollapseDetector
from sawyer.methods.kl_control import KLControl
from sawyer.methods.running import RunningMoments
from sawyer.train.optim import MasterWeights
from sawyer.train.ppo_settings import PPOSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


class Memory:
    """The KL's coefficient, the collapse detector, what is expected of a completion, and which policy was the best.

    Attributes:
        best: step and held-out figures of the best policy; the one of step 0, before the first update, always counts.
        last: those of the policy that was measured last.
        stopped: why training ends early; None where it does not.
    """

    def __init__(self, settings: PPOSettings) -> None:
        self.settings = settings
        self.control = KLControl(settings.kl, settings.kl_coefficient, settings.steps)
        self.detector = CollapseDetector(settings.collapse, settings.kl.ceiling)
        self.expected = RunningMoments()
        self.constant = 0
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.stopped: str | None = None

    def saw(self, step: int, figures: Mapping[str, float]) -> bool:
        """Take in held-out figures of a policy: whether it is the best so far by reward, within the KL's ceiling."""
        self.last = {"step": step, **figures}
        ceiling = self.settings.kl.ceiling
        allowed = not self.best or ceiling is None or figures["kl"] <= ceiling
        if not allowed or (self.best and figures["reward"] <= self.best["reward"]):
            return False
        self.best = {"step": step, **figures}
        return True

    def is_constant(self, reward_C: torch.Tensor) -> bool:
        """Whether all completions earned the same, and there are several; counted in a row."""
        same = len(reward_C) > 1 and bool((reward_C == reward_C[0]).all())
        self.constant = self.constant + 1 if same else 0
        return same

    def collapsed(self, figures: Mapping[str, float], step: int, journal: Journal) -> str | None:
        """What has gone wrong, where the training is to go back; `stopped` is set where it is to end."""
        reason = self.detector.look(figures)
        if reason is None:
            return None
        action = self.settings.collapse.action
        if action == "rollback" and self.detector.rollbacks < self.settings.collapse.rollbacks:
            self.detector.rollbacks += 1
            return reason
        if action == "warn":
            journal.say(f"step {step}: the policy collapses: {reason}")
            return None
        self.stopped = f"the policy collapsed at step {step}: {reason}"
        left = f"the policy of step {self.best['step']}" if self.settings.keep == "best" else "the policy as it is"
        journal.say(f"{self.stopped}; training ends with {left}")
        return reason

    def figures(self, steps: int) -> dict[str, Any]:
        """The headline."""
        kept = self.best if self.settings.keep == "best" else self.last
        held_out = {f"validation_{name}": value for name, value in kept.items() if name != "step"}
        stopped = {} if self.stopped is None else {"stopped": self.stopped}
        return {"steps": steps, "best": self.best["step"], **held_out, **stopped}

    def state(self) -> dict[str, Any]:
        """What `load` goes on from, as JSON."""
        return {
            "control": self.control.state(),
            "detector": self.detector.state(),
            "expected": self.expected.state(),
            "constant": self.constant,
            "best": self.best,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.control.load(state["control"])
        self.detector.load(state["detector"])
        self.expected = RunningMoments(state["expected"])
        self.constant, self.best = state["constant"], dict(state["best"])


class Snapshots:
    """Float32 weights of the best policies, one file each, named after the step: a continuation from an older
    checkpoint finds the one that was the best then."""

    def __init__(self, folder: Path, accelerator: Accelerator | None) -> None:
        self._folder, self._accelerator = folder, accelerator

    def save(self, step: int, weights: MasterWeights) -> None:
        """Keep the weights as they are after `step` steps."""
        if self._accelerator is None or self._accelerator.is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._file(step)
            partial = file.with_suffix(".partial")
            save_file({name: master.contiguous() for name, master in weights.masters.items()}, partial)
            partial.replace(file)
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    @torch.no_grad()
    def restore(self, step: int, weights: MasterWeights) -> None:
        """Go back to them."""
        tensors = load_file(self._file(step))
        for name, master in weights.masters.items():
            master.copy_(tensors[name])
        weights.round()

    def keep_only(self, step: int) -> None:
        """Delete the others: the checkpoint that was just written needs this one alone. In the process that writes."""
        for file in self._folder.glob("best-*.safetensors"):
            if file != self._file(step):
                file.unlink()

    def _file(self, step: int) -> Path:
        return self._folder / f"best-{step}.safetensors"
