"""What the released scripts of the RLHF Workflow do otherwise than its paper, or wrongly: here each is done right.

The order is that of the differences: the reference, the number of completions, the order of a pair, margins, equal
texts, what is evaluated, precision, reference log-probs, what shards lose, and what the scripts leave out.
"""

import json

import pytest

from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, Prompt, user
from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.methods.iterative import PairSettings, choose_pairs, penalised
from sawyer.models.load import load_policy
from sawyer.pipeline.stages import _iterate, iterate
from sawyer.pipeline.stages._common import chat_of, read_part
from sawyer.pipeline.stages.dpo import STAGE as DPO
from sawyer.pipeline.stages.preference import STAGE as PREFERENCE
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.train.loop import data_order
from sawyer.train.optim import learning_rate
from sawyer.train.preference import REFERENCE
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day")]
SMALL = {
    "model": "base", "data": "prompts", "reward": "reward", "part": "test", "validation": "test", "iterations": 2,
    "prompts": 6, "validation_prompts": 3, "n": 4, "sampling": {"max_tokens": 6}, "batch_size": 3,
    "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def run(context, reward, monkeypatch):
    """`run(**settings)`: the stage `iterate`, the trees of each iteration, and the figures."""
    seen, original = [], _iterate.train

    def train(model, trees, *rest, **named):
        seen.append(list(trees))
        return original(model, trees, *rest, **named)

    monkeypatch.setattr(_iterate, "train", train)

    def call(precision="fp32", **settings):
        stage = context(ASKED, reward=reward)
        stage.precision = precision
        figures = iterate.run(iterate.Settings(**{**SMALL, **settings}), stage)
        return stage, seen, figures

    return call


def test_the_reference_is_the_first_policy_and_not_the_last_iterate(run):
    """The scripts take the last iterate; the paper, and the maintainers when asked, pi_0."""
    stage, (_, second), _ = run()
    first = TreePolicy(load_policy(stage.model("base")))
    bare = [TokenTree(tree.prompt, tree.completions) for tree in second]
    expected = [logp for own in score_trees(first, bare) for logp in own]
    assert [logp for tree in second for logp in tree.values[REFERENCE]] == pytest.approx(expected, abs=1e-4)


def test_a_number_of_completions_that_another_step_does_not_expect_drops_no_prompt(run):
    """The second loop draws 4, the annotation wants 8, and drops every prompt without a word."""
    stage, _, _ = run(n=5, iterations=1)
    scored = json.loads((stage.scratch / "iteration-1" / "scored.json").read_text())
    assert [len(own) for own in scored] == [5] * len(ASKED)
    with pytest.raises(SawyerError, match="has 4 completions but 8 scores"):
        Comparison((user("a"),), tuple("abcd"), tuple(range(8)))


def test_a_penalty_that_turns_a_pair_is_not_undone_by_the_raw_reward(run):
    """`max_min_p` chooses by the penalised reward and then orders the pair by the raw one."""
    penalty = 0.5
    stage, (trees,), _ = run(iterations=1, pairs={"length_penalty": penalty}, n=6)
    folder = stage.scratch / "iteration-1"
    scored = json.loads((folder / "scored.json").read_text())
    texts, written = [[] for _ in ASKED], {}
    for part in ("answers-0", "answers-1"):
        (file,) = (folder / part).glob("*.json")
        for own, new in zip(texts, json.loads(file.read_text())["completions"], strict=True):
            own += [completion["text"] for completion in new]
            written.update({tuple(completion["ids"]): completion["text"] for completion in new})
    turned = 0
    asked = {text: i for i, text in enumerate(ASKED)}
    for record, tree in zip(read_records(folder / "pairs.jsonl"), trees, strict=True):
        i = asked[record.prompt[-1]["content"]]
        by_text = dict(zip(texts[i], penalised(scored[i], texts[i], penalty), strict=True))
        assert by_text[record.chosen] == max(by_text.values()) > by_text[record.rejected] == min(by_text.values())
        assert [written[tuple(ids)] for ids in tree.completions] == [record.chosen, record.rejected]
        raw = dict(zip(texts[i], scored[i], strict=True))
        turned += raw[record.chosen] < raw[record.rejected]
    assert turned  # the penalty did decide here


def test_a_margin_is_a_filter_and_not_only_a_column():
    """The scripts write `margin` beside each pair and never read it."""
    rewards, texts = [[1.0, 0.7], [1.0, 0.2]], [["a", "b"]] * 2
    assert [pair.prompt for pair in choose_pairs(rewards, texts, PairSettings(min_margin=0.5))] == [1]


def test_equal_texts_make_no_pair_whatever_they_score():
    """The scripts drop equal rewards alone; a sampled reward model may score one text twice."""
    assert choose_pairs([[1.0, 0.9]], [["Yes.", "Yes. "]], PairSettings()) == []
    with pytest.raises(SawyerError, match="chosen equals rejected"):
        Comparison((user("a"),), ("same", "same"))


def test_iterates_are_chosen_on_prompts_that_are_not_trained_on_and_limits_mean_what_they_say(context, reward):
    """The scripts' evaluation set is a part of the training data, and `sanity_check` takes 100 rows for 1000."""
    defaults = iterate.Settings(model="base", data="prompts", reward="reward")
    assert (defaults.part, defaults.validation) == ("train", "validation")
    stage = context(ASKED, reward=reward)
    write_records(stage.artifacts["prompts"].folder / "more.jsonl", [Prompt((user(f"{i}?"),)) for i in range(9)])
    assert len(read_part(stage, "prompts", "more", (Prompt,), limit=7)) == 7


def test_policy_and_reference_compute_alike(run):
    """The scripts load the policy in fp16, train it in bf16, and keep the reference in bf16."""
    stage, _, _ = run(precision="bf16", iterations=1)
    lines = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1
    assert lines[0]["margin"] == pytest.approx(0, abs=0.02)
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=2e-3)


@pytest.mark.parametrize("stage", [DPO, PREFERENCE], ids=lambda stage: stage.kind)
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_every_path_trains_on_reference_log_probs_that_were_computed_before(stage, lora, context, reward, monkeypatch):
    """In the scripts only one of the two ways to load data uses them."""
    from sawyer.train import loop

    seen, original = [], loop.train

    def train(model, trees, *rest, **named):
        seen.extend(trees)
        return original(model, trees, *rest, **named)

    monkeypatch.setattr(loop, "train", train)
    own = context(ASKED, reward=reward)
    pairs = [Comparison((user(f"{i}?"),), (f"yes {i}", "no")) for i in range(6)]
    write_records(own.artifacts["prompts"].folder / "pairs.jsonl", pairs)
    stage.run(stage.settings(model="base", data="prompts", part="pairs", steps=1, batch_size=2, lora=lora), own)
    assert len(seen) == 6
    assert all(REFERENCE in tree.values for tree in seen)


def test_what_is_left_over_of_a_division_is_not_dropped(saved_policy, tmp_path):
    """The scripts' generation drops the rows that do not fill all GPUs alike."""
    chat = chat_of(saved_policy(), None)
    prompts = [Prompt((user(text),)) for text in ASKED[:5]]
    answers = generate_resumably(
        TorchEngine(load_policy(saved_policy()), chat), prompts, Sampling(max_tokens=4), 2,
        seed=0, folder=tmp_path / "answers", journal=Silent(), title="answers", completions_per_chunk=4,
    )  # fmt: skip
    assert [len(own) for own in answers] == [2] * 5
    passed = [i for batch in data_order(7, 3, 7, 0) for i in batch]  # three passes over seven trees in batches of three
    assert sorted(passed) == sorted(list(range(7)) * 3)


def test_any_other_at_random_is_any_other():
    """`max_random` of the scripts is the second completion, or the first where the second is the best."""
    rewards, texts = [[3.0, 0.0, 1.0, 2.0]] * 60, [["a", "b", "c", "d"]] * 60
    rejected = {pair.rejected for pair in choose_pairs(rewards, texts, PairSettings(rule="max_random"))}
    assert rejected == {1, 2, 3}


def test_learning_rates_warm_up():
    """The paper warms up over 3 % of the updates, the scripts do not."""
    settings = OptimizerSettings()
    assert settings.warmup_ratio == 0.03
    rates = [learning_rate(step, 100, settings) for step in range(4)]
    assert rates[0] < rates[1] < rates[2] <= rates[3] == settings.learning_rate


def test_half_of_the_answers_are_drawn_at_a_lower_temperature(run, monkeypatch):
    """The paper draws half at 1.0 and half at 0.7, the scripts all at 1.0."""
    drawn, original = [], _iterate.Iterations.generate

    def generate(self, prompts, n, temperature, folder, *rest):
        drawn.append((folder.name, n, temperature))
        return original(self, prompts, n, temperature, folder, *rest)

    monkeypatch.setattr(_iterate.Iterations, "generate", generate)
    run(iterations=1)
    assert drawn[:2] == [("answers-0", 2, 1.0), ("answers-1", 2, 0.7)]


def test_earlier_pairs_can_be_trained_on_again(run):
    """The scripts train on the last iteration's pairs alone; here that is the default and not the only way."""
    assert iterate.Settings(model="base", data="prompts", reward="reward").replay == 0
    _, (first, second), figures = run(replay=1.0)
    new = figures["iterations"][1]["pairs"]
    again, before = ([[list(ids) for ids in tree.completions] for tree in trees] for trees in (second[new:], first))
    assert again
    assert again == before[: len(again)]
