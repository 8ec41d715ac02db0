"""UltraInteract (Yuan et al. 2024): a right and a wrong next step after one dialogue about maths, code or logic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import dialogue, name, text
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError

Task = Literal["Coding", "Math_CoT", "Math_PoT", "Logic"]


class UltraInteractSettings(PublicSettings):
    """UltraInteract's pairs. Columns: `task`, `dataset`, `trajectory` of `from` and `value`, `chosen`, `rejected`,
    `id`, `parent_id`."""

    source: Literal["ultrainteract"] = "ultrainteract"
    hub: str = "openbmb/UltraInteract_pair"
    """Hub data set, when there is no path."""
    tasks: tuple[Task, ...] = ()
    """Keep these tasks only; none means all."""


def read(settings: UltraInteractSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, pair in sieve.usable(_pair):
        if settings.tasks and pair.info.get("task") not in settings.tasks:
            sieve.leave_out("the pair is of another task", where)
        else:
            yield pair


def _pair(row: Mapping[str, Any]) -> Comparison:
    chosen, rejected = Answer(text(row, "chosen")), Answer(text(row, "rejected"))
    if chosen.text == rejected.text:
        raise SawyerError(SAME_TEXT)
    return comparison(
        dialogue(row.get("trajectory")),
        (chosen, rejected),
        "ultrainteract",
        "known answers and tests",
        task=name(row, "task"),
        prompt_source=name(row, "dataset"),
    )
