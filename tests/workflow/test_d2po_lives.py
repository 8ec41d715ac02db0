"""Stage `d2po`: labels are paid for once, whenever it is killed, and two processes end where one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sawyer.pipeline.metrics import MetricsLog
from sawyer.pipeline.stages import _d2po
from sawyer.train import loop
from tests.lives import ENVIRONMENT, Killed, in_two_processes, places, read_lines
from tests.workflow import d2po_stage
from tests.workflow.d2po_stage import ADAPTED, ASKED, DISCRIMINATOR, FROZEN, OAIF, SMALL, same


@pytest.fixture
def run(context, updates):
    return d2po_stage.runner(context, updates)


@pytest.fixture
def asked(monkeypatch):
    return d2po_stage.watched_gold(monkeypatch)


@pytest.mark.parametrize(
    ("settings", "precision"),
    [(SMALL, "fp32"), (ADAPTED, "bf16"), (FROZEN, "fp32"), (OAIF, "fp32")],
    ids=["all", "lora-bf16", "frozen", "oaif"],
)
def test_killed_in_any_update_it_goes_on_to_the_same_bits(
    settings, precision, run, context, tmp_path, asked, monkeypatch
):
    settings = {**settings, "watch_gold": False}
    whole = replace(context(ASKED), precision=precision)
    run(whole, settings)
    paid = len(asked)
    step = _d2po.Rounds.step
    for every, dies in ((1, 1), (2, 3)):
        asked.clear()

        def dying(self, index, dies=dies):
            made = step(self, index)  # its labels have been paid for
            if index == dies:
                raise Killed
            return made

        here = replace(whole, **places(tmp_path, f"killed-{dies}"))
        with monkeypatch.context() as patch:
            patch.setattr(_d2po.Rounds, "step", dying)
            with pytest.raises(Killed):
                run(replace(here), settings, checkpoint_every=every)
        again = replace(here)
        run(again, settings, checkpoint_every=every)
        assert len(asked) == paid
        same(again, whole)


@pytest.mark.parametrize(
    ("method", "moment"),
    [*((SMALL, moment) for moment in ("paid", "fitting", "logged", "kept")), (FROZEN, "fitting")],
    ids=["paid", "fitting", "logged", "kept", "frozen-fitting"],
)
def test_killed_before_the_first_update(method, moment, run, tmp_path, asked, monkeypatch):
    settings = {**method, "watch_gold": False}
    whole, _, _ = run(None, settings)
    paid = len(asked)
    asked.clear()

    def kill(original, when=lambda *args: True, before=False):
        def dying(*args, **more):
            if before and when(*args):
                raise Killed
            made = original(*args, **more)
            if when(*args):
                raise Killed
            return made

        return dying

    here = replace(whole, **places(tmp_path, "killed"))
    with monkeypatch.context() as patch:
        if moment == "paid":  # the ledger is on the disk, and nobody knows yet
            of_ledger = lambda self, *rows: self.path.name == _d2po.LEDGER
            patch.setattr(MetricsLog, "append", kill(MetricsLog.append, of_ledger))
        elif moment == "fitting":
            original = loop.Checkpoints.after
            patch.setattr(loop.Checkpoints, "SECONDS", -1.0)
            patch.setattr(loop.Checkpoints, "after", kill(original))
        elif moment == "logged":
            patch.setattr(_d2po.os, "replace", kill(os.replace, lambda a, b: Path(b).name == "first.safetensors", True))
        else:
            patch.setattr(_d2po.Rounds, "step", kill(_d2po.Rounds.step, before=True))
        with pytest.raises(Killed):
            run(replace(here), settings)
    again = replace(here)
    run(again, settings)
    assert len(asked) == paid
    same(again, whole)


def recipe(file: Path, model: str, **changes) -> Path:
    source = {"source": "verifiable", "seed": 3, "n": 24}
    parts = {part: {**source, "split": part} for part in ("train", "test")}
    settings = {**{name: value for name, value in SMALL.items() if name != "part"}, **changes}
    stages = {"prompts": {"stage": "data", "parts": parts}, "d2po": settings}
    file.write_text(yaml.safe_dump({"name": "tiny", "model": model, "stages": stages}, sort_keys=False))
    return file


@pytest.mark.slow
def test_kill_9_at_random_moments(saved_policy, tmp_path):
    file = recipe(tmp_path / "tiny.yaml", saved_policy("llama"), steps=30, budget=60)
    command = [sys.executable, "-m", "sawyer", "run", str(file), "--out"]
    subprocess.run([*command, "whole"], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "broken"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        begun = tmp_path / "broken/.work/d2po/state.json"
        while not begun.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0.3, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "broken"], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    hashes = [
        json.loads((tmp_path / run / "d2po/manifest.json").read_text())["content"]["sha256"]
        for run in ("whole", "broken")
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_two_processes_end_where_one_does(saved_policy, tmp_path):
    slowly = {"learning_rate": 1e-3, "discriminator": {**DISCRIMINATOR, "learning_rate": 1e-3}}
    file = recipe(tmp_path / "tiny.yaml", saved_policy("llama"), token_budget=256, **slowly)
    command = ["-m", "sawyer", "run", str(file), "--out"]
    one = [sys.executable, *command, "one"]
    subprocess.run(one, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    in_two_processes([*command, "two"], tmp_path)
    for name in ("model.safetensors", "discriminator/model.safetensors"):
        a, b = (load_file(tmp_path / run / "d2po" / name) for run in ("one", "two"))
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)
    bought = [read_lines(tmp_path / run / "d2po/ledger.jsonl") for run in ("one", "two")]
    assert [row["completions"] for row in bought[0]] == [row["completions"] for row in bought[1]]
