"""Stages `preference` and `dpo`: sDPO, TR-DPO, curricula, `kl`, and reference log-probs that are used again."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.data.records import Comparison, Labelled, user
from sawyer.errors import SawyerError
from sawyer.pipeline.context import Artifact
from sawyer.pipeline.stages.dpo import STAGE as DPO
from sawyer.pipeline.stages.preference import STAGE, Settings
from sawyer.train import reference
from tests.lives import Killed, MortalContext, read_lines, same

SMALL = {"batch_size": 4, "learning_rate": 1e-3, "max_tokens": 250, "data": "pairs", "kl_every": 2}
DPO_SYNC = {"reference_sync": {"every": 2, "alpha": 0.6}}


@pytest.fixture
def life(tmp_path, pairs):
    """`life(place, stage, model, dies_at=None, **settings)`: one session of a stage that goes on where the last one
    of the same place was killed."""
    from sawyer.data.files import write_records

    def run(place, stage, model, dies_at=None, precision="fp32", records=None, models=None, seed=1, **settings):
        here = tmp_path / place
        for name in ("out", "scratch", "data"):
            (here / name).mkdir(parents=True, exist_ok=True)
        write_records(here / "data" / "train.jsonl", records or pairs(12))
        write_records(here / "data" / "test.jsonl", pairs(4, first=20))
        context = MortalContext(
            "stage", here / "out", here / "scratch", seed=seed, precision=precision, cache=tmp_path / ".cache",
            artifacts={"pairs": Artifact(here / "data", {"name": "pairs", "makes": "data"})},
            models={"base": model, **(models or {})},
        )  # fmt: skip
        context.dies_at = dies_at
        figures = stage.run(stage.settings(model="base", **{**SMALL, **settings}), context)
        context.close()
        return here, figures

    return run


def weights(here):
    return load_file(here / "out" / "model.safetensors")


def metrics(here):
    return read_lines(here / "out" / "metrics.jsonl")


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("stage", [DPO, STAGE], ids=lambda stage: stage.kind)
def test_sdpo_is_one_training_after_the_other_with_the_last_result_as_reference(stage, lora, life, saved_policy, pairs):
    model = saved_policy()
    here, figures = life("sdpo", stage, model, chunks=3, lora=lora)
    assert figures["pairs"] == 12
    assert len(figures["chunks"]) == 3
    begins = [line for line in metrics(here) if line.get("step") == 1]
    assert len(begins) == 3
    for line in begins:  # each part begins at its own reference
        assert line["loss"] == pytest.approx(0.693147, abs=1e-5)
        assert line["margin"] == pytest.approx(0, abs=1e-5)
    if lora is not None:
        return  # a stage starts with fresh adapters, the next part of sDPO goes on with the old ones
    for part in range(3):  # the slow way: three stages, each from the artifact of the one before
        alone, _ = life(f"alone-{part}", stage, model, records=pairs(12)[4 * part : 4 * part + 4], seed=1 + part)
        model = str(alone / "out")
    for name, value in weights(here).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"chunks": 3, "epochs": 2.0},
        {"chunks": 2, "epochs": 2.0, "lora": {"r": 4}, "curriculum": "score_margin"},
        {"reference_sync": {"every": 2, "alpha": 0.6}, "epochs": 2.0},
        {"reference_sync": {"every": 2, "alpha": 1.0}, "epochs": 2.0, "lora": {"r": 4}},
        {"curriculum": "reference_margin", "epochs": 2.0},
    ],
    ids=["sdpo", "curri-dpo-lora", "tr-dpo", "tr-dpo-lora", "curriculum"],
)
def test_killed_anywhere_and_continued_ends_in_the_same_bits(settings, life, saved_policy):
    precision = "bf16" if "lora" in settings or "reference_sync" in settings else "fp32"
    model, settings = saved_policy(), {**settings, "precision": precision, "validation": "test"}
    whole, expected = life("whole", STAGE, model, checkpoint_every=1, **settings)
    for dies_at in (1, 4, 6):
        place = f"broken-{dies_at}"
        with pytest.raises(Killed):
            life(place, STAGE, model, dies_at, checkpoint_every=1, **settings)
        broken, figures = life(place, STAGE, model, checkpoint_every=1, **settings)
        same(weights(broken), weights(whole))
        assert figures == expected
        assert metrics(broken) == metrics(whole)


def test_finished_parts_are_not_trained_again(life, saved_policy, monkeypatch):
    model, began = saved_policy(), []
    with pytest.raises(Killed):
        life("p", STAGE, model, 6, chunks=3)  # a line for each update and each part: in the third part
    from sawyer.train import loop

    original = loop.train
    monkeypatch.setattr(loop, "train", lambda *args, **rest: began.append(rest["title"]) or original(*args, **rest))
    life("p", STAGE, model, chunks=3)
    assert began == ["stage, part 3"]


def test_tr_dpo_stays_nearer_to_its_reference_than_dpo(life, saved_policy):
    model = saved_policy()
    settings = {"epochs": 4.0, "learning_rate": 1e-2, "schedule": "constant"}
    fixed, _ = life("fixed", STAGE, model, **settings)
    moving, moved = life("moving", STAGE, model, **settings, reference_sync={"every": 1, "alpha": 1.0})
    steps = [line for line in metrics(moving) if "step" in line]
    assert all(line["margin"] == pytest.approx(0, abs=1e-4) for line in steps)  # its own reference at every update
    assert metrics(fixed)[-1]["margin"] > 0.05
    assert moved["kl"] > 0  # from the first reference, which it has left


def test_a_reference_of_its_own_moves_too(life, saved_policy):
    settings = {"models": {"other": saved_policy("llama", 1)}, "reference": "other"}
    here, figures = life("p", STAGE, saved_policy(), **settings, reference_sync={"every": 2, "alpha": 1.0})
    lines = metrics(here)
    assert abs(lines[0]["margin"]) > 1e-3  # another model
    assert lines[2]["margin"] == pytest.approx(0, abs=1e-5)  # the policy itself, since the second update
    assert figures["kl"] > 0


def test_validation_is_against_the_first_reference_throughout(life, saved_policy):
    settings = {"validation": "test", "validate_every": 1, "learning_rate": 1e-2}
    here, _ = life("p", STAGE, saved_policy(), **settings, reference_sync={"every": 1, "alpha": 1.0})
    margins = [line["validation/margin"] for line in metrics(here) if "validation/margin" in line]
    assert len(margins) == 3
    assert all(abs(margin) > 1e-3 for margin in margins)


def seen_by(monkeypatch):
    """The trees of each update, in order."""
    from sawyer.train import loop

    seen, original = [], loop.forward_backward

    def watched(model, batch, *rest):
        seen.append(list(batch))
        return original(model, batch, *rest)

    monkeypatch.setattr(loop, "forward_backward", watched)
    return seen


def test_a_curriculum_goes_from_easy_to_hard_in_every_pass(life, saved_policy, monkeypatch):
    seen = seen_by(monkeypatch)
    life("p", STAGE, saved_policy(), curriculum="length", epochs=2.0)
    lengths = [tree.tokens for batch in seen for tree in batch]
    assert lengths == sorted(lengths[:12]) * 2


def test_with_chunks_the_easiest_part_comes_first(life, saved_policy, monkeypatch):
    seen = seen_by(monkeypatch)
    records = [Comparison((user(f"{i}?"),), (f"yes {i}", "no"), ((7 * i) % 12 + 1.0, 0.0)) for i in range(12)]
    life("p", STAGE, saved_policy(), records=records, curriculum="score_margin", chunks=3)
    easiest = sorted(range(12), key=lambda i: -((7 * i) % 12))
    found = [{tuple(tree.completions[0]) for tree in batch} for batch in seen]
    assert len(found) == 3
    assert not found[0] & found[1]
    from sawyer.pipeline.stages._common import chat_of

    chat = chat_of(saved_policy(), None)
    for part, batch in enumerate(found):
        assert batch == {tuple(chat.completion_ids(f"yes {i}")) for i in easiest[4 * part : 4 * part + 4]}


def test_scores_that_are_not_there_order_nothing(life, saved_policy, pairs):
    with pytest.raises(SawyerError, match="needs the `scores` of all comparisons, and number 1 has none"):
        life("p", STAGE, saved_policy(), records=pairs(8, scored=False), curriculum="score_margin")


def test_kl_and_entropy_are_in_the_metrics(life, saved_policy):
    here, figures = life("p", DPO, saved_policy(), learning_rate=1e-2)
    lines = metrics(here)
    assert ["kl" in line for line in lines] == [False, True, True]  # every second update, and the last
    assert lines[1]["kl"] > 0 < lines[2]["kl"] == figures["kl"]
    assert all(line["entropy"] > 0 for line in lines)
    assert {"reward_chosen", "reward_rejected", "margin", "accuracy", "grad_norm", "displacement"} <= set(lines[0])
    without, figures = life("q", DPO, saved_policy(), kl_every=0)
    assert "kl" not in figures
    assert not (without / "scratch" / "kl.safetensors").exists()


def test_every_loss_has_a_kl_from_where_it_starts(life, saved_policy):
    _, figures = life("p", STAGE, saved_policy(), loss="simpo", learning_rate=1e-2)
    assert figures["kl"] > 0


def test_kl_is_from_the_reference_where_that_is_another_model(life, saved_policy):
    policy, other = saved_policy(), saved_policy("llama", 1)
    _, figures = life("p", DPO, policy, models={"other": other}, reference="other", learning_rate=1e-9)
    _, own = life("q", DPO, policy, learning_rate=1e-9)
    assert own["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["kl"] > 0.01


def test_a_kl_costs_little_of_the_updates_between_two():
    """In tokens read: a forward pass over at most a batch's trees for `kl_every` batches forth and back."""
    from sawyer.train.divergence import TREES

    defaults = Settings(model="base", data="pairs")
    for batch_size in (1, 4, defaults.batch_size, 512):
        measured = min(TREES, batch_size)
        assert measured / (3 * batch_size * defaults.kl_every) < 0.03


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / ".cache" / "reference").iterdir())


def test_reference_log_probs_are_used_again_by_other_stages_and_losses(life, saved_policy, tmp_path, monkeypatch):
    model = saved_policy()
    one, first = life("one", STAGE, model, loss="dpo")
    assert len(files(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(reference, "score_trees", lambda *args, **rest: pytest.fail("they are on disk"))
        two, second = life("two", DPO, model)
        life("three", STAGE, model, loss="ipo", learning_rate=1e-4)
    same(weights(one), weights(two))
    assert first == second
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"model": ("llama", 1)},
        {"precision": "bf16"},
        {"data": 11},
        {"chat_template": "plain"},
        {"token_budget": 128},
        {"loss": "ld_dpo"},
        {"validation": "test"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_reference_log_probs_of_anything_else_are_not_used(change, life, saved_policy, pairs, tmp_path):
    life("one", STAGE, saved_policy(), steps=1)
    change = dict(change)
    model = saved_policy(*change.pop("model", ("llama", 0)))
    records = pairs(change.pop("data", 12))
    life("two", STAGE, model, steps=1, records=records, **change)
    assert len(files(tmp_path)) == 2


def test_a_model_that_was_replaced_in_its_place_is_another(life, saved_policy, tiny_policy, tmp_path):
    model = saved_policy()
    life("one", STAGE, model, steps=1)
    tiny_policy("llama", 5).save_pretrained(model)
    life("two", STAGE, model, steps=1)
    assert len(files(tmp_path)) == 2


def test_a_cache_that_is_deleted_is_made_again(life, saved_policy, tmp_path):
    import shutil

    model = saved_policy()
    one, _ = life("one", STAGE, model)
    shutil.rmtree(tmp_path / ".cache")
    two, _ = life("two", STAGE, model)
    same(weights(one), weights(two))
    assert len(files(tmp_path)) == 1


def test_the_key_tells_trees_apart_that_only_a_boundary_does():
    from sawyer.trees.tree import TokenTree

    def key(*trees):
        return reference.key("m", trees, precision="fp32", token_budget=64)

    trees = [
        TokenTree([1, 2], [[3], [4]]),
        TokenTree([1], [[2, 3], [4]]),
        TokenTree([1], [[2], [3, 4]]),
        TokenTree([1, 2], [[3, 4]]),
        TokenTree([1, 2], [[3], [4]], scored=[[True], [False]]),
        TokenTree([1, 2], [[3], [5]]),
    ]
    assert len({key(tree) for tree in trees}) == len(trees)
    assert key(*trees[:2]) != key(*trees[1::-1])
    assert key(trees[0]) == key(TokenTree((1, 2), ((3,), (4,)), values={"score": [1.0, 0.0]}))
    assert key(trees[0]) != reference.key("m2", trees[:1], precision="fp32", token_budget=64)


def test_a_reference_with_another_tokenizer_is_refused(life, saved_policy, saved_encoder, tiny_tokenizer):
    other = saved_policy("llama", 1)
    from tokenizers import Tokenizer

    state = json.loads(tiny_tokenizer._tokenizer.to_str())
    words = state["model"]["vocab"]
    a, b = sorted(words)[50:52]
    words[a], words[b] = words[b], words[a]
    from transformers import PreTrainedTokenizerFast

    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|im_end|>")
    swapped.save_pretrained(other)
    with pytest.raises(SawyerError, match="the reference other has another tokenizer than the policy base"):
        life("p", DPO, saved_policy(), models={"other": other}, reference="other")


def test_more_parts_than_pairs(life, saved_policy):
    with pytest.raises(SawyerError, match="12 trees cannot be cut into 13 `chunks`"):
        life("p", STAGE, saved_policy(), chunks=13)


def test_a_reference_that_would_never_move(life, saved_policy):
    message = "there are 3 updates, so that a reference which moves every 512 of them would never be used"
    with pytest.raises(SawyerError, match=message):
        life("p", STAGE, saved_policy(), reference_sync={})


LABELLED = [Labelled((user(f"{i}?"),), "+++" if i % 2 else "---", bool(i % 2)) for i in range(12)]


@pytest.mark.parametrize("settings", [{"chunks": 2}, DPO_SYNC], ids=["sdpo", "tr-dpo"])
def test_kto_may_have_a_reference_that_moves(settings, life, saved_policy):
    _, figures = life("p", STAGE, saved_policy(), records=LABELLED, loss="kto", **settings)
    assert figures["completions"] == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunks": 2, **DPO_SYNC}, "`chunks` and `reference_sync` both move the reference: choose one"),
        ({**DPO_SYNC, "lora": {"r": 4}}, "the mean of two adapters' factors is not the adapter of their mean"),
        (
            {"reference_sync": {"every": 2, "alpha": 1}, "lora": {"r": 4}, "reference": "other"},
            "the policy's body with earlier adapters, which another `reference` is not",
        ),
        ({"loss": "simpo", "chunks": 2}, "with simpo there is no reference, and `chunks` is set: leave it out"),
        ({"loss": "simpo", **DPO_SYNC}, "with simpo there is no reference, and `reference_sync` is set"),
        (
            {"loss": "simpo", "curriculum": "reference_margin"},
            "with simpo there is no reference, and `curriculum: reference_margin`",
        ),
        ({"loss": "kto", "curriculum": "length"}, "orders pairs and rankings, and kto learns from single completions"),
        ({"curriculum": "random"}, "Input should be 'score_margin', 'reference_margin' or 'length'"),
        ({"steps": 2, "chunks": 3}, "`steps` 2 is fewer than one update for each of 3 `chunks`"),
        ({"chunks": 0}, "greater than or equal to 1"),
        ({"reference_sync": {"every": 0}}, "greater than or equal to 1"),
        ({"reference_sync": {"alpha": 1.5}}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValidationError, match=message):
        Settings(model="base", data="pairs", **settings)


def test_steps_are_all_updates_over_all_parts(life, saved_policy):
    here, _ = life("p", STAGE, saved_policy(), chunks=3, steps=7)
    assert [line["step"] for line in metrics(here) if "step" in line] == [1, 2, 1, 2, 1, 2, 3]


def test_the_memory_asked_for_holds_the_moving_reference():
    from sawyer.pipeline.stages._common import training_needs

    plain = training_needs(Settings(model="base", data="pairs"), 10**9)
    moving = training_needs(Settings(model="base", data="pairs", **DPO_SYNC), 10**9)
    assert moving["memory_gb"] - plain["memory_gb"] == pytest.approx(6)
    assert moving["scratch_gb"] > plain["scratch_gb"]
