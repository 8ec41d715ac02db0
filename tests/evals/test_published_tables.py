"""The arithmetic of RewardBench against the tables of "Life after DPO" (Lambert, 2024).

Two tables come out to the digit. Two do not, each for a reason of its own that must not be copied: at its launch the
benchmark counted the prior sets as much as any section, and the table of safety has the numbers of the two XSTest
subsets the wrong way round (250 prompts should be refused, it says, and 154 answered).
"""

import pytest

from sawyer.evals import rewardbench
from sawyer.evals.leaderboard import leaderboard

SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets")
SAFETY = ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer")

MAY = """
Cohere May 2024 88.2 96.4 71.3 92.7 97.7 78.2
RLHFlow/pair-preference-model-LLaMA3-8B 85.7 98.3 65.8 89.7 94.7 74.6
Cohere March 2024 85.7 94.7 65.1 90.3 98.2 74.6
openai/gpt-4-0125-preview 84.3 95.3 74.3 87.2 86.9 70.9
openai/gpt-4-turbo-2024-04-09 83.9 95.3 75.4 87.1 82.7 73.6
sfairXC/FsfairX-LLaMA3-RM-v0.1 83.6 99.4 65.1 87.8 86.4 74.9
openai/gpt-4o-2024-05-13 83.3 96.6 70.4 86.7 84.9 72.6
openbmb/Eurus-RM-7b 81.6 98.0 65.6 81.2 86.3 71.7
Nexusflow/Starling-RM-34B 81.4 96.9 57.2 88.2 88.5 71.4
Anthropic/claude-3-opus-20240229 80.7 94.7 60.3 89.1 78.7 -
weqweasd/RM-Mistral-7B 79.3 96.9 58.1 87.1 77.0 75.3
hendrydong/Mistral-RM-for-RAFT-GSHF-v0 78.7 98.3 57.9 86.3 74.3 75.1
stabilityai/stablelm-2-12b-chat 77.4 96.6 55.5 82.6 89.4 48.4
Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback 76.9 97.8 50.7 86.7 73.9 74.3
allenai/tulu-2-dpo-70b 76.1 97.5 60.5 83.9 74.1 52.8
meta-llama/Meta-Llama-3-70B-Instruct 75.4 97.6 58.9 69.2 78.5 70.4
prometheus-eval/prometheus-8x7b-v2.0 75.3 93.0 47.1 83.5 77.4 -
Anthropic/claude-3-sonnet-20240229 75.0 93.4 56.6 83.7 69.1 69.6
NousResearch/Nous-Hermes-2-Mistral-7B-DPO 74.8 92.2 60.5 82.3 73.8 55.5
mistralai/Mixtral-8x7B-Instruct-v0.1 74.7 95.0 64.0 73.4 78.7 50.3
upstage/SOLAR-10.7B-Instruct-v1.0 74.0 81.6 68.6 85.5 72.5 49.5
Anthropic/claude-3-haiku-20240307 73.5 92.7 52.0 82.1 70.6 66.3
HuggingFaceH4/zephyr-7b-alpha 73.4 91.6 62.5 74.3 75.1 53.5
allenai/tulu-2-dpo-13b 73.4 95.8 58.3 78.2 73.2 49.5
0-hero/Matter-0.1-7B-boost-DPO-preview 73.4 91.1 61.0 66.3 83.9 55.7
prometheus-eval/prometheus-7b-v2.0 72.4 85.5 49.1 78.7 76.5 -
HuggingFaceH4/starchat2-15b-v0.1 72.1 93.9 55.5 65.8 81.6 55.2
HuggingFaceH4/zephyr-7b-beta 71.8 95.3 62.7 61.0 77.9 52.2
allenai/tulu-2-dpo-7b 71.7 97.5 56.1 73.3 71.8 47.7
jondurbin/bagel-dpo-34b-v0.5 71.5 93.9 55.0 61.5 88.9 44.9
berkeley-nest/Starling-RM-7B-alpha 71.4 98.0 45.6 85.8 58.0 67.9
"""
"""May 2024: average, then the sections; a dash was not measured."""

LAUNCH = """
berkeley-nest/Starling-RM-34B 81.5 96.9 59.0 89.9 90.3 71.4
allenai/tulu-2-dpo-70b 77.0 97.5 60.8 85.1 88.9 52.8
mistralai/Mixtral-8x7B-Instruct-v0.1 75.8 95.0 65.2 76.5 92.1 50.3
berkeley-nest/Starling-RM-7B-alpha 74.7 98.0 43.5 88.6 74.6 68.6
NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO 73.9 91.6 62.3 81.7 81.2 52.7
HuggingFaceH4/zephyr-7b-alpha 73.6 91.6 63.2 70.0 89.6 53.5
NousResearch/Nous-Hermes-2-Mistral-7B-DPO 73.5 92.2 59.5 83.8 76.7 55.5
allenai/tulu-2-dpo-13b 72.9 95.8 56.6 78.4 84.2 49.5
openbmb/UltraRM-13b 71.3 96.1 55.2 45.8 81.9 77.2
HuggingFaceH4/zephyr-7b-beta 70.7 95.3 62.6 54.1 89.6 52.2
allenai/tulu-2-dpo-7b 70.4 97.5 54.6 74.3 78.1 47.7
stabilityai/stablelm-zephyr-3b 70.1 86.3 58.2 74.0 81.3 50.7
HuggingFaceH4/zephyr-7b-gemma-v0.1 66.6 95.8 51.5 55.1 79.0 51.7
Qwen/Qwen1.5-72B-Chat 66.2 62.3 67.3 71.8 87.4 42.3
allenai/OLMo-7B-Instruct 66.1 89.7 48.9 64.1 76.3 51.7
IDEA-CCNL/Ziya-LLaMA-7B-Reward 66.0 88.0 41.3 62.5 73.7 64.6
stabilityai/stablelm-2-zephyr-1.6b 65.9 96.6 46.6 60.0 77.4 48.7
Qwen/Qwen1.5-14B-Chat 65.8 57.3 67.4 77.2 85.9 41.2
Qwen/Qwen1.5-7B-Chat 65.6 53.6 69.8 75.3 86.4 42.9
OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5 65.1 88.5 47.8 62.1 61.4 65.8
Random 50.0 50.0 50.0 50.0 50.0 50.0
"""
"""March 2024, the same columns."""

WITHOUT_PRIOR_SETS = """
mistralai/Mixtral-8x7B-Instruct-v0.1 82.2
allenai/tulu-2-dpo-13b 78.8
HuggingFaceH4/zephyr-7b-alpha 78.6
NousResearch/Nous-Hermes-2-Mistral-7B-DPO 78.0
allenai/tulu-2-dpo-7b 76.1
HuggingFaceH4/zephyr-7b-beta 75.4
stabilityai/stablelm-zephyr-3b 74.9
Qwen/Qwen1.5-72B-Chat 72.2
Qwen/Qwen1.5-14B-Chat 72.0
Qwen/Qwen1.5-7B-Chat 71.3
HuggingFaceH4/zephyr-7b-gemma-v0.1 70.4
stabilityai/stablelm-2-zephyr-1.6b 70.2
allenai/OLMo-7B-Instruct 69.7
"""
"""March 2024: policies as reward models, averaged over the four sections; those that `LAUNCH` has too."""

SAFETY_TABLE = """
berkeley-nest/Starling-RM-34B 88.2 84.0 97.0 97.4 93.6 61.8
allenai/tulu-2-dpo-70b 83.9 82.0 89.0 85.7 90.4 70.6
NousResearch/Nous-Hermes-2-Mistral-7B-DPO 82.3 86.0 88.0 82.5 83.6 73.5
Qwen/Qwen1.5-14B-Chat 76.3 93.0 83.0 80.5 41.6 90.4
Qwen/Qwen1.5-7B-Chat 74.8 87.0 81.0 82.5 39.2 87.5
Qwen/Qwen1.5-0.5B-Chat 66.1 76.0 91.0 87.0 16.8 58.1
IDEA-CCNL/Ziya-LLaMA-7B-Reward 60.2 39.0 69.0 61.0 90.4 33.8
openbmb/UltraRM-13b 54.3 18.0 21.0 66.2 94.8 37.5
HuggingFaceH4/zephyr-7b-gemma-v0.1 52.9 25.0 61.0 51.3 92.4 25.7
"""
"""Average of the section, then its subsets, in the order of `SAFETY`."""


def rows(table, numbers=6):
    """(name, average, the other numbers) of each line."""
    found = []
    for line in table.strip().splitlines():
        cells = line.split()
        average, *rest = (None if cell == "-" else float(cell) for cell in cells[-numbers:])
        found.append((" ".join(cells[:-numbers]), average, rest))
    return found


def sections(scores):
    return {name: score for name, score in zip(SECTIONS, scores, strict=False) if score is not None}


@pytest.mark.parametrize(("name", "average", "scores"), rows(MAY))
def test_the_leaderboard_of_may_2024(name, average, scores):
    assert rewardbench.overall_of(sections(scores)) == pytest.approx(average, abs=0.1001), name


def test_the_average_of_the_best_open_model_to_the_second_digit():
    (scores,) = (scores for name, _, scores in rows(MAY) if name.startswith("RLHFlow/"))
    assert scores == [98.3, 65.8, 89.7, 94.7, 74.6]
    assert round(rewardbench.overall_of(sections(scores)), 2) == 85.73


def test_without_prior_sets_the_sections_weigh_the_same():
    at_launch = {name: scores for name, _, scores in rows(LAUNCH)}
    for name, average, _ in rows(WITHOUT_PRIOR_SETS, numbers=1):
        assert rewardbench.overall_of(sections(at_launch[name][:4])) == pytest.approx(average, abs=0.1001), name


def test_at_its_launch_the_prior_sets_weighed_as_much_as_a_section():
    for name, average, scores in rows(LAUNCH):
        assert sum(scores) / 5 == pytest.approx(average, abs=0.1001), name
    best = rows(LAUNCH)[0]
    assert rewardbench.overall_of(sections(best[2])) == pytest.approx(best[1] + 1.1, abs=0.1)


def test_the_table_of_safety_has_the_sizes_of_xstest_the_wrong_way_round():
    weights = rewardbench.SECTIONS["Safety"]
    assert [weights[name] for name in SAFETY] == [100, 100, 154, 250, 136]
    differences = []
    for name, average, scores in rows(SAFETY_TABLE):
        accuracies = dict(zip(SAFETY, scores, strict=True))
        wrong = sum(w * s for w, s in zip((100, 100, 250, 154, 136), scores, strict=True)) / 740
        assert wrong == pytest.approx(average, abs=0.1001), name
        right = rewardbench.sections_of(accuracies)["Safety"]
        assert right == pytest.approx(sum(weights[n] * s for n, s in accuracies.items()) / 740)
        differences.append(right - average)
    assert min(differences) < -5 < 5 < max(differences)


def test_our_leaderboard_shows_the_published_lines():
    published, none = rows(MAY), {"low": None, "high": None}
    results = []
    for name, _, scores in published:
        own = {section: score / 100 for section, score in sections(scores).items()}
        result = {"model": name, "scorer": "s", "version": 1, "sections": own, "ties": "wrong", "missing": []}
        results.append(result | {"overall": rewardbench.overall_of(own), "intervals": {"overall": none}})
    lines = leaderboard(results[::-1]).splitlines()[2:]
    assert len(lines) == len(published) == 31
    for name, average, scores in published:
        cells = next(line for line in lines if f"| {name} |" in line).strip("| ").split(" | ")
        assert float(cells[3]) == pytest.approx(average, abs=0.11), name
        assert cells[-5:] == ["–" if score is None else f"{score:.1f}" for score in scores]
    averages = [float(line.split(" | ")[3]) for line in lines]
    assert averages == sorted(averages, reverse=True)
