"""A prompt and a completion as an encoder reads them: the tokenizer's own tokens, cut longest first, each alone."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sawyer.data.pair_format import SECOND, PairFormat, prompt_text
from sawyer.data.records import assistant, user
from sawyer.errors import SawyerError
from sawyer.trees.build import encoder_tree
from tests.conftest import ENCODERS

QUESTION = (user("What is a glacier?"),)
TEXTS = st.text("abc river<s></s>\n", max_size=60)


def sequences(form, prompt, completions):
    shared, own, _ = form.sequences(prompt, completions)
    return [shared + ids for ids in own]


@pytest.mark.parametrize("arch", ENCODERS)
def test_a_pair_is_what_the_tokenizer_makes_of_it(arch, encoder_tokenizer):
    tokenizer = encoder_tokenizer(arch)
    found = sequences(PairFormat(tokenizer, 128), QUESTION, ("A river of ice.", "No"))
    assert found == [tokenizer(QUESTION[0]["content"], text)["input_ids"] for text in ("A river of ice.", "No")]
    middle = "</s></s>" if arch == "roberta" else "</s>"
    assert tokenizer.decode(found[1]) == f"<s>What is a glacier?{middle}No</s>"


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3, unique=True), st.integers(8, 60))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cutting_is_longest_first_and_knows_no_siblings(encoder_tokenizer, question, completions, limit):
    tokenizer = encoder_tokenizer("roberta")
    form, prompt = PairFormat(tokenizer, limit), (user(question),)
    together = sequences(form, prompt, completions)
    assert together == [sequences(form, prompt, [text])[0] for text in completions]
    for text, found in zip(completions, together, strict=True):
        own, second = (
            tokenizer.encode(t, add_special_tokens=False, split_special_tokens=True) for t in (question, text)
        )
        while len(own) + len(second) + 4 > limit:
            (own if len(own) > len(second) else second).pop()
        same = [0, *own, 2, 2, *second, 2]
        assert len(found) == len(same) <= limit
        assert abs(found.index(2) - same.index(2)) <= 1  # of two equally long, either may give the odd token


def test_what_is_cut_is_counted(encoder_tokenizer):
    form = PairFormat(encoder_tokenizer("roberta"), 16)
    sequences(form, QUESTION, ("a", "A very long answer about rivers of ice."))
    assert form.truncated >= 1
    short = PairFormat(encoder_tokenizer("roberta"), 128)
    sequences(short, QUESTION, ("a", "A very long answer about rivers of ice."))
    assert short.truncated == 0


def test_contents_cannot_forge_a_segment(encoder_tokenizer):
    (found,) = sequences(PairFormat(encoder_tokenizer("roberta"), 128), (user("a</s></s>b"),), ("c",))
    assert found.count(2) == 3


def test_an_empty_completion_is_still_a_pair(encoder_tokenizer):
    assert sequences(PairFormat(encoder_tokenizer("roberta"), 128), QUESTION, ("", "No"))[0][-3:] == [2, 2, 2]


def test_segments_are_told_to_models_that_want_them(encoder_tokenizer):
    assert not encoder_tree(PairFormat(encoder_tokenizer("roberta"), 128), QUESTION, ("a", "b")).values
    tokenizer = encoder_tokenizer("bert")
    tree = encoder_tree(PairFormat(tokenizer, 128), QUESTION, ("a", "No way"))
    types = tokenizer(QUESTION[0]["content"], "No way")["token_type_ids"]
    assert tree.values[SECOND] == [types.index(1)] * 2


def test_apart_the_prompt_and_each_completion_are_sequences(encoder_tokenizer):
    tokenizer = encoder_tokenizer("roberta")
    tree = encoder_tree(PairFormat(tokenizer, 128, apart=True), QUESTION, ("a", "No"))
    assert tree.prompt == tokenizer(QUESTION[0]["content"])["input_ids"]
    assert tree.completions == [tokenizer(text)["input_ids"] for text in ("a", "No")]


def test_a_decoders_tokenizer_is_refused(tiny_tokenizer):
    with pytest.raises(SawyerError, match="puts no special tokens around a pair"):
        PairFormat(tiny_tokenizer, 64)


@pytest.mark.parametrize(("apart", "least"), [(False, 6), (True, 4)])
def test_there_must_be_room_beside_the_special_tokens(apart, least, encoder_tokenizer):
    shared, (own,), _ = PairFormat(encoder_tokenizer("roberta"), least, apart=apart).sequences(QUESTION, ("A river.",))
    assert (len(shared), len(own)) == (least, least) if apart else len(shared) + len(own) == least
    with pytest.raises(SawyerError, match=f"max_tokens is {least - 1}; .* need {least} tokens"):
        PairFormat(encoder_tokenizer("roberta"), least - 1, apart=apart)


def test_a_lone_question_is_its_text_and_a_talk_names_its_speakers():
    assert prompt_text(QUESTION) == "What is a glacier?"
    assert (
        prompt_text((user("Hi"), assistant("Hello."), user("Why?"))) == "Human: Hi\n\nAssistant: Hello.\n\nHuman: Why?"
    )
