"""Stage `d2po`: gold labels are bought as the schedule says, once each, whatever is killed when."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.errors import SawyerError
from sawyer.feedback.reward_model import RewardModel
from sawyer.feedback.rules_text import TextRule
from sawyer.models.load import load_policy
from sawyer.pipeline.metrics import MetricsLog
from sawyer.pipeline.stages import _d2po, d2po, evaluate
from sawyer.train import checkpoints, loop
from sawyer.train.discriminator import Discriminator
from sawyer.train.preference import REFERENCE
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees

ROOT = Path(__file__).parents[2]
ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day", "glacier")]
COMMON = {
    "model": "base", "data": "prompts", "part": "test", "gold": "token_density", "budget": 9, "steps": 4,
    "batch_size": 4, "sampling": {"max_tokens": 40, "min_tokens": 40}, "learning_rate": 1e-2, "checkpoint_every": 1,
}  # fmt: skip
DISCRIMINATOR = {"learning_rate": 1e-2, "first_epochs": 3}
SMALL = {**COMMON, "labels": 3, "label_every": 2, "first_labels": 3, "discriminator": DISCRIMINATOR}
FROZEN = {**COMMON, "method": "frozen", "discriminator": DISCRIMINATOR}
OAIF = {**COMMON, "method": "oaif"}
ADAPTERS = {"r": 2, "dropout": 0.1}
ADAPTED = {**SMALL, "lora": ADAPTERS, "discriminator": {**DISCRIMINATOR, "lora": ADAPTERS}}


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture
def run(context, monkeypatch):
    """`run(stage=None, base=SMALL, **settings)`: the stage, the trees of each update of the policy, and the figures."""
    seen = []

    def forward_backward(model, batch, *rest):
        if isinstance(model, TreePolicy):
            seen.append(list(batch))
        return original(model, batch, *rest)

    original = loop.forward_backward
    monkeypatch.setattr(loop, "forward_backward", forward_backward)

    def call(stage=None, base=SMALL, /, **settings):
        stage = stage or context(ASKED)
        seen.clear()
        figures = d2po.run(d2po.Settings(**{**base, **settings}), stage)
        return stage, list(seen), figures

    return call


@pytest.fixture
def asked(monkeypatch):
    """The pairs that the gold reward was asked about."""
    sold = []
    score = TextRule.score

    def watched(self, prompts, texts):
        sold.extend((prompt.text, tuple(own)) for prompt, own in zip(prompts, texts, strict=True))
        return score(self, prompts, texts)

    monkeypatch.setattr(TextRule, "score", watched)
    return sold


@pytest.fixture
def fits(monkeypatch):
    """How many pairs each fit of the discriminator had."""
    counts = []
    fit = Discriminator.fit

    def watched(self, pairs, *rest, **more):
        counts.append(len(pairs))
        return fit(self, pairs, *rest, **more)

    monkeypatch.setattr(Discriminator, "fit", watched)
    return counts


def lines(file):
    return [json.loads(line) for line in file.read_text().split("\n") if line]  # a text may hold other line ends


def logged(stage):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in lines(stage.folder / "metrics.jsonl")]


def ledger(stage):
    return lines(stage.folder / "ledger.jsonl")


def bits(stage):
    """All weights that the stage made."""
    return {
        f"{file.relative_to(stage.folder)} {name}": tensor
        for file in sorted(stage.folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one, other):
    """The same weights, labels and figures."""
    a, b = bits(one), bits(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert ledger(one) == ledger(other)
    assert logged(one) == logged(other)


@pytest.fixture
def elsewhere(tmp_path):
    """`elsewhere(stage)`: another place for the same stage."""
    places = []

    def make(stage):
        places.append(len(places))
        folders = {name: tmp_path / f"{name}-{len(places)}" for name in ("folder", "scratch")}
        for folder in folders.values():
            folder.mkdir()
        return replace(stage, **folders)

    return make


# --- what it does -----------------------------------------------------------------------------------------------------


def test_labels_are_bought_in_cycles_and_the_discriminator_learns_from_them(run, fits):
    stage, updates, figures = run()
    first, *rows = logged(stage)
    assert (first["step"], first["bought"], first["gold_labels"]) == (0, 3, 3)
    assert [row["bought"] for row in rows] == [3, 0, 3, 0]
    assert [row["gold_labels"] for row in rows] == [6, 6, 9, 9]
    assert ["discriminator_loss" in row for row in rows] == [True, False, True, False]
    assert fits == [3 - first["ties"], 3 - rows[0]["ties"], 3 - rows[2]["ties"]]
    assert all(0 <= row["discriminator_accuracy"] <= 1 for row in rows if row["bought"] > row["ties"])
    assert all(0 <= row["silver_accuracy"] <= 1 for row in rows)
    for name in ("proxy_reward", "gold_reward", "completion_tokens", "finished", "tokens"):
        assert all(name in row for row in rows), name
    assert [row["step"] for row in ledger(stage)] == [0] * 3 + [1] * 3 + [3] * 3
    assert [row["silver"] is None for row in ledger(stage)] == [True] * 3 + [False] * 6
    assert [len(trees) for trees in updates] == [row["pairs"] for row in rows]
    assert (figures["gold_labels"], figures["updates"]) == (9, 4)
    load_policy(str(stage.folder))
    RewardModel(str(stage.folder / "discriminator"))


def test_gold_decides_where_it_was_bought_and_silver_elsewhere(run, monkeypatch):
    calls = []
    trees = _d2po.Rounds.trees

    def watched(self, prompts, answers, pairs, silver):
        made = trees(self, prompts, answers, pairs, silver)
        calls.append((self.gold, prompts, answers, pairs, silver, {label.key for label in self.ledger.labels}, made))
        return made

    monkeypatch.setattr(_d2po.Rounds, "trees", watched)
    run()
    turned = 0
    for gold, prompts, answers, pairs, silver, paid, made in calls:
        expected = []
        for pair in pairs:
            own = [answers[pair.prompt][k] for k in (pair.first, pair.second)]
            scores = [silver[pair.prompt][k] for k in (pair.first, pair.second)]
            if ((("user", prompts[pair.prompt].text),), frozenset(c.text for c in own)) in paid:
                scores = [gold.rule(c.text) for c in own]
            if scores[0] != scores[1]:
                turned += scores[0] < scores[1]
                order = own if scores[0] > scores[1] else own[::-1]
                expected.append([c.ids for c in order])
        assert [list(tree.completions) for tree in made] == expected
    assert turned  # somewhere the discriminator was wrong, and paid for


def test_the_least_sure_pairs_are_bought(run, monkeypatch):
    calls = []
    choose = _d2po.choose

    def watched(margins, count, how, seed):
        chosen = choose(margins, count, how, seed)
        calls.append((margins, chosen, how))
        return chosen

    monkeypatch.setattr(_d2po, "choose", watched)
    run()
    assert [len(chosen) for _, chosen, _ in calls] == [3, 0, 3, 0]
    for margins, chosen, how in calls:
        assert how == "confidence"
        left = [margin for i, margin in enumerate(margins) if i not in chosen]
        assert max((margins[i] for i in chosen), default=0) <= min(left)


def test_labels_at_random_are_others(run, elsewhere):
    stage, _, _ = run()
    other, _, _ = run(elsewhere(stage), selection="random")
    assert [row["step"] for row in ledger(other)] == [row["step"] for row in ledger(stage)]
    assert ledger(other)[:3] == ledger(stage)[:3]
    assert ledger(other) != ledger(stage)


def test_silver_pairs_below_the_margin_are_left_out(run):
    stage, _, _ = run(silver_margin=1e9)
    rows = logged(stage)[1:]
    assert [row["pairs"] for row in rows] == [row["bought"] - row["ties"] for row in rows]


def test_it_may_learn_from_all_labels(run, fits):
    stage, _, _ = run(discriminator={**DISCRIMINATOR, "learn_from": "all"})
    ties = [row["ties"] for row in logged(stage)]
    assert fits == [3 - ties[0], 6 - sum(ties[:2]), 9 - sum(ties)]


def test_more_answers_than_two(run):
    stage, updates, _ = run(n=4)
    assert all(len(tree.completions) == 2 for trees in updates for tree in trees)
    assert len(ledger(stage)) == 9


def test_the_frozen_discriminator_spends_all_on_the_initial_policy(run, fits):
    stage, updates, figures = run(None, FROZEN)
    assert [row["step"] for row in ledger(stage)] == [0] * 9
    assert len(fits) == 1
    assert [row["bought"] for row in logged(stage)] == [9, 0, 0, 0, 0]
    assert len(updates) == 4
    assert figures["gold_labels"] == 9
    assert not any(
        name.startswith(checkpoints.COMPANION) for name in load_file(stage.scratch / "checkpoint/state.safetensors")
    )


def test_oaif_learns_from_gold_alone_until_the_budget_is_used(run, monkeypatch):
    monkeypatch.setattr(_d2po, "discriminator_of", lambda *args: pytest.fail("there is no discriminator"))
    stage, updates, figures = run(None, OAIF)
    rows = logged(stage)
    assert [row["gold_labels"] for row in rows] == [4, 8, 9, 9]
    assert rows[3]["pairs"] == 0
    assert [len(trees) for trees in updates] == [row["bought"] - row["ties"] for row in rows[:3]]
    assert "proxy_reward" not in rows[0]
    assert not (stage.folder / "discriminator").exists()
    assert figures["gold_labels"] == 9


def test_oaif_may_spread_its_labels(run):
    stage, updates, _ = run(None, OAIF, labels=2)
    assert [row["bought"] for row in logged(stage)] == [2, 2, 2, 2]
    assert all(len(trees) <= 2 for trees in updates)


def test_what_is_only_watched_is_not_paid_for(run, elsewhere, asked):
    stage, _, _ = run(watch_gold=False)
    assert [pair for _, pair in asked] == [tuple(row["completions"]) for row in ledger(stage)]
    assert not {"gold_reward", "silver_accuracy"} & logged(stage)[1].keys()
    watched, _, _ = run(elsewhere(stage))
    assert ledger(watched) == ledger(stage)
    assert len(asked) == 9 + 9 + 4 * 4  # and every answer of the updates, by prompt


def test_held_out_prompts_are_answered_on_the_way_and_at_the_end(run, asked):
    stage, _, figures = run(validation="test", validate_every=2, validation_prompts=3, watch_gold=False)
    rows = [row for row in logged(stage) if "validation_gold_reward" in row]
    assert [row["step"] for row in rows] == [3, 4]
    for name in ("gold_reward", "proxy_reward", "tokens"):
        assert figures[f"validation_{name}"] == rows[-1][f"validation_{name}"]
    assert len(asked) == 9 + 2 * 3


@pytest.mark.parametrize("settings", [SMALL, ADAPTED], ids=["all", "lora"])
def test_the_reference_is_the_initial_policy(run, settings):
    stage, updates, _ = run(None, settings)
    first = TreePolicy(load_policy(stage.models["base"])).eval()
    for trees in (updates[0], updates[-1]):
        for tree, logps in zip(trees, score_trees(first, trees), strict=True):
            assert tree.values[REFERENCE] == pytest.approx(logps, abs=1e-4)
    assert logged(stage)[1]["loss"] == pytest.approx(0.693147, abs=1e-4)
    before, after = first.model.state_dict(), load_policy(str(stage.folder)).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_loss_without_reference_needs_none(run):
    _, updates, _ = run(loss="simpo")
    assert all(REFERENCE not in tree.values for trees in updates for tree in trees)


@pytest.mark.parametrize("gold", [{"gold": "verifiable"}, {"gold_model": "reward"}, {"gold_contrast": {}}])
def test_other_sources_of_gold(gold, run, context, reward, saved_policy):
    stage = context(ASKED, reward=reward, strong=saved_policy("llama", 2))
    if "gold" in gold:
        from sawyer.data.files import write_records
        from sawyer.data.verifiable import make_prompts

        write_records(stage.artifacts["prompts"].folder / "test.jsonl", make_prompts(8, "train"))
    if "gold_contrast" in gold:
        gold = {"gold_contrast": {"strong": "strong", "weak": "base"}}
    run(stage, {name: value for name, value in SMALL.items() if name != "gold"}, **gold)
    rows = ledger(stage)
    assert len(rows) == 9
    if "gold_model" in gold:
        (scores,) = RewardModel(reward).score([_prompt(rows[4])], [rows[4]["completions"]])
        assert rows[4]["gold"] == pytest.approx(scores, abs=1e-4)


def _prompt(row):
    from sawyer.data.records import Prompt

    return Prompt(tuple(row["prompt"]))


def test_a_reward_model_is_a_discriminator_that_needs_no_first_labels(run, context, reward, fits):
    stage = context(ASKED, reward=reward)
    settings = {name: value for name, value in SMALL.items() if name != "first_labels"}
    run(stage, settings, discriminator={**DISCRIMINATOR, "model": "reward"})
    assert [row["step"] for row in ledger(stage)] == [1, 1, 1, 3, 3, 3]
    assert len(fits) == 2
    assert "3 of the 9 gold labels were not bought" in stage.voice.stream.getvalue()


# --- nothing is lost to a kill ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "precision"),
    [(SMALL, "fp32"), (SMALL, "bf16"), (ADAPTED, "bf16"), (FROZEN, "fp32"), (OAIF, "fp32")],
    ids=["all", "all-bf16", "lora-bf16", "frozen", "oaif"],
)
def test_killed_in_any_update_it_goes_on_to_the_same_bits(
    settings, precision, run, context, elsewhere, asked, monkeypatch
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

        here = elsewhere(whole)
        with monkeypatch.context() as patch:
            patch.setattr(_d2po.Rounds, "step", dying)
            with pytest.raises(Killed):
                run(replace(here), settings, checkpoint_every=every)
        again = replace(here)
        run(again, settings, checkpoint_every=every)
        assert len(asked) == paid
        same(again, whole)


@pytest.mark.parametrize("method", [SMALL, FROZEN], ids=["d2po", "frozen"])
@pytest.mark.parametrize("moment", ["paid", "fitting", "logged", "kept"])
def test_killed_before_the_first_update(method, moment, run, elsewhere, asked, monkeypatch):
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

    here = elsewhere(whole)
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


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    two = subprocess.run(
        [*launch, *command, "two"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    if "address already in use" in two.stderr.lower():
        pytest.skip("the port for the two processes was taken")
    assert two.returncode == 0, two.stderr[-3000:]
    for name in ("model.safetensors", "discriminator/model.safetensors"):
        a, b = (load_file(tmp_path / run / "d2po" / name) for run in ("one", "two"))
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)
    bought = [lines(tmp_path / run / "d2po/ledger.jsonl") for run in ("one", "two")]
    assert [row["completions"] for row in bought[0]] == [row["completions"] for row in bought[1]]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "settings", "message"),
    [
        (SMALL, {"budget": 2}, "`budget` is 2, fewer gold labels than one cycle buys"),
        (OAIF, {"budget": 3}, "`budget` is 3, fewer gold labels than one cycle buys"),
        (SMALL, {"n": 1}, "greater than or equal to 2"),
        (SMALL, {"labels": 9}, "has 8 pairs and cannot buy labels for 9"),
        (SMALL, {"first_labels": 10}, "more than the `budget` of 9"),
        (SMALL, {"first_labels": 0}, "a fresh head knows nothing"),
        (SMALL, {"gold": None}, "labels have to come from somewhere"),
        (SMALL, {"gold_model": "reward"}, "not more than one of them"),
        (SMALL, {"gold_words": ["a"]}, "`gold: bag_of_words` needs `gold_words`"),
        (SMALL, {"epochs": 2}, "`epochs` has no place here"),
        (SMALL, {"validate_every": 2}, "name a part with `validation`"),
        (SMALL, {"loss": "dno"}, "the loss dno needs pairs, reference, scores"),
        (SMALL, {"loss": "kto"}, "the loss kto needs labelled"),
        (FROZEN, {"labels": 2}, "`method: frozen` has no use for `labels`"),
        (FROZEN, {"discriminator": {"epochs": 2}}, "leave out its `epochs`"),
        (OAIF, {"discriminator": {"epochs": 2}}, "`method: oaif` has no use for `discriminator`"),
        (OAIF, {"selection": "confidence"}, "`method: oaif` has no use for `selection`"),
    ],
)
def test_settings_that_do_not_fit(base, settings, message):
    with pytest.raises(ValidationError, match=message):
        d2po.Settings(**{**base, **settings})


@pytest.mark.parametrize("base", [SMALL, FROZEN, OAIF], ids=["d2po", "frozen", "oaif"])
def test_settings_written_out_are_the_same_settings(base):
    settings = d2po.Settings(**base)
    assert d2po.Settings(**settings.model_dump(mode="json")) == settings


def test_answers_that_are_all_equal_are_one_sentence(run):
    with pytest.raises(SawyerError, match="all completions of every prompt are equal"):
        run(sampling={"max_tokens": 4, "temperature": 0})


def test_gold_that_prefers_nothing_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(TextRule, "score", lambda self, prompts, texts: [[1.0] * len(own) for own in texts])
    with pytest.raises(SawyerError, match="the gold reward is the same for both answers of all 3 pairs"):
        run()


def test_later_answers_that_are_all_equal_change_nothing(run, monkeypatch):
    generate = _d2po.Rounds.generate

    def alike(self, prompts, n, stream):
        answers = generate(self, prompts, n, stream)
        return answers if stream >= _d2po.FIRST else [[own[0]] * n for own in answers]

    monkeypatch.setattr(_d2po.Rounds, "generate", alike)
    stage, updates, _ = run()
    assert updates == []
    assert [row["pairs"] for row in logged(stage)[1:]] == [0.0] * 4


def test_a_discriminator_with_another_tokenizer_is_refused(run, context, saved_policy):
    other = saved_policy("llama", 4)
    file = Path(other) / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(SawyerError, match="has another tokenizer than the policy"):
        run(context(ASKED, other=other), discriminator={"model": "other"})


def test_a_discriminator_that_is_an_encoder_is_refused(run, context, saved_encoder):
    with pytest.raises(SawyerError, match="is another kind of model"):
        run(context(ASKED, other=saved_encoder()), discriminator={"model": "other"})


def test_a_language_model_as_discriminator_needs_first_labels(run, context, saved_policy):
    with pytest.raises(SawyerError, match="give it `first_labels` above 0"):
        run(context(ASKED, other=saved_policy("llama", 4)), first_labels=0, discriminator={"model": "other"})


# --- judged by it -----------------------------------------------------------------------------------------------------


def test_policies_are_evaluated_by_a_rule(context):
    stage = context(ASKED)
    settings = {"policies": ["base", "sft"], "data": "prompts", "n": 2, "sampling": {"max_tokens": 12}}
    evaluate.run(evaluate.Settings(**settings, gold="bag_of_words", gold_words=["a", "e"]), stage)
    rows = lines(stage.folder / "completions.jsonl")
    for row in rows:
        found = {word.lower() for word in row["text"].replace("'", " ").split()}
        assert row["gold"] >= len(found & {"a", "e"})
    evaluation = json.loads((stage.folder / "evaluation.json").read_text())
    assert evaluation["policies"]["sft"]["gold"]["n"] == len(ASKED)


def test_policies_are_evaluated_by_a_contrast(context, saved_policy):
    stage = context(ASKED, strong=saved_policy("llama", 2))
    settings = {"policies": ["base", "sft"], "data": "prompts", "n": 2, "sampling": {"max_tokens": 12}}
    evaluate.run(evaluate.Settings(**settings, gold_contrast={"strong": "strong", "weak": "base"}), stage)
    figures = json.loads((stage.folder / "evaluation.json").read_text())["policies"]
    assert figures["base"]["gold"]["mean"] < 0  # likelier to the model that wrote them
