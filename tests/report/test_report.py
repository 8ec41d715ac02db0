import json
import math
import re
from html.parser import HTMLParser
from importlib.metadata import version

import pytest

from sawyer.errors import SawyerError
from sawyer.pipeline.report import plots
from sawyer.pipeline.report.build import MOST_CHARACTERS, MOST_PROMPTS, write_report
from sawyer.pipeline.report.over_seeds import write_page
from tests.report.conftest import HARM, STAGES

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


def page_as_it_is(folder):
    """The page that the run wrote when it ended."""
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_finished_run_has_every_part(finished_run):
    page = page_as_it_is(finished_run)
    assert page.sections == ["policies-1", "reward-models", "losses", "samples-1", "run", "reproduce"]
    assert page.misnested == []
    assert page.open == []
    assert page.count("svg") == 2 + 2 + 2 + 1 + 3
    assert page.count("details") >= MOST_PROMPTS
    assert page.count("div", **{"class": "completion"}) == 5 * MOST_PROMPTS
    assert "iterate-3 beats base by +0." in page.text
    assert "sawyer run recipes/quickstart.yaml" in page.text
    assert f"<dt>torch</dt><dd>{version('torch')}</dd>" in (finished_run / "report.html").read_text()
    assert "an answer is empty 4" in page.text


def test_what_a_model_wrote_is_shown_and_never_run(finished_run):
    html = (finished_run / "report.html").read_text(encoding="utf-8")
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


def test_the_page_loads_nothing(finished_run):
    page = page_as_it_is(finished_run)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#")
    assert not re.search(r"url\((?!#)", (finished_run / "report.html").read_text())


def test_other_ways_of_decoding_have_tables_of_their_own(run):
    file = run / "evaluate" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    greedy = evaluation | {"sampling": {"temperature": 0.0}}
    file.write_text(json.dumps(evaluation | {"decodings": {"greedy": greedy}}))
    page = page_of(run)
    assert "By other ways of decoding" in page.text
    assert "greedy temperature 0" in page.text
    assert page.misnested == []


def test_ids_are_unique(finished_run):
    page = page_as_it_is(finished_run)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_run_gives_the_same_bytes(run):
    first = (run / "report.html").read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.part"))


def first(count):
    return dict(list(STAGES.items())[:count])


def test_a_run_with_only_data_and_sft_has_only_those_parts(run_stages):
    page = page_as_it_is(run_stages(first(2)))
    assert page.sections == ["losses", "run", "reproduce"]
    assert page.count("svg") == 1
    assert "2 of 2 stages are done; nothing has been evaluated yet" in page.text
    assert page.misnested == []


def test_a_run_with_a_reward_model_only_says_what_it_can(run_stages):
    page = page_as_it_is(run_stages(first(3)))
    assert page.sections == ["reward-models", "losses", "run", "reproduce"]
    assert "The reward model ranks" in page.text


def test_a_temperature_fitted_elsewhere_has_no_halves(run_stages):
    run = run_stages(first(3))
    assert "ECE of the half not fitted on" in page_as_it_is(run).text
    path = run / "reward" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["calibration"] |= {"measured_on": evaluation["pairs"], "fitted_on": 123}
    path.write_text(json.dumps(evaluation))
    text = page_of(run).text
    assert "half not fitted on" not in text
    assert "that half" not in text
    assert "ECE after temperature scaling" in text
    assert "fitted on 123 other pairs" in text


def test_results_of_other_settings_are_not_shown_after_a_failure(run, run_stages):
    with pytest.raises(SawyerError, match="not a number"):
        run_stages(STAGES, "stages.sft.learning_rate=1")
    assert (run / "evaluate" / "evaluation.json").exists()
    html = (run / "report.html").read_text()
    page = Page(html)
    assert "--set stages.sft.learning_rate=1" in page.text
    assert "beats base" not in page.text
    assert "1 of 5 stages are done; nothing has been evaluated yet" in page.text
    assert page.sections == ["run", "reproduce"]
    states = ("finished", "failed", "waiting")
    assert [html.count(f'<span class="badge">{state}</span>') for state in states] == [1, 1, 3]


def test_a_stage_that_the_recipe_no_longer_has_is_not_shown(run, run_stages):
    stages = {**first(4), "eval2": {"stage": "evaluate", **STAGES["evaluate"], "last": 0.3}}
    page = page_as_it_is(run_stages(stages))
    assert (run / "evaluate" / "evaluation.json").exists()
    assert "iterate-3 is worse than base by" in page.text
    assert "beats base" not in page.text
    assert page.sections == ["policies-1", "reward-models", "losses", "samples-1", "run", "reproduce"]


def test_a_comparison_states_its_seeds(finished_run):
    page = page_as_it_is(finished_run)
    assert "n = 40 prompts x 2 samples, one seed (4)" in page.text
    drawn = json.loads((finished_run / "evaluate" / "evaluation.json").read_text())["generation_seed"]
    assert f"drawn with seed {drawn} (temperature 1, max_tokens 80)" in page.text
    assert "500 resamples with seed 0" in page.text
    assert "unbiased estimate" in page.text


def test_what_the_completions_lack_is_said(run):
    path = run / "evaluate" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unanswered": 3, "kl_unbiased": False}))
    page = page_of(run)
    assert "3 prompts could not be answered" in page.text
    assert "no unbiased estimate" in page.text


def test_the_seed_is_the_recipes(run):
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 4}))
    html = write_report(run).read_text()
    assert "<dt>seed</dt><dd>4</dd>" in html


def test_the_table_of_stages_has_single_figures_only(finished_run):
    table = (finished_run / "report.html").read_text().partition('id="run"')[2].partition("<h2>Seed")[0]
    assert "validation_loss 1.31" in table
    for nested in ("held_out", "comparisons policy", "low 0"):
        assert nested not in table


def test_a_stage_without_a_folder_is_still_listed(run):
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["stages"]["iterate"] |= {"state": "failed", "wall_seconds": 388.4}
    path.write_text(json.dumps(summary))
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
    old = (run / "report.html").read_bytes()
    (run / "summary.json").write_text("{")
    with pytest.raises(SawyerError, match=r"summary\.json cannot be read"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(SawyerError, match="no run folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(SawyerError, match=r"has no summary\.json"):
        write_report(tmp_path)


def test_losses_of_several_loops_follow_each_other():
    metrics = [{"step": step, "loss": 1.0} for _ in range(2) for step in (1, 2, 3)]
    x, _ = plots._series(metrics, "loss")
    assert x.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_long_curve_is_thinned():
    metrics = [{"step": step, "loss": 1 / (step + 1)} for step in range(20_000)]
    assert len(plots.loss_curve("sft", metrics)) < 60_000
    assert plots.loss_curve("data", [{"step": 1, "tokens_per_second": 3.0}]) is None


def test_what_training_took_has_columns_where_it_is_known(run):
    before = page_as_it_is(run)
    assert "training" in before.text
    assert "gold labels" not in before.text
    file = run / "summary.json"
    summary = json.loads(file.read_text())
    summary["stages"]["sft"] |= {"wall_seconds": 75.0}
    summary["stages"]["sft"]["figures"]["gold_labels"] = 1432
    file.write_text(json.dumps(summary))
    page = page_of(run)
    assert "gold labels" in page.text
    assert "1 min 15 s" in page.text
    assert "1,432" in page.text


def test_the_one_before_has_no_column_where_none_was_compared_with_it(run):
    file = run / "evaluate" / "evaluation.json"
    assert "vs previous" in page_as_it_is(run).text
    evaluation = json.loads(file.read_text())
    evaluation["comparisons"] = [one for one in evaluation["comparisons"] if one["roles"] == ["baseline"]]
    file.write_text(json.dumps(evaluation))
    page = page_of(run)
    assert "vs previous" not in page.text
    assert "wins vs base" in page.text


def test_a_best_of_n_curve_is_drawn_against_the_root_of_the_kl(run):
    file = run / "evaluate" / "evaluation.json"
    point = lambda n, gold: {
        "n": n, "kl": math.log(n) - (n - 1) / n,
        "gold": {"mean": gold, "low": gold - 0.02, "high": gold + 0.02, "n": 40},
        "proxy": {"mean": 3 * gold, "low": None, "high": None, "n": 1},
    }  # fmt: skip
    curve = {"policy": "sft", "samples": 16, "points": [point(1, 0.5), point(4, 0.6), point(16, 0.65)]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"best_of_n": curve}))
    page = page_of(run)
    assert page.count("svg") == 2 + 2 + 2 + 1 + 3
    assert "n = 1 to 16, estimated without bias from 16 samples" in page.text
    assert "root of the KL to the reference policy" in page.text
    assert "best of 16" in page.text


def test_several_seeds_are_a_page(tmp_path):
    figure = lambda mean: {
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
        "n": 30,
        "seeds": 2,
        "by_seed": [0.4, 0.6],
    }
    curve = [{"n": n, "kl": 0.1 * n, "gold": figure(0.5)} for n in (1, 2)]
    name = "<img src=x onerror=alert(1)>$a"
    evaluation = {
        "seeds": [0, 1], "order": ["sft", name], "baseline": "sft", "level": 0.95, "prompts": 30, "left_out": 2,
        "headline": f"{name} beats sft.",
        "policies": {
            "sft": {"gold": figure(0.5), "tokens": figure(40.0)},
            name: {"gold": figure(0.6), "training": {"seconds": 90.0, "gold_labels": 1000.0}},
        },
        "comparisons": [
            {"policy": name, "against": "sft", "roles": ["baseline"], "gold": figure(0.1) | {"p_holm": 0.02}}
        ],
        "best_of_n": curve,
    }  # fmt: skip
    found = {
        "folder": "x", "recipe": "r", "title": "Two seeds", "command": "sawyer run r --seeds 2", "seeds": [0, 1],
        "runs": {"0": "seed-0", "1": "seed-1"}, "wall_seconds": {"0": 61.0, "1": 62.0},
        "evaluations": {"evaluate": evaluation},
    }  # fmt: skip
    first = write_page(found, tmp_path / "seeds.html").read_bytes()
    assert write_page(found, tmp_path / "seeds.html").read_bytes() == first
    page = Page(first.decode())
    assert page.misnested == page.open == []
    assert page.count("img") == page.count("script") == 0
    assert name in page.text
    assert page.count("svg") == 2 + 1  # gold and tokens of each policy, and the best-of-n curve of gold
    for said in (
        "30 held-out prompts and 2 training seeds",
        "2 prompts that not every seed",
        "1 min 30 s",
        "1,000",
        "0.020",
    ):
        assert said in page.text


def test_answers_along_a_training_are_shown_before_it_at_its_best_and_at_its_end(run):
    rows = [
        {"step": step, "prompt": [{"role": "user", "content": f"Why {p}? {HARM}"}], "text": f"{HARM} since {step}",
         "reward": 0.25 * step, "tokens": 7, "finished": step != 4}
        for step in (0, 2, 3, 4) for p in range(2)
    ]  # fmt: skip
    (run / "iterate" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(run)
    assert page.sections[-3:] == ["transcripts-1", "run", "reproduce"]
    assert page.misnested == []
    assert page.count("script") == 0
    assert [f"since {step}" in page.text for step in (0, 2, 3, 4)] == [True, False, True, True]  # the best is 3
    assert "reward 0.75 · 7 tokens" in page.text


def test_the_reward_of_a_training_is_a_curve_beside_its_loss(run):
    steps = [{"step": step, "reward": 0.1 * step, "loss": 1.0} for step in range(1, 5)]
    held_out = [{"step": step, "validation_reward": 0.1 * step} for step in (0, 4)]
    file = run / "sft" / "metrics.jsonl"
    before = page_as_it_is(run).count("svg")
    file.write_text("".join(json.dumps(row) + "\n" for row in [*steps, *held_out]))
    page = page_of(run)
    assert page.count("svg") == before + 1
    assert page.count("svg", **{"aria-label": "Reward of stage sft"}) == 1
    assert plots.reward_curve("sft", steps) is None
