"""`sawyer generate`: completions of the prompts in a file, by a local or a remote model, in a file.

    OUT                    one row a prompt: its row number, the prompt, what `attributes` were asked for, and
                           `samples` (text, tokens, log-probs)
    .OUT.work/FINGERPRINT  while it runs: finished chunks of a local model, the answers of an endpoint

A killed generation is continued from these. They lie under a fingerprint of everything that the completions depend on,
so that those of other prompts or options are not taken for ours. The folder goes when the output is written, but stays
where completions failed that may be had another time: the same request with `overwrite` then asks for those alone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.apps.engines import feedback, local_engine, remote_engine
from sawyer.apps.request import Request, check, fingerprint
from sawyer.apps.work import Shown, work_folder
from sawyer.data.files import write_rows
from sawyer.data.prompts import PromptFile, read_prompts
from sawyer.errors import SawyerError
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.progress import Voice, duration
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine

if TYPE_CHECKING:
    from sawyer.feedback.protocol import Feedback
    from sawyer.rollout.api_ledger import Ledger

__all__ = ["Failure", "Request", "failure_lines", "generate", "summary_line"]


@dataclass(frozen=True)
class Failure:
    """A prompt, or one sample of it, that has no completion."""

    row: int
    reason: str
    sample: int | None = None
    """Counted from 0; None for the whole row."""
    again: bool = False
    """Whether it may be had another time."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON; what does not apply is left out."""
        said = {"row": self.row, "sample": self.sample, "reason": self.reason, "again": self.again or None}
        return {name: value for name, value in said.items() if value is not None}


def generate(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Answer the prompts of a file, or continue to, and write the output at the end.

    Returns:
        What was done: counts, speed, `failed` (row, sample and reason of each missing completion, and whether it may be
        had `again`), and of a remote model its `ledger`.

    Raises:
        SawyerError: the request cannot be met, or not one completion could be had; nothing is written then, and
            what was generated is kept for the same request.
    """
    voice = voice or Voice()
    check(request)
    prompts = read_prompts(request.prompts, system=request.system)
    journal = Shown(voice)
    with (
        disk_errors(request.out.parent),
        work_folder(request.out, fingerprint(request, prompts), "generating into") as work,
    ):
        choice = feedback(request.by, request, prompts) if request.by is not None else None
        began = time.monotonic()
        ledger: Ledger | None = None
        try:
            if request.api is not None:
                remote = remote_engine(request, work)
                ledger = remote.ledger
                completions = _ask(_best_of(remote, request, choice), ledger, request, prompts, journal)
            else:
                engine, chunk = local_engine(request, voice)
                began = time.monotonic()
                completions = generate_resumably(
                    _best_of(engine, request, choice),
                    prompts.prompts,
                    request.sampling,
                    request.n,
                    seed=request.seed,
                    folder=work / "chunks",
                    journal=journal,
                    title=Path(request.model).name,
                    completions_per_chunk=chunk // request.candidates,
                    keep_failed=True,
                )
        except SawyerError as error:
            if not any(work.rglob("*.json")):
                raise
            raise SawyerError(f"{error} (what is answered is kept: run the same command again to go on)") from error
        finally:
            if ledger is not None and ledger.used:
                voice.say(str(ledger))
        seconds = time.monotonic() - began
        failed = _failures(prompts, completions)
        rows = _rows(prompts, completions, request)
        if not rows:
            shutil.rmtree(work.parent)
            first = failed[0]
            raise SawyerError(
                f"not one prompt of {request.prompts} could be answered; the first is row {first.row}: {first.reason}"
            )
        write_rows(request.out, rows)
        if not any(failure.again for failure in failed):
            shutil.rmtree(work.parent)
    return _summary(request, prompts, completions, failed, ledger, seconds, journal.tokens_per_second)


def _best_of(engine: Engine, request: Request, choice: Feedback | None) -> Engine:
    """The engine itself, or one that gives the best of several of its completions."""
    if choice is None:
        return engine
    from sawyer.methods.best_of import BestOfEngine

    return BestOfEngine(engine, choice, request.candidates)


def _ask(
    engine: Engine, ledger: Ledger, request: Request, prompts: PromptFile, journal: Shown
) -> list[list[Completion]]:
    """A remote model's completions, all in one call: each answer is kept as it comes, so there are no chunks, at
    whose ends all would wait for the slowest."""
    total = len(prompts.prompts) * request.n * request.candidates
    with journal.progress(total, Path(request.model).name, unit="completion") as bar:
        began, tokens, done = time.perf_counter(), 0, 0

        def count(new: int) -> None:
            nonlocal tokens, done
            tokens, before = tokens + new, done
            done = ledger.answers + ledger.cached + ledger.failed
            speed = {"tokens_per_second": tokens / (time.perf_counter() - began)} if tokens else {}
            bar.advance(done - before, **speed)

        completions = engine.generate(
            prompts.prompts, request.sampling, request.n, seed=request.seed, progress=count, keep_failed=True
        )
        bar.advance(total - done)  # empty and repeated prompts
    return completions


# --- results ----------------------------------------------------------------------------------------------------------


def _rows(prompts: PromptFile, completions: Sequence[Sequence[Completion]], request: Request) -> list[dict[str, Any]]:
    """What is written: a row for each prompt that has an answer, with the samples it has."""
    rows = []
    asked = {} if request.attributes is None else {"attributes": dict(request.attributes)}
    for number, prompt, own in zip(prompts.rows, prompts.prompts, completions, strict=True):
        samples = [completion.row() for completion in own if completion.error is None]
        if samples:
            rows.append({"row": number, **prompt.row(), **asked, "samples": samples})
    return rows


def _failures(prompts: PromptFile, completions: Sequence[Sequence[Completion]]) -> list[Failure]:
    """Everything that is missing from the output, in the order of the rows."""
    failures = [Failure(number, problem) for number, problem in prompts.problems]
    for number, own in zip(prompts.rows, completions, strict=True):
        errors = [completion.error for completion in own]
        if errors[0] is not None and len(set(errors)) == 1:
            failures.append(Failure(number, errors[0], again=any(completion.again for completion in own)))
        else:
            failures += [Failure(number, c.error, k, c.again) for k, c in enumerate(own) if c.error is not None]
    return sorted(failures, key=lambda failure: failure.row)


def failure_lines(failed: Sequence[dict[str, Any]]) -> list[str]:
    """The failures for people: a line for each reason, with all its rows; and what can be done about them."""
    rows: dict[str, list[str]] = {}
    for failure in failed:
        sample = f" (sample {failure['sample']})" if "sample" in failure else ""
        rows.setdefault(failure["reason"], []).append(f"{failure['row']}{sample}")
    lines = [f"row{'s' if len(own) > 1 else ''} {', '.join(own)}: {reason}" for reason, own in rows.items()]
    if (again := sum(failure.get("again", False) for failure in failed)) > 0:
        lines.append(
            f"{again} of these may be had another time: run the same command again with --overwrite; what is answered "
            "is kept"
        )
    return lines


def _summary(
    request: Request,
    prompts: PromptFile,
    completions: Sequence[Sequence[Completion]],
    failed: Sequence[Failure],
    ledger: Ledger | None,
    seconds: float,
    tokens_per_second: float | None,
) -> dict[str, Any]:
    kept = [completion for own in completions for completion in own if completion.error is None]
    tokens = [len(completion.ids) for completion in kept]
    return {
        "out": os.fspath(request.out),
        "model": request.model,
        "prompts": len(prompts.prompts) + len(prompts.problems),
        "completions": len(kept),
        "finished": sum(completion.finished for completion in kept) / len(kept),
        "tokens": sum(tokens) if ledger is None else None,
        "seconds": round(seconds, 3),
        "tokens_per_second": tokens_per_second,
        "failed": [failure.as_dict() for failure in failed],
        "ledger": None if ledger is None else ledger.as_dict(),
    }


def summary_line(summary: dict[str, Any]) -> str:
    """`120 completions of 30 prompts in 12 s (310 tokens/s): answers.jsonl`"""
    rate = summary["tokens_per_second"]
    speed = f" ({rate:.0f} tokens/s)" if rate else ""
    counts = f"{summary['completions']:,} completions of {summary['prompts']:,} prompts"
    return f"{counts} in {duration(summary['seconds'])}{speed}: {summary['out']}"
