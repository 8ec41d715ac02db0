"""The base of every settings class: what a recipe may say is what these classes declare, nothing else."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Settings(BaseModel):
    """Validated, immutable settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    def changed(self, *names: str) -> list[str]:
        """Those of these settings that are not at their default: a recipe that was written out says all of them."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]


@dataclass(frozen=True)
class InputFile:
    """Marks a setting that is the path of a file or folder the stage reads.

    It must be there, and not empty, before any stage starts; its content is part of the stage's fingerprint. A leading
    `~` is the user's home, put in as the settings are read.
    """

    folder: bool = True
    """Whether a folder will do."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_from_home, handler(source))


def _from_home(value: Any) -> Any:
    """The path, or each of several, with the user's home for a leading `~`."""
    if isinstance(value, Mapping):
        return {key: _from_home(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_from_home(item) for item in value)
    return os.path.expanduser(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Presentation:
    """Marks a setting that changes what is shown and never the result; changing it does not run the stage again."""
