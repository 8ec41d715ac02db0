"""A stage's surroundings without a run: data, models, and a place for its artifact."""

import shutil
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


@pytest.fixture(scope="session")
def reward_files(tmp_path_factory, policy_files):
    """The folder of a tiny reward model, which no test may change."""
    source = str(policy_files("llama", 3))
    model = load_sequence_classifier(source, fresh_head=True, seed=1)
    return save_model(model, load_tokenizer(source), tmp_path_factory.mktemp("rewards") / "reward")


@pytest.fixture
def reward(tmp_path, reward_files):
    """The folder of a tiny reward model, the test's own."""
    return str(shutil.copytree(reward_files, tmp_path / "reward"))


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
