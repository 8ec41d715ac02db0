"""The base of every settings class: what a recipe may say is what these classes declare, nothing else."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Validated, immutable settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


@dataclass(frozen=True)
class InputFile:
    """Marks a setting that is the path of a file or folder the stage reads.

    It must be there, and not empty, before any stage starts; its content is part of the stage's fingerprint.
    """


@dataclass(frozen=True)
class Presentation:
    """Marks a setting that changes what is shown and never the result; changing it does not run the stage again."""
