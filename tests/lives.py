"""The lives of a training in tests: killed at a chosen moment or by the system, run again, and split over processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sawyer.journal import Silent
from sawyer.pipeline.context import Context

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


class Mortal(Silent):
    """A journal that outlives its training, which is killed while it logs (or has just shown) step `dies_at`."""

    def __init__(self, dies_at: int | None = None, when: str = "log") -> None:
        super().__init__()
        self.dies_at, self.when, self.started_from = dies_at, when, []

    def log(self, **figures) -> None:
        super().log(**figures)
        if self.when == "log" and figures["step"] == self.dies_at:
            raise Killed

    def progress(self, total, title, unit="step", start=0):
        self.started_from.append(start)
        self.shown = start
        return super().progress(total, title, unit, start)

    def advance(self, n: int = 1, **fields) -> None:
        self.shown += n
        if self.when == "advance" and self.shown == self.dies_at:
            raise Killed


class MortalContext(Context):
    """A stage's surroundings in which it is killed while it logs its line `dies_at` (from 1)."""

    dies_at: int | None = None
    lines = 0

    def log(self, **figures) -> None:
        super().log(**figures)
        self.lines += 1
        if self.lines == self.dies_at:
            raise Killed


@contextmanager
def dying(monkeypatch, owner, name, when):
    """Inside, the call of `owner.name` is the end for which `when(number, *arguments)` holds; numbers from 0."""
    original, calls = getattr(owner, name), []

    def call(self, *arguments, **more):
        calls.append(name)
        if when(len(calls) - 1, *arguments):
            raise Killed
        return original(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        try:
            yield
        except Killed:
            return
    pytest.fail(f"{name} was not called when it was to be killed")


def places(tmp_path, name):
    """Folders for another life of a stage."""
    made = {part: tmp_path / f"{name}-{part}" for part in ("folder", "scratch")}
    for place in made.values():
        place.mkdir(parents=True)
    return made


def without_speed(lines):
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def read_lines(file):
    """The lines of a JSON Lines file, less what differs from run to run."""
    return without_speed([json.loads(line) for line in file.read_text().split("\n") if line])


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """The same tensors by name, bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def killed_at_random(program, metrics, most) -> None:
    """Start `python PROGRAM` and kill -9 it once its metrics have a random number of lines, `most` at most."""
    process = subprocess.Popen([sys.executable, *program], cwd=ROOT, env=ENVIRONMENT)
    try:
        wanted, deadline = random.randint(1, most), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it had finished before it was killed"


def in_two_processes(program, cwd=ROOT) -> None:
    """`python PROGRAM` in two processes, as torchrun starts them; skips where processes cannot talk to each other."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, *program], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode and any(word in done.stderr for word in ("EADDR", "RendezvousConnectionError", "no interface")):
        pytest.skip(f"processes cannot talk to each other here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
