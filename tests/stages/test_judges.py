"""Judges and panels where a recipe names feedback."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from sawyer.data.records import Prompt
from sawyer.feedback.baselines import LengthScore
from sawyer.pipeline.context import Context
from sawyer.pipeline.stages import _feedback, online
from sawyer.pipeline.stages._feedback import JudgeSettings, PanelSettings, engine_of, feedback_of
from sawyer.pipeline.stages._online import Steps
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion

TWO = [{"model": "base"}, {"model": "base", "form": "pointwise"}]
STAGE = {"model": "base", "data": "prompts"}
PAIR = ([Prompt("Why?")], [("Because of it.", "So.")])


class Longer:
    """Prefers the longer answer, and rates by length."""

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        return [[Completion((), (), said(prompt.text), True)] * n for prompt in prompts]


def said(question):
    blocks = [part.split("\n[end of")[0] for part in question.split("[begin of answer of ")[1:]]
    texts = [block.split("]\n", 1)[1] for block in blocks]
    if len(texts) == 2:
        return "[[A]]" if len(texts[0]) > len(texts[1]) else "[[B]]"
    return f"[[{min(10, len(texts[0]))}]]"


def silent(prompts, sampling, n=1, **how):
    return [[Completion((), (), "I cannot say", True)] * n for _ in prompts]


@pytest.fixture
def context(tmp_path):
    return Context("stage", tmp_path, tmp_path, seed=1, models={"base": "some/model"})


@pytest.fixture
def engines(monkeypatch):
    made = []

    def make(settings, context):
        made.append(settings.model or settings.remote)
        return Longer()

    monkeypatch.setattr(_feedback, "engine_of", make)
    return made


@pytest.mark.parametrize("form", ["pairwise", "pointwise"])
def test_a_judge_of_any_form_is_a_feedback_of_a_stage(context, engines, form):
    settings = online.Settings(**STAGE, judge={"model": "base", "form": form})
    assert settings.judge.both_orders
    feedback = feedback_of(settings, context)
    assert feedback.prefer(*PAIR) == [1.0]
    assert feedback.settings.form == form


def test_judges_of_a_panel_share_their_model(context, engines):
    judges = [*TWO, {"remote": "m"}]
    panel = feedback_of(online.Settings(**STAGE, panel={"judges": judges, "rule": "majority"}), context)
    assert engines == ["base", "m"]
    assert panel.prefer(*PAIR) == [1.0]
    assert panel.members[0].engine is panel.members[1].engine
    weighed = {"judges": TWO, "rule": "reliability", "accuracies": [0.9, 0.6]}
    (p,) = feedback_of(online.Settings(**STAGE, panel=weighed), context).prefer(*PAIR)
    assert p == pytest.approx(9 * 1.5 / (1 + 9 * 1.5))


def test_a_local_judge_keeps_its_answers(saved_policy, tmp_path, monkeypatch):
    context = Context("stage", tmp_path / "out", tmp_path / "scratch", seed=1, models={"base": saved_policy("llama")})
    engine = engine_of(JudgeSettings(model="base"), context)
    assert isinstance(engine, KeptEngine)
    monkeypatch.setattr(engine.engine, "generate", Longer().generate)
    judge = _feedback.judge_of(JudgeSettings(model="base"), context)
    monkeypatch.setattr(judge.asker, "engine", engine)
    assert judge.prefer(*PAIR) == [1.0]
    monkeypatch.setattr(engine.engine, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert judge.prefer(*PAIR) == [1.0]


def test_an_update_tells_how_many_questions_had_no_verdict(context, monkeypatch):
    monkeypatch.setattr(_feedback, "engine_of", lambda *_: Longer())
    feedback = feedback_of(online.Settings(**STAGE, judge={"model": "base", "template": "pairwise"}), context)
    step = SimpleNamespace(feedback=feedback, context=context)
    assert Steps.heard(step, lambda: feedback.prefer(*PAIR)) == ([1.0], {"unread": 0.0})
    monkeypatch.setattr(feedback.asker.engine, "generate", silent, raising=False)
    for _ in range(2):
        assert Steps.heard(step, lambda: feedback.prefer(*PAIR)) == ([0.5], {"unread": 2.0})
    step.feedback = LengthScore()
    assert Steps.heard(step, lambda: "said") == ("said", {})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judge": TWO[0], "panel": {"judges": TWO}}, "one of them"),
        ({"panel": {"judges": TWO[:1]}}, "at least 2 items"),
        ({"panel": {"judges": TWO, "rule": "mode"}}, "'mean', 'median', 'majority' or 'reliability'"),
        ({"panel": {"judges": TWO, "rule": "reliability"}}, "needs the `accuracies` of the judges"),
        ({"panel": {"judges": TWO, "accuracies": [0.5, 0.5]}}, "by mean all count the same"),
        ({"panel": {"judges": TWO, "rule": "reliability", "accuracies": [0.5]}}, "was given 1 accuracies"),
        ({"judge": {"model": "base", "form": "scale", "template": "pairwise"}}, "is for pairwise, not for scale"),
        ({"judge": {"model": "base", "template_file": "none.yaml"}}, "there is no such file"),
        ({"judge": {"model": "base", "samples": 2}}, "all of them would be the same answer"),
    ],
)
def test_settings_that_do_not_fit(settings, said):
    with pytest.raises(ValidationError) as error:
        online.Settings(**STAGE, **settings)
    assert said in str(error.value)
    assert PanelSettings(judges=TWO).rule == "mean"
