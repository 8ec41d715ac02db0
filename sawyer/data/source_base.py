"""What every source of data can be told."""

from __future__ import annotations

from pydantic import Field

from sawyer.settings import Settings


class SourceBase(Settings):
    """The settings that all sources share."""

    limit: int | None = Field(default=None, ge=1)
    """Keep at most so many records, after shuffling."""
    shuffle_seed: int | None = None
    """Shuffle with this seed; without it the order of the file stays."""
    max_bad: float = Field(default=0.05, ge=0, le=1)
    """The share of a file's rows that may be unusable; more is an error."""
    source: str
    """What a recipe calls the source."""
