"""The base of every settings class: what a recipe may say is what these classes declare, nothing else."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Validated, immutable settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())
