"""Records on disk: JSONL (plain, gzipped or packed by xz), a JSON list, or parquet, told apart by the file's suffix.

Reading is in two steps, so that any format can use the first one: `raw_rows` finds the rows of a file and says which
ones are broken, `convert_rows` makes records of them, counts what it must drop and why, and refuses a file with too
much of it. Lines end at "\\n" only: `str.splitlines` would also cut at U+2028 and other characters of real text.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

from sawyer.data import parquet
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, Record, from_row
from sawyer.errors import SawyerError, reason

T = TypeVar("T")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".json", ".json.gz", ".parquet")
BESIDE_DATA = ("data.json", "manifest.json", "metrics.jsonl")
"""What Sawyer writes beside the files of data in a folder."""
EXAMPLES_KEPT = 3
WRONG_TYPE = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
"""What reading a field raises where somebody put something else into it."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNPACK: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
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
        for why, count in other.dropped.items():
            self.dropped[why] = self.dropped.get(why, 0) + count
            examples = self.examples.setdefault(why, [])
            examples.extend(other.examples.get(why, [])[: EXAMPLES_KEPT - len(examples)])

    def as_dict(self) -> dict[str, Any]:
        found = {"revisions": dict(self.revisions)} if self.revisions else {}
        return {"kept": self.kept, "dropped": dict(self.dropped), "examples": dict(self.examples), **found}

    def __str__(self) -> str:
        dropped = [
            f"{count} {why}" + (f" ({', '.join(self.examples[why])})" if why in self.examples else "")
            for why, count in sorted(self.dropped.items())
        ]
        return f"{self.kept} of {self.rows} rows kept" + (f"; dropped: {'; '.join(dropped)}" if dropped else "")


def data_files(folder: Path, suffixes: Sequence[str] = SUFFIXES, of: str = "data") -> list[Path]:
    """The files below a folder that hold data, in order, without hidden ones and those that Sawyer writes beside data.

    Raises:
        SawyerError: there is none.
    """
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name.endswith(tuple(suffixes))]
    found = [file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    found = [file for file in found if file.name not in BESIDE_DATA]
    if not found:
        raise SawyerError(f"{folder} holds no file of {of} ({', '.join(suffixes)}); give the folder that does")
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
    return convert_rows(path, iter_rows(path), convert, kind=kind, max_bad=max_bad)


def convert_rows(
    name: str | Path,
    rows: Iterable[RawRow],
    convert: Callable[[Mapping[str, Any]], Record],
    *,
    kind: type[Record] | None = None,
    max_bad: float = 0.05,
) -> tuple[list[Record], LoadReport]:
    """Make records of raw rows; `name` is what errors and the report call the file (or the set on the hub)."""
    outcomes = [(row.number, record_or_problem(row, convert)) for row in rows]
    kinds = Counter(type(outcome) for _, outcome in outcomes if not isinstance(outcome, str))
    kind = kind or (kinds.most_common(1)[0][0] if kinds else None)
    records: list[Record] = []
    report = LoadReport()
    first_bad = ""
    for number, outcome in outcomes:
        if kind is not None and isinstance(outcome, kind):
            records.append(outcome)
            continue
        problem = outcome if isinstance(outcome, str) else f"the row is {_NAMES[type(outcome)]}, not {_NAMES[kind]}"
        report.drop(problem, f"{Path(name).name}:{number}")
        first_bad = first_bad or f"the first is row {number}: {problem}"
    report.kept = len(records)
    if not outcomes:
        raise SawyerError(f"{name} has no rows; give a file with at least one record")
    if not records:
        raise SawyerError(f"{name} has no usable row among {len(outcomes)}; {first_bad}")
    bad = len(outcomes) - len(records)
    if bad > max_bad * len(outcomes):
        raise SawyerError(
            f"{name}: {bad} of {len(outcomes)} rows cannot be used, more than the share of {max_bad:g} allowed; "
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
    except WRONG_TYPE as error:
        return f"a field has the wrong type ({type(error).__name__})"


def raw_rows(path: str | Path) -> list[RawRow]:
    """The rows of a file, broken ones with their problem.

    Raises:
        SawyerError: the file is missing, empty, cut off in the middle, or of no known type.
    """
    return list(iter_rows(path))


def iter_rows(path: str | Path) -> Iterator[RawRow]:
    """As `raw_rows`, one by one: of JSONL and parquet, only a little is in memory at a time.

    Raises:
        SawyerError: as `raw_rows`, where the reading comes to it.
    """
    path = Path(path)
    if suffix_of(path) == ".parquet":
        yield from (RawRow(number, *row) for number, row in enumerate(parquet.read(path), start=1))
        return
    with _opened(path) as file:
        lines = ((n, line if n > 1 else line.removeprefix(_BYTE_ORDER_MARK)) for n, line in enumerate(file, start=1))
        number, first = next(((number, line) for number, line in lines if line.strip()), (0, b""))
        if not number:
            raise SawyerError(f"{path} is empty; give a file with at least one record")
        # Many a `.json` on the hub is JSONL, and a list starts with a bracket, which no row does.
        if first.lstrip()[:1] == b"[":
            yield from _json_rows(path, b"\n" * (number - 1) + first + file.read())
        else:
            yield from _jsonl_rows(path, chain([(number, first)], lines))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is packed; what is wrong with it is a sentence, whenever it is met."""
    if path.is_dir():
        raise SawyerError(f"{path} is a folder; give one of the files in it")
    try:
        with _UNPACK.get(path.suffix, open)(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise SawyerError(f"there is no file {path}; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError):
        raise SawyerError(
            f"{path} is not a whole {path.suffix[1:]} file, it was probably cut off in copying; fetch it again"
        ) from None
    except OSError as error:
        raise SawyerError(f"{path} cannot be read: {error.strerror or error}") from None


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked if it is packed, without a byte order mark.

    Raises:
        SawyerError: the file is missing, a folder, cut off or not readable.
    """
    with _opened(path) as file:
        return file.read().removeprefix(_BYTE_ORDER_MARK)


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as the suffix says. See `write_rows`."""
    write_rows(path, (record.row() for record in records))


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as the suffix says, atomically: another process sees the old file or the whole new one.

    JSONL is written row by row, and parquet in parts, so that a collection that makes its rows as it is gone through
    (twice, for parquet) is never held whole; an iterator is, in parquet. There `info` is a column of JSON text, so that
    rows whose `info` differ in shape go into one table.

    Raises:
        SawyerError: no rows, unknown suffix, a value that the suffix has no way to write, or the disk refuses (full,
            read-only); nothing is left half-written.
    """
    path = Path(path)
    suffix = suffix_of(path)
    first = next(iter(rows), None)
    if first is None:
        raise SawyerError(f"there are no records to write to {path}; check what the step before it kept")
    rows = chain([first], rows) if isinstance(rows, Iterator) else rows
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
    except (TypeError, ValueError, RecursionError) as error:
        raise SawyerError(f"a record for {path} holds what cannot be written ({reason(error)}); remove it") from None
    except OSError as error:
        raise SawyerError(
            f"{path} cannot be written: {error.strerror or error}; free space or choose another place"
        ) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _write(file: Any, rows: Iterable[Mapping[str, Any]], suffix: str) -> None:
    if suffix == ".parquet":
        parquet.write(file, rows)
        return
    texts: Iterable[str]
    if suffix.startswith(".jsonl"):
        texts = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    else:
        texts = [json.dumps(list(rows), ensure_ascii=False, allow_nan=False, indent=1) + "\n"]
    with _packed(file, suffix) as out:
        for text in texts:
            out.write(text.encode("utf-8"))


def _packed(file: Any, suffix: str) -> AbstractContextManager[Any]:
    if suffix.endswith(".gz"):
        return gzip.GzipFile("", "wb", fileobj=file, mtime=0)
    if suffix.endswith(".xz"):
        return lzma.LZMAFile(file, "wb")
    return nullcontext(file)


def _jsonl_rows(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[RawRow]:
    for number, line in lines:
        if not line.strip():
            continue
        value, problem = _parse(line)
        if problem is not None and not line.endswith(b"\n"):  # the last line; that of a whole file ends
            raise SawyerError(
                f"{path} ends in the middle of line {number}; it was probably cut off in copying, fetch it again"
            )
        yield RawRow(number, value, problem)


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
