"""Stage `d2po`: what does not fit is one sentence."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sawyer.errors import SawyerError
from sawyer.feedback.rules_text import TextRule
from sawyer.pipeline.stages import _d2po, d2po
from tests.workflow import d2po_stage
from tests.workflow.d2po_stage import ASKED, FROZEN, OAIF, SMALL, logged


@pytest.fixture
def run(context, updates):
    return d2po_stage.runner(context, updates)


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
