"""Stage `label`: win rates as scores, which say nothing that the labels do not."""

import json

import pytest

from sawyer.data.files import read_records
from sawyer.data.verifiable import make_prompts
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.stages import label

TEXTS = ["It is water.", "It is a river, and it flows to the sea.", "No.", "Rivers flow. They are long and wide."]


@pytest.fixture
def labelled(tmp_path):
    def run(**settings):
        folder = tmp_path / "answers"
        folder.mkdir(exist_ok=True)
        rows = [
            {**prompt.row(), "samples": [{"text": text} for text in TEXTS]}
            for prompt in make_prompts(6, "train", seed=1)
        ]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        (out / "scratch").mkdir(parents=True)
        stage = Context(
            "labels", out, out / "scratch", seed=3, artifacts={"answers": Artifact(folder, {"name": "answers"})}
        )
        label.run(label.Settings(data="answers", **settings), stage)
        return read_records(out / "train.jsonl")

    return run


@pytest.mark.parametrize(
    ("form", "rates"),
    [("extremes", (0.875, 0.125)), ("pairs", (0.75, 0.25)), ("rankings", (0.875, 0.625, 0.375, 0.125))],
)
def test_win_rates_follow_from_the_labels_alone(labelled, form, rates):
    plain, scored = labelled(form=form), labelled(form=form, win_rates=True)
    assert len(plain) == 6
    assert [record.completions for record in scored] == [record.completions for record in plain]
    assert all(record.scores is None for record in plain)
    assert {record.scores for record in scored} == {rates}
