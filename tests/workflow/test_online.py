"""Stage `online`: each update is on answers of the policy as it is, and nothing is lost to a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.data.chat import ChatFormat
from sawyer.data.files import write_records
from sawyer.data.records import Prompt, user
from sawyer.data.verifiable import make_prompts
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.protocol import prefer
from sawyer.feedback.rules import VerifiableReward
from sawyer.pipeline.context import Artifact
from sawyer.pipeline.processes import Processes
from sawyer.pipeline.stages import _online, online
from sawyer.pipeline.stages._ahead import Ahead
from sawyer.pipeline.stages._common import reward_model_of
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion
from sawyer.train import loop
from sawyer.train.preference import OPTIMISM, REFERENCE, SCORE
from sawyer.trees.score import score_trees

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day")]
SMALL = {
    "model": "base", "data": "prompts", "reward": "reward", "part": "test", "steps": 3, "batch_size": 3,
    "sampling": {"max_tokens": 6}, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def run(context, reward, monkeypatch):
    """`run(**settings)`: the stage, the trees of each update, and the figures."""
    seen = []

    def forward_backward(model, batch, *rest):
        seen.append(list(batch))
        return original(model, batch, *rest)

    original = loop.forward_backward
    monkeypatch.setattr(loop, "forward_backward", forward_backward)

    def call(stage=None, **settings):
        stage = stage or context(ASKED, reward=reward)
        seen.clear()
        figures = online.run(online.Settings(**{**SMALL, **settings}), stage)
        return stage, list(seen), figures

    return call


def logged(stage):
    return [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]


def test_each_update_has_pairs_of_the_policy_with_their_reference(run):
    stage, updates, figures = run(n=4)
    rows = [row for row in logged(stage) if "score" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["pairs"] for row in rows] == [len(trees) for trees in updates]
    assert all({REFERENCE, SCORE} == set(tree.values) for trees in updates for tree in trees)
    assert all(tree.values[SCORE][0] > tree.values[SCORE][1] for trees in updates for tree in trees)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # the policy is its reference before the first update
    assert abs(rows[2]["margin"]) > 1e-3
    assert figures["updates"] == 3
    assert (stage.folder / "model.safetensors").exists()


def test_the_engine_has_the_weights_of_the_update_before(run, monkeypatch):
    given = []
    refresh = _online.Steps.refresh

    def watched(self):
        refresh(self)
        own = {name: p.detach().clone() for name, p in self.trainable.model.named_parameters()}
        held = dict(self.engine._model.named_parameters())
        given.append(all(torch.equal(held[name], value) for name, value in own.items() if not held[name].is_meta))

    monkeypatch.setattr(_online.Steps, "refresh", watched)
    run()
    assert given == [True] * 3


def test_a_killed_training_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    stage, _, _ = run(checkpoint_every=1)
    whole = load_file(stage.folder / "model.safetensors")

    class Killed(Exception):
        pass

    step = _online.Steps.step

    def dies(self, number):
        if number == 2:
            raise Killed
        return step(self, number)

    places = {name: tmp_path / f"second-{name}" for name in ("folder", "scratch")}
    for place in places.values():
        place.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(_online.Steps, "step", dies)
        with pytest.raises(Killed):
            run(replace(stage, **places), checkpoint_every=1)
    second = replace(stage, **places)
    _, updates, _ = run(second, checkpoint_every=1)
    assert len(updates) == 1
    again = load_file(second.folder / "model.safetensors")
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    assert [row.get("loss") for row in logged(second)] == [row.get("loss") for row in logged(stage)]


def test_the_gold_reward_itself(run, context):
    stage = context(["x"])
    write_records(Path(stage.artifacts["prompts"].folder) / "test.jsonl", make_prompts(4, "test"))
    _, updates, _ = run(stage, reward=None, gold="verifiable", n=4, sampling={"max_tokens": 12})
    assert sum(map(len, updates)) > 0
    assert all(0 <= score <= 1 for trees in updates for tree in trees for score in tree.values[SCORE])


def test_prompts_whose_answers_score_the_same_change_nothing(run, context, monkeypatch):
    monkeypatch.setattr(VerifiableReward, "score", lambda self, prompts, texts: [[0.5] * len(own) for own in texts])
    stage = context(ASKED)
    _, updates, _ = run(stage, reward=None, gold="verifiable")
    assert updates == []
    assert [row["pairs"] for row in logged(stage)] == [0.0] * 3


def test_held_out_prompts_are_scored_on_the_way_and_at_the_end(run):
    stage, _, figures = run(validation="test", validate_every=2, validation_prompts=4)
    rows = [row for row in logged(stage) if "validation_reward" in row]
    assert [row["step"] for row in rows] == [3, 3]
    assert figures["validation_reward"] == rows[-1]["validation_reward"]


def test_xpo_pairs_the_policy_with_the_reference_and_pushes_the_latter_down(run):
    _, updates, _ = run(optimism={"kind": "xpo", "alpha": 0.1})
    trees = [tree for own in updates for tree in own]
    assert all(sorted(tree.values[OPTIMISM]) == pytest.approx([0.0, 0.1]) for tree in trees)
    assert all(len(tree.completions) == 2 for tree in trees)


@pytest.mark.parametrize("kind", ["selm", "vpo"])
def test_selm_and_vpo_add_an_answer_of_the_reference_that_belongs_to_no_pair(kind, run):
    _, updates, _ = run(optimism={"kind": kind, "alpha": 0.5}, options={"beta": 0.2})
    trees = [tree for own in updates for tree in own]
    assert all(tree.values[OPTIMISM] == pytest.approx([0.0, 0.0, 0.1]) for tree in trees)
    assert all(len(tree.completions) == 3 for tree in trees)


def test_the_references_answers_are_not_the_policys_own_draws(run):
    """At first both are the same model; with the same seed they would say the same, and there would be no pair."""
    _, updates, _ = run(optimism={"kind": "xpo"}, learning_rate=1e-9)
    assert len(updates) == 3


def as_preference_model(stage, name):
    """The policy of the stage `sft` as a preference model: an artifact of that kind."""
    sft = stage.artifacts["sft"]
    artifact = Artifact(sft.folder, {**sft.manifest, "name": name, "makes": "preference_model"})
    return replace(stage, artifacts={**stage.artifacts, name: artifact})


@pytest.mark.parametrize("loss", ["dpo", "ipo", "sppo"])
def test_a_preference_model_compares_the_answers(loss, run, context):
    stage = as_preference_model(context(ASKED), "pairs")
    _, updates, figures = run(stage, reward="pairs", loss=loss, n=3, validation="test", validation_prompts=4)
    model = PairwiseModel(str(stage.artifacts["pairs"].folder))
    chat = model.chat
    asked = {tuple(chat.prompt_ids([user(text)])): Prompt((user(text),)) for text in ASKED}
    trees = [tree for own in updates for tree in own]
    assert trees
    for tree in trees:  # of three answers, the best has won more than half of its games and the worst fewer
        best, worst = (chat.decode(ids) for ids in tree.completions)
        scores = tree.values[SCORE]
        assert scores[0] > 0.5 > scores[1]
        (p,) = model.prefer([asked[tuple(tree.prompt)]], [(best, worst)])
        assert p - 0.5 == pytest.approx(0, abs=1.0)
        assert 0 <= min(scores) <= max(scores) <= 1
    assert 0 < figures["validation_win_rate"] < 1
    assert "validation_reward" not in figures


def test_sppo_takes_a_reward_model_for_a_player(run):
    """Its scores are probabilities of winning, and a reward model's become so by Bradley-Terry."""
    _, updates, _ = run(loss="sppo")
    for tree in (tree for own in updates for tree in own):
        assert sum(tree.values[SCORE]) == pytest.approx(1)
        assert 0.5 < tree.values[SCORE][0] < 0.75  # half a point against itself


@pytest.fixture
def judged(monkeypatch):
    """A judge that finds the answer with the more letters e better; what it was asked is kept."""
    asked = []

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        asked.extend(prompt.text for prompt in prompts)
        verdicts = []
        for prompt in prompts:
            a, b = (prompt.text.split(f"[begin of answer of assistant {x}]\n")[1].split("\n[end")[0] for x in "AB")
            verdicts.append("[[A]]" if (a.count("e"), a) > (b.count("e"), b) else "[[B]]")
        return [[Completion((), (), verdict, True)] for verdict in verdicts]

    monkeypatch.setattr(KeptEngine, "generate", generate)
    return asked


def test_a_judge_compares_the_answers_in_both_orders(run, context, judged, tiny_tokenizer):
    stage = context(ASKED)
    _, updates, figures = run(
        stage, reward=None, judge={"model": "base"}, validation="test", validation_prompts=2, loss="ipo"
    )
    assert len(judged) == 2 * (3 * 3 + 2 * 2)  # each pair of three updates, and two answers to each held-out prompt
    trees = [tree for own in updates for tree in own]
    assert all(tree.values[SCORE] == [1.0, 0.0] for tree in trees)
    for tree in trees:
        best, worst = (ChatFormat(tiny_tokenizer).decode(ids) for ids in tree.completions)
        assert (best.count("e"), best) > (worst.count("e"), worst)
    assert 0 <= figures["validation_win_rate"] <= 1


def test_a_remote_judge_is_asked_once_for_each_question(run, context, monkeypatch):
    made = []

    class Remote:
        def __init__(self, name, settings, *, cache, tops):
            assert tops == 0
            made.append((name, settings.endpoint, cache))

        def generate(self, prompts, sampling, n, *, seed, keep_failed):
            return [[Completion((), (), "[[A]]", True)] for _ in prompts]

    monkeypatch.setattr("sawyer.rollout.api_engine.ApiEngine", Remote)
    stage = context(ASKED)
    judge = {"remote": "m", "api": {"endpoint": "http://localhost:1/v1"}, "both_orders": False}
    _, updates, _ = run(stage, reward=None, judge=judge)
    assert made == [("m", "http://localhost:1/v1", stage.scratch / "judged")]
    assert all(tree.values[SCORE] == [1.0, 0.0] for own in updates for tree in own)


def test_nash_md_sets_the_policy_against_the_mixture(run, monkeypatch):
    games = []

    def watched(self, step, drawn):
        trees, told = original(self, step, drawn)
        games.append((drawn, trees))
        return trees, told

    original = _online.Steps.games
    monkeypatch.setattr(_online.Steps, "games", watched)
    stage, updates, figures = run(nash={"mixture": 0.25, "beta": 0.5})
    assert [len(trees) for trees in updates] == [3, 3, 3]
    assert all({REFERENCE, SCORE} == set(tree.values) and len(tree.completions) == 1 for own in updates for tree in own)
    rows = [row for row in logged(stage) if "preference" in row]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[2]["kl"]) > 1e-3
    assert figures["updates"] == 3
    (own, theirs), trees = games[0]
    assert [completion.ids for (completion,) in own] == [tuple(tree.completions[0]) for tree in trees]
    assert any(a.ids != b.ids for (a,), (b,) in zip(own, theirs, strict=True))
    # the probability is that of the reward model's scores
    model = reward_model_of(stage, "reward")
    prompts = [Prompt((user(text),)) for text in ASKED[:3]]
    against = [(a.text, b.text) for (a,), (b,) in zip(own, theirs, strict=True)]
    assert [tree.values[SCORE][0] for tree in trees] == pytest.approx(prefer(model, prompts, against), abs=1e-4)


def test_with_overlap_the_answers_are_of_the_weights_before(run, monkeypatch, tmp_path):
    """Against a slow reference, one thing after another, whose engine is given the weights of one update before."""
    stage, updates, _ = run(overlap=True, steps=4, validation="test", validate_every=2, validation_prompts=2)
    held = []

    def late(self):
        held.append({name: weight.clone() for name, weight in self.trainable.merged().items()})
        self.engine.load(held[-2] if len(held) > 1 else held[0])

    with monkeypatch.context() as patch:
        patch.setattr(_online.Steps, "refresh", late)
        slow, slowly, _ = run(replace(stage, **_places(tmp_path, "slow")), steps=4)
    assert [[tree.completions for tree in own] for own in updates] == [
        [tree.completions for tree in own] for own in slowly
    ]
    fast, wanted = (load_file(one.folder / "model.safetensors") for one in (stage, slow))
    assert all(torch.equal(fast[name], value) for name, value in wanted.items())
    _, sequential, _ = run(replace(stage, **_places(tmp_path, "plain")), steps=4)
    assert sequential[:1] == slowly[:1]
    assert sequential[1:] != slowly[1:]  # the delay is seen


def _places(tmp_path, name):
    places = {part: tmp_path / f"{name}-{part}" for part in ("folder", "scratch")}
    for place in places.values():
        place.mkdir()
    return places


@pytest.mark.parametrize("dies_in", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_an_overlapped_training_goes_on_to_the_same_weights(dies_in, every, run, tmp_path, monkeypatch):
    settings = {"overlap": True, "steps": 5, "checkpoint_every": every, "nash": {}}
    stage, _, _ = run(**settings)
    whole = load_file(stage.folder / "model.safetensors")

    class Killed(Exception):
        pass

    update = loop.MasterWeights.update
    done = []

    def dies(self, *arguments):
        done.append(1)
        if len(done) > dies_in:
            raise Killed
        return update(self, *arguments)

    places = _places(tmp_path, "second")
    with monkeypatch.context() as patch:
        patch.setattr(loop.MasterWeights, "update", dies)
        with pytest.raises(Killed):
            run(replace(stage, **places), **settings)
    second = replace(stage, **places)
    _, updates, _ = run(second, **settings)
    assert len(updates) == 5 - dies_in // every * every
    again = load_file(second.folder / "model.safetensors")
    assert all(torch.equal(whole[name], value) for name, value in again.items())


def test_a_kill_between_answers_and_checkpoint_loses_neither(tmp_path):
    def drawn(step):
        return [[[Completion((step,), (0.5,), str(step), True)]]]

    ahead = Ahead(drawn, tmp_path, Processes())
    for step in range(3):
        ahead.take(step)
        ahead.start(step + 1)
        ahead.state()
        kept = sorted(int(file.stem) for file in (tmp_path / "ahead").iterdir())
        assert kept == ([1] if step == 0 else [step, step + 1])
    ahead.close()
    late = Ahead(lambda step: pytest.fail("nothing is drawn again"), tmp_path, Processes())
    assert late.take(2) == drawn(2)


def test_only_the_main_process_draws(tmp_path):
    class Other:
        is_main = False

        def on_main(self, function):
            return "what the main process sends"

    ahead = Ahead(lambda step: pytest.fail("another process draws nothing"), tmp_path, Other())
    ahead.start(1)
    assert ahead.take(1) == "what the main process sends"
    ahead.close()


def test_the_reference_stays_the_first_policy(run, monkeypatch):
    held = []

    def scored(model, trees, **settings):
        held.append(model)
        return score_trees(model, trees, **settings)

    monkeypatch.setattr(_online, "score_trees", scored)
    _, updates, _ = run()
    assert len({id(model) for model in held}) == 1
    trees = updates[-1]
    again = score_trees(held[0], trees)
    for tree, logps in zip(trees, again, strict=True):
        assert tree.values[REFERENCE] == pytest.approx(logps, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": None}, "give `reward`, a model, or a gold reward"),
        ({"gold": "verifiable"}, "one of them"),
        ({"judge": {"model": "base"}}, "one of them"),
        ({"reward": None, "judge": {}}, "a `model` of the recipe or a `remote` one"),
        ({"reward": None, "judge": {"model": "base", "api": {"timeout": 1}}}, "`api` is for a `remote` judge"),
        ({"nash": {}, "loss": "ipo"}, "has no use for `loss`"),
        ({"nash": {}, "options": {"beta": 0.2}}, "has no use for `options`"),
        ({"nash": {}, "n": 4}, "has no use for `n`"),
        ({"nash": {}, "optimism": {"kind": "selm"}}, "has no use for `optimism`"),
        ({"nash": {}, "engine": "vllm"}, "`engine: torch` alone can"),
        ({"nash": {"mixture": 1.5}}, "less than or equal to 1"),
        ({"n": 1}, "greater than or equal to 2"),
        ({"epochs": 2}, "`epochs` has no place here"),
        ({"validate_every": 2}, "name a part with `validation`"),
        ({"loss": "infonca"}, "`online` learns from pairs"),
        ({"n": 4, "optimism": {"kind": "xpo"}}, "leave `n` at 2"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        online.Settings(**{**SMALL, **settings})


def test_settings_written_out_with_their_defaults_are_accepted():
    settings = online.Settings(**{**SMALL, "nash": {}})
    assert online.Settings(**settings.model_dump()) == settings
