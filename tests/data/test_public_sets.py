"""Each published set, in the layout its card gives, becomes records; its cleaning drops what it says it drops.

All rows are invented.
"""

import gzip
import json
import weakref

import pytest
from pydantic import TypeAdapter, ValidationError

from sawyer.data.files import RawRow
from sawyer.data.public.catalog import PUBLIC_SETS, read_public
from sawyer.data.records import Comparison, assistant, user
from sawyer.data.sources import SourceSettings, as_prompts, load_source
from sawyer.errors import SawyerError
from tests.data.layouts import (
    RATED,
    capybara,
    code,
    dolly,
    farm,
    four_and_two,
    gpt4_llm,
    helpsteer,
    interact,
    message,
    nectar,
    orca,
    pku,
    shp,
    summary,
    tree,
    ultrafeedback,
    webgpt,
    write,
)


@pytest.fixture
def load(tmp_path):
    """`load(source, rows, **settings)`: records and report of a set whose one file holds these rows."""

    def call(source, rows, **settings):
        path = write(tmp_path, rows)
        return load_source(TypeAdapter(SourceSettings).validate_python({"source": source, "path": path, **settings}))

    return call


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


# --- rankings: Nectar and OASST ---------------------------------------------------------------------------------------


def test_nectar_is_a_ranking_of_seven(load):
    (record,), _ = load("nectar", [nectar([3.0, 1.0, 2.0, 7.0, 5.0, 4.0, 6.0])])
    assert record.completions == tuple(f"Answer {rank}.0." for rank in range(1, 8))
    assert record.scores is None
    assert record.prompt == (user("Hi"), assistant("Hello"), user("Why?"))
    assert record.info["models"][:2] == ["model-1", "model-2"]
    assert len(load("nectar", [nectar([3, 1, 2])], pairing="all")[0]) == 3
    assert load("nectar", [nectar([3, 1, 2])], pairing="best-random")[0][0].chosen == "Answer 1."
    rows = [nectar([1, 2], good_natured=True), nectar([1, 2], "\n\nHuman: Bad?\n\nAssistant: ", good_natured=False)]
    assert load("nectar", rows, good_natured=True)[1].dropped == {"the prompt is not good-natured": 1}


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([1, 2, 2], "the ranking has ties"),
        ([1, 2, 4], "the ranking has holes"),
        ([0, 1, 2], "the ranking has holes"),
        ([1], "there are fewer than two completions to compare"),
        ([1, "first"], "`rank` is not a number"),
        ([], "there are fewer than two completions to compare"),
    ],
)
def test_a_ranking_with_ties_holes_or_one_answer_is_bad(load, ranks, reason):
    good = [nectar([1, 2], f"\n\nHuman: Why {i}?\n\nAssistant: ") for i in range(9)]
    records, report = load("nectar", [*good, nectar(ranks)])
    assert len(records) == 9
    assert report.dropped == {reason: 1}
    assert report.examples[reason] == ["train.jsonl:10"]
    with pytest.raises(SawyerError, match=r"2 of 11 rows cannot be used, more than the share of 0\.1 allowed"):
        load("nectar", [*good, nectar(ranks), nectar(ranks)])


def test_oasst_trees_rank_the_answers_to_every_message(load):
    records, report = load("oasst", [tree()])
    assert [record.completions for record in records] == [("First", "Second", "Third"), ("No", "Yes")]
    assert records[1].prompt == (user("Tell me."), assistant("First"), user("And then?"))
    assert records[0].info["models"] == ["a person", "chip20b", "a person"]
    assert records[0].info["labelled_by"] == "people"
    assert report.dropped == {"an answer without a rank": 1}
    assert len(load("oasst", [tree()], pairing="all")[0]) == 4
    with pytest.raises(SawyerError, match="1 the tree is of another language"):
        load("oasst", [tree()], languages=["de"])


def test_oasst_messages_as_on_the_hub_give_what_trees_give(load):
    def flat(node, parent=None):
        own = {name: value for name, value in node.items() if name != "replies"}
        yield {**own, "parent_id": parent}
        for reply in node["replies"]:
            yield from flat(reply, node["message_id"])

    messages = list(flat(tree()["prompt"]))
    assert load("oasst", messages)[0] == load("oasst", [tree()])[0]
    records, report = load("oasst", [*messages, message("x", "Lost", parent="nowhere")])
    assert len(records) == 2
    assert report.dropped["a message before it is missing"] == 1


def test_oasst_ties_and_messages_of_the_same_side_are_bad(load):
    tied = message("r", "Why?", "prompter", replies=[message("a", "A", rank=0), message("b", "B", rank=0)])
    same = message("s", "How?", "prompter", replies=[message("c", "Hm?", "prompter"), message("d", "D", rank=0)])
    rows = [{"prompt": tied}, {"prompt": same}, tree()]
    records, report = load("oasst", rows, max_bad=1)
    assert len(records) == 2
    assert report.dropped["the ranking has ties"] == 1
    assert report.dropped["a message is answered by its own side"] == 1


def test_oasst_rankings_with_holes_are_bad_unless_the_answer_was_deleted(load):
    def asked(*ranks, deleted=()):
        answers = [message(f"a{rank}", f"Answer {rank}", rank=rank, deleted=rank in deleted) for rank in ranks]
        return {"prompt": message(f"q{ranks}", f"Why {ranks}?", "prompter", replies=answers)}

    records, report = load("oasst", [asked(0, 1, 2, deleted=[1]), asked(0, 2), asked(1, 2)], max_bad=1)
    assert [record.completions for record in records] == [("Answer 0", "Answer 2")]
    assert report.dropped == {"the ranking has holes": 2}
    with pytest.raises(SawyerError, match=r"1 of 2 rows cannot be used, .*the ranking has holes"):
        load("oasst", [asked(0, 1), asked(0, 2)])


def test_oasst_messages_that_answer_each_other_or_are_there_twice_are_bad(load):
    prompt = message("root", "Why?", "prompter")
    answers = [message("a", "A", rank=0, parent="root"), message("b", "B", rank=1, parent="root")]
    loop = [message("c", "C", parent="d"), message("d", "D", "prompter", parent="c"), message("e", "E", parent="e")]
    again = [message("root", "C", parent="root"), message("a", "D", rank=2, parent="root")]
    lost = [message("x", "X", "prompter", parent="nowhere"), message("y", "Y", parent="x")]
    records, report = load("oasst", [prompt, *answers, *loop, *again, *lost, message("z", "Z")], max_bad=1)
    assert [record.completions for record in records] == [("A", "B")]
    assert report.dropped == {
        "a message before it is missing": 5,
        "a message with this `message_id` was there before": 2,
        "the conversation starts with a turn of the assistant": 1,
    }
    nested = message("root", "Hm.", replies=[message("root", "So?", "prompter", replies=[message("a", "Z")])])
    assert load("oasst", [{**prompt, "replies": [nested]}, *answers], max_bad=1)[0][0].prompt == (user("Why?"),)


def test_oasst_threads_may_be_long(load):
    roles = ("prompter", "assistant")
    thread = [message("0", "Turn 0", "prompter")]
    thread += [message(str(i), f"Turn {i}", roles[i % 2], parent=str(i - 1), rank=0) for i in range(1, 3000)]
    last = message("last", "Another end", parent="2998", rank=1)
    (record,), _ = load("oasst", [*thread, last])
    assert record.completions == ("Turn 2999", "Another end")
    assert len(record.prompt) == 2999


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


# --- bad rows and where rows come from --------------------------------------------------------------------------------


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


def good_orca():
    return orca([9.0, 7.0])


@pytest.mark.parametrize(
    ("source", "good", "bad", "reason"),
    [
        ("shp", shp, {"human_ref_A": None}, "`human_ref_A` is missing"),
        ("shp", shp, {"human_ref_A": " "}, "`human_ref_A` is empty"),
        ("shp", shp, {"human_ref_A": 3}, "`human_ref_A` is not text"),
        ("shp", shp, {"human_ref_A": "Short answer."}, "two completions are the same text"),
        ("shp", shp, {"score_A": "many"}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": True}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": 10**400}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": "inf"}, "`score_A` is not a finite number"),
        ("shp", shp, {"labels": 2}, "`labels` is none of 0, 1"),
        ("pku", pku, {"is_response_0_safe": "no"}, "`is_response_0_safe` is neither true nor false"),
        ("pku", pku, {"safer_response_id": None}, "`safer_response_id` is missing"),
        ("ultrainteract", interact, {"trajectory": []}, "the prompt does not end with a turn of the user"),
        (
            "ultrainteract",
            interact,
            {"trajectory": [{"from": "user", "value": "A"}] * 2},
            "two turns of the user follow each other",
        ),
        ("ultrainteract", interact, {"rejected": "It is 2."}, "two completions are the same text"),
        ("pku", pku, {"response_0_severity_level": {"a": 1}}, "`response_0_severity_level` is not a number"),
        ("orca", good_orca, {"rating": "high"}, "`rating` is not a list"),
        ("orca", good_orca, {"rating": [9.0, "x"]}, "`rating` is not a number"),
        ("orca", good_orca, {"rating": [9.0, "inf"]}, "`rating` is not a finite number"),
        (
            "oasst",
            tree,
            {"prompt": {**message("x", "Hm?", "prompter"), "replies": {"a": 1}}},
            "`replies` is not a list",
        ),
        ("oasst", tree, {"prompt": message("x", "Why?", "prompter", replies=["a"])}, "a reply is not an object"),
        ("summarize", summary, {"info": "none"}, "`info` is missing or not an object"),
        ("webgpt", lambda: webgpt(0.5), {"question": "Why?"}, "`question` is missing or not an object"),
        ("capybara", capybara, {"rejected": []}, "`rejected` does not end with an answer"),
        (
            "capybara",
            capybara,
            capybara(other=("Hi", "Hello", "How?")),
            "the two dialogues differ before the final answer",
        ),
        ("summarize", summary, {"summaries": []}, "there are not two summaries"),
        ("webgpt", lambda: webgpt(0.5), {"score_1": 0.5}, "the two scores do not add up to 0"),
        ("alpaca-farm", lambda: farm(1), {"preference": 7}, "`preference` is not between 0 and 2"),
        ("ultrafeedback", four_and_two, {"completions": "none"}, "`completions` is missing or not a list"),
        ("ultrafeedback", four_and_two, ultrafeedback((1,) * 4), "there are fewer than two completions to compare"),
        ("dolly", dolly, {"context": 7}, "`context` is not text"),
        ("dolly", dolly, {"response": " "}, "`response` is empty"),
        ("gpt4-llm", lambda: gpt4_llm(1, 2, 3), {"user_input": "### Input:\n"}, "`user_input` has no instruction"),
    ],
)
def test_bad_rows_are_counted_by_reason_and_refused_above_a_share(load, source, good, bad, reason):
    broken = {**good(), **bad}
    records, report = load(source, [good(), broken], max_bad=0.5)
    assert records
    assert report.dropped[reason] == 1
    with pytest.raises(SawyerError, match=r"1 of 2 rows cannot be used.*the first is train.jsonl:2: "):
        load(source, [good(), broken])


def test_broken_lines_are_counted_too(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(shp(post=f"p{i}")).encode() for i in range(4)]
    path.write_bytes(b"\n".join([*lines, b"{", b"\xff\xfe", b"[1]", lines[0]]) + b"\n")
    settings = TypeAdapter(SourceSettings).validate_python({"source": "shp", "path": str(path), "max_bad": 0.5})
    records, report = load_source(settings)
    assert len(records) == 4
    assert report.dropped == {
        "the line is not valid JSON": 1,
        "the line is not UTF-8 text": 1,
        "the row is not a JSON object": 1,
        "the record was there before": 1,
    }


def test_a_set_of_which_nothing_is_left_says_why(load):
    with pytest.raises(SawyerError, match=r"nothing is left of 1 rows after cleaning \(1 the votes are in a ratio"):
        load("shp", [shp(a=3, b=2)])


def test_a_folder_gives_the_files_of_its_split(tmp_path):
    write(tmp_path, [shp(post="p1")], "askcooks/train.jsonl")
    write(tmp_path, [shp(post="p2")], "askcooks/validation.jsonl")
    (tmp_path / "more-train-00000-of-00001.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(shp(post="p3")).encode() + b"\n")
    )
    adapter = TypeAdapter(SourceSettings)

    def prompts(split):
        records, _ = load_source(adapter.validate_python({"source": "shp", "path": str(tmp_path), "split": split}))
        return [record.prompt[0]["content"][-3:-1] for record in records]

    assert prompts("train") == ["p1", "p3"]
    assert prompts("validation") == ["p2"]
    assert sorted(prompts("none")) == ["p1", "p2", "p3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SawyerError, match="holds no file of data"):
        load_source(adapter.validate_python({"source": "shp", "path": str(tmp_path / "empty")}))


def test_the_hub_is_asked_where_each_set_lies(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repo, **where):
        asked.append((repo, where))
        return [summary()] if "summarize" in repo else [shp()]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    adapter = TypeAdapter(SourceSettings)
    assert isinstance(load_source(adapter.validate_python({"source": "shp", "split": "test"}))[0][0], Comparison)
    load_source(adapter.validate_python({"source": "summarize"}))
    assert asked == [
        ("stanfordnlp/SHP", {"split": "test", "revision": None}),
        (
            "openai/summarize_from_feedback",
            {"split": "train", "data_dir": "comparisons", "revision": "refs/convert/parquet"},
        ),
    ]


@pytest.mark.parametrize("annotations", [[], "none", None, {"honesty": "5"}, {"honesty": [5]}])
def test_annotations_of_another_shape_are_no_rating(load, annotations):
    row = ultrafeedback((5,) * 4, (2,) * 4, (1,) * 4)
    row["completions"][1]["annotations"] = annotations
    records, report = load("ultrafeedback", [row])
    assert pairs(records) == [("River 0.", "River 2.")]
    assert report.dropped == {"a completion that is not rated": 1}


def test_what_cannot_be_written_stays_out_of_info(load):
    assert "prompt_source" not in load("nectar", [nectar([1, 2], source={"a": 1})])[0][0].info
    assert load("nectar", [nectar([1, 2], source="sharegpt")])[0][0].info["prompt_source"] == "sharegpt"
    (record,), _ = load("orca", [orca([9.0, 7.0], labelling_model={"a": 1})])
    assert record.info["labelled_by"].startswith("an AI judge")


def test_bad_rows_of_files_with_one_name_are_told_apart(tmp_path):
    for folder in ("askcooks", "askvets"):
        write(tmp_path, [*(shp(post=f"{folder}{i}") for i in range(4)), shp(human_ref_A=None)], f"{folder}/train.jsonl")
    settings = {"source": "shp", "path": str(tmp_path), "max_bad": 0.2}
    records, report = load_source(TypeAdapter(SourceSettings).validate_python(settings))
    assert len(records) == 8
    assert report.examples["`human_ref_A` is missing"] == ["askcooks/train.jsonl:5", "askvets/train.jsonl:5"]
    with pytest.raises(SawyerError, match="2 of 10 rows cannot be used"):
        load_source(TypeAdapter(SourceSettings).validate_python({**settings, "max_bad": 0.1}))


def test_rows_are_not_kept_in_memory():
    seen, most = [], 0

    def rows():
        nonlocal most
        for number in range(1, 101):
            row = RawRow(number, shp(post=f"p{number}"))
            seen.append(weakref.ref(row))
            most = max(most, sum(one() is not None for one in seen))
            yield row

    settings = TypeAdapter(SourceSettings).validate_python({"source": "shp", "path": "x"})
    assert len(read_public(settings, [("a.jsonl", rows())])[0]) == 100
    assert most < 5
