"""Self-Instruct's decisions: what is shown, what is read from an answer, what is kept, and when it ends."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.files import write_rows
from sawyer.data.tasks import Task, own_tasks, read_tasks
from sawyer.errors import SawyerError
from sawyer.methods import self_instruct as si
from sawyer.rollout.protocol import Completion

SEEDS = ["Explain how a bridge is built.", "Name three rivers in Europe.", "Write a poem about winter."]
NEW = [
    "Describe the taste of a ripe plum.",
    "Plan a day in Lisbon for two friends.",
    "Why do cats purr at night?",
    "Convert twelve miles into kilometres.",
    "Suggest a present for a retired teacher.",
    "Summarise the rules of chess briefly.",
]


def settings(**changes):
    return si.InstructionSettings(**{"requests": 1, "examples": 3, "own_examples": 1, "ask_for": 2, **changes})


def answering(*texts, finished=True):
    """What answers one round after another; afterwards it has nothing to say. Keeps the prompts."""
    rounds = iter(texts)
    asked = []

    def ask(number, prompts):
        asked.append((number, prompts))
        return [Completion((), (), next(rounds, ""), finished) for _ in prompts]

    ask.asked = asked
    return ask


def listed(*items, first=4):
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=first))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("4. One.\n5. Two.", ["One.", "Two."]),
        ("Sure! Here are some:\n\n1) One.\n\n2) Two.\n\nI hope this helps!", ["One.", "Two."]),
        ("Task 4: One\n  goes on.\nTask 5: Two.", ["One goes on.", "Two."]),
        ('**4.** "One."\n5. **Two.**\n6. Task: Three “x”.', ["One.", "Two.", "Three “x”."]),
        ('4. "One" and "two".', ['"One" and "two".']),
        ("4.\n5. Two.", ["Two."]),
        ("No list at all. In 1990. it was so", []),
        ("", []),
    ],
)
def test_the_items_of_a_numbered_list_are_read(text, items):
    assert si.read_list(text) == items


def test_the_last_item_of_a_cut_answer_is_left_out_unless_it_had_ended():
    assert si.read_list("4. One.\n5. Tw", whole=False) == ["One."]
    assert si.read_list("4. One.\n5. Two.\n\nAnd so", whole=False) == ["One.", "Two."]


@given(st.text(alphabet='ab1.) \n:*"_#\u00e9\x00', max_size=80), st.booleans())
def test_whatever_a_model_writes_is_read(text, whole):
    for item in si.read_list(text, whole=whole):
        assert item == " ".join(item.split()) != ""
        si.Pool(SEEDS, si.InstructionSettings()).take(item)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Name three rivers.", si.TOO_SHORT),
        ("word " * 151, si.TOO_LONG),
        ("Describe this Image in your words.", si.WORD),
        ("Then go to the shop now.", si.WORD),
        ("Write a program that adds numbers.", si.OPENING),
        ('"Quote" a line of a poem.', si.PUNCTUATION),
        ("Éclairs are made of what exactly?", si.NOT_ENGLISH),
        ("name three RIVERS in Asia", si.TOO_NEAR),
        ("Imagine a paragraph without the letter e.", None),
        ("word " * 150, None),
    ],
)
def test_each_filter_says_what_it_drops(instruction, reason):
    assert si.Pool(SEEDS, si.InstructionSettings()).take(instruction).dropped == reason


def test_filters_can_be_set():
    pool = si.Pool(SEEDS, settings(forbidden=("plum",), max_overlap=1.0, min_words=2))
    assert pool.take(NEW[0]).dropped == si.WORD
    assert pool.take("Name three rivers in Asia.").dropped is None
    assert pool.take("Draw it.").dropped is None
    assert si.Pool(SEEDS, settings(forbidden=())).take("Draw a very large cat.").dropped is None


def test_a_proposal_is_compared_with_what_was_kept_before_it():
    pool = si.Pool(SEEDS, si.InstructionSettings())
    assert pool.take(NEW[0]).dropped is None
    again = pool.take("Describe the taste of a green plum.", 3)
    assert (again.dropped, again.nearest, again.round) == (si.TOO_NEAR, NEW[0], 3)
    assert again.row()["overlap"] == round(2 * 6 / 14, 4)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(2, 8), st.integers(0, 3), st.integers())
def test_requests_show_mostly_seeds_each_once(seeds, kept, examples, own, seed):
    own = min(own, examples - 1)
    mine, new = [f"seed {i}" for i in range(seeds)], [f"new {i}" for i in range(kept)]
    shown = si.choose_examples(mine, new, settings(examples=examples, own_examples=own), random.Random(seed))
    assert len(set(shown)) == len(shown) == min(examples, seeds + min(kept, max(own, examples - seeds)))
    assert sum(one.startswith("new") for one in shown) == min(kept, max(own, examples - seeds))


def test_the_list_so_far_is_the_assistants_own():
    prompt = si.list_prompt(SEEDS, 2)
    assert [turn["role"] for turn in prompt.prompt] == ["user", "assistant", "user"]
    assert prompt.prompt[1]["content"] == listed(*SEEDS, first=1)
    assert "4 to 5" in prompt.text


def test_it_grows_until_there_are_enough():
    ask = answering(listed(*NEW[:2]), listed(NEW[2], SEEDS[0]), listed(*NEW[3:6]))
    grown = si.grow(SEEDS, ask, settings(instructions=5))
    assert grown.kept == NEW[:5]
    assert (grown.rounds, grown.stopped, grown.dropped) == (3, None, {si.TOO_NEAR: 1})
    second = ask.asked[1][1][0].prompt[1]["content"]
    assert sum(one in second for one in NEW[:2]) == 1
    assert si.grow(SEEDS, answering(listed(*NEW[:2]), listed(NEW[2], SEEDS[0]), listed(*NEW[3:6])),
                   settings(instructions=5)) == grown  # fmt: skip


def test_it_ends_where_a_round_brings_too_little():
    ask = answering(listed(*NEW[:2]), listed(SEEDS[0], SEEDS[1]))
    grown = si.grow(SEEDS, ask, settings(min_yield=0.5))
    assert grown.kept == NEW[:2]
    assert grown.stopped is not None
    assert "round 2 brought 0 of the 2" in grown.stopped
    assert "2 of 100" in grown.stopped


@pytest.mark.parametrize(
    ("text", "said"),
    [("I cannot do that.", "wrote no numbered list .* 'I cannot do that.'"), ("4. Go.", "'Go.': it has too few words")],
)
def test_a_model_that_writes_nothing_of_use_is_named(text, said):
    with pytest.raises(SawyerError, match=said):
        si.grow(SEEDS, answering(text), settings())
    with pytest.raises(SawyerError, match="give at least one"):
        si.grow([], answering(text), settings())


@pytest.mark.parametrize(
    "bad", [{"min_words": 9, "max_words": 8}, {"own_examples": 3}, {"forbidden": ("a", " ")}, {"min_yield": 0.0}]
)
def test_settings_that_cannot_be_met_are_refused(bad):
    with pytest.raises(ValueError, match=r".+"):
        settings(**bad)


@pytest.mark.parametrize(
    ("text", "given"),
    [("<noinput>", ""), ("No input.", ""), ("N/A", ""), ("Input: 3, 5", "3, 5"), (" A text. ", "A text."), ("", "")],
)
def test_inputs_are_read(text, given):
    assert si.read_input(text) == given


def test_examples_are_turns_before_the_request():
    shown = [Task("Sort.", "b a", "a b"), Task("Greet.", "", "Hello")]
    turns = si.input_prompt("Count.", shown).prompt
    assert [turn["content"] for turn in turns[1::2]] == ["b a", si.NO_INPUT]
    assert turns[-1]["content"].endswith("Task: Count.")
    assert [turn["content"] for turn in si.output_prompt(Task("Count.", "x"), shown).prompt] == [
        "Sort.\n\nb a", "a b", "Greet.", "Hello", "Count.\n\nx",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "whole", "problem"),
    [
        (Task("Greet.", "", "Hello"), True, None),
        (Task("Greet.", "", " "), True, "empty"),
        (Task("Greet.", "", "Hello"), False, "cut"),
        (Task("Greet.", "Bo", "Bo"), True, "repeats"),
        (Task("Greet.", "", "Greet."), True, "repeats"),
        (Task("Greet.", "", "Here it is:"), True, "colon"),
    ],
)
def test_tasks_are_refused_by_the_published_rules(task, whole, problem):
    found = si.instance_problem(task, whole=whole)
    assert found is None if problem is None else problem in found


def test_our_own_seeds_pass_our_own_filters():
    tasks = own_tasks()
    assert len(tasks) == 42
    pool = si.Pool([], si.InstructionSettings(min_words=1))
    assert [one for task in tasks if (one := pool.take(task.instruction)).dropped] == []
    assert all(si.instance_problem(task) is None for task in tasks)
    assert {bool(task.input) for task in tasks} == {True, False}


def test_seeds_of_both_formats_are_read_and_bad_ones_named(tmp_path):
    rows = [
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        {"id": "seed_0", "instruction": "Greet. ", "instances": [{"input": "", "output": "Hello"}, {"input": "x"}]},
    ]
    write_rows(tmp_path / "seeds.jsonl", rows)
    assert read_tasks(tmp_path / "seeds.jsonl") == (Task("Sort.", "b a", "a b"), Task("Greet.", "", "Hello"))
    write_rows(tmp_path / "bad.jsonl", [*rows, {"instruction": "", "output": "x"}])
    with pytest.raises(SawyerError, match=r"row 3 is no seed task: `instruction` is missing"):
        read_tasks(tmp_path / "bad.jsonl")
