"""AI feedback by the command line: a judge behind a real endpoint, killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sawyer.data.files import read_records
from tests.rollout.chat_server import KEY, ChatServer, completion

ROOT = Path(__file__).parents[2]
AT_ONCE = 3


def verdict(request):
    """The longer an answer, the better it is; what it says of itself is none of our business."""
    answer = request["messages"][-1]["content"].split("[begin of answer]\n")[1].split("\n[end of answer]")[0]
    return completion(f"It has {len(answer)} letters.\nScore: {1 + len(answer) % 5}")


@pytest.fixture
def server():
    running = ChatServer(verdict, delay=0.05)
    yield running
    running.stop()


@pytest.fixture
def recipe(tmp_path, saved_policy, server):
    answers = {"stage": "generate", "data": "prompts", "n": 2, "sampling": {"max_tokens": 12}}
    stages = {
        "prompts": {"stage": "data", "parts": {"train": {"source": "verifiable", "split": "train", "n": 6}}},
        "one": {**answers, "model": "base"},
        "other": {**answers, "model": "second"},
        "labels": {
            "stage": "label", "data": ["one", "other"], "by": "judge", "form": "best_random",
            "judge": {"remote": "wise", "api": {"endpoint": server.url, "concurrency": AT_ONCE}},
            "aspects": {"helpfulness": 1, "honesty": 1},
        },
    }  # fmt: skip
    file = tmp_path / "feedback.yaml"
    models = {"second": saved_policy("llama", 1)}
    whole = {"name": "feedback", "model": saved_policy("llama", 0), "models": models, "stages": stages}
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    return file


def test_a_killed_judge_loses_nothing_and_is_paid_once(recipe, server, tmp_path):
    command = [sys.executable, "-m", "sawyer", "run", str(recipe), "--out", "run"]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": KEY}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while len(server.requests) < 15 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # what is under way gets its answer, to which nobody listens any more
    before = len(server.requests)
    kept = [
        json.loads(file.read_text())["question"]["request"]
        for file in (tmp_path / "run" / ".work" / "labels" / "scratch" / "judged").glob("*/*.json")
    ]
    assert len(kept) >= before - AT_ONCE - 1

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    again = [shown(request) for request in server.requests[before:]]
    assert not {shown(request) for request in kept} & set(again)
    assert len(again) == len(set(again))

    records = read_records(tmp_path / "run" / "labels" / "train.jsonl")
    assert records
    for record in records:
        assert [1 + len(text) % 5 for text in record.completions] == list(record.scores)
        assert set(record.info["models"]) <= {"base", "second"}
        assert record.info["labelled_by"] == "wise"
    figures = json.loads((tmp_path / "run" / "labels" / "manifest.json").read_text())["figures"]
    asked = {shown(request) for request in server.requests}
    assert figures["train_unread"] == 0
    assert len(server.requests) <= len(asked) + AT_ONCE


def shown(request):
    return request["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"judge": {"model": "nobody"}}, "nobody"),
        ({"by": "file"}, "`by: file` needs `labels`"),
        ({"by": "file", "labels": "none.csv"}, "none.csv"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(command, recipe, tmp_path, change, sentence):
    whole = yaml.safe_load(recipe.read_text())
    labels = {**whole["stages"]["labels"], **change}
    if change.get("by") == "file":
        labels = {name: value for name, value in labels.items() if name not in ("judge", "aspects")}
    whole["stages"]["labels"] = labels
    recipe.write_text(yaml.safe_dump(whole, sort_keys=False))
    code, _, err = command("run", recipe, "--check")
    assert code == 2
    assert sentence in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
