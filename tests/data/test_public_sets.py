"""Each published set, in the layout its card gives, becomes records; its cleaning drops what it says it drops.

All rows are invented.
"""

import pytest
from pydantic import TypeAdapter, ValidationError

from sawyer.data.public.catalog import PUBLIC_SETS
from sawyer.data.records import assistant, user
from sawyer.data.sources import SourceSettings, as_prompts
from tests.data.layouts import (
    RATED,
    capybara,
    code,
    dolly,
    farm,
    gpt4_llm,
    helpsteer,
    interact,
    orca,
    pku,
    shp,
    summary,
    ultrafeedback,
    webgpt,
)


def pairs(records):
    return [(record.chosen, record.rejected) for record in records]


def test_every_set_has_settings_of_its_own_and_is_a_source():
    adapter = TypeAdapter(SourceSettings)
    for name, one in PUBLIC_SETS.items():
        settings = adapter.validate_python({"source": name, "path": "x.jsonl"})
        assert type(settings) is one.settings
        assert settings.max_bad == 0.1


# --- SHP --------------------------------------------------------------------------------------------------------------


def test_shp_prefers_by_label_and_keeps_the_votes(load):
    records, _ = load("shp", [shp(a=10, b=2), shp(post="p2", a=3, b=9)])
    assert pairs(records) == [("Long answer.", "Short answer."), ("Short answer.", "Long answer.")]
    assert records[0].scores == (10, 2)
    assert records[0].prompt == (user("How do I boil an egg in p1?"),)
    assert records[0].info == {
        "source": "shp",
        "labelled_by": "votes of Reddit users",
        "models": ["a Reddit user"] * 2,
        "subreddit": "askcooks",
    }


def test_shp_drops_small_ratios_extra_pairs_and_contradictions(load):
    rows = [
        shp(a=4, b=2),  # exactly 2
        shp(a=5, b=5, label=1),
        shp(a=9, b=2, label=0),
        *(shp(post="p2", a=20 + i, b=2, text_a=f"Answer {i}.") for i in range(7)),
    ]
    records, report = load("shp", rows)
    assert [record.chosen for record in records] == [f"Answer {i}." for i in range(5)]
    assert report.dropped == {
        "the votes are in a ratio of 2 or less": 2,
        "the label contradicts the votes": 1,
        "the post has 5 pairs already": 2,
    }
    assert len(load("shp", rows, max_pairs=1)[0]) == 1
    assert len(load("shp", rows, max_pairs=None, min_ratio=1)[0]) == 8
    assert len(load("shp", [shp(), shp(post="p2", domain="askvets_train")], domains=["askvets"])[0]) == 1


# --- HelpSteer --------------------------------------------------------------------------------------------------------


def test_helpsteer_pairs_all_responses_by_the_mean_of_two_attributes(load):
    records, report = load("helpsteer", RATED)
    assert pairs(records) == [
        ("Best.", "Good."), ("Best.", "Same."), ("Best.", "Bad."), ("Good.", "Bad."), ("Same.", "Bad.")
    ]  # fmt: skip
    assert report.dropped == {"two completions whose scores are equal": 1}
    assert records[2].scores == (4, 0.5)
    assert records[2].info["details"][1]["correctness"] == 1


def test_helpsteer_pairs_the_best_with_a_random_other_and_ranks(load):
    records, _ = load("helpsteer", RATED, pairing="best-random")
    assert len(records) == 1
    assert records[0].chosen == "Best."
    assert records == load("helpsteer", RATED, pairing="best-random")[0]
    others = {load("helpsteer", RATED, pairing="best-random", seed=seed)[0][0].rejected for seed in range(20)}
    assert others == {"Good.", "Same.", "Bad."}
    (ranking,), report = load("helpsteer", RATED, pairing="ranking")
    assert ranking.completions == ("Best.", "Good.", "Bad.")
    assert report.dropped == {"two completions whose scores are equal": 1}


def test_helpsteer_margins_attributes_and_lone_responses(load):
    assert pairs(load("helpsteer", RATED, min_margin=1)[0])[-1] == ("Same.", "Bad.")
    assert len(load("helpsteer", RATED, min_margin=1)[0]) == 3
    assert len(load("helpsteer", RATED, score=["helpfulness"])[0]) == 5
    _, report = load("helpsteer", [*RATED, helpsteer("Alone.", 1, 1, prompt="What is a loch?")])
    assert report.dropped["the prompt has one response only"] == 1


def test_helpsteer_as_ratings_keeps_every_response_with_its_attributes(load):
    records, report = load("helpsteer", [*RATED, helpsteer("Alone.", 1, 1, prompt="What is a loch?")], form="ratings")
    assert [record.messages[-1]["content"] for record in records] == ["Best.", "Good.", "Same.", "Bad.", "Alone."]
    assert all(len(record.info["attributes"]) == 5 for record in records)
    assert (records[1].info["attributes"]["correctness"], records[1].info["models"]) == (2, ["an NVIDIA model"])
    assert report.dropped == {}


def test_helpsteer2_writes_dialogues_into_the_prompt(load):
    prompt = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhat is a fjord?"
    (record,), _ = load("helpsteer", [helpsteer("A", 4, 4, prompt), helpsteer("B", 1, 1, prompt)])
    assert record.prompt == (user("Hi"), assistant("Hello"), user("What is a fjord?"))


# --- PKU-SafeRLHF -----------------------------------------------------------------------------------------------------


def test_pku_prefers_the_safer_or_the_more_helpful_response(load):
    assert pairs(load("pku", [pku()])[0]) == [("Call a locksmith.", "With a pick, like so.")]
    assert pairs(load("pku", [pku()], prefer="better")[0]) == [("With a pick, like so.", "Call a locksmith.")]
    more = {"response_0_source": "Alpaca-7B", "response_1_source": "Alpaca3-8B", "response_0_severity_level": 2}
    (record,), _ = load("pku", [pku(**more)])
    assert record.info["models"] == ["Alpaca3-8B", "Alpaca-7B"]
    assert record.info["details"] == [{"safe": True}, {"safe": False, "severity": 2}]


def test_pku_drops_labels_that_contradict_each_other(load):
    rows = [pku(), pku(safer=0), pku(safe=(True, True), prompt="How?")]
    records, report = load("pku", rows, decided_by_safety=True)
    assert len(records) == 1
    assert report.dropped == {
        "the safer response is labelled unsafe and the other safe": 1,
        "both responses are safe, or both unsafe": 1,
    }


# --- UltraFeedback and CodeUltraFeedback ------------------------------------------------------------------------------


def test_ultrafeedback_ranks_by_the_mean_of_the_aspects_and_not_by_the_overall_score(load):
    row = ultrafeedback((5, 5, 5, 5), (1, 2, 3, 4), (4, 3, 2, 1), (1, 1, 1, 1))
    records, report = load("ultrafeedback", [row])
    assert len(records) == 5
    assert report.dropped == {"two completions whose scores are equal": 1}
    assert records[0].scores == (5, 2.5)
    assert records[0].info["models"] == ["model-0", "model-1"]
    assert records[0].info["labelled_by"] == "gpt-4"
    assert records[0].info["details"][1]["helpfulness"] == 4
    assert len(load("ultrafeedback", [row], aspects=["helpfulness"])[0]) == 5
    assert load("ultrafeedback", [row], pairing="best-random")[0][0].chosen == "River 0."
    assert load("ultrafeedback", [row], pairing="ranking")[0][0].completions == ("River 0.", "River 1.", "River 3.")


def test_ultrafeedback_leaves_out_what_is_not_rated_and_other_origins(load):
    rows = [
        ultrafeedback((5, 5, 5, 5), ("N/A", 2, 3, 4), (1, 1, 1, 1)),
        ultrafeedback((1,) * 4, (2,) * 4, source="flan"),
    ]
    records, report = load("ultrafeedback", rows, without=["flan"])
    assert pairs(records) == [("River 0.", "River 2.")]
    assert report.dropped == {"a completion that is not rated": 1, "the prompt is from flan": 1}


def test_code_ultrafeedback_joins_ratings_to_responses_by_model(load):
    records, report = load("code-ultrafeedback", [code("2", "5", "5", "N/A")])
    assert pairs(records) == [("for 1", "for 0"), ("for 2", "for 0")]
    assert report.dropped == {"a completion that is not rated": 1, "two completions whose scores are equal": 1}
    assert records[0].info["preference"] == "code-readability"
    assert records[0].info["models"] == ["m1", "m0"]


# --- UltraInteract, Argilla-Math, Orca, Capybara ----------------------------------------------------------------------


def test_ultrainteract_continues_a_trajectory(load):
    longer = (("user", "1 + 1?"), ("assistant", "Perhaps 4."), ("user", "That is wrong."))
    records, report = load("ultrainteract", [interact(), interact(longer), interact(task="Logic")], tasks=["Math_CoT"])
    assert [len(record.prompt) for record in records] == [1, 3]
    assert records[0].info["task"] == "Math_CoT"
    assert report.dropped == {"the pair is of another task": 1}


def test_argilla_math_drops_equal_ratings(load):
    def row(chosen, rejected):
        return {
            "metadata": "{}",
            "instruction": f"Solve {chosen}, {rejected}.",
            "chosen_response": "x = 1",
            "chosen_rating": chosen,
            "rejected_response": "x = 2",
            "rejected_rating": rejected,
        }

    records, report = load("argilla-math", [row(9.0, 4.0), row(8.0, 8.0), row(3.0, 5.0)])
    assert [record.scores for record in records] == [(9, 4)]
    assert report.dropped == {
        "two completions whose scores are equal": 1,
        "the chosen answer is rated below the rejected one": 1,
    }
    assert load("argilla-math", [row(9.0, 4.0), row(9.0, 8.0)], min_margin=1)[1].kept == 1


def test_orca_drops_equal_and_missing_ratings(load):
    rows = [orca([9.0, 7.0]), orca([6.0, 8.0], "swapped", input="How?"), orca([8.0, 8.0], "tie"), orca(None)]
    records, report = load("orca", rows)
    assert [record.scores for record in records] == [(9, 7), (8, 6)]
    assert records[0].prompt == ({"role": "system", "content": "Be brief."}, user("Why?"))
    assert records[0].info["models"] == ["gpt-3.5 or gpt-4", "llama-2-13b-chat"]
    assert records[1].info["models"] == ["llama-2-13b-chat", "gpt-3.5 or gpt-4"]
    assert records[0].info["labelled_by"] == "gpt-4-1106-preview"
    assert report.dropped == {"two completions whose scores are equal": 1, "the pair is not rated": 1}
    rows = [orca([9.0, 7.0]), orca([7.0, 5.0], input="How?"), orca([9.0, 7.0], in_gsm8k_train=True, input="2 + 2?")]
    assert len(load("orca", rows, min_chosen_rating=8, without_gsm8k=True)[0]) == 1


def test_capybara_pairs_the_last_turns_of_two_dialogues(load):
    records, report = load("capybara", [capybara(), capybara(ratings=(4, 4))])
    assert pairs(records) == [("Because.", "No.")]
    assert records[0].prompt == (user("Hi"), assistant("Hello"), user("Why?"))
    assert records[0].info["models"] == ["original", "notus7b"]
    assert report.dropped == {"two completions whose scores are equal": 1}


# --- summaries, WebGPT, AlpacaFarm ------------------------------------------------------------------------------------


def test_summaries_are_answers_to_a_post_or_an_article(load):
    article = summary(choice=0, post=None, article="The river rose.", title="Flood", subreddit=None)
    records, _ = load("summarize", [summary(), article])
    assert pairs(records) == [("They hiked all day.", "They hiked."), ("They hiked.", "They hiked all day.")]
    assert records[0].prompt == (user("SUBREDDIT: r/trips\n\nTITLE: A hike\n\nPOST: We hiked all day.\n\nTL;DR:"),)
    assert records[1].prompt == (user("TITLE: Flood\n\nARTICLE: The river rose.\n\nTL;DR:"),)
    assert records[0].info["models"] == ["ref", "sup4"]
    assert records[0].info["worker"] == "w1"
    assert load("summarize", [summary(), article], articles=False)[1].dropped == {"the text is an article": 1}
    sure = [summary(confidence=9), summary(confidence=2, title="B"), summary(title="C")]
    assert load("summarize", sure, min_confidence=5)[1].kept == 1
    mixed = [summary(), {**summary(title="B"), "split": "valid1"}, {**summary(title="C"), "split": "valid2"}]
    kept = {split: load("summarize", mixed, split=split)[1] for split in ("train", "validation", "valid2")}
    assert {split: report.kept for split, report in kept.items()} == {"train": 1, "validation": 2, "valid2": 1}
    assert kept["train"].dropped == {"the comparison is of another split": 2}


def test_webgpt_drops_answers_that_nobody_preferred(load):
    records, report = load("webgpt", [webgpt(0.5), webgpt(-1.0), webgpt(0.0)])
    assert pairs(records) == [("Scattering [1].", "Nobody knows."), ("Nobody knows.", "Scattering [1].")]
    assert records[0].scores == (0.5, -0.5)
    assert report.dropped == {"the preference is not above 0": 1}
    assert load("webgpt", [webgpt(0.5), webgpt(1.0)], min_score=0.5)[1].kept == 1


def test_alpaca_farm_numbers_outputs_from_one(load):
    records, report = load("alpaca-farm", [farm(1), farm(2, input="A warm one."), farm(0)])
    assert pairs(records) == [("Red.", "A stone."), ("A stone.", "Red.")]
    assert records[1].prompt == (user("Name a colour 2.\n\nA warm one."),)
    assert records[0].info["labelled_by"] == "people"
    assert report.dropped == {"neither output is preferred": 1}
    (record,), _ = load("alpaca-farm", [farm(1)], subset="alpaca_gpt4_preference")
    assert record.info["labelled_by"] == "gpt-4"


# --- GPT-4-LLM --------------------------------------------------------------------------------------------------------


def test_gpt4_llm_is_mined_in_both_directions_without_ties(load):
    records, report = load("gpt4-llm", [gpt4_llm(7.0, 9.0, 7.0)])
    assert pairs(records) == [("By gpt4.", "By text-davinci-003."), ("By gpt4.", "By icm-1.3b.")]
    assert records[0].prompt == (user("Add.\n\n1, 2"),)
    assert records[0].scores == (9, 7)
    assert records[0].info["delta"] == 2
    assert records[0].info["models"] == ["gpt4", "text-davinci-003"]
    assert report.dropped == {"two completions whose scores are equal": 1}


def test_the_notebook_kept_only_pairs_in_the_order_of_the_file(load):
    records, report = load("gpt4-llm", [gpt4_llm(7.0, 9.0, 2.0)], mining="notebook")
    assert pairs(records) == [("By text-davinci-003.", "By icm-1.3b."), ("By gpt4.", "By icm-1.3b.")]
    assert [record.info["delta"] for record in records] == [5, 7]
    assert report.dropped == {"a pair whose better response stands second in the file": 1}
    fixed, _ = load("gpt4-llm", [gpt4_llm(7.0, 9.0, 2.0)])
    assert len(fixed) == 3
    assert len(load("gpt4-llm", [gpt4_llm(7.0, 9.0, 2.0)], min_delta=3)[0]) == 2


def test_gpt4_llm_needs_its_file():
    with pytest.raises(ValidationError, match=r"comparison_data_v2\.json"):
        TypeAdapter(SourceSettings).validate_python({"source": "gpt4-llm"})


# --- Dolly ------------------------------------------------------------------------------------------------------------


def test_dolly_is_conversations_whose_question_has_the_context_after_a_blank_line(load):
    rows = [dolly(), dolly("Who crossed it? ", "Two rowers crossed the lake.\n", " Two rowers.", "closed_qa")]
    records, report = load("dolly", rows)
    assert records[0].messages == (user("Name a river."), assistant("The Rhine."))
    assert records[0].info == {"source": "dolly", "models": ["a person"], "category": "open_qa"}
    assert records[1].prompt == (user("Who crossed it?\n\nTwo rowers crossed the lake."),)
    assert records[1].messages[-1] == assistant("Two rowers.")
    assert report.kept == 2
    assert [prompt.prompt for prompt in as_prompts(records)] == [record.prompt for record in records]


def test_dolly_leaves_out_categories_and_contexts(load):
    rows = [dolly(), dolly("Sum it up.", "A long text.", "Short.", "summarization"), dolly("Name a sea.")]
    records, report = load("dolly", rows, drop_context=True)
    assert [record.prompt[0]["content"] for record in records] == ["Name a river.", "Name a sea."]
    assert report.dropped == {"the instruction has a context": 1}
    records, report = load("dolly", rows, categories=["summarization"])
    assert [record.info["category"] for record in records] == ["summarization"]
    assert report.dropped == {"the row is of another category": 2}
    with pytest.raises(ValidationError, match="categories"):
        load("dolly", rows, categories=["poetry"])
