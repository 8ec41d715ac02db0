"""`sawyer generate` in a folder of its own, with a tiny model or a server on this machine."""

from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import raw_rows
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.conftest import serve

__all__ = ["serve"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("What is a river?\nWhat is a town?\nWhat is a bridge?\n")


@pytest.fixture
def generate(command):
    """Runs `sawyer generate ...`; returns exit code, stdout and stderr."""
    return partial(command, "generate")


@pytest.fixture
def local(generate, saved_policy, capsys):
    """`local(*options)`: three prompts answered by a tiny model."""
    model = saved_policy("llama")
    capsys.readouterr()  # a progress bar of transformers

    def call(*options, prompts="p.txt", out="a.jsonl"):
        return generate("--model", model, "--prompts", prompts, "--out", out, "--max-tokens", 6, *options)

    return call


@pytest.fixture
def remote(generate):
    """`remote(server, *options)`: the three prompts answered by a server, each asked once."""

    def call(server, *options, prompts="p.txt", out="a.jsonl"):
        where = ("--endpoint", server.url, "--model", "m", "--retries", 0)
        return generate(*where, "--prompts", prompts, "--out", out, *options)

    return call


def rows(file="a.jsonl"):
    return [row.value for row in raw_rows(file)]


def leftovers():
    return [path.name for path in Path().iterdir() if path.name.startswith(".")]


def stopping_after(calls, monkeypatch):
    """Lets the engine generate so many chunks, and then no more. Returns the prompts of each."""
    original, made = TorchEngine.generate, []

    def generate(self, *arguments, **options):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append([prompt.text for prompt in arguments[0]])
        return original(self, *arguments, **options)

    monkeypatch.setattr(TorchEngine, "generate", generate)
    return made
