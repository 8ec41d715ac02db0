"""A stage run by itself, on records that the test writes."""

from collections.abc import Callable, Sequence

import pytest

from sawyer.data.files import write_records
from sawyer.data.records import Comparison, user
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.stage import Stage

WORDS = ("river", "bridge", "town", "glacier", "word", "light", "day", "answer")


@pytest.fixture
def run_stage(tmp_path) -> Callable[..., tuple]:
    """`run_stage(stage, model, {"data": {"train": records}}, **settings)`: the artifact's folder and the figures."""
    runs = []

    def run(stage: Stage, model: str, data: dict[str, dict[str, Sequence]], /, *, precision: str = "fp32", **settings):
        here = tmp_path / f"run-{len(runs)}"
        runs.append(here)
        artifacts = {}
        for name, parts in data.items():
            folder = here / name
            folder.mkdir(parents=True)
            for part, records in parts.items():
                write_records(folder / f"{part}.jsonl", records)
            artifacts[name] = Artifact(folder, {"name": name, "makes": "data"})
        out, scratch = here / "out", here / "scratch"
        out.mkdir(parents=True)
        scratch.mkdir()
        models = {"base": model}
        context = Context("stage", out, scratch, seed=1, precision=precision, artifacts=artifacts, models=models)
        figures = stage.run(stage.settings(model="base", **settings), context)
        context.close()
        return out, figures

    return run


@pytest.fixture(scope="session")
def pairs() -> Callable[..., list[Comparison]]:
    """`pairs(n)`: n pairs in which the polite answer is chosen, with scores unless `scored=False`."""

    def build(n: int = 16, first: int = 0, scored: bool = True) -> list[Comparison]:
        made = []
        for i in range(first, first + n):
            asked = (user(f"What is a {WORDS[i % 8]}? Number {i}."),)
            good = f"It is well {'and so ' * (i % 3)}thank you."
            bad = f"No no {'no ' * (i % 4)}at all"
            made.append(Comparison(asked, (good, bad), (2.0 + i % 3, 1.0) if scored else None))
        return made

    return build
