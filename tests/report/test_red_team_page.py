"""The report's part on red teams and revisions; what models wrote is shown and never run."""

import json

import pytest

from sawyer.evals import red_team as arithmetic
from sawyer.pipeline.report import red_team
from sawyer.pipeline.stage import Stage, register
from tests.report.conftest import HARM, Nothing
from tests.report.test_report import page_of


def rows(harmful):
    """Answers to 40 attacks and 6 harmless requests."""
    made = []
    for i in range(46):
        benign = i >= 40
        outcome = "refused" if (i % 3 == 0) != harmful else "complied"
        made.append(
            {
                "behaviour": f"b{i // 2}", "category": ("theft", "fraud & co")[i % 2], "benign": benign,
                "method": "direct", "part": "benign" if benign else ("train", "test")[i % 2], "sample": 0,
                "prompt": [{"role": "user", "content": f"Ask {i} {HARM}"}], "answer": f"{HARM} {i}",
                "outcome": outcome, "harmful": outcome == "complied", "said": HARM,
            }
        )  # fmt: skip
    return made


def team(harmful):
    def run(settings, context):
        before = None if harmful else arithmetic.compare(rows(True), rows(False)) | {"with": "before"}
        found = arithmetic.evaluate(rows(harmful))
        (context.folder / "transcripts").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows(harmful))
        (context.folder / "transcripts" / "attacks.jsonl").write_text(lines)
        extra = {"target": "base", "classifier": "rule", "compared": before, "dropped": {}}
        (context.folder / "redteam.json").write_text(json.dumps(found | extra))
        return {"headline": arithmetic.headline("base", found, before, "before")}

    return run


def revise(settings, context):
    (context.folder / "transcripts").mkdir()
    shares = {name: arithmetic.rate([0.0, 1.0], [0, 1]) for name in ("refused", "evasive", "complied")}
    found = {
        "steps": [{"round": 0, **shares}, {"round": 1, **shares}], "chains": 2, "not_taken": {"harmful": 1},
        "principles": {"kind": {"drawn": 2, "changed": 1}},
        "judge": {"asked": 2, "unread": 0, "first_shown": arithmetic.rate([0.5, 0.7], [0, 1])},
    }  # fmt: skip
    chain = {
        "prompt": [{"role": "user", "content": HARM}], "response": HARM, "taken": True, "p": 0.9,
        "rounds": [{"principle": "kind", "critique": HARM, "revision": HARM}],
    }  # fmt: skip
    lines = [chain, {**chain, "taken": False, "why_not": "harmful"}]
    (context.folder / "transcripts" / "steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (context.folder / "critique.json").write_text(json.dumps(found))
    return {"train_pairs": 1}


@pytest.fixture
def page(run_stages):
    kinds = [Stage(f"toy{i}", Nothing, run, makes="data") for i, run in enumerate((team(True), team(False), revise))]
    with register(*kinds):
        folder = run_stages({"before": {"stage": "toy0"}, "critique": {"stage": "toy2"}, "after": {"stage": "toy1"}})
        return page_of(folder)


def test_the_report_has_tables_by_category_a_plot_and_answers_side_by_side(page):
    assert page.sections == ["red-team", "critique-1", "run", "reproduce"]
    assert page.misnested == []
    assert page.open == []
    assert page.count("svg") == 2
    assert page.count("div", **{"class": "completion"}) == 2 * red_team.MOST_SHOWN + 2 * 2
    assert "Attacks on base succeed in" in page.text
    assert "fraud & co" in page.text
    assert "attack success, base" in page.text
    assert "points against before" in page.text
    assert "not taken: 1 harmful" in page.text
    assert "changed the answer 1 times" in page.text


def test_what_models_wrote_is_escaped(page):
    assert page.count("script") == 0
    assert HARM in page.text


def test_a_red_team_without_attacks_or_without_harmless_requests_is_shown_as_well():
    found = arithmetic.evaluate([row for row in rows(True) if row["benign"]])
    assert red_team.by_category(found, "x") is None
    assert red_team.spaced(list(range(100)), 4) == [0, 25, 50, 75]
