"""Attributes in a prompt: written and read again, and which ones a policy knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data import attributes as at
from sawyer.data.chat import TEMPLATES, ChatFormat
from sawyer.data.records import Conversation, Prompt, assistant, user
from sawyer.errors import SawyerError

NAMES = st.sampled_from(["a", "helpfulness", "B-2_c", "x9"])
VALUES = st.dictionaries(NAMES, st.integers(-9, 99), min_size=1, max_size=4)
TEXT = st.one_of(st.text(), st.sampled_from(["a" + at.MARK + "b:1", at.MARK, at.MARK + "b:1\n"]))
SCHEME = at.Scheme({"help": at.Range(0, 4, 3), "length": at.Range(1, 3, 1)})


@given(TEXT, VALUES)
def test_what_is_asked_for_is_read_again_whatever_a_person_wrote(text, values):
    turns = (user("Hello"), assistant("Yes?"), user(text))
    assert at.unconditioned(at.conditioned(turns, values)) == (turns, values)


def test_a_turn_without_attributes_stays_as_it_is():
    for text in ("What is a lake?", f"What is{at.MARK}this?", f"What?{at.MARK}"):
        assert at.unconditioned((user(text),)) == ((user(text),), None)


def test_the_line_stands_at_the_end_of_the_last_turn():
    prompt = at.conditioned_prompt(Prompt("What is a lake?", {"topic": "lake"}), {"help": 4, "length": 1})
    assert prompt == Prompt("What is a lake?\n\n[attributes] help:4,length:1", {"topic": "lake"})


@pytest.mark.parametrize("template", [None, *TEMPLATES])
def test_tokens_of_a_conditioned_prompt_are_a_prefix_and_say_the_line(template, tiny_tokenizer):
    chat = ChatFormat(tiny_tokenizer, template)
    asked = at.conditioned((user("What is a lake?"),), {"help": 4, "length": 1})
    ids, _ = chat.conversation_ids((*asked, assistant("Water.")))
    prompt = chat.prompt_ids(asked)
    assert ids == [*prompt, *chat.completion_ids("Water.")]
    assert "[attributes] help:4,length:1" in tiny_tokenizer.decode(prompt)


def test_a_scheme_is_what_occurs_and_its_median():
    rows = [{"length": n % 3, "help": 4} for n in range(6)] + [{"help": 1}]
    scheme = at.Scheme.of(rows)
    assert list(scheme.ranges) == ["help", "length"]
    assert scheme.ranges == {"help": at.Range(1, 4, 4), "length": at.Range(0, 2, 1)}
    with pytest.raises(SawyerError, match="no example has attributes"):
        at.Scheme.of([])
    with pytest.raises(SawyerError, match="cannot be called 'a:b'"):
        at.Scheme.of([{"a:b": 1}])


def test_a_scheme_is_found_beside_the_model(tmp_path):
    assert at.Scheme.load(tmp_path) is None
    SCHEME.save(tmp_path)
    assert at.Scheme.load(tmp_path) == SCHEME == at.required_scheme(tmp_path, "m")
    for damaged in ("{", '{"attributes": {"help": {"lowest": 0}}}', '{"attributes": [1]}', "[]"):
        (tmp_path / at.ATTRIBUTES).write_text(damaged)
        with pytest.raises(SawyerError, match="copy the model again"):
            at.Scheme.load(tmp_path)


def test_what_is_not_named_gets_its_usual_value():
    assert SCHEME.filled({"length": 3}) == {"help": 3, "length": 3}
    assert list(SCHEME.filled({"length": 3, "help": 0})) == ["help", "length"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"humour": 1}, "steer was not trained with an attribute 'humour'; it knows help, length"),
        ({"length": 0}, "length is to be 0, but steer was trained with length from 1 to 3"),
    ],
)
def test_what_a_model_does_not_know_is_refused(asked, said, tmp_path):
    with pytest.raises(SawyerError, match=said):
        SCHEME.filled(asked, "steer")
    with pytest.raises(SawyerError, match="steer was not trained with attributes"):
        at.required_scheme(tmp_path, "steer")


def test_attributes_are_read_from_the_command_line():
    assert at.parse_attributes("helpfulness=4, verbosity=-1") == {"helpfulness": 4, "verbosity": -1}
    for bad in ("", "help", "help=", "help=4.5", "4=4", "help=4,,", "help:4", "help=٤"):
        with pytest.raises(SawyerError, match="written NAME=NUMBER"):
            at.parse_attributes(bad)
    with pytest.raises(SawyerError, match="asked for twice"):
        at.parse_attributes("help=1,help=2")


def rated(attributes):
    return Conversation((user("Why?"), assistant("So.")), {"attributes": attributes})


def test_ratings_are_rounded_and_unknown_ones_left_out():
    assert at.values_of(rated({"help": 3.5, "length": -0.5, "clear": None, "short": 2})) == {
        "help": 4, "length": 0, "short": 2,
    }  # fmt: skip
    for bad in (None, {}, {"help": None}, [3]):
        with pytest.raises(SawyerError, match=r"begins 'Why\?' has no `attributes`"):
            at.values_of(rated(bad))
    for bad in ("4", True, float("nan"), float("inf")):
        with pytest.raises(SawyerError, match="which is no number"):
            at.values_of(rated({"help": bad}))
