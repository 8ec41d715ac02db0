import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from sawyer.errors import SawyerError
from sawyer.pipeline.report import plots
from sawyer.pipeline.report.build import MOST_CHARACTERS, MOST_PROMPTS, duration, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """The page's elements, its visible text, and whether every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.misnested = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    def count(self, tag, **attributes):
        return sum(
            name == tag and all(found.get(key) == value for key, value in attributes.items())
            for name, found in self.elements
        )

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    @property
    def sections(self):
        return [found["id"] for tag, found in self.elements if tag == "section"]


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_finished_run_has_every_part(run):
    page = page_of(run)
    assert page.sections == ["policies-1", "reward-models", "losses", "samples-1", "run", "reproduce"]
    assert page.misnested == []
    assert page.open == []
    assert page.count("svg") == 2 + 2 + 2 + 1 + 3
    assert page.count("details") >= MOST_PROMPTS
    assert page.count("div", **{"class": "completion"}) == 5 * MOST_PROMPTS
    assert "iterate-3 beats base by +0." in page.text
    assert "sawyer run recipes/quickstart.yaml --out runs/quickstart" in page.text
    assert "torch" in page.text
    assert "2.13.0" in page.text


def test_what_a_model_wrote_is_shown_and_never_run(run):
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script>alert('gold')</script> & \"quoted\" $x_1$" in page.text
    assert page.count("script") == 0
    assert "default-src 'none'" in html


def test_harmful_names_are_text_too(run):
    name = "<img src=x onerror=alert(1)>$a"
    evaluation = (run / "evaluate" / "evaluation.json").read_text().replace("iterate-3", name)
    completions = (run / "evaluate" / "completions.jsonl").read_text().replace("iterate-3", name)
    (run / "evaluate" / "evaluation.json").write_text(evaluation)
    (run / "evaluate" / "completions.jsonl").write_text(completions)
    page = page_of(run)
    assert page.count("img") == 0
    assert page.misnested == []
    assert name in page.text


def test_the_page_loads_nothing(run):
    page = page_of(run)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#")
    assert not re.search(r"url\((?!#)", write_report(run).read_text())


def test_ids_are_unique(run):
    page = page_of(run)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_run_gives_the_same_bytes(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.part"))


def test_a_run_with_only_data_and_sft_has_only_those_parts(run):
    for stage in ("reward", "iterate", "evaluate"):
        shutil.rmtree(run / stage)
    (run / "summary.json").unlink()
    page = page_of(run)
    assert page.sections == ["losses", "run", "reproduce"]
    assert page.count("svg") == 1
    assert "nothing has been evaluated yet" in page.text
    assert page.misnested == []


def test_a_run_with_a_reward_model_only_says_what_it_can(run):
    shutil.rmtree(run / "evaluate")
    summary = json.loads((run / "summary.json").read_text())
    del summary["stages"]["evaluate"]
    (run / "summary.json").write_text(json.dumps(summary))
    page = page_of(run)
    assert page.sections == ["reward-models", "losses", "run", "reproduce"]
    assert "The reward model ranks" in page.text


def test_a_stage_without_a_folder_is_still_listed(run):
    shutil.rmtree(run / "iterate")
    assert "6 min 28 s" in page_of(run).text


def test_unrewarded_policies_are_still_shown(run):
    evaluation = json.loads((run / "evaluate" / "evaluation.json").read_text())
    for figures in evaluation["policies"].values():
        for column in ("gold", "proxy", "kl"):
            del figures[column]
    for comparison in evaluation["comparisons"]:
        del comparison["gold"], comparison["proxy"]
    (run / "evaluate" / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(run)
    assert "was not compared with base" in page.text
    assert page.misnested == []


def test_a_metrics_line_cut_short_is_skipped(run):
    with (run / "sft" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 161, "loss": ')
    assert page_of(run).sections


def test_long_texts_are_cut_and_the_cut_is_said(run):
    path = run / "evaluate" / "completions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["text"] = "x" * (MOST_CHARACTERS + 7) + "\ud800"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "8 more characters in completions.jsonl" in page_of(run).text


def test_broken_json_is_one_sentence_and_leaves_the_old_report(run):
    old = write_report(run).read_bytes()
    (run / "summary.json").write_text("{")
    with pytest.raises(SawyerError, match=r"summary\.json cannot be read"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(SawyerError, match="no run folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(SawyerError, match="no finished stage"):
        write_report(tmp_path)


def test_losses_of_several_loops_follow_each_other():
    metrics = [{"step": step, "loss": 1.0} for _ in range(2) for step in (1, 2, 3)]
    x, _ = plots._series(metrics, "loss")
    assert x.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_long_curve_is_thinned():
    metrics = [{"step": step, "loss": 1 / (step + 1)} for step in range(20_000)]
    assert len(plots.loss_curve("sft", metrics)) < 60_000
    assert plots.loss_curve("data", [{"step": 1, "tokens_per_second": 3.0}]) is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (3.14, "3.1 s"), (42, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_read_as_a_person_says_them(seconds, said):
    assert duration(seconds) == said
