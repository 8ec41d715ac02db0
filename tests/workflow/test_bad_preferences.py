"""Preference optimisation of what cannot be learned from: one sentence and exit code 2, and nothing good is lost."""

import json
from pathlib import Path

import pytest
import yaml

from sawyer.data.records import Comparison, Labelled, Prompt, user
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.stages import iterate as stage

PAIRS = [Comparison((user(f"{i}?"),), (f"yes {i}", "no")).row() for i in range(8)]
LABELLED = [Labelled((user(f"{i}?"),), "yes" if i % 2 else "no", bool(i % 2)).row() for i in range(8)]
SMALL = {"batch_size": 4, "learning_rate": 1e-3, "max_tokens": 250, "kl_every": 0}


@pytest.fixture
def sawyer(tmp_path, saved_policy, command):
    """`sawyer(rows, stages)`: exit code and error of `sawyer run` on a file of rows called `pairs`."""

    def run(rows, more):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"stage": "data", "source": {"source": "file", "path": str(tmp_path / "rows.jsonl")}}
        recipe = {"name": "x", "model": saved_policy(), "stages": {"pairs": data, **more}}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        code, _, error = command("run", tmp_path / "x.yaml", "--out", tmp_path / "out")
        return code, " ".join(error.split())

    return run


def preference(**settings):
    return {"preference": {"model": "base", "data": "pairs", **SMALL, **settings}}


def iterate(**settings):
    return {
        "iterate": {
            "model": "base", "data": "pairs", "reward": "reward", "part": "train", "validation": "train",
            "iterations": 1, "prompts": 6, "validation_prompts": 2, "n": 3, "sampling": {"max_tokens": 4},
            "batch_size": 4, **settings,
        }
    }  # fmt: skip


def test_a_loss_of_pairs_where_labels_are_single(sawyer):
    code, error = sawyer(LABELLED, preference(loss="ipo"))
    assert code == 2
    assert "the loss ipo learns from comparisons, and part 'train' of pairs holds single completions" in error
    assert "take the loss kto, or give comparisons" in error


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"loss": "simpo", "reference": "base"},
            "with simpo there is no reference, and `reference` is set: leave it out",
        ),
        ({"loss": "dpo", "reference": "sftt"}, "sftt"),
        ({"loss": "cpo", "chunks": 2}, "with cpo there is no reference, and `chunks` is set: leave it out"),
    ],
)
def test_a_reference_that_a_loss_does_not_have_or_that_is_not_there(settings, sentence, sawyer, tmp_path):
    code, error = sawyer(PAIRS, preference(**settings))
    assert code == 2
    assert sentence in error
    assert not (tmp_path / "out" / "pairs").exists()  # found before anything was computed


def test_fewer_than_two_completions(sawyer, tmp_path):
    code, error = sawyer(PAIRS, {**reward(), **iterate(n=1)})
    assert code == 2
    assert "stages.iterate.n should be greater than or equal to 2, not 1" in error
    assert not (tmp_path / "out" / "pairs").exists()


def reward():
    return {"reward": {"model": "base", "data": "pairs", "steps": 1, "batch_size": 4, "max_tokens": 250}}


@pytest.mark.slow
def test_all_completions_equal(sawyer):
    code, error = sawyer(PAIRS, {**reward(), **iterate(temperatures=[0.001])})
    assert code == 2
    assert "all completions of every prompt are equal or score the same in iteration 1" in error
    assert "raise `n` or `temperatures`" in error


def test_a_loss_that_is_not_a_number_stops_and_the_last_good_checkpoint_stays(sawyer, tmp_path):
    settings = {"learning_rate": 1e30, "max_grad_norm": 1e30, "schedule": "constant", "checkpoint_every": 1}
    code, error = sawyer(PAIRS, preference(**settings, epochs=4.0, warmup_ratio=0.0))
    assert code == 2
    assert "the loss is not a number at update" in error
    assert "lower `learning_rate` (now 1e+30) or look at the data; the last good checkpoint is kept in" in error
    kept = Path(error.split("is kept in ")[1].split()[0])
    assert (kept / "state.safetensors").exists()


def test_a_reward_model_with_another_tokenizer_reads_the_texts_with_its_own(
    context, saved_policy, encoder_tokenizer, tmp_path
):
    """What passes between policy and reward model is text, so that there is nothing to refuse."""
    source = saved_policy("qwen2", 3)
    model = load_sequence_classifier(source, fresh_head=True, seed=1)
    tokenizer = encoder_tokenizer("roberta")
    assert tokenizer.get_vocab() != load_tokenizer(source).get_vocab()
    folder = str(save_model(model, tokenizer, tmp_path / "other"))
    own = context([f"What is {i}?" for i in range(6)], reward=folder)
    settings = {**iterate()["iterate"], "data": "prompts", "part": "test", "validation": "test"}
    figures = stage.run(stage.Settings(**settings), own)
    assert figures["iterations"][0]["pairs"] > 0
    (file,) = (own.scratch / "iteration-1" / "answers-0").glob("*.json")
    texts = [[c["text"] for c in row] for row in json.loads(file.read_text())["completions"]]
    scored = json.loads((own.scratch / "iteration-1" / "scored.json").read_text())
    alone = RewardModel(folder).score([Prompt((user("What is 0?"),))], [texts[0]])
    assert scored[0][: len(texts[0])] == pytest.approx(alone[0], abs=1e-4)
