"""Stage `label` by a judge, aspect by aspect, and by files; answers of several models joined by prompt."""

import csv
import json
from io import StringIO

import pytest
from pydantic import ValidationError

from sawyer.apps import evaluate_agreement
from sawyer.data.files import read_records
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.progress import Voice
from sawyer.pipeline.stages import _raters, label
from sawyer.rollout.protocol import Completion

PROMPTS = list(make_prompts(5, "train", seed=1))
JUDGE = {"model": "base", "explain": False, "retries": 0}
LONG = (0, 1, 3, 4, 5)
WRITERS = {"cool": "sft", "warm": "sft", "other": "base"}


def points(question: str) -> int:
    """What the judge below thinks of an answer: the longer the better, and less of everything but help."""
    answer = question.split("[begin of answer]\n")[1].split("\n[end of answer]")[0]
    return max(1, min(5, len(answer) // 10) - ("aspect" in question and "helpfulness" not in question))


class Judge:
    """An engine that rates by length, and dies like a process that is killed."""

    def __init__(self, dies_after: int | None = None, speaks=lambda question: f"Score: {points(question)}") -> None:
        self.asked, self.dies_after, self.speaks = [], dies_after, speaks

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        if self.dies_after is not None and len(self.asked) + len(prompts) > self.dies_after:
            raise KeyboardInterrupt
        self.asked += [prompt.text for prompt in prompts]
        return [[Completion((1,), (0.0,), self.speaks(prompt.text), True) for _ in range(n)] for prompt in prompts]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """`stage(**settings)`: the stage's folder, figures, what it said, and the judge that was asked."""

    def answers(name: str, prompts, texts) -> Artifact:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = [{**prompt.row(), "samples": [{"text": text} for text in texts(i)]} for i, prompt in enumerate(prompts)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Artifact(folder, {"name": name, "settings": {"model": WRITERS[name]}})

    made = {
        "cool": answers("cool", PROMPTS, lambda i: [f"It is water {'and more ' * LONG[i]}."]),
        "warm": answers("warm", PROMPTS, lambda i: ["No.", "It is something that everybody knows."]),
        "other": answers("other", PROMPTS[:4], lambda i: ["No.", "Rivers flow to the sea."]),
    }

    def run(rater: Judge | None = None, out: str = "out", **settings):
        rater = rater or Judge()
        monkeypatch.setattr(_raters, "answering", lambda settings, context: rater)
        for name in ("folder", "scratch"):
            (tmp_path / out / name).mkdir(parents=True, exist_ok=True)
        said = StringIO()
        folder = tmp_path / out / "folder"
        context = Context(
            "labels",
            folder,
            tmp_path / out / "scratch",
            seed=3,
            artifacts=made,
            models={"base": "x"},
            voice=Voice(said),
        )
        figures = label.run(label.Settings(**{"data": list(made), **settings}), context)
        return folder, figures, " ".join(said.getvalue().split()), rater

    return run


def test_every_answer_is_rated_for_every_aspect_and_the_best_stands_against_another(stage):
    folder, figures, said, judge = stage(by="judge", judge=JUDGE, form="best_random", gold="verifiable")
    records = read_records(folder / "train.jsonl")
    assert figures["train"] == len(records) == 5
    for i, record in enumerate(records):
        assert record.prompt == PROMPTS[i].prompt
        assert record.info["constraints"] == PROMPTS[i].info["constraints"]
        assert record.info["labelled_by"] == "base"
        assert record.info["details"][0]["helpfulness"] - record.info["details"][0]["honesty"] in (0, 1)
        mean = [sum(own.values()) / 4 for own in record.info["details"]]
        assert list(record.scores) == mean == sorted(mean, reverse=True)
    assert records[0].info["models"][0] == "sft (warm)"
    assert records[4].completions[0].startswith("It is water and more")
    assert set(figures["train_chosen"]) <= {"sft (cool)", "sft (warm)", "base"}
    assert 0 <= figures["train_agrees_with_gold"] <= 1
    assert figures["train_ratings"]["helpfulness"] > figures["train_ratings"]["honesty"]
    assert (figures["train_unscored"], figures["train_unread"]) == (0, 0)
    assert "1 of 5 prompts of part 'train' were not answered by all of 3" in said
    assert len(judge.asked) == len(set(judge.asked)) == 4 * (5 * 3 + 4)  # "No." twice to a prompt is one answer


def test_weights_of_some_aspects(stage):
    folder, *_ = stage(by="judge", judge=JUDGE, aspects={"helpfulness": 3, "honesty": 1}, form="extremes")
    for record in read_records(folder / "train.jsonl"):
        for score, details in zip(record.scores, record.info["details"], strict=True):
            assert score == pytest.approx((3 * details["helpfulness"] + details["honesty"]) / 4)


def test_a_killed_judge_is_asked_nothing_twice_and_ends_in_the_same_bits(stage, monkeypatch):
    monkeypatch.setattr("sawyer.rollout.kept.CHUNK", 8)
    settings = {"by": "judge", "judge": {**JUDGE, "unread_limit": None}, "form": "extremes"}
    whole, _, _, asked = stage(**settings)
    first = Judge(dies_after=30)
    with pytest.raises(KeyboardInterrupt):
        stage(first, "broken", **settings)
    broken, _, _, second = stage(None, "broken", **settings)
    assert sorted(first.asked + second.asked) == sorted(asked.asked)
    for name in ("train.jsonl", "ratings/train.csv"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_what_cannot_be_read_is_counted_and_in_no_pair(stage):
    def speaks(question):
        silent = "[begin of answer]\nNo." in question and "honesty" in question
        return "No idea." if silent else f"Score: {points(question)}"

    folder, figures, said, _ = stage(Judge(speaks=speaks), by="judge", judge=JUDGE, form="rankings")
    assert figures["train_unscored"] == 5
    assert figures["train_unread"] == pytest.approx(5 / (4 * 19))
    assert "of the judge's replies could not be read" in said
    assert all("No." not in record.completions for record in read_records(folder / "train.jsonl"))


def test_a_judge_that_is_never_readable_stops_the_stage(stage):
    with pytest.raises(SawyerError, match="no readable answer to 38 of 38"):
        stage(Judge(speaks=lambda question: "It is fine."), by="judge", judge=JUDGE)


def test_a_judge_that_says_the_same_of_all_gives_no_pair(stage):
    with pytest.raises(SawyerError, match="no two completions of a prompt of part 'train' have scores that differ"):
        stage(Judge(speaks=lambda question: "Score: 3"), by="judge", judge=JUDGE)


def test_ratings_are_a_file_of_labels_that_can_be_compared_and_read_back(stage, tmp_path):
    folder, *_ = stage(by="judge", judge=JUDGE, form="extremes")
    ratings = folder / "ratings" / "train.csv"
    rows = list(csv.DictReader(ratings.open()))
    assert len(rows) == 19
    people = tmp_path / "people.csv"
    people.write_text("id,anna\n" + "".join(f"{row['id']},{6 - float(row['overall'])}\n" for row in rows))
    request = evaluate_agreement.Request([people, ratings], raters=("anna", "overall"), draws=20)
    [pair] = evaluate_agreement.evaluate(request, Voice(StringIO()))["pairs"]
    assert (pair["items"], pair["prompts"]) == (19, 5)
    assert pair["measures"]["pearson"]["mean"] == pytest.approx(-1)

    again, *_ = stage(None, "again", by="file", labels=str(ratings), raters=["overall"], form="extremes")
    upside_down, *_ = stage(None, "down", by="file", labels=str(people), form="extremes")
    judged, same, other = (read_records(place / "train.jsonl") for place in (folder, again, upside_down))
    assert [one.completions for one in judged] == [one.completions for one in same]
    assert [one.completions for one in judged] == [one.completions[::-1] for one in other]
    assert same[0].info["labelled_by"] == "file"

    shorter = tmp_path / "bob.csv"
    shorter.write_text("id,bob\n" + "".join(f"{row['id']},1\n" for row in rows[:3]) + "nobody,5\n")
    _, figures, said, _ = stage(None, "two", by="file", labels=[str(people), str(shorter)], form="extremes")
    assert (figures["unknown_ids"], figures["train_unscored"]) == (1, 0)
    assert "16 ids of" in said
    assert "missing" in said
    assert "(nobody)" in said


def test_labels_of_other_length_and_of_unknown_ids_are_named_and_left_out(stage, tmp_path):
    file = tmp_path / "people.csv"
    given = [(0, "No.", "1"), (0, "Rivers flow to the sea.", "5"), (None, "Nothing.", "3"), (1, "No.", "bad")]
    rows = [
        {"prompt": "Nobody asked." if number is None else PROMPTS[number].text, "a": text, "anna": score}
        for number, text, score in given
    ]
    with file.open("w", newline="") as handle:
        table = csv.DictWriter(handle, ["prompt", "a", "anna"])
        table.writeheader()
        table.writerows(rows)
    folder, figures, said, _ = stage(by="file", labels=str(file), form="extremes")
    [record] = read_records(folder / "train.jsonl")
    assert record.completions == ("Rivers flow to the sea.", "No.")
    assert (figures["unknown_ids"], figures["train_unscored"]) == (1, 17)
    assert "1 labels are about no completion of cool, warm, other" in said
    assert "17 of 19 completions of part 'train' have no label" in said
    assert "1 labels are not numbers" in said
    with pytest.raises(SawyerError, match=r"none of the 3 labels in .* is about a completion of cool"):
        stage(by="file", labels=str(file), data=["cool"])


def test_the_annotator_labels_answers_of_several_models_too(stage):
    folder, figures, *_ = stage(form="best_random", temperature=0.01)
    records = read_records(folder / "train.jsonl")
    assert all(len(record.info["models"]) == 2 and record.scores is None for record in records)
    assert figures["train_agrees_with_gold"] > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "judge"}, "`by: judge` needs `judge`"),
        ({"by": "file"}, "`by: file` needs `labels`"),
        ({"judge": JUDGE}, "`judge` is for `by: judge`, and the labels are by annotator"),
        ({"by": "judge", "judge": JUDGE, "temperature": 0.2}, "`temperature` is for `by: annotator`"),
        ({"gold": "length"}, "leave gold and `min_margin` out"),
        ({"by": "judge", "judge": {**JUDGE, "samples": 3}}, "set a temperature above 0"),
        ({"by": "judge", "judge": {**JUDGE, "read": "tokens", "temperature": 0.5}}, "generates nothing"),
        ({"by": "judge", "judge": {"remote": "m", "read": "tokens"}}, "of a `remote` one only the text is known"),
        ({"by": "judge", "judge": {"remote": "m", "model": "base"}}, "give one of the two"),
        ({"by": "judge", "judge": {**JUDGE, "api": {"timeout": 1}}}, "`api` is for a `remote` judge"),
        ({"by": "judge", "judge": JUDGE, "aspects": {"beauty": 1}}, "helpfulness"),
        ({"by": "judge", "judge": JUDGE, "aspects": {}}, "at least 1"),
        ({"data": ["cool", "cool"]}, "names no stage, or one twice"),
        ({"data": []}, "names no stage, or one twice"),
        ({"form": "best_random", "pairs": 2}, "another form orders all completions"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        label.Settings(**{"data": "cool", **settings})
