import json
import time
from io import StringIO
from typing import Annotated

import pytest
from pydantic import Field

from sawyer.pipeline import progress
from sawyer.pipeline.context import Context, derived_seed
from sawyer.pipeline.metrics import MetricsLog, read_metrics
from sawyer.pipeline.progress import Voice, duration
from sawyer.pipeline.stage import InputFile, Presentation, Ref, marked
from sawyer.settings import Settings


def test_a_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_metrics(path) == [{"a": 1}, {"a": 2}]
    MetricsLog(path).append({"a": 3})
    assert read_metrics(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_whole_lines_are_found_from_the_end_of_a_long_log(tmp_path, monkeypatch):
    monkeypatch.setattr("sawyer.pipeline.metrics.BLOCK", 5)
    path = tmp_path / "metrics.jsonl"
    for content, whole in (("{}\n" * 9, 27), ("{}\n{}\n" + "x" * 12, 6), ("x" * 12, 0), ("", 0)):
        path.write_text(content)
        assert MetricsLog(path).position() == whole
        assert path.stat().st_size == whole


def test_rewinding_drops_what_came_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    position = log.position()
    log.append({"step": 2})
    resumed = MetricsLog(log.path)
    resumed.rewind(position)
    resumed.append({"step": 2, "again": True})
    assert read_metrics(log.path) == [{"step": 1}, {"step": 2, "again": True}]


def test_logged_figures_are_strict_json_whatever_made_them(tmp_path):
    import numpy as np

    context = Context("x", tmp_path, tmp_path, seed=0)
    context.log(mean=np.float32(0.5), all=np.arange(2), bad=float("inf"), path=tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"mean": 0.5, "all": [0, 1], "bad": None, "path": str(tmp_path)}


def test_only_declared_references_can_be_used(tmp_path):
    context = Context("x", tmp_path, tmp_path, seed=0, models={"base": "smollm2"})
    assert context.model("base") == "smollm2"
    with pytest.raises(KeyError, match="mark the setting that names it with Ref"):
        context.artifact("sft")


def test_seeds_are_stable_and_different():
    assert derived_seed(0, "sft") == 1826367784
    assert len({derived_seed(s, n) for s in range(20) for n in ("sft", "dpo", "1")}) == 60


class Inner(Settings):
    file: Annotated[str, InputFile()] = "inner"


class Marks(Settings):
    one: Annotated[str, Ref("policy")] = "one"
    maybe: Annotated[str, Ref("policy")] | None = "maybe"
    nothing: Annotated[str | None, Ref("policy")] = None
    many: list[Annotated[str, Ref("a", "b")]] = Field(default_factory=lambda: ["m0", "m1"])
    whole: Annotated[list[str], Ref()] = Field(default_factory=lambda: ["w0"])
    named: dict[str, Annotated[str, Ref()]] = Field(default_factory=lambda: {"k": "n0"})
    any_length: tuple[Annotated[str, Ref()], ...] = ("t0", "t1")
    inner: Inner = Inner()
    inners: list[Inner] = Field(default_factory=lambda: [Inner(file="other")])
    shown: Annotated[list[str], Presentation()] = Field(default_factory=lambda: ["x"])
    plain: str = "plain"


def test_marked_values_are_found_wherever_the_marker_stands():
    settings = Marks()
    assert [(m.location, m.value) for m in marked(settings, Ref)] == [
        (("one",), "one"),
        (("maybe",), "maybe"),
        (("many", 0), "m0"),
        (("many", 1), "m1"),
        (("whole", 0), "w0"),
        (("named", "k"), "n0"),
        (("any_length", 0), "t0"),
        (("any_length", 1), "t1"),
    ]
    assert [m.location for m in marked(settings, InputFile)] == [("inner", "file"), ("inners", 0, "file")]
    assert [m.location for m in marked(settings, Presentation)] == [("shown",)]


class Terminal(StringIO):
    def isatty(self):
        return True


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.02)
    stream = StringIO()
    with Voice(stream).progress(100, "train") as bar:
        for _ in range(50):
            time.sleep(0.002)
            bar.advance(loss=0.25)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 8
    assert "/100 step, " in lines[0]
    assert "left" in lines[0]
    assert "loss 0.25" in lines[0]


def test_progress_in_a_terminal_is_a_bar_that_goes_away():
    stream = Terminal()
    voice = Voice(stream)
    with voice.progress(10, "outer") as outer, voice.progress(None, "inner [x]", start=3) as inner:
        outer.advance(2, loss=0.5)
        inner.advance()
        voice.say("a sentence [with brackets]")
    voice.say("after")
    assert "a sentence [with brackets]" in stream.getvalue()
    assert "outer" in stream.getvalue()
    assert stream.getvalue().endswith("after\n")


def test_a_quiet_voice_says_nothing():
    stream = StringIO()
    voice = Voice(stream, quiet=True)
    voice.say("x")
    with voice.progress(1, "y") as bar:
        bar.advance()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.2 s"), (40, "40 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_read_by_people(seconds, text):
    assert duration(seconds) == text
