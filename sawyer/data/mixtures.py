"""Mixtures of sources: by name as the RLHF Workflow has them, or of one's own parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from sawyer.data.files import LoadReport
from sawyer.data.records import Record
from sawyer.errors import SawyerError

HELPFUL = ("helpful-base", "helpful-rejection-sampled", "helpful-online")
MixtureName = Literal["mix1", "mix2"]
MIXTURES: dict[MixtureName, tuple[str, ...]] = {
    "mix1": ("hh", "shp", "ultrafeedback", "summarize"),
    "mix2": (
        "hh",
        "shp",
        "helpsteer",
        "pku",
        "ultrafeedback",
        "ultrainteract",
        "code-ultrafeedback",
        "argilla-math",
        "orca",
        "capybara",
    ),
}
"""Mixtures 1 and 2 of the RLHF Workflow (Dong et al. 2024), by the names of their sources. Each is cleaned as its
defaults say, and of HH-RLHF only the helpful part is taken."""


def named_parts(name: MixtureName) -> list[dict[str, Any]]:
    """The settings of a named mixture's sources."""
    return [{"source": source, **({"subsets": HELPFUL} if source == "hh" else {})} for source in MIXTURES[name]]


def mix(
    parts: Sequence[tuple[str, float, Callable[[], tuple[list[Record], LoadReport]]]],
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[Record], LoadReport]:
    """The records of all parts one after the other, each with the name of its source in `info`.

    Args:
        parts: name of the source, share of its records to keep (drawn at random, in their order), and what loads it.
        say: is told what each source gave.

    Raises:
        SawyerError: as the sources; two give different kinds of records.
    """
    mixed: list[Record] = []
    report = LoadReport()
    for source, weight, load in parts:
        say(f"reading {source}")
        try:
            records, own = load()
        except SawyerError as error:
            raise SawyerError(f"{source}: {error}") from None
        wanted = round(weight * len(records))
        kept = sorted(random.Random(f"{seed}/{source}").sample(range(len(records)), wanted))
        named = [labelled(records[i], source) for i in kept]
        if mixed and named and type(named[0]) is not type(mixed[0]):
            kinds = f"{type(mixed[0]).__name__.lower()}s and {type(named[0]).__name__.lower()}s"
            raise SawyerError(f"the parts of the mixture hold different records, {kinds}; mix sources of one kind")
        mixed += named
        of = f", a share of {weight:g} drawn from {len(records):,}" if weight < 1 else ""
        say(f"{source}: {len(named):,} records{of}")
        renamed = {f"{source}: {reason}": reason for reason in own.dropped}
        report.add(
            replace(
                own,
                kept=len(named),
                dropped={new: own.dropped[old] for new, old in renamed.items()},
                examples={new: own.examples.get(old, []) for new, old in renamed.items()},
            )
        )
        left = f"{source}: not drawn"
        if wanted < len(records):
            report.dropped[left] = report.dropped.get(left, 0) + len(records) - wanted
    return mixed, report


def labelled(record: Record, source: str) -> Record:
    """The record with the name of its source in `info`, unless it says one already."""
    return record if "source" in record.info else replace(record, info={**record.info, "source": source})
