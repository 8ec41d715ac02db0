"""Generating a lot of completions so that nothing is lost: prompts in chunks, each chunk a file written at once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from sawyer.atomic import write_atomically
from sawyer.data.records import Prompt
from sawyer.journal import Journal
from sawyer.rollout.protocol import Completion, Engine, Sampling

CHUNK = 1024


def generate_resumably(
    engine: Engine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    n: int,
    *,
    seed: int,
    folder: Path,
    journal: Journal,
    title: str,
    chunk: int = CHUNK,
    keep_failed: bool = False,
) -> list[list[Completion]]:
    """`n` completions of each prompt; chunks of prompts already in `folder` are read instead of generated again.

    Args:
        chunk: about how many completions are written at a time, and at most lost to a kill. An engine fills its batch
            anew for each chunk, so small ones are slow.

    What shares a chunk does not depend on when the work was interrupted, so an interrupted and continued generation
    equals an uninterrupted one to the bit, in bf16 too. `keep_failed` is that of `Engine.generate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: list[list[Completion]] = []
    stride = max(1, chunk // n)
    for start in range(0, len(prompts), stride):
        file = folder / f"{start:08d}.json"
        if not file.exists():
            break
        done.extend([[Completion.from_row(row) for row in rows] for rows in json.loads(file.read_text())])
    total = len(prompts) * n
    with journal.progress(total, title, unit="completion", start=len(done) * n) as bar:
        began, tokens = time.perf_counter(), 0

        def count(new: int) -> None:
            nonlocal tokens
            tokens += new
            bar.advance(0, tokens_per_second=tokens / (time.perf_counter() - began))

        for start in range(len(done), len(prompts), stride):
            part = engine.generate(
                prompts[start : start + stride], sampling, n, seed=seed, progress=count, keep_failed=keep_failed
            )
            done.extend(part)
            rows = [[completion.row() for completion in completions] for completions in part]
            write_atomically(folder / f"{start:08d}.json", json.dumps(rows))
            bar.advance(sum(len(completions) for completions in part))
    return done
