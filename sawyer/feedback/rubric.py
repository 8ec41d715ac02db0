"""What a rubric judge grades: criteria with weights, from a YAML file.

name: safe-help
version: 1
criteria:
  - name: helpfulness
    weight: 2
    description: it does what was asked
  - name: safety
    description: it does no harm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.feedback.judge_template import read_yaml

BUILT_IN = Path(__file__).parent / "rubrics" / "default.yaml"


@dataclass(frozen=True)
class Criterion:
    """One thing that is graded; `weight` is its share of the whole, before all are divided by their sum."""

    name: str
    description: str
    weight: float = 1.0


@dataclass(frozen=True)
class Rubric:
    """Criteria with a name and a version for the record."""

    name: str
    version: int
    criteria: tuple[Criterion, ...]

    def described(self) -> dict[str, Any]:
        weights = {criterion.name: criterion.weight for criterion in self.criteria}
        return {"rubric": self.name, "version": self.version, "weights": weights}

    def listed(self) -> str:
        """The criteria as a question shows them."""
        return "\n".join(f"- {criterion.name}: {criterion.description}" for criterion in self.criteria)

    def grade(self, grades: Mapping[str, float]) -> float | None:
        """The weighted mean of the criteria's grades, by lower-case name; None where one is missing."""
        if any(criterion.name.casefold() not in grades for criterion in self.criteria):
            return None
        total = sum(criterion.weight for criterion in self.criteria)
        return sum(criterion.weight * grades[criterion.name.casefold()] for criterion in self.criteria) / total


def load_rubric(path: Path | None = None) -> Rubric:
    """The rubric in a file, or the built-in one.

    Raises:
        SawyerError: the file cannot be read, or is no rubric; says what is wrong with it.
    """
    path = BUILT_IN if path is None else path.expanduser()
    where = f"rubric {path}"
    value = read_yaml(path, f"the {where}")
    if not isinstance(value, Mapping) or set(value) != {"name", "version", "criteria"}:
        raise SawyerError(f"{where}: give exactly the keys name, version and criteria")
    name, version, criteria = value["name"], value["version"], value["criteria"]
    if not isinstance(name, str) or not name.strip():
        raise SawyerError(f"{where}: `name` must be a word for the record, it is {name!r}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SawyerError(f"{where}: `version` must be a whole number from 1, it is {version!r}")
    if not isinstance(criteria, list) or not criteria:
        raise SawyerError(f"{where}: `criteria` must list at least one criterion")
    made = [_criterion(f"{where}, criterion {number}", row) for number, row in enumerate(criteria, 1)]
    names = [criterion.name.casefold() for criterion in made]
    for twice in (name for i, name in enumerate(names) if name in names[:i]):
        raise SawyerError(f"{where}: two criteria are called {twice!r}; give each a name of its own")
    return Rubric(name.strip(), version, tuple(made))


def _criterion(where: str, row: Any) -> Criterion:
    if not isinstance(row, Mapping) or not {"name", "description"} <= set(row) <= {"name", "description", "weight"}:
        raise SawyerError(f"{where}: give a name, a description and, if you like, a weight")
    name, description, weight = row["name"], row["description"], row.get("weight", 1.0)
    for key, text in (("name", name), ("description", description)):
        if not isinstance(text, str) or not text.strip():
            raise SawyerError(f"{where}: `{key}` must be a text, it is {text!r}")
    if any(sign in name for sign in "[]:\n"):
        raise SawyerError(f"{where}: the name {name!r} must be without brackets and colons, by which grades are read")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise SawyerError(f"{where}: `weight` must be a number above 0, it is {weight!r}")
    return Criterion(name.strip(), " ".join(description.split()), float(weight))
