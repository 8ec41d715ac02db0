"""Stage `reward`: what each of its settings leaves behind, and what is refused."""

import json

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sawyer.data.chat import TEMPLATES
from sawyer.data.records import Comparison, Prompt, user
from sawyer.errors import SawyerError
from sawyer.evals.reward_models import fit_temperature
from sawyer.feedback.protocol import prefer
from sawyer.feedback.reward_model import RewardModel
from sawyer.pipeline.stages.reward import STAGE, Settings

SMALL = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "max_tokens": 128, "max_dropped": 0.5}
ASKED = [Prompt("What is a river? Number 99."), Prompt("What is a town? Number 98.")]
ANSWERS = [("It is well thank you.", "No no at all"), ("It is well and so thank you.", "No no no at all")]


def learned(folder) -> list[float]:
    return prefer(RewardModel(str(folder)), ASKED, ANSWERS)


@pytest.mark.parametrize(
    "settings",
    [
        {"gap": "margin", "gap_scale": 0.5},
        {"gap": "weight"},
        {"gap": "square", "gap_scale": 0.5},
        {"label_smoothing": 0.1},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_what_shapes_the_loss_of_pairs_trains(settings, saved_policy, pairs, run_stage):
    data = {"pairs": {"train": pairs(24), "test": pairs(8, first=50)}}
    folder, figures = run_stage(STAGE, saved_policy(), data, data="pairs", validation="test", **SMALL, **settings)
    assert figures["held_out"]["accuracy"]["mean"] > 0.9
    assert min(learned(folder)) > 0.5


def test_plain_transformers_scores_a_padded_batch_as_we_do(saved_policy, pairs, run_stage):
    folder, _ = run_stage(STAGE, saved_policy(), {"pairs": {"train": pairs(8)}}, data="pairs", **{**SMALL, "steps": 2})
    reward = RewardModel(str(folder))
    sequences = [
        reward.form.prompt_ids(prompt.prompt) + reward.form.completion_ids(text)
        for prompt, own in zip(ASKED, ANSWERS, strict=True)
        for text in own
    ]
    assert len({len(ids) for ids in sequences}) > 1
    plain, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = plain(**tokenizer.pad({"input_ids": sequences}, return_tensors="pt")).logits
    assert logits[:, 0].tolist() == pytest.approx([s for own in reward.score(ASKED, ANSWERS) for s in own], abs=1e-4)


def test_the_template_of_the_training_is_the_one_to_score_with(saved_policy, pairs, run_stage):
    settings = {**SMALL, "steps": 1, "data": "pairs", "chat_template": "plain"}
    folder, _ = run_stage(STAGE, saved_policy(), {"pairs": {"train": pairs(4)}}, **settings)
    assert RewardModel(str(folder)).form.template == TEMPLATES["plain"]
    with pytest.raises(SawyerError, match="was trained with another chat template"):
        RewardModel(str(folder), chat_template="chatml")


def test_the_temperature_is_fitted_on_a_part_of_its_own(saved_policy, pairs, run_stage):
    data = {"pairs": {"train": pairs(24), "validation": pairs(6, first=30), "test": pairs(8, first=50)}}
    settings = {**SMALL, "steps": 3, "data": "pairs", "validation": "test", "calibrate": "validation"}
    folder, figures = run_stage(STAGE, saved_policy(), data, **settings)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation == figures["held_out"]
    calibration = evaluation["calibration"]
    assert (evaluation["pairs"], calibration["measured_on"], calibration["fitted_on"]) == (8, 8, 6)
    reward = RewardModel(str(folder))
    margins = {
        part: [a - b for a, b in reward.score([Prompt(r.prompt) for r in own], [r.completions for r in own])]
        for part, own in data["pairs"].items()
    }
    wanted = fit_temperature(margins["validation"])
    assert calibration["temperature"] == pytest.approx(wanted, rel=0.01)
    assert evaluation["margin"]["mean"] == pytest.approx(sum(margins["test"]) / 8, abs=1e-4)


@pytest.mark.parametrize("more", [{}, {"lora": {"r": 4}}], ids=["whole", "lora"])
def test_odin_leaves_the_quality_head_alone(more, saved_policy, pairs, run_stage):
    data = {"pairs": {"train": pairs(24), "test": pairs(8, first=50)}}
    settings = {**SMALL, "heads": "odin", "odin_weight": 0.5, **more}
    folder, figures = run_stage(STAGE, saved_policy(), data, data="pairs", validation="test", **settings)
    assert json.loads((folder / "config.json").read_text()).get("num_labels", 1) == 1
    assert AutoModelForSequenceClassification.from_pretrained(folder).score.weight.shape[0] == 1
    assert not (folder / "adapter").exists()
    held_out = figures["held_out"]["margin"]["mean"]
    scores = RewardModel(str(folder)).score(
        [Prompt(r.prompt) for r in pairs(8, 50)], [r.completions for r in pairs(8, 50)]
    )
    assert sum(a - b for a, b in scores) / 8 == pytest.approx(held_out, abs=1e-4)
    assert {"length_head_correlation", "quality_head_correlation"} <= figures.keys()


def test_odin_depends_on_length_less(saved_policy, run_stage):
    """Every chosen answer is the longer one, so a plain reward model has length for its reward."""

    def confounded(n, first=0):
        return [
            Comparison((user(f"Number {i}?"),), ("well " * (4 + i % 5), "well " * (1 + i % 3)))
            for i in range(first, first + n)
        ]

    data = {"pairs": {"train": confounded(32), "test": confounded(16, 40)}}
    settings = {**SMALL, "steps": 30, "token_budget": 4096, "validation": "test"}
    _, plain = run_stage(STAGE, saved_policy(), data, data="pairs", **settings)
    _, odin = run_stage(STAGE, saved_policy(), data, data="pairs", heads="odin", **settings)
    assert plain["held_out"]["margin"]["mean"] > 1
    assert abs(odin["held_out"]["margin"]["mean"]) < 0.3 * plain["held_out"]["margin"]["mean"]
    assert odin["validation_length_head_correlation"] > 0.8
    assert abs(odin["validation_quality_head_correlation"]) < 0.5


@pytest.mark.parametrize(
    ("settings", "records", "sentence"),
    [
        ({"gap": "margin"}, "unscored", "`gap` needs the scores of both completions, and comparison 1 has none"),
        ({"gap": "square"}, "rankings", "`gap` is for pairs, and comparison 1 has 3 completions"),
        ({"label_smoothing": 0.1}, "rankings", "`label_smoothing` is for pairs"),
        ({"encoder": "cross"}, "scored", "is a decoder: leave `encoder` out"),
    ],
)
def test_what_the_data_cannot_give_is_one_sentence(settings, records, sentence, saved_policy, pairs, run_stage):
    ask = (user("What?"),)
    train = {
        "unscored": pairs(4, scored=False),
        "scored": pairs(4),
        "rankings": [Comparison(ask, ("a", "b", "c"), (3, 2, 1))],
    }[records]
    with pytest.raises(SawyerError, match=sentence) as error:
        run_stage(STAGE, saved_policy(), {"pairs": {"train": train}}, data="pairs", **SMALL, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"odin_weight": 2.0}, "is for `heads: odin`"),
        ({"gap": "weight", "gap_scale": 2.0}, "is for `gap: margin` and `gap: square`"),
        ({"encoder": "cross", "lora": {"r": 2}}, "`lora` is for decoders"),
        ({"encoder": "bi", "chat_template": "plain"}, "`chat_template` is for decoders"),
        ({"encoder": "bi", "heads": "odin"}, "a bi-encoder has one output"),
        ({"calibrate": "dev"}, "`calibrate` needs data to measure on"),
        ({"calibrate": "test", "validation": "test"}, "must be another part"),
        ({"calibrate": "train", "validation": "test"}, "must be another part"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Settings(model="base", data="pairs", **settings)


@pytest.mark.parametrize("encoder", ["cross", "bi"])
def test_encoders_are_trained_saved_and_read_again(encoder, saved_encoder, pairs, run_stage):
    data = {"pairs": {"train": pairs(24), "test": pairs(8, first=50)}}
    settings = {**SMALL, "steps": 25, "learning_rate": 3e-3, "encoder": encoder, "validation": "test"}
    folder, figures = run_stage(STAGE, saved_encoder("roberta"), data, data="pairs", **settings)
    assert figures["held_out"]["accuracy"]["mean"] > 0.9
    assert figures["truncated"] == 0
    records = pairs(8, 50)
    scores = RewardModel(str(folder)).score([Prompt(r.prompt) for r in records], [r.completions for r in records])
    assert sum(a - b for a, b in scores) / 8 == pytest.approx(figures["held_out"]["margin"]["mean"], abs=1e-4)


def test_what_an_encoder_cannot_read_is_cut_counted_and_cut_alike_when_scoring(saved_encoder, pairs, run_stage):
    data = {"pairs": {"train": pairs(8)}}
    settings = {**SMALL, "steps": 1, "max_tokens": 40, "encoder": "cross"}
    folder, figures = run_stage(STAGE, saved_encoder("roberta"), data, data="pairs", **settings)
    assert figures["truncated"] > 0
    assert RewardModel(str(folder)).form.max_tokens == 40


def test_an_encoder_says_how_it_is_to_be_read(saved_encoder, pairs, run_stage):
    with pytest.raises(SawyerError, match="say how it reads prompt and completion, with `encoder: cross`"):
        run_stage(STAGE, saved_encoder("roberta"), {"pairs": {"train": pairs(4)}}, data="pairs", **SMALL)
    settings = {**SMALL, "steps": 1, "encoder": "bi"}
    folder, _ = run_stage(STAGE, saved_encoder("bert"), {"pairs": {"train": pairs(4)}}, data="pairs", **settings)
    settings = {**SMALL, "encoder": "cross"}
    with pytest.raises(SawyerError, match="is a bi-encoder"):
        run_stage(STAGE, str(folder), {"pairs": {"train": pairs(4)}}, data="pairs", **settings)


def test_odin_on_an_encoder_leaves_one_output(saved_encoder, pairs, run_stage):
    settings = {**SMALL, "encoder": "cross", "heads": "odin", "steps": 2}
    folder, _ = run_stage(STAGE, saved_encoder("roberta"), {"pairs": {"train": pairs(8)}}, data="pairs", **settings)
    assert len(learned(folder)) == 2
