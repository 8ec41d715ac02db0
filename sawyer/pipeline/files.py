"""Files on disk: written whole or not at all, hashed, and JSON that any reader takes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sawyer.atomic import write_atomically

_hashes: dict[tuple[str, int, int], str] = {}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; remembered while its size and modification time stay the same."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def files_in(folder: Path, leave_out: Iterable[str] = ()) -> list[Path]:
    """Every file below a folder, sorted by relative path; `leave_out` are relative paths. Hidden names are skipped."""
    skip = set(leave_out)
    found = (path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder).as_posix(): path for path in found}
    return [
        relative[name]
        for name in sorted(relative)
        if name not in skip and not any(part.startswith(".") for part in name.split("/"))
    ]


def content_sha256(hashes: Mapping[str, str]) -> str:
    """One hash of a folder's content, from `{relative path: sha256}`: of the sorted (path, hash) lines."""
    lines = "".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def path_sha256(path: Path) -> str:
    """The content hash of a file, or of everything in a folder."""
    if path.is_dir():
        return content_sha256({f.relative_to(path).as_posix(): file_sha256(f) for f in files_in(path)})
    return file_sha256(path)


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plain(value: Any) -> Any:
    """The value as JSON: scalars of numpy and torch become numbers, paths text, and what is not finite None.

    Raises:
        TypeError: something in it has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` of an indented JSON value."""
    write_atomically(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value of a file, or None where the file is missing, cut off or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def flush_to_disk(folder: Path) -> None:
    """fsync every file below a folder and the folders themselves, so that a power cut cannot undo them."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
