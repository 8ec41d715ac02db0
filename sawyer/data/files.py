"""Records on disk: JSONL (plain or gzipped), a JSON list, or parquet, told apart by the file's suffix.

Reading is in two steps, so that any format can use the first one: `stream_rows` and `raw_rows` find the rows of a
file and say which ones are broken, `convert_rows` makes records of them, counts what it must drop and why, and refuses
a file with too much of it. Lines end at "\\n" only: `str.splitlines` would also cut at U+2028 and other characters of
real text.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, Record, from_row
from sawyer.data.tables import read_parquet, write_parquet
from sawyer.errors import SawyerError

T = TypeVar("T")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
EXAMPLES_KEPT = 3
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NAMES: dict[type | None, str] = {
    Prompt: "a prompt",
    Conversation: "a conversation",
    Comparison: "a comparison",
    Labelled: "a labelled answer",
}


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in a file: its value, or why it has none."""

    number: int
    """Line of a JSONL file, row of any other, counted from 1."""
    value: Any = None
    problem: str | None = None


@dataclass
class LoadReport:
    """What became of the rows of one or more files, before any limit."""

    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> number of rows."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> where the first few of them are, as `file:line`."""
    revisions: dict[str, str] = field(default_factory=dict)
    """Data set of the hub -> the commit that was read."""

    @property
    def rows(self) -> int:
        return self.kept + sum(self.dropped.values())

    def drop(self, reason: str, where: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(where)

    def add(self, other: LoadReport) -> None:
        """Count another file's rows in."""
        self.kept += other.kept
        self.revisions |= other.revisions
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            examples = self.examples.setdefault(reason, [])
            examples.extend(other.examples.get(reason, [])[: EXAMPLES_KEPT - len(examples)])

    def as_dict(self) -> dict[str, Any]:
        found = {"revisions": dict(self.revisions)} if self.revisions else {}
        return {"kept": self.kept, "dropped": dict(self.dropped), "examples": dict(self.examples), **found}

    def __str__(self) -> str:
        dropped = [
            f"{count} {reason} ({', '.join(self.examples[reason])})" for reason, count in sorted(self.dropped.items())
        ]
        return f"{self.kept} of {self.rows} rows kept" + (f"; dropped: {'; '.join(dropped)}" if dropped else "")


def data_files(folder: Path) -> list[Path]:
    """The files of data below a folder, in order; hidden ones are left out.

    Raises:
        SawyerError: there is none.
    """
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name.endswith(SUFFIXES)]
    found = [file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    if not found:
        raise SawyerError(f"{folder} holds no file of data ({', '.join(SUFFIXES)}); give the folder that does")
    return found


def read_records(path: str | Path, *, kind: type[Record] | None = None) -> list[Record]:
    """All records of a file that Sawyer wrote; a single bad row is an error. For files of others, see `load_file`.

    Raises:
        SawyerError: the file is missing, empty, broken, or holds anything but records (of `kind`, where it is given).
    """
    return load_file(path, kind=kind, max_bad=0.0)[0]


def load_file(
    path: str | Path,
    *,
    convert: Callable[[Mapping[str, Any]], Record] = from_row,
    kind: type[Record] | None = None,
    max_bad: float = 0.05,
) -> tuple[list[Record], LoadReport]:
    """The usable records of a file, and a report of the rows that were dropped.

    Args:
        convert: makes a record of a row and raises `SawyerError` with the reason where it cannot.
        kind: the only record type wanted; without it, the type of most rows.
        max_bad: share of rows, 0 to 1, that may be dropped; more is an error.

    Raises:
        SawyerError: the file is missing, empty, cut off or of no known type; nothing or too little of it is usable.
    """
    return convert_rows(path, raw_rows(path), convert, kind=kind, max_bad=max_bad)


def convert_rows(
    name: str | Path,
    rows: Sequence[RawRow],
    convert: Callable[[Mapping[str, Any]], Record],
    *,
    kind: type[Record] | None = None,
    max_bad: float = 0.05,
) -> tuple[list[Record], LoadReport]:
    """Make records of raw rows; `name` is what errors and the report call the file (or the set on the hub)."""
    outcomes = [record_or_problem(row, convert) for row in rows]
    kinds = Counter(type(outcome) for outcome in outcomes if not isinstance(outcome, str))
    kind = kind or (kinds.most_common(1)[0][0] if kinds else None)
    records: list[Record] = []
    report = LoadReport()
    first_bad = ""
    for row, outcome in zip(rows, outcomes, strict=True):
        if kind is not None and isinstance(outcome, kind):
            records.append(outcome)
            continue
        problem = outcome if isinstance(outcome, str) else f"the row is {_NAMES[type(outcome)]}, not {_NAMES[kind]}"
        report.drop(problem, f"{Path(name).name}:{row.number}")
        first_bad = first_bad or f"the first is row {row.number}: {problem}"
    report.kept = len(records)
    if not rows:
        raise SawyerError(f"{name} has no rows; give a file with at least one record")
    if not records:
        raise SawyerError(f"{name} has no usable row among {len(rows)}; {first_bad}")
    bad = len(rows) - len(records)
    if bad > max_bad * len(rows):
        raise SawyerError(
            f"{name}: {bad} of {len(rows)} rows cannot be used, more than the share of {max_bad:g} allowed; "
            f"{first_bad}; mend or remove them, or raise `max_bad`"
        )
    return records, report


def record_or_problem(row: RawRow, convert: Callable[[Mapping[str, Any]], T]) -> T | str:
    """The record of a row (or whatever else `convert` makes of it), or why there is none."""
    if row.problem is not None:
        return row.problem
    if not isinstance(row.value, Mapping):
        return "the row is not a JSON object"
    try:
        return convert(row.value)
    except SawyerError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"a field has the wrong type ({type(error).__name__})"


def raw_rows(path: str | Path) -> list[RawRow]:
    """The rows of a file, broken ones with their problem.

    Raises:
        SawyerError: the file is missing, empty, cut off in the middle, or of no known type.
    """
    return list(stream_rows(path))


def stream_rows(path: str | Path) -> Iterator[RawRow]:
    """The rows of a file one after another, in memory that does not grow with it; but a JSON list is read whole.

    Raises:
        SawyerError: as `raw_rows`; that a file is cut off shows at its end only.
    """
    path = Path(path)
    if suffix_of(path) == ".parquet":
        yield from _parquet_rows(path)
    # Many a `.json` on the hub is JSONL, and a list starts with a bracket, which no row does.
    elif _begins(path) == b"[":
        yield from _json_rows(path, read_bytes(path))
    else:
        yield from _jsonl_rows(path)


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked if it is gzipped, without a byte order mark.

    Raises:
        SawyerError: the file is missing, a folder, cut off or not readable.
    """
    with _opened(path) as file:
        return file.read().removeprefix(BYTE_ORDER_MARK)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to be read, unpacked if it is gzipped; for what it raises, see `read_bytes`."""
    if path.is_dir():
        raise SawyerError(f"{path} is a folder; give one of the files in it")
    try:
        with cast(IO[bytes], gzip.open(path) if path.name.endswith(".gz") else path.open("rb")) as file:
            yield file
    except FileNotFoundError:
        raise SawyerError(f"there is no file {path}; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SawyerError(
            f"{path} is not a whole gzip file, it was probably cut off in copying; fetch it again"
        ) from None
    except OSError as error:
        raise SawyerError(f"{path} cannot be read: {error.strerror or error}") from None


def _begins(path: Path) -> bytes:
    """The first byte of a file that is not white space; none where it does not begin with any in its first 64 kB."""
    with _opened(path) as file:
        return file.read(1 << 16).removeprefix(BYTE_ORDER_MARK).lstrip()[:1]


def _jsonl_rows(path: Path) -> Iterator[RawRow]:
    empty = True
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if not line.strip():
                continue
            empty = False
            value, problem = _parse(line)
            if problem is not None and not line.endswith(b"\n"):  # as every line of a whole file does
                raise SawyerError(
                    f"{path} ends in the middle of line {number}; it was probably cut off in copying, fetch it again"
                )
            yield RawRow(number, value, problem)
    if empty:
        raise SawyerError(f"{path} is empty; give a file with at least one record")


def _json_rows(path: Path, data: bytes) -> list[RawRow]:
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SawyerError(f"{path} is not UTF-8 text at line {line}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        hint = "it was probably cut off in copying, fetch it again" if cut_off else "mend that line"
        raise SawyerError(f"{path} is not valid JSON at line {error.lineno} ({error.msg}); {hint}") from None
    except (ValueError, RecursionError) as error:
        raise SawyerError(f"{path} is not valid JSON ({error}); mend it") from None
    return [
        RawRow(number, value) if _is_text(value) else RawRow(number, problem="the row holds half of a surrogate pair")
        for number, value in enumerate(values, start=1)
    ]


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    if path.is_dir():
        raise SawyerError(f"{path} is a folder; give one of the files in it")
    if not path.exists():
        raise SawyerError(f"there is no file {path}; check the path")
    if not os.access(path, os.R_OK):
        raise SawyerError(f"{path} cannot be read: permission denied")
    if path.stat().st_size == 0:
        raise SawyerError(f"{path} is empty; give a file with at least one record")
    for number, value in enumerate(read_parquet(path), start=1):
        yield RawRow(number, value)


def _parse(line: bytes) -> tuple[Any, str | None]:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return None, "the line is not UTF-8 text"
    except (ValueError, RecursionError):
        return None, "the line is not valid JSON"
    if b"\\ud" in line.lower() and not _is_text(value):
        return None, "the line holds half of a surrogate pair"
    return value, None


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as the suffix says. See `write_rows`."""
    write_rows(path, [record.row() for record in records])


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as the suffix says, atomically: another process sees the old file or the whole new one.

    The memory does not grow with the rows, which are gone through more than once: no generator, but what makes one.
    In parquet `info` is a column of JSON text, so that rows whose `info` differ in shape go into one table.

    Raises:
        SawyerError: no rows, unknown suffix, or the disk refuses (full, read-only); nothing is left half-written.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if next(iter(rows), None) is None:
        raise SawyerError(f"there are no records to write to {path}; check what the step before it kept")
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        with os.fdopen(descriptor, "wb") as file:
            _write(file, rows, suffix)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except UnicodeEncodeError:
        raise SawyerError(f"a record for {path} holds half of a surrogate pair, which is not text; remove it") from None
    except OSError as error:
        raise SawyerError(
            f"{path} cannot be written: {error.strerror or error}; free space or choose another place"
        ) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _write(file: IO[bytes], rows: Iterable[Mapping[str, Any]], suffix: str) -> None:
    if suffix == ".parquet":
        write_parquet(file, rows)
    elif suffix.endswith(".gz"):
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:  # equal rows give equal bytes
            _write(cast(IO[bytes], packed), rows, suffix.removesuffix(".gz"))
    elif suffix == ".jsonl":
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
    else:
        for number, row in enumerate(rows):
            text = json.dumps(row, ensure_ascii=False, allow_nan=False, indent=1)
            file.write(("[\n" if number == 0 else ",\n").encode() + text.encode("utf-8"))
        file.write(b"\n]\n")


def suffix_of(path: Path) -> str:
    """Which of `SUFFIXES` a file's name ends with.

    Raises:
        SawyerError: none.
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return suffix
    raise SawyerError(f"{path} has none of the suffixes that Sawyer reads and writes: {', '.join(SUFFIXES)}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
