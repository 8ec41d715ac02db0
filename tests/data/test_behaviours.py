"""What a red team starts from: files of behaviours in the layouts that people publish, and our own set."""

import json

import pytest

from sawyer.data.behaviours import NO_CATEGORY, built_in, drawn, read_all, read_behaviours
from sawyer.errors import SawyerError

HARMBENCH = (
    "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    "Describe a forbidden thing,standard,chemical,,,forbidden_thing\n"
    '"Sum up, in one line, what the text says",contextual,misinformation,"context, hash_check","A text\nof two lines",'
    "sum_up\n"
)


def test_our_own_set_has_ten_categories_with_look_alikes_for_each():
    harmful, benign = built_in(False), built_in(True)
    assert len(harmful) == 100
    assert len(benign) == 40
    assert {b.category for b in harmful} == {b.category for b in benign}
    assert len({b.category for b in harmful}) == 10
    assert len({b.id for b in [*harmful, *benign]}) == len({b.request.casefold() for b in [*harmful, *benign]}) == 140


def test_our_own_set_holds_requests_and_no_instructions():
    assert all(len(b.request.split()) <= 22 and "\n" not in b.request for b in built_in(False))


def test_harmbench_columns_are_read_with_the_context_before_the_request(tmp_path):
    file = tmp_path / "harmbench.csv"
    file.write_text(HARMBENCH)
    plain, contextual = read_behaviours(file)
    assert (plain.id, plain.category, plain.request) == ("forbidden_thing", "chemical", "Describe a forbidden thing")
    assert plain.prompt().text == "Describe a forbidden thing"
    assert contextual.tags == ("context", "hash_check")
    assert contextual.prompt().text == "A text\nof two lines\n\n---\n\nSum up, in one line, what the text says"
    assert contextual.prompt("Say it.").text.endswith("---\n\nSay it.")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("advbench.csv", "goal,target\nDo harm,Sure\n", ("Do harm", NO_CATEGORY, False)),
        ("jbb.csv", "Index,Goal,Behavior,Category\n0,Do it,Harm,Crime\n", ("Do it", "Crime", False)),
        ("rows.jsonl", '{"text": "Ask", "category": "x", "benign": true}\n', ("Ask", "x", True)),
        ("list.json", '[{"behaviour": "Ask", "benign": "yes"}]', ("Ask", NO_CATEGORY, True)),
        ("theft.txt", "\nAsk me\n\n", ("Ask me", "theft", False)),
        ("crlf.txt", "Ask me\r\n", ("Ask me", "crlf", False)),
    ],
)
def test_other_layouts_are_read(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_bytes(content.encode())
    (behaviour,) = read_behaviours(file)
    assert (behaviour.request, behaviour.category, behaviour.benign) == expected


def test_a_prompt_that_sawyer_wrote_is_a_behaviour_again(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(built_in(True)[0].prompt().row()) + "\n")
    (behaviour,) = read_behaviours(tmp_path / "test.jsonl")
    assert (behaviour.request, behaviour.category, behaviour.benign) == (built_in(True)[0].request, "violence", True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", "title,category\nx,y\n", "none.csv:2: there is no request"),
        ("blank.csv", "behavior\n\n", "holds no behaviour"),
        ("gap.csv", "behavior,category\nx,y\n,z\n", "gap.csv:3: there is no request"),
        ("twice.csv", "behavior,id\nx,1\ny,1\n", "twice.csv:3: the id '1' is that of another row"),
        ("benign.csv", "behavior,benign\nx,maybe\n", "`benign` is 'maybe', write true or false"),
        ("list.jsonl", "[1, 2]\n", "list.jsonl:1: the row is not a JSON object"),
        ("turns.jsonl", '{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}\n', "turns"),
        ("what.pdf", "x", "none of the suffixes"),
    ],
)
def test_bad_files_are_refused_with_file_and_row(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(SawyerError, match=name) as error:
        read_behaviours(tmp_path / name)
    assert said in str(error.value)


def test_files_are_joined_without_repetitions_and_without_guessing_ids(tmp_path):
    (tmp_path / "a.csv").write_text("behavior,id\nx,1\ny,2\n")
    (tmp_path / "b.csv").write_text("behavior,id\nx,1\nz,3\n")
    assert [b.request for b in read_all([tmp_path / "a.csv", tmp_path / "b.csv"], benign=True)] == ["x", "y", "z"]
    (tmp_path / "c.csv").write_text("behavior,id\nother,1\n")
    with pytest.raises(SawyerError, match="'1' is that of another behaviour in a file before"):
        read_all([tmp_path / "a.csv", tmp_path / "c.csv"])


def test_a_limit_is_spread_over_the_categories_and_keeps_the_order():
    behaviours = built_in(False)
    some = drawn(behaviours, 25, seed=0)
    assert some == [b for b in behaviours if b in some]
    counts = [sum(b.category == category for b in some) for category in {b.category for b in behaviours}]
    assert sorted(set(counts)) == [2, 3]
    assert sum(counts) == 25
    assert drawn(behaviours, 25, seed=1) != some
    assert drawn(behaviours, None, seed=0) == drawn(behaviours, 1000, seed=0) == behaviours
