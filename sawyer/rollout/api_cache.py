"""Answers on disk, so that the same question is paid for once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.atomic import write_atomically
from sawyer.errors import SawyerError
from sawyer.rollout.api_calls import Reply


class AnswerCache:
    """One file per answer, `ab/abcdef....json`, found by a hash of everything that was asked.

    A file holds the question, the answer and a hash of the answer. One that is cut off, altered or of another question
    counts as absent. Files are written at once or not at all; several processes may share the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, question: Mapping[str, Any]) -> Reply | None:
        """The answer to a question, if there is a sound one."""
        try:
            entry = json.loads(self._file(question).read_text(encoding="utf-8"))
            if entry["question"] != question or entry["sha256"] != _sha256(entry["answer"]):
                return None
            return Reply.from_row(entry["answer"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def store(self, question: Mapping[str, Any], reply: Reply) -> None:
        """Keep an answer.

        Raises:
            SawyerError: the folder cannot be written.
        """
        answer = reply.row()
        file = self._file(question)
        entry = {"question": question, "answer": answer, "sha256": _sha256(answer)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(entry))
        except FileNotFoundError:
            pass  # another process has stored an answer to the same question in this very moment
        except OSError as error:
            raise SawyerError(
                f"the cache {self.folder} cannot be written ({error.strerror or error}): free space, or choose another "
                "folder"
            ) from error

    def _file(self, question: Mapping[str, Any]) -> Path:
        name = _sha256(question)
        return self.folder / name[:2] / f"{name}.json"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
