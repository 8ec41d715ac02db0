"""Stage `d2po`: gold labels are bought as the schedule says, and policy and discriminator learn from them."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_policy
from sawyer.pipeline.stages import _d2po, evaluate
from sawyer.train import checkpoints
from sawyer.train.discriminator import Discriminator
from sawyer.train.preference import REFERENCE
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from tests.lives import places, read_lines
from tests.workflow import d2po_stage
from tests.workflow.d2po_stage import ADAPTED, ASKED, DISCRIMINATOR, FROZEN, OAIF, SMALL, ledger, logged


@pytest.fixture
def run(context, updates):
    return d2po_stage.runner(context, updates)


@pytest.fixture
def asked(monkeypatch):
    return d2po_stage.watched_gold(monkeypatch)


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


def test_labels_at_random_are_others(run, tmp_path):
    stage, _, _ = run()
    other, _, _ = run(replace(stage, **places(tmp_path, "other")), selection="random")
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


def test_what_is_only_watched_is_not_paid_for(run, tmp_path, asked):
    stage, _, _ = run(watch_gold=False)
    assert [pair for _, pair in asked] == [tuple(row["completions"]) for row in ledger(stage)]
    assert not {"gold_reward", "silver_accuracy"} & logged(stage)[1].keys()
    watched, _, _ = run(replace(stage, **places(tmp_path, "watched")))
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


def test_policies_are_evaluated_by_a_rule(context):
    stage = context(ASKED)
    settings = {"policies": ["base", "sft"], "data": "prompts", "n": 2, "sampling": {"max_tokens": 12}}
    evaluate.run(evaluate.Settings(**settings, gold="bag_of_words", gold_words=["a", "e"]), stage)
    rows = read_lines(stage.folder / "completions.jsonl")
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
