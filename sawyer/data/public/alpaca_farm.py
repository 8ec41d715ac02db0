"""AlpacaFarm (Dubois et al. 2023): two outputs for an instruction, compared by people or by simulated annotators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PARQUET_EXPORT, PublicSettings
from sawyer.data.public.fields import name, number, question, text
from sawyer.data.records import Comparison, Message
from sawyer.errors import SawyerError

Subset = Literal["alpaca_human_preference", "alpaca_gpt4_preference", "alpaca_noisy_multi_preference"]
LABELLED_BY = {
    "alpaca_human_preference": "people",
    "alpaca_gpt4_preference": "gpt-4",
    "alpaca_noisy_multi_preference": "simulated annotators",
}


class AlpacaFarmSettings(PublicSettings):
    """AlpacaFarm. Columns: `instruction`, `input`, `output_1`, `output_2`, `preference` (1 or 2, the better output)."""

    source: Literal["alpaca-farm"] = "alpaca-farm"
    hub: str = "tatsu-lab/alpaca_farm"
    """Hub data set, when there is no path."""
    revision: str | None = PARQUET_EXPORT
    """Commit, tag or branch of the hub data set: the hub's own copy in parquet, as the set is published as a script."""
    subset: Subset = "alpaca_human_preference"
    """Configuration on the hub; of local files, what says who labelled."""

    def place(self) -> dict[str, str | None]:
        return {"data_dir": self.subset}


def read(settings: AlpacaFarmSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (prompt, outputs, preference) in sieve.usable(_row):
        if preference not in (1, 2):
            sieve.leave_out("neither output is preferred", where)
        else:
            best_first = outputs if preference == 1 else outputs[::-1]
            yield comparison(prompt, best_first, settings.source, LABELLED_BY[settings.subset])


def _row(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], list[Answer], float]:
    preference = number(row, "preference")
    if not 0 <= preference <= 2:
        raise SawyerError("`preference` is not between 0 and 2")
    outputs = [Answer(text(row, f"output_{i}"), None, name(row, f"generator_{i}")) for i in (1, 2)]
    if outputs[0].text == outputs[1].text:
        raise SawyerError(SAME_TEXT)
    asked, extra = text(row, "instruction"), row.get("input") or ""
    if not isinstance(extra, str):
        raise SawyerError("`input` is not text")
    return question(f"{asked}\n\n{extra}" if extra.strip() else asked), outputs, preference
