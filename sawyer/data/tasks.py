"""Tasks as Self-Instruct and Alpaca have them: an instruction, perhaps an input, and an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sawyer.data.files import raw_rows, record_or_problem
from sawyer.errors import SawyerError


@dataclass(frozen=True)
class Task:
    """One task; `input` is empty where the instruction says it all."""

    instruction: str
    input: str = ""
    output: str = ""

    @property
    def question(self) -> str:
        """What the user says: instruction and input with a blank line between them, as `formats.from_alpaca` reads."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    def row(self) -> dict[str, str]:
        """Alpaca's row."""
        return {"instruction": self.instruction, "input": self.input, "output": self.output}


@cache
def own_tasks() -> tuple[Task, ...]:
    """Our own seed tasks."""
    return read_tasks(Path(__file__).parent / "task_seeds" / "tasks.jsonl")


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """The tasks of a file: Alpaca's rows, or Self-Instruct's, of whose `instances` the first is taken.

    Raises:
        SawyerError: the file cannot be read, has no rows, or a row is no task; it is named by its number.
    """
    tasks = []
    for row in raw_rows(path):
        task = record_or_problem(row, _task)
        if isinstance(task, str):
            raise SawyerError(f"{path}: row {row.number} is no seed task: {task}; mend or remove it")
        tasks.append(task)
    if not tasks:
        raise SawyerError(f"{path} has no rows; give a file with at least one task")
    return tuple(tasks)


def _task(row: Mapping[str, Any]) -> Task:
    instances = row.get("instances")
    instance = instances[0] if instances else row
    instruction, given, output = row.get("instruction"), instance.get("input") or "", instance.get("output") or ""
    if not isinstance(instruction, str) or not instruction.strip():
        raise SawyerError("`instruction` is missing, empty or not text")
    if not isinstance(given, str) or not isinstance(output, str):
        raise SawyerError("`input` or `output` is not text")
    return Task(instruction.strip(), given.strip(), output.strip())
