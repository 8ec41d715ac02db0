"""Stage `iterate`: candidates that are not the current policy's, and win rates in place of rewards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sawyer.data.files import write_records
from sawyer.data.records import Comparison, Prompt, user
from sawyer.errors import SawyerError
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.protocol import sigmoid
from sawyer.methods.exploration import ExploreSettings, Variant, shares, snapshot_steps, variants
from sawyer.models.load import load_policy
from sawyer.pipeline.context import Artifact
from sawyer.pipeline.stages import _iterate, iterate
from sawyer.train.preference import SCORE
from tests.lives import Killed, MortalContext, same
from tests.workflow.test_iterate_options import ASKED, SMALL, learned


@pytest.fixture
def life(tmp_path, saved_policy, reward):
    """`life(place, dies_at, **settings)`: one session of the stage that goes on where the last one of that place was
    killed; the context, and the figures."""
    judge, teacher = saved_policy("llama", 4), [Comparison((user(text),), ("Yes, well.", "No")) for text in ASKED[:4]]

    def run(place, dies_at=None, precision="fp32", asked=ASKED, **settings):
        here = tmp_path / place
        for name in ("data", "out", "scratch"):
            (here / name).mkdir(parents=True, exist_ok=True)
        write_records(here / "data" / "test.jsonl", [Prompt((user(text),)) for text in asked])
        write_records(here / "data" / "pairs.jsonl", teacher)
        context = MortalContext(
            "stage", here / "out", here / "scratch", seed=5, precision=precision,
            artifacts={
                "prompts": Artifact(here / "data", {"name": "prompts", "figures": {}}),
                "judge": Artifact(Path(judge), {"name": "judge", "makes": "preference_model", "figures": {}}),
            },
            models={"base": saved_policy("llama", 0), "reward": reward},
        )  # fmt: skip
        context.dies_at = dies_at
        figures = iterate.run(iterate.Settings(**{**SMALL, "checkpoint_every": 1, **settings}), context)
        context.close()
        return context, figures

    return run


@pytest.fixture
def drawn(monkeypatch):
    """Who answers: the folder's name, how many completions, and what the engine holds."""
    seen, original = [], _iterate.Iterations.generate

    def generate(self, prompts, n, temperature, folder, stream, what):
        weights = {name: p.detach().float().clone() for name, p in self.engine._model.named_parameters()}
        seen.append((folder.parent.name, folder.name, n, temperature, stream, weights))
        return original(self, prompts, n, temperature, folder, stream, what)

    monkeypatch.setattr(_iterate.Iterations, "generate", generate)
    return seen


EXPLORE = {"share": 0.5, "policies": 2, "snapshots": 1}


def test_some_answers_come_from_policies_of_other_steps(life, drawn, saved_policy):
    context, figures = life("p", explore=EXPLORE, iterations=3, n=6, epochs=2.0)
    by_place = {(place, name): rest for place, name, *rest in drawn}
    first = [name for place, name, *_ in drawn if place == "iteration-1"]
    assert first == ["answers-0", "answers-1", "validation"]  # nothing came before pi_0
    second = {name: rest[0] for place, name, *rest in drawn if place == "iteration-2" and name != "validation"}
    assert second == {
        "answers-0": 2, "answers-1": 1, "answers-of-1-1-0": 1, "answers-of-1-1-1": 1, "answers-of-0-0": 1,
    }  # fmt: skip
    third = [name for place, name, *_ in drawn if place == "iteration-3"]
    assert {name.rsplit("-", 1)[0] for name in third if "of" in name} == {"answers-of-2-1", "answers-of-1"}
    streams = [stream for _, name, _, _, stream, _ in drawn]
    assert len(set(streams)) == len(streams)  # no two draw alike

    scratch = context.scratch
    holds = {
        ("iteration-2", "answers-of-0-0"): {n: p.detach() for n, p in load_policy(saved_policy()).named_parameters()},
        ("iteration-2", "answers-of-1-1-0"): load_file(scratch / "iteration-1" / "snapshot-1.safetensors"),
        ("iteration-2", "answers-0"): learned(context, 1),
        ("iteration-3", "answers-0"): learned(context, 2),
        ("iteration-3", "answers-of-1-0"): learned(context, 1),
        ("iteration-2", "validation"): learned(context, 2),
    }
    for place, weights in holds.items():
        own = by_place[place][-1]
        for name, value in weights.items():
            torch.testing.assert_close(own[name], value.float(), atol=0, rtol=0, msg=f"{place} {name}")
    assert all(0 <= entry["chosen_explored"] <= 1 for entry in figures["iterations"])
    assert figures["iterations"][0]["chosen_explored"] == 0


@pytest.mark.parametrize(
    ("settings", "precision"),
    [
        ({"explore": EXPLORE, "n": 5, "epochs": 2.0}, "fp32"),
        ({"explore": EXPLORE, "n": 5, "epochs": 2.0, "lora": {"r": 4}, "reference": "moving"}, "bf16"),
        ({"loss": "sppo", "options": {"beta": 0.1}, "scores": "win_rates", "reward": "judge", "n": 3}, "fp32"),
        ({"teacher": {"data": "prompts", "part": "pairs"}, "pairs": {"rule": "all"}, "n": 2}, "fp32"),
    ],
    ids=["explore", "explore-lora-bf16", "sppo-pairwise", "dno"],
)
def test_killed_anywhere_and_continued_ends_in_the_same_bits(settings, precision, life):
    whole, expected = life("whole", precision=precision, **settings)
    lines = (whole.folder / "metrics.jsonl").read_text().count("\n")
    for dies_at in (1, lines // 2 + 1) if "explore" in settings else (lines - 1,):
        place = f"broken-{dies_at}"
        with pytest.raises(Killed):
            life(place, dies_at, precision=precision, **settings)
        broken, figures = life(place, precision=precision, **settings)
        assert figures == expected
        same(*(load_file(one.folder / "model.safetensors") for one in (broken, whole)))


def test_who_answers_in_which_iteration():
    settings = ExploreSettings(policies=3, snapshots=2)
    assert variants(0, settings) == []
    assert variants(1, settings) == [Variant(1, 2), Variant(1, 1), Variant(0)]
    assert variants(2, settings) == [Variant(2, 2), Variant(2, 1), Variant(1)]
    assert variants(3, ExploreSettings(policies=8)) == [Variant(2), Variant(1), Variant(0)]
    assert [variant.name for variant in variants(2, settings)] == ["2-2", "2-1", "1"]


@pytest.mark.parametrize(
    ("n", "others", "share", "expected"),
    [(8, 0, 0.5, [8]), (8, 2, 0.5, [4, 2, 2]), (5, 3, 0.6, [2, 1, 1, 1]), (2, 1, 0.1, [1, 1]), (4, 2, 0.95, [1, 2, 1])],
)
def test_the_completions_are_divided_and_none_is_lost(n, others, share, expected):
    assert shares(n, others, share) == expected
    assert sum(expected) == n


def test_snapshots_are_spread_over_a_training():
    assert snapshot_steps(10, 1) == [5]
    assert snapshot_steps(9, 2) == [3, 6]
    assert snapshot_steps(1, 2) == [1, 1]


def trained_on(monkeypatch):
    seen, original = [], _iterate.train

    def train(model, trees, *rest, **named):
        seen.append(list(trees))
        return original(model, trees, *rest, **named)

    monkeypatch.setattr(_iterate, "train", train)
    return seen


def test_win_rates_of_rewards_are_bradley_terrys(life, monkeypatch):
    seen = trained_on(monkeypatch)
    penalty = {"length_penalty": 0.01}
    context, _ = life(
        "p", loss="sppo", options={"beta": 0.1}, scores="win_rates", reference="moving", pairs=penalty, iterations=1
    )
    folder = context.scratch / "iteration-1"
    rewards = json.loads((folder / "scored.json").read_text())
    rates = set()
    for i, own in enumerate(rewards):
        texts = [text for part in ("answers-0", "answers-1") for text in written(folder / part)[i]]
        penalised = [r - 0.01 * len(text) for r, text in zip(own, texts, strict=True)]
        rates |= {
            round(sum(sigmoid(one - other) for other in penalised) / len(penalised), 6) for one in penalised
        }  # fmt: skip
    assert seen[0]
    for tree in seen[0]:
        chosen, rejected = tree.values[SCORE]
        assert 1 > chosen > rejected > 0
        assert round(chosen, 6) in rates
        assert round(rejected, 6) in rates


def written(folder: Path) -> list[list[str]]:
    """The texts of a finished folder of completions."""
    (file,) = folder.glob("*.json")
    return [[completion["text"] for completion in own] for own in json.loads(file.read_text())["completions"]]


def test_a_pairwise_model_may_be_the_judge_and_iterates_are_to_beat_the_first_policy(life, monkeypatch):
    seen = trained_on(monkeypatch)
    context, figures = life("p", loss="sppo", options={"beta": 0.1}, scores="win_rates", reward="judge", n=3)
    for trees in seen:
        for tree in trees:  # over all three, each itself among them with a half
            assert all(0.5 / 3 < score < 2.5 / 3 for score in tree.values[SCORE])
    judge = PairwiseModel(context.model("judge"))
    prompts = [Prompt((user(text),)) for text in ASKED[:3]]

    def texts(folder):
        return [own[0] for own in written(context.scratch / folder)]

    first = texts("iteration-1/validation-first")
    for t in (1, 2):
        pairs = list(zip(texts(f"iteration-{t}/validation"), first, strict=True))
        expected = sum(judge.prefer(prompts, pairs)) / 3
        assert figures["iterations"][t - 1]["validation_reward"] == pytest.approx(expected, abs=1e-6)


def test_a_length_penalty_makes_no_probability(life):
    with pytest.raises(
        SawyerError, match="judge gives probabilities, from which a length penalty would make something"
    ):
        life("p", loss="sppo", scores="win_rates", reward="judge", pairs={"length_penalty": 0.01})


def test_a_teachers_answers_are_candidates(life, monkeypatch):
    seen = trained_on(monkeypatch)
    context, figures = life("p", teacher={"data": "prompts", "part": "pairs"}, pairs={"rule": "all"}, iterations=1)
    scored = json.loads((context.scratch / "iteration-1" / "scored.json").read_text())
    assert sorted(map(len, scored)) == [4, 4, 5, 5, 5, 5]  # the teacher answered four of six prompts
    entry = figures["iterations"][0]
    assert entry["pairs"] == len(seen[0]) > 6
    assert 0 < entry["chosen_teacher"] < 1
    own = [reward for rewards in scored for reward in rewards[:4]]
    assert entry["reward"] == pytest.approx(sum(own) / len(own))  # the policy's own answers alone


def test_a_teacher_of_other_prompts_is_refused(life):
    with pytest.raises(SawyerError, match="no prompt of prompts/test is among those of prompts/pairs"):
        life("p", asked=["Another?", "And another?"], teacher={"data": "prompts", "part": "pairs"})
