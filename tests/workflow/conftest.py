"""A stage's surroundings without a run: data, models, and a place for its artifact."""

from io import StringIO
from pathlib import Path

import pytest

from sawyer.data.files import write_records
from sawyer.data.records import Prompt, user
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.progress import Voice
from sawyer.train import loop
from sawyer.trees.model import TreePolicy


@pytest.fixture
def context(tmp_path, saved_policy):
    """Of a stage after `prompts`, with the models `base` and `sft`."""

    def make(prompts: list[str], **models: str) -> Context:
        for name in ("data", "folder", "scratch"):
            (tmp_path / name).mkdir()
        write_records(tmp_path / "data" / "test.jsonl", [Prompt((user(text),)) for text in prompts])
        policy = saved_policy("llama", 1)
        return Context(
            "stage",
            tmp_path / "folder",
            tmp_path / "scratch",
            seed=5,
            artifacts={
                "prompts": Artifact(tmp_path / "data", {"name": "prompts", "figures": {}}),
                "sft": Artifact(Path(policy), {"name": "sft", "figures": {}, "recipe_seed": 7}),
            },
            models={"base": saved_policy("llama", 0), **models},
            voice=Voice(StringIO()),
        )

    return make


@pytest.fixture
def reward(tmp_path, saved_policy):
    source = saved_policy("llama", 3)
    model = load_sequence_classifier(source, fresh_head=True, seed=1)
    return str(save_model(model, load_tokenizer(source), tmp_path / "reward"))


@pytest.fixture
def updates(monkeypatch):
    """The trees of each update of a policy, as they come."""
    seen = []

    def forward_backward(model, batch, *rest):
        if isinstance(model, TreePolicy):
            seen.append(list(batch))
        return original(model, batch, *rest)

    original = loop.forward_backward
    monkeypatch.setattr(loop, "forward_backward", forward_backward)
    return seen
