"""PKU-SafeRLHF (Ji et al. 2024): two responses to a mostly harmful prompt, with separate labels for help and safety."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import either, name, question, text
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError


class PkuSettings(PublicSettings):
    """PKU-SafeRLHF. Columns: `prompt`, `response_0`, `response_1`, `is_response_0_safe`, `is_response_1_safe`,
    `better_response_id`, `safer_response_id`; newer releases add the responses' sources and severity levels."""

    source: Literal["pku"] = "pku"
    hub: str = "PKU-Alignment/PKU-SafeRLHF-30K"
    """Hub data set, when there is no path: the 30K set, or `PKU-Alignment/PKU-SafeRLHF`."""
    prefer: Literal["safer", "better"] = "safer"
    """Which label decides: the safer response or the more helpful one."""
    decided_by_safety: bool = False
    """Keep only pairs of which one response is safe and the other is not."""


def read(settings: PkuSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (pair, safe) in sieve.usable(lambda row: _pair(row, settings.prefer)):
        if settings.prefer == "safer" and safe == (False, True):
            sieve.leave_out("the safer response is labelled unsafe and the other safe", where)
        elif settings.decided_by_safety and safe[0] == safe[1]:
            sieve.leave_out("both responses are safe, or both unsafe", where)
        else:
            yield pair


def _pair(row: Mapping[str, Any], prefer: str) -> tuple[Comparison, tuple[bool, bool]]:
    preferred = either(row, f"{prefer}_response_id", (0, 1))
    answers = []
    for i in (preferred, 1 - preferred):
        safe = row.get(f"is_response_{i}_safe")
        if not isinstance(safe, bool):
            raise SawyerError(f"`is_response_{i}_safe` is neither true nor false")
        details: dict[str, Any] = {"safe": safe}
        if row.get(f"response_{i}_severity_level") is not None:
            details["severity"] = either(row, f"response_{i}_severity_level", range(4))
        answers.append(Answer(text(row, f"response_{i}"), None, name(row, f"response_{i}_source"), details))
    if answers[0].text == answers[1].text:
        raise SawyerError(SAME_TEXT)
    pair = comparison(question(text(row, "prompt")), answers, "pku", "people", label=prefer)
    return pair, (answers[0].details["safe"], answers[1].details["safe"])
