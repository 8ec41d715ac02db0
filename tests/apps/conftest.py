"""Commands in a folder of their own, with a tiny model or a server on this machine."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import raw_rows, write_rows
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout.conftest import serve

__all__ = ["serve"]

LONG, SHORT = "A long walk through the old town.", "No."


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("What is a river?\nWhat is a town?\nWhat is a bridge?\n")


@pytest.fixture
def generate(command):
    """Runs `sawyer generate ...`; returns exit code, stdout and stderr."""
    return partial(command, "generate")


@pytest.fixture
def saved_reward(saved_policy, tmp_path):
    """The folder of a tiny reward model; a seed gives another head."""

    def save(seed=1):
        source = saved_policy("llama")
        model = load_sequence_classifier(source, fresh_head=True, seed=seed)
        return str(save_model(model, load_tokenizer(source), tmp_path / f"reward-{seed}"))

    return save


@pytest.fixture
def bench_rows():
    """Seven rows: the longer is right in Chat, the shorter in Safety, and one row is of a subset of one's own."""
    rows = [bench_pair(i) for i in range(3)]
    rows += [bench_pair(i, "donotanswer", SHORT, LONG) for i in range(3)]
    write_rows("bench.jsonl", [*rows, bench_pair(9, "mine")])


@pytest.fixture
def bench(command, bench_rows):
    """`bench(*options)`: the result of `sawyer eval rewardbench`."""

    def call(*options, data="bench.jsonl"):
        code, out, err = command("eval", "rewardbench", "--data", data, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def scored(command):
    """`scored(*options)`: the summary of `sawyer score`, and the rows."""

    def call(*options, data="pairs.jsonl", out="a.jsonl"):
        code, printed, err = command("score", "--data", data, "--out", out, "--json", *options)
        assert code == 0, err
        return json.loads(printed), rows(out)

    return call


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


def bench_pair(number, subset="alpacaeval-easy", chosen=LONG, rejected=SHORT):
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected, "subset": subset, "id": number}


def pairs(n, subject="question"):
    return [{"prompt": f"A {subject} {i}?", "chosen": f"{LONG} {i}", "rejected": SHORT} for i in range(n)]


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
