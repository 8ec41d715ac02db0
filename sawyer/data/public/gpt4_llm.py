"""GPT-4-LLM's comparisons (Peng et al. 2023), on which SAWYER's reward model was trained: up to three responses to each
Alpaca instruction, scored from 1 to 10 by GPT-4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, model_validator

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, comparison, rated_answers, too_close
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import items, number, question, text
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError


class Gpt4LlmSettings(PublicSettings):
    """`comparison_data_v2.json`. Columns: `user_input`, `responses_and_scores` of `response`, `source` and `score`."""

    source: Literal["gpt4-llm"] = "gpt4-llm"
    hub: str = ""
    """Hub data set with these columns, when there is no path; the authors keep theirs on GitHub
    (Instruction-Tuning-with-GPT-4/GPT-4-LLM), not on the hub."""
    mining: Literal["fixed", "notebook"] = "fixed"
    """Which pairs a prompt gives. `fixed`: all with different scores. `notebook`, for the record: as SAWYER's notebook
    did it, only where the response that stands first in the file is the better one. So the one that always stands last
    is never chosen, and the label nearly follows from who wrote what."""
    min_delta: float = Field(default=0.0, ge=0)
    """Leave out pairs whose scores differ by no more than this; 0 leaves out equal scores."""

    @model_validator(mode="after")
    def _somewhere(self) -> Gpt4LlmSettings:
        if self.path is None and not self.hub:
            raise ValueError("give the file comparison_data_v2.json as `path`; it is on GitHub and not on the hub")
        return self


def read(settings: Gpt4LlmSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (prompt, responses) in sieve.usable(_row):
        answers = rated_answers(responses, lambda item: (number(item, "score"), {}), "source", sieve, where)
        for first, second in combinations(answers, 2):
            delta = (first.score or 0.0) - (second.score or 0.0)
            if first.text == second.text:
                sieve.bad(SAME_TEXT, where)
            elif abs(delta) <= settings.min_delta:
                sieve.leave_out(too_close(settings.min_delta), where)
            elif delta < 0 and settings.mining == "notebook":
                sieve.leave_out("a pair whose better response stands second in the file", where)
            else:
                best_first = (first, second) if delta > 0 else (second, first)
                yield comparison(question(prompt), best_first, settings.source, "gpt-4", delta=abs(delta))


def _row(row: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    return instruction(text(row, "user_input")), items(row, "responses_and_scores")


def instruction(user_input: str) -> str:
    """What Alpaca's template holds: the instruction, and after a blank line the input, if there is one.

    >>> instruction("### Instruction:\\nAdd.\\n\\n### Input:\\n1, 2\\n\\n### Response:")
    'Add.\\n\\n1, 2'
    """
    _, found, rest = user_input.partition("### Instruction:")
    body = (rest if found else user_input).partition("### Response:")[0]
    asked, _, extra = body.partition("### Input:")
    parts = [part.strip() for part in (asked, extra) if part.strip()]
    if not parts:
        raise SawyerError("`user_input` has no instruction")
    return "\n\n".join(parts)
