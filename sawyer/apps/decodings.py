"""Ways of decoding, as the options of a comparison name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.errors import SawyerError
from sawyer.pipeline.nearest import did_you_mean
from sawyer.rollout.decodings import DECODINGS, GRID
from sawyer.rollout.sampling import Sampling, contradiction

OWN = "given"
"""The name of what the sampling options say, where no decoding is named."""


def decodings_of(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Sampling]:
    """Each way of decoding, by name.

    Args:
        names: of `DECODINGS`, or `grid`; each may list several with commas. None for the model's own distribution,
            changed by what is given.
        given: sampling settings that hold for all of them.

    Raises:
        SawyerError: there is no such name, or one is contradicted by what is given.
    """
    asked = [part.strip() for name in names for part in name.split(",")]
    asked = [one for part in asked for one in (GRID if part == "grid" else (part,))]
    if not asked:
        changed = {name for name, value in given.items() if name != "max_tokens"}
        return {OWN if changed else "sample": Sampling(**given)}
    found: dict[str, Sampling] = {}
    for name in asked:
        if name not in DECODINGS:
            known = [*DECODINGS, "grid"]
            raise SawyerError(f"there is no decoding {name!r}{did_you_mean(name, known, 'there are')}")
        clash = next((setting for setting in DECODINGS[name] if setting in given), None)
        if clash is not None:
            option = "--" + clash.replace("_", "-")
            raise SawyerError(f"{option} is what --decoding {name} sets; leave out one of the two")
        sampling = Sampling.model_construct(**{**Sampling(**given).model_dump(), **DECODINGS[name]})
        if (reason := contradiction(sampling)) is not None:
            raise SawyerError(f"--decoding {name}: {reason}")
        found[name] = Sampling(**{**given, **DECODINGS[name]})
    return found
