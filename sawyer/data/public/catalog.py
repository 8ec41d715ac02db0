"""The published sets by name: the settings of each, what reads it, and what it holds. All but Dolly are preferences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.data.cleaning import Sieve
from sawyer.data.files import LoadReport, RawRow
from sawyer.data.public import (
    alpaca_farm,
    code_ultrafeedback,
    distilabel,
    dolly,
    gpt4_llm,
    helpsteer,
    nectar,
    oasst,
    pku,
    shp,
    summarize,
    ultrafeedback,
    ultrainteract,
    webgpt,
)
from sawyer.data.public.base import PublicSettings
from sawyer.data.records import Record


@dataclass(frozen=True)
class PublicSet:
    """One published set."""

    title: str
    holds: str
    settings: type[PublicSettings]
    read: Callable[[Any, Sieve], Iterator[Record]]
    """Its records; gets the settings and the rows."""


_SETS = (
    PublicSet("SHP", "pairs of Reddit comments, with votes", shp.ShpSettings, shp.read),
    PublicSet("HelpSteer", "responses rated for five attributes", helpsteer.HelpSteerSettings, helpsteer.read),
    PublicSet("PKU-SafeRLHF", "pairs labelled for safety and for help", pku.PkuSettings, pku.read),
    PublicSet(
        "UltraFeedback", "4 answers rated for four aspects", ultrafeedback.UltraFeedbackSettings, ultrafeedback.read
    ),
    PublicSet("UltraInteract", "right and wrong steps", ultrainteract.UltraInteractSettings, ultrainteract.read),
    PublicSet(
        "CodeUltraFeedback",
        "4 answers to coding requests, rated",
        code_ultrafeedback.CodeUltraFeedbackSettings,
        code_ultrafeedback.read,
    ),
    PublicSet("Argilla-Math", "rated pairs of solutions", distilabel.MathSettings, distilabel.read_math),
    PublicSet("OpenOrca", "rated pairs", distilabel.OrcaSettings, distilabel.read_orca),
    PublicSet("Capybara", "rated pairs of long dialogues", distilabel.CapybaraSettings, distilabel.read_capybara),
    PublicSet("Summarize from feedback", "pairs of summaries", summarize.SummarizeSettings, summarize.read),
    PublicSet("Nectar", "rankings of 7 answers", nectar.NectarSettings, nectar.read),
    PublicSet("WebGPT comparisons", "pairs of answers with quotes", webgpt.WebGptSettings, webgpt.read),
    PublicSet("OASST", "trees of dialogue with ranked answers", oasst.OasstSettings, oasst.read),
    PublicSet("GPT-4-LLM comparisons", "up to 3 responses, scored", gpt4_llm.Gpt4LlmSettings, gpt4_llm.read),
    PublicSet("AlpacaFarm", "pairs of outputs", alpaca_farm.AlpacaFarmSettings, alpaca_farm.read),
    PublicSet("Dolly", "instructions, answered by people", dolly.DollySettings, dolly.read),
)
PUBLIC_SETS = {one.settings.model_fields["source"].default: one for one in _SETS}
"""The sets by the name of their `source`; HH-RLHF, which is not here, is `sawyer.data.hh`."""

PublicSource = (
    shp.ShpSettings
    | helpsteer.HelpSteerSettings
    | pku.PkuSettings
    | ultrafeedback.UltraFeedbackSettings
    | ultrainteract.UltraInteractSettings
    | code_ultrafeedback.CodeUltraFeedbackSettings
    | distilabel.MathSettings
    | distilabel.OrcaSettings
    | distilabel.CapybaraSettings
    | summarize.SummarizeSettings
    | nectar.NectarSettings
    | webgpt.WebGptSettings
    | oasst.OasstSettings
    | gpt4_llm.Gpt4LlmSettings
    | alpaca_farm.AlpacaFarmSettings
    | dolly.DollySettings
)
"""The settings of any of them."""


def read_public(
    settings: PublicSettings, files: Sequence[tuple[str, Iterable[RawRow]]]
) -> tuple[list[Record], LoadReport]:
    """The records of a published set, cleaned as its settings say, and what was dropped on the way.

    Args:
        files: the rows of each file (or of the set on the hub), with a name that no other has.

    Raises:
        SawyerError: too many rows are bad, or nothing is left.
    """
    names = [name for name, _ in files]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    sieve = Sieve(f"{settings.source} ({shown})", files)
    records: list[Record] = list(PUBLIC_SETS[settings.source].read(settings, sieve))
    return records, sieve.finish(records, settings.max_bad)
