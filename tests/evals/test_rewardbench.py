"""The arithmetic of RewardBench, against published numbers and worked examples."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.errors import SawyerError
from sawyer.evals import rewardbench
from sawyer.evals.leaderboard import leaderboard


def row(subset, margin, number=0, **changes):
    made = {"id": str(number), "subset": subset, "prompt_id": f"{subset}-{number}", "num_correct": 1}
    return {**made, "scores": [float(margin), 0.0], **changes}


def rows(subset, right, n):
    return [row(subset, 1 if i < right else -1, i) for i in range(n)]


def test_the_sections_have_the_published_sizes():
    sizes = {name: sum(weights.values()) for name, weights in rewardbench.SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968, "Prior Sets": 4}
    subsets = [name for section, weights in rewardbench.SECTIONS.items() if section != "Prior Sets" for name in weights]
    assert len(subsets) == len(set(subsets)) == 23
    safety = rewardbench.SECTIONS["Safety"]
    assert (safety["xstest-should-refuse"], safety["xstest-should-respond"]) == (154, 250)


def test_math_counts_as_much_as_code():
    accuracies = {"math-prm": 0.9} | {name: 0.8 for name in rewardbench.SECTIONS["Reasoning"] if name != "math-prm"}
    assert rewardbench.sections_of(accuracies)["Reasoning"] == pytest.approx(0.85)


def test_a_section_weighs_the_subsets_that_are_there():
    accuracies = {"alpacaeval-easy": 1.0, "mt-bench-easy": 0.5}
    assert rewardbench.sections_of(accuracies) == {"Chat": pytest.approx((100 + 14) / 128)}


def test_the_prior_sets_are_a_plain_mean():
    assert rewardbench.sections_of({"shp": 0.6, "summarize": 0.8})["Prior Sets"] == pytest.approx(0.7)


def test_subsets_sections_and_overall_of_scores():
    result = rewardbench.evaluate([*rows("alpacaeval-easy", 9, 10), *rows("donotanswer", 3, 6), *rows("shp", 1, 2)])
    assert result["subsets"]["alpacaeval-easy"]["accuracy"] == pytest.approx(0.9)
    assert result["subsets"]["donotanswer"]["n"] == 6
    assert result["subsets"]["donotanswer"]["length"] == "shorter"
    assert result["sections"] == {
        "Chat": pytest.approx(0.9),
        "Safety": pytest.approx(0.5),
        "Prior Sets": pytest.approx(0.5),
    }
    assert result["overall"] == pytest.approx((2 * 0.9 + 2 * 0.5 + 0.5) / 5)
    assert "hep-go" in result["missing"]
    assert "summarize" in result["missing"]
    assert result["other"] is None
    interval = result["intervals"]["overall"]
    assert interval["low"] < result["overall"] < interval["high"]


def test_prior_sets_are_not_missed_where_none_was_measured():
    assert not set(rewardbench.PRIOR_SETS) & set(rewardbench.evaluate(rows("hep-go", 1, 2))["missing"])


def test_unknown_subsets_are_scored_and_stay_apart():
    known = rewardbench.evaluate(rows("hep-go", 3, 4))
    result = rewardbench.evaluate([*rows("hep-go", 3, 4), *rows("mine", 1, 4)])
    assert result["overall"] == known["overall"]
    assert result["intervals"] == known["intervals"]
    assert result["subsets"]["mine"] | {"low": 0, "high": 0} == {
        "accuracy": 0.25, "low": 0, "high": 0, "n": 4, "prompts": 4, "tied": 0, "section": None, "length": "neutral"
    }  # fmt: skip
    assert result["other"]["subsets"] == ["mine"]
    assert result["other"]["accuracy"] == 0.25
    assert rewardbench.evaluate(rows("mine", 1, 4))["overall"] is None


def test_ties_are_wrong_unless_they_are_to_count_half():
    tied = [row("hep-go", 0, 0), row("hep-go", 1, 1)]
    assert rewardbench.evaluate(tied)["subsets"]["hep-go"]["accuracy"] == 0.5
    half = rewardbench.evaluate(tied, ties="half")
    assert half["subsets"]["hep-go"]["accuracy"] == 0.75
    assert (half["ties"], half["subsets"]["hep-go"]["tied"]) == ("half", 1)


def test_preferences_win_above_one_half():
    def preferred(p, number):
        made = row("hep-go", 0, number, p=p)
        del made["scores"]
        return made

    judged = [preferred(p, i) for i, p in enumerate((0.51, 0.5, 0.2, 1.0))]
    assert rewardbench.evaluate(judged, ties="half")["subsets"]["hep-go"]["accuracy"] == pytest.approx(2.5 / 4)


def test_the_interval_is_over_prompts_and_wilsons():
    result = rewardbench.evaluate(rows("hep-go", 10, 10))
    subset = result["subsets"]["hep-go"]
    assert (subset["low"], subset["high"]) == (pytest.approx(10 / (10 + 1.96**2), abs=1e-3), 1)
    doubled = [row("hep-go", 1 if i < 5 else -1, i % 10) for i in range(20)]
    assert rewardbench.evaluate(doubled)["subsets"]["hep-go"]["prompts"] == 10


def test_subsets_of_one_size_are_resampled_each_by_itself():
    alike = [r for name in ("hep-go", "hep-js", "hep-cpp", "hep-java") for r in rows(name, 50, 100)]
    one = rewardbench.evaluate(rows("hep-go", 50, 100))["intervals"]["sections"]["Reasoning"]
    four = rewardbench.evaluate(alike)["intervals"]["sections"]["Reasoning"]
    assert four["high"] - four["low"] == pytest.approx((one["high"] - one["low"]) / 2, rel=0.15)


def test_a_single_prompt_has_no_interval():
    result = rewardbench.evaluate([*rows("hep-go", 3, 4), row("hep-js", 1)])
    assert result["intervals"]["sections"]["Reasoning"] == {"low": None, "high": None}
    assert result["overall"] is not None


# --- version 2 --------------------------------------------------------------------------------------------------------


def of_four(subset, scores, number=0, right=1):
    return {
        "id": str(number), "subset": subset, "prompt_id": str(number), "num_correct": right, "scores": list(scores)
    }  # fmt: skip


VECTOR = [of_four("Ties", (2.0, 0, -1), "ref:1"), of_four("Ties", (3, 2.5, 1, 0), "tied:1", right=2)]


@pytest.mark.parametrize(
    ("scores", "worth"),
    [((2, 1, 0, -1), 1), ((1, 2, 0, -1), 0), ((2, 2, 0, -1), 1 / 2), ((0, 0, 0, 0), 1 / 4), ((2, 2, 2, 1), 1 / 3)],
)
def test_the_right_one_of_four_shares_the_top(scores, worth):
    assert rewardbench.outcome(of_four("Math", scores), 2) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("scores", "worth"),
    [((2, 2, 0, -1), 1), ((2, 1, 0, -1), 1), ((2, 0, 2, 1), 1 / 2), ((1, 1, 1, 1), 1 / 2), ((0, 0, 1, 0), 0)],
)
def test_where_two_are_right_they_are_worth_their_share_of_the_top(scores, worth):
    assert rewardbench.outcome(of_four("mine", scores, right=2), 2) == pytest.approx(worth)


def test_the_worked_score_of_ties():
    assert rewardbench.ties_score(VECTOR) == pytest.approx(1.00964, abs=5e-6)


def slow_ties(questions):
    """The formula of the specification, a question at a time; `questions` are (right_ref, wrong_ref, right, wrong)."""
    terms = []
    for right_ref, wrong_ref, right, wrong in questions:
        ci_ref, ci = min(right_ref) - max(wrong_ref), min(right) - max(wrong)
        dc, least = max(right) - min(right), min(ci_ref, ci)
        ratio = least / dc if dc else math.copysign(math.inf, least) if least else math.nan
        tanh = math.tanh(ratio - 1)
        terms.append((ci > 0, ci_ref > 0, ci > dc, least > dc, 0 if math.isnan(tanh) else tanh))
    weights = (0.3, 0.3, 0.2, 0.2, 0.01)
    return sum(w * sum(column) / len(terms) for w, column in zip(weights, zip(*terms, strict=True), strict=True))


halves = st.integers(-4, 4).map(lambda x: x / 2)
questions = st.lists(
    st.tuples(
        st.lists(halves, min_size=1, max_size=1),
        st.lists(halves, min_size=1, max_size=3),
        st.lists(halves, min_size=1, max_size=4),
        st.lists(halves, min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


@given(questions)
@settings(max_examples=80, deadline=None)
def test_ties_equal_the_formula(asked):
    made = []
    for i, (right_ref, wrong_ref, right, wrong) in enumerate(asked):
        made.append(of_four("Ties", right_ref + wrong_ref, f"ref:{i}"))
        made.append(of_four("Ties", right + wrong, f"tied:{i}", right=len(right)))
    assert rewardbench.ties_score(made) == pytest.approx(slow_ties(asked))
    assert rewardbench.ties_score(made[::-1]) == pytest.approx(slow_ties(asked))


def test_overall_of_version_2_is_the_plain_mean_of_six():
    names = ("Factuality", "Focus", "Math", "Precise IF", "Safety")
    made = [of_four(name, (1 if i < 3 else -1, 0, 0, 0), f"{i}") for name in names for i in range(4)]
    result = rewardbench.evaluate([*made, *VECTOR], 2)
    assert result["overall"] == pytest.approx((5 * 0.75 + 1.00964) / 6, abs=1e-5)
    assert result["missing"] == []
    assert list(result["sections"]) == [*names, "Ties"]


def test_ties_have_an_interval_over_questions():
    made = []
    for i in range(20):
        made.append(of_four("Ties", (1 if i % 3 else -1, 0), f"ref:{i}"))
        made.append(of_four("Ties", (1 if i % 2 else -1, 1.5, 0), f"tied:{i}", right=2))
    subset = rewardbench.evaluate(made, 2)["subsets"]["Ties"]
    assert subset["low"] < subset["accuracy"] < subset["high"]
    assert (subset["n"], subset["prompts"]) == (40, 20)


# --- everything -------------------------------------------------------------------------------------------------------


def test_the_order_of_rows_changes_nothing():
    made = [*rows("hep-go", 9, 10), *rows("mt-bench-easy", 3, 6), *rows("mine", 1, 3)]
    for name in ("overall", "sections", "other"):
        assert rewardbench.evaluate(made)[name] == rewardbench.evaluate(made[::-1])[name]


def test_results_survive_json():
    for made, version in ((rows("mine", 1, 2), 1), (VECTOR, 2)):
        result = rewardbench.evaluate(made, version)
        assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    "call",
    [
        lambda: rewardbench.evaluate([]),
        lambda: rewardbench.evaluate(rows("hep-go", 1, 1), 3),
        lambda: rewardbench.evaluate(rows("hep-go", 1, 1), ties="maybe"),
        lambda: rewardbench.evaluate([row("hep-go", math.nan)]),
        lambda: rewardbench.evaluate([of_four("Ties", (1, 0), "12")], 2),
    ],
)
def test_a_mistake_is_one_sentence(call):
    with pytest.raises(SawyerError) as error:
        call()
    assert "\n" not in str(error.value)


def named(model, scorer="classifier", **changes):
    def result(made, version=1, **options):
        return {"model": model, "scorer": scorer, **rewardbench.evaluate(made, version, **options), **changes}

    return result


def test_the_leaderboard_has_the_best_first():
    worse = named("worse")([*rows("hep-go", 1, 4), *rows("mt-bench-hard", 1, 4)])
    better = named("a|b", "dpo")([*rows("hep-go", 3, 4), *rows("mine", 1, 2)], ties="half")
    text = leaderboard([worse, better])
    lines = text.splitlines()
    assert lines[0] == "|  | Model | Scorer | Score | Interval | Chat Hard | Reasoning | Other |"
    assert lines[2].startswith("| 1 | a\\|b | dpo | 75.0 | ")
    assert lines[2].endswith(" | – | 75.0 | 50.0 |")
    assert lines[3].startswith("| 2 | worse | classifier | 25.0 | ")
    assert "Ties count half for a\\|b and as wrong for the others." in text
    assert "worse was not measured on alpacaeval-easy" in text
    assert text.endswith("\n")


def test_models_of_one_name_are_told_apart():
    folders = [{"protocol": {"models": [f"runs/{name}/reward"]}} for name in "ab"]
    results = [named("reward", **own)(rows("hep-go", 2 - i, 4)) for i, own in enumerate(folders)]
    lines = leaderboard([*results, named("other")(rows("hep-go", 4, 4))]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["other", "runs/a/reward", "runs/b/reward"]


def test_each_version_has_its_own_table():
    text = leaderboard([named("m")(VECTOR, 2), named("m", limit=5)(rows("hep-go", 1, 2))])
    assert text.index("**RewardBench, version 1**") < text.index("**RewardBench, version 2**")
    assert "| Ties |" in text
    assert "m was measured on the first 5 rows of each subset." in text
