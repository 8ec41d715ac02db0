"""A virtual environment for a peer that no environment of today can hold: TRL 1.12.0, the newest that still has PPO.

It has the same PyTorch and the same versions of all else as Sawyer's own (`constraints.txt`), so that the two sides
differ in nothing but TRL. It lies in the user's cache, or where `--peer-environment` says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sawyer.errors import SawyerError

TRL = "1.12.0"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
INSTALL = "python -m benchmarks.ppo --install"
_READY = "import importlib.metadata as m; import trl.experimental.ppo.ppo_trainer; print(m.version('trl'))"


def place(chosen: Path | None) -> Path:
    """The folder of the environment: the one chosen, or its own in the user's cache."""
    from sawyer.models.embedded import cache_root

    return chosen or cache_root() / "benchmarks" / f"trl-{TRL}"


def interpreter(folder: Path) -> Path:
    """Where the environment's Python is, or would be."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def version(folder: Path) -> str | None:
    """The version of the TRL in there that can be imported with its PPO trainer; None if there is none."""
    python = interpreter(folder)
    if not python.exists():
        return None
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([python, "-c", _READY], env={**os.environ, **quiet}, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else None


def missing(folder: Path) -> str | None:
    """One sentence on why the peer cannot be measured, if it cannot."""
    found = version(folder)
    if found == TRL:
        return None
    how = f"`{INSTALL}` installs it" + ("" if folder == place(None) else f" (with --peer-environment {folder})")
    if found is not None:
        return f"{folder} has TRL {found} and not {TRL}, the newest with a PPO trainer; {how}"
    return f"TRL {TRL}, the newest with a PPO trainer, is not in {folder}; {how}"


def install(folder: Path) -> None:
    """Make the environment, with PyTorch first: TRL alone would fetch a build of it with CUDA.

    Raises:
        SawyerError: something else is there, or a command failed; the message ends with what it said.
    """
    if folder.exists() and any(folder.iterdir()) and not interpreter(folder).exists():
        raise SawyerError(f"{folder} is no virtual environment; give an empty folder as --peer-environment")
    pinned = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    versions = {name: line for line in pinned for name in [line.partition("==")[0].lower()]}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as rest:
        rest.write("".join(f"{line}\n" for line in pinned if not line.startswith(("torch==", "trl=="))))
        rest.flush()
        pip: list[str | Path] = [interpreter(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "venv", folder])
        _run([*pip, versions["torch"]])
        _run([*pip, "-c", rest.name, versions["torch"], versions["transformers"], f"trl=={TRL}"])
    if (problem := missing(folder)) is not None:
        raise SawyerError(f"the installation ended, but {problem}")


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise SawyerError(f"`{shown}` failed: {done.stderr.strip()[-600:]}")
