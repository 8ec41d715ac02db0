"""The settings that all published sets share, and where their local files are found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sawyer.data.files import data_files
from sawyer.data.source_base import SourceBase
from sawyer.errors import SawyerError
from sawyer.settings import InputFile

PARQUET_EXPORT = "refs/convert/parquet"
"""The hub's own copy, in parquet, of sets that are published as a loading script, which `datasets` no longer runs."""

MAX_BAD = 0.1
"""The share of a published set's rows that may be unusable, unless the settings say otherwise."""

Pairing = Literal["all", "best-random", "ranking"]


class PublicSettings(SourceBase):
    """Settings of one published set. What is read are the columns that its card on the hub names."""

    path: Annotated[str | list[str] | None, InputFile()] = None
    """Local file, files or folder in the published layout (.jsonl, .json, .parquet, packed or not); without it the hub
    is asked. Of a folder, the files named after the split are read, or all where none is."""
    hub: str
    """Hub data set, when there is no path."""
    revision: str | None = None
    """Commit, tag or branch of the hub data set; without it the newest."""
    split: str = "train"
    """Split of the hub data set, or of a local folder."""
    max_bad: float = Field(default=MAX_BAD, ge=0, le=1)
    """The share of rows that may be unusable; more is an error. What the published cleaning drops does not count."""

    def place(self) -> dict[str, str | None]:
        """What `datasets.load_dataset` needs to know besides the name, the split and the revision."""
        return {}


class ScoredSettings(PublicSettings):
    """Settings of a set in which a prompt has several completions, each with a score."""

    pairing: Pairing = "all"
    """`all` pairs with different scores (version 2 of the RLHF Workflow's mixtures), the `best-random` pair: the best
    completion and a random other one (version 1), or the whole `ranking`."""
    min_margin: float = Field(default=0.0, ge=0)
    """Leave out pairs whose scores differ by no more than this; 0 leaves out equal scores."""
    seed: int = 0
    """Seed of `best-random`."""


def local_files(path: str | Sequence[str] | None, split: str) -> list[Path]:
    """The files to read for `path`: files as they are, of a folder those of the split.

    Raises:
        SawyerError: no file is named, or a folder has none that can be read.
    """
    return [file for one in named_files(path) for file in _expanded(Path(one), split)]


def named_files(path: str | Sequence[str] | None) -> list[str]:
    """What a setting `path` names, as a list.

    Raises:
        SawyerError: that is nothing.
    """
    paths = [path] if isinstance(path, str) else list(path or [])
    if not paths:
        raise SawyerError("`path` names no file; give at least one")
    return paths


def _expanded(path: Path, split: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = data_files(path)
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(split.casefold())}(?![a-z0-9])")
    return [file for file in files if wanted.search(str(file.relative_to(path)).casefold())] or files
