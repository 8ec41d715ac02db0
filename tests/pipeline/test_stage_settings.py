"""Settings that contradict each other, or would be passed over without a word, are refused before a stage runs."""

import pytest
from pydantic import ValidationError

from sawyer.data.verifiable import make_prompts
from sawyer.feedback.annotator import SimulatedAnnotator
from sawyer.feedback.rules import VerifiableReward
from sawyer.pipeline.stages import _label_annotator, data, dpo, label
from sawyer.pipeline.stages.iterate import Settings

NEEDS = {"model": "base", "data": "prompts", "reward": "reward"}


def test_sampling_must_make_sense_at_the_temperatures_that_replace_its_own():
    Settings(**NEEDS, sampling={"temperature": 0, "top_p": 0.9, "repetition_penalty": 1.1})
    with pytest.raises(ValidationError, match=r"replaced by 1, .*: num_beams 2 searches and does not sample"):
        Settings(**NEEDS, sampling={"temperature": 0, "num_beams": 2})
    with pytest.raises(ValidationError, match=r"replaced by 0, .*: temperature 0 takes the likeliest"):
        Settings(**NEEDS, temperatures=[0, 1], sampling={"typical_p": 0.5})


def test_iterate_validates_once_an_iteration():
    with pytest.raises(ValidationError, match="every iteration ends with a validation"):
        Settings(**NEEDS, validate_every=5)


def test_validations_need_data():
    dpo.Settings(model="sft", data="pairs", validate_every=5, validation="test")
    with pytest.raises(ValidationError, match="`validate_every` needs data to measure on"):
        dpo.Settings(model="sft", data="pairs", validate_every=5)


@pytest.mark.parametrize("form", ["rankings", "extremes"])
@pytest.mark.parametrize("more", [{"pairs": 2}, {"error_rate": 0.1}])
def test_rankings_take_no_settings_of_pairs(form, more):
    label.Settings(data="answers", **more)
    with pytest.raises(ValidationError, match="are for `form: pairs`"):
        label.Settings(data="answers", form=form, **more)


def test_extremes_are_the_ends_of_rankings():
    prompts = make_prompts(5, "train")
    texts = [[f"A {word} is a thing that people know well." for word in "abcd"[: 4 - i % 2]] for i in range(5)]
    texts[4] = ["the same", "the same"]  # nothing to compare
    annotator = SimulatedAnnotator(VerifiableReward())
    rankings, extremes = (
        _label_annotator.rankings(label.Settings(data="answers", form=form), annotator, prompts, texts, 0)
        for form in ("rankings", "extremes")
    )
    assert [len(c.completions) for c in rankings] == [4, 3, 4, 3]
    assert [c.completions for c in extremes] == [(c.completions[0], c.completions[-1]) for c in rankings]


def test_parts_are_not_split_again():
    source = {"source": "verifiable", "split": "train", "n": 4}
    with pytest.raises(ValidationError, match="`parts` come split"):
        data.Settings(parts={"train": source}, split={"train": 0.5})


def test_a_split_seed_is_for_a_source_that_is_split():
    source = {"source": "verifiable", "split": "train", "n": 4}
    data.Settings(source=source, split_seed=3)
    with pytest.raises(ValidationError, match="`split` and `split_seed` divide a `source`"):
        data.Settings(parts={"train": source}, split_seed=3)


def test_defaults_written_out_say_the_same():
    source = {"source": "verifiable", "split": "train", "n": 4}
    for settings in (data.Settings(parts={"train": source}), label.Settings(data="answers", form="extremes")):
        assert type(settings)(**settings.model_dump()) == settings


def test_near_duplicates_belong_to_a_split():
    source = {"source": "verifiable", "n": 4}
    assert data.Settings(source=source, near_duplicates=0.8).near_duplicates == 0.8
    with pytest.raises(ValidationError, match="kept together by `split`"):
        data.Settings(parts={"train": source}, near_duplicates=0.8)
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.5"):
        data.Settings(source=source, near_duplicates=0.1)
