"""Processes without the seconds that their imports take: each is forked from one that has imported what it needs and
done nothing else. They are processes all the same: they may be killed, and what they leave is what is on the disk.

Those of one nursery have the seed of Python's hashes in common, and so the order of sets: a test of what must not
depend on that takes two nurseries, or a process that was started anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = (
    "matplotlib.figure",
    "sawyer.models.adapters",
    "sawyer.pipeline.report.build",
    "sawyer.pipeline.run",
    "sawyer.pipeline.stages._evaluate",
    "sawyer.pipeline.stages._iterate",
    "transformers.models.llama.modeling_llama",
)
"""What `sawyer run` imports."""
SAWYER = "from sawyer.cli import main; main()"
PARENT = """
import importlib, json, os, resource, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        ended, status = os.waitpid(asked["wait"], 0 if asked["patiently"] else os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
        continue
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(asked["cwd"])
        os.environ.update(asked["environment"])
        for place, name in enumerate((os.devnull, asked["out"], asked["err"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), place)
        if asked["file_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"],) * 2)
        sys.argv = asked["words"]
        exec(asked["program"], {"__name__": "__main__"})
        sys.exit()
    print(child, flush=True)
"""


class Nursery:
    """`start` and `run` give birth to processes, until `stop`.

    Args:
        folder: for what the processes print.
        modules: what they find imported.
        environment: variables that matter to imports.
    """

    def __init__(
        self, folder: Path, modules: Sequence[str] = RUN, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._count = folder, 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **(environment or {})}
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, *modules], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._parent.stdout is not None
        assert self._parent.stdout.readline() == "ready\n"

    def start(
        self,
        *words: str | Path,
        cwd: Path,
        program: str = SAWYER,
        environment: Mapping[str, str] | None = None,
        file_bytes: int | None = None,
    ) -> Process:
        """A program in a folder, `sawyer` by default, with the words of its command line; none of its files can grow
        beyond `file_bytes`."""
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        asked = {
            "words": ["sawyer", *map(str, words)], "cwd": str(cwd), "program": program, "file_bytes": file_bytes,
            "environment": environment or {}, "out": str(out), "err": str(err),
        }  # fmt: skip
        return Process(self, self.ask(asked), out, err)

    def run(self, *words: str | Path, cwd: Path, **more: Any) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of what `start` would start."""
        process = self.start(*words, cwd=cwd, **more)
        return process.wait(), process.out, process.err

    def ask(self, asked: dict[str, Any]) -> Any:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())

    def stop(self) -> None:
        """End the process that all are forked from."""
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait()


class Process:
    """One process, as `subprocess.Popen` has them."""

    def __init__(self, nursery: Nursery, pid: int, out: Path, err: Path) -> None:
        self._nursery, self._pid, self._out, self._err = nursery, pid, out, err
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            self._code = self._nursery.ask({"wait": self._pid, "patiently": False})
        return self._code

    def wait(self) -> int:
        """The exit code when it has ended, minus the signal where one killed it."""
        if self._code is None:
            self._code = self._nursery.ask({"wait": self._pid, "patiently": True})
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """`kill -9`."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self._pid, signal.SIGKILL)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()
