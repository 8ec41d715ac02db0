"""Stage `judge_tuning`: judgements that agree with the ranks, or what the ranks say."""

import pytest
from pydantic import ValidationError

from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, Conversation, assistant, user
from sawyer.errors import SawyerError
from sawyer.feedback.scales import ADDITIVE
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.stages import _raters, judge_tuning
from sawyer.rollout.protocol import Completion

ASKED = [(user(f"What is a {thing}?"),) for thing in ("river", "town", "bridge")]
RANKED = [Comparison(asked, ("good", "fair", "bad")) for asked in ASKED]
SEEDS = [Conversation((*ASKED[0], assistant("Water.")))]
SAYS = {"good": ["Score: 5", "Score: 2"], "fair": ["Score: 3", "Score: 3"], "bad": ["Score: 1", "so bad"]}


class Judge:
    """Right in its first sample, wrong and unreadable in the second; of rivers it knows nothing."""

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        return [[Completion((1,), (0.0,), self.says(prompt.text, k), True) for k in range(n)] for prompt in prompts]

    def says(self, question, k):
        answer = question.split("[begin of answer]\n")[1].split("\n")[0]
        return "Score: 4" if "river" in question else f"It is {answer}.\n{SAYS[answer][k]}"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(_raters, "answering", lambda settings, context: Judge())
    for name in ("data", "folder", "scratch"):
        (tmp_path / name).mkdir()

    def call(ranked=RANKED, **settings):
        write_records(tmp_path / "data" / "train.jsonl", ranked)
        (tmp_path / "seeds").mkdir(exist_ok=True)
        write_records(tmp_path / "seeds" / "train.jsonl", SEEDS)
        artifacts = {name: Artifact(tmp_path / name, {"name": name, "makes": "data"}) for name in ("data", "seeds")}
        context = Context(
            "stage", tmp_path / "folder", tmp_path / "scratch", seed=1, artifacts=artifacts, models={"base": "x"}
        )
        figures = judge_tuning.run(judge_tuning.Settings(data="data", **settings), context)
        return read_records(tmp_path / "folder" / "train.jsonl"), figures

    return call


def test_the_models_own_judgements_are_kept_where_they_agree_with_people(run):
    records, figures = run(judge={"model": "base", "temperature": 0.7, "samples": 2, "retries": 0}, most=1.0)
    assert [record.messages[-1]["content"] for record in records[:3]] == [
        "It is good.\nScore: 5", "It is fair.\nScore: 3", "It is bad.\nScore: 1",
    ]  # fmt: skip
    assert records[0].messages[:-1] == ADDITIVE.ask(ASKED[1], "good").prompt
    assert len(records) == figures["train"] == figures["train_judgements"] == 6
    assert figures["train_points"] == {"1": 2, "3": 2, "5": 2}
    assert figures["train_agree"] == pytest.approx(1 / 3)
    assert figures["train_unread"] == pytest.approx(2 / 18)


def test_ranks_alone_say_points_without_a_word_besides_the_seeds(run):
    records, figures = run(by="ranks", seeds="seeds", limit=2)
    assert records[0] == SEEDS[0]
    assert [record.messages[-1]["content"] for record in records[1:4]] == ["Score: 5", "Score: 2", "Score: 0"]
    assert records[1].messages[:-1] == ADDITIVE.ask(ASKED[0], "good", explain=False).prompt
    assert (figures["train"], figures["train_judgements"]) == (7, 6)


def test_a_judge_that_agrees_with_nobody_is_an_error(run):
    with pytest.raises(SawyerError, match="not one judgement of part 'train' agrees"):
        run(RANKED[:1], judge={"model": "base", "retries": 0})


def test_settings_that_do_not_fit():
    for settings in ({}, {"by": "ranks", "judge": {"model": "base"}}):
        with pytest.raises(ValidationError, match="give both or neither"):
            judge_tuning.Settings(data="data", **settings)
    with pytest.raises(ValidationError, match="are the judge's words"):
        judge_tuning.Settings(data="data", judge={"model": "base", "read": "tokens"})
