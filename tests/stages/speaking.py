"""Stages that ask language models, with engines whose answers a test writes."""

from __future__ import annotations

import os

from sawyer.data.files import write_records
from sawyer.pipeline.context import Artifact, Context
from sawyer.rollout.protocol import Completion


class Scripted:
    """An engine that answers by a function of the model's name, the prompt record and the sample number.

    `calls` counts completions; with `dies_after` the engine breaks down after so many, as a killed process would.
    """

    def __init__(self, answer, dies_after=None):
        self.answer, self.dies_after, self.calls, self.prompts = answer, dies_after, 0, []
        self.place = None

    def of(self, place):
        """The engine of a model; of one that is a folder, a real one."""
        if os.path.isdir(place):
            from sawyer.data.chat import ChatFormat
            from sawyer.models.load import load_policy, load_tokenizer
            from sawyer.rollout.torch_engine import TorchEngine

            return TorchEngine(load_policy(place), ChatFormat(load_tokenizer(place), default="plain"))
        self.place = place
        return self

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        made = []
        for prompt in prompts:
            if self.dies_after is not None and self.calls >= self.dies_after:
                raise KeyboardInterrupt
            self.calls += n
            self.prompts.append(prompt)
            made.append([_completion(self.answer(self.place, prompt, k)) for k in range(n)])
        return made


def _completion(said):
    return said if isinstance(said, Completion) else Completion((1,), (0.0,), said, True)


def run_with(stage, engine, monkeypatch, place, data=None, /, *, models=None, **settings):
    """Run a stage in `place` with a scripted engine for all local models; returns the artifact and the figures."""
    monkeypatch.setattr("sawyer.pipeline.stages._speakers.Engines", lambda context, settings: engine)
    artifacts = {}
    for name, content in (data or {}).items():
        if isinstance(content, Artifact):
            artifacts[name] = content
            continue
        folder = place / "data" / name
        for part, records in content.items():
            write_records(folder / f"{part}.jsonl", records)
        artifacts[name] = Artifact(folder, {"name": name, "makes": "data"})
    out, scratch = place / "out", place / "scratch"
    for folder in (out, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    models = {"base": "base", "other": "other", **(models or {})}
    context = Context("stage", out, scratch, seed=1, artifacts=artifacts, models=models)
    figures = stage.run(stage.settings(**settings), context)
    context.close()
    return Artifact(out, {"name": "stage", "makes": "data", "figures": figures}), figures
