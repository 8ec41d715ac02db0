"""The gold reward by hand, and against those who would cheat it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt, user
from sawyer.data.verifiable import demonstrations, make_prompts
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback, prefer
from sawyer.feedback.rules import VerifiableReward

GOLD = VerifiableReward()
TEXT = 'What is a glacier? Use at most 20 words and include the word "snow".'
PROMPT = Prompt(
    (user(TEXT),),
    {
        "topic": "glacier",
        "constraints": [{"kind": "max_words", "n": 20}, {"kind": "keyword", "word": "snow"}],
        "source": "verifiable",
    },
)
GOOD = "A glacier is a slow river of ice. It grows where snow piles up."


def reward(completion, prompt=PROMPT):
    return GOLD.score([prompt], [[completion]])[0][0]


def test_it_is_a_feedback():
    assert isinstance(GOLD, Feedback)
    assert prefer(GOLD, [PROMPT], [(GOOD, "")])[0] > 0.7


def test_a_good_answer_has_full_reward():
    assert GOLD.breakdown(PROMPT, GOOD) == {
        "reward": 1.0,
        "constraint_mean": 1.0,
        "constraints": [
            {"kind": "max_words", "n": 20, "satisfaction": 1.0},
            {"kind": "keyword", "word": "snow", "satisfaction": 1.0},
        ],
        "quality": {"substance": 1.0, "topic": 1.0, "originality": 1.0, "no_repetition": 1.0, "ending": 1.0},
    }


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("A glacier is a slow river of ice. It grows where rain piles up.", 1 / 2),  # no keyword
        (GOOD.replace("A glacier", "That"), 0.4),  # topic not named
        (GOOD.rstrip("."), 0.7),  # cut off
        ("A glacier is snow turned ice.", 6 / 10),  # too little said
        (GOOD + " " + "They carve deep valleys and feed many rivers below them.", (1 - 4 / 20 + 1) / 2),  # 24 words
        ("", 0),
    ],
)
def test_each_shortcoming_costs_what_the_docstring_says(completion, expected):
    assert reward(completion) == pytest.approx(expected)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_demonstrations_have_full_reward(split):
    prompts = make_prompts(300, split)
    answers = [[talk.messages[-1]["content"]] for talk in demonstrations(300, split)]
    assert min(score for (score,) in GOLD.score(prompts, answers)) >= 0.95


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(lambda p: p.text, id="copy"),
        pytest.param(lambda p: p.text.upper(), id="shouted copy"),
        pytest.param(lambda p: p.text + " " + p.text, id="copied twice"),
        pytest.param(lambda p: f"{p.info['topic']}. " * 12, id="topic repeated"),
        pytest.param(lambda p: " ".join(str(c.get("word", "")) for c in p.info["constraints"]), id="keywords only"),
        pytest.param(lambda p: "Sure! ", id="empty agreement"),
        pytest.param(lambda p: p.text.split("?")[0] + "?", id="question back"),
    ],
)
def test_cheating_earns_little(cheat):
    prompts = make_prompts(200, "train")
    scores = [row[0] for row in GOLD.score(prompts, [[cheat(p)] for p in prompts])]
    assert sum(scores) / len(scores) < 0.1
    assert max(scores) < 0.3


def test_a_copied_prompt_before_the_answer_costs_more_than_half():
    assert reward(f"{TEXT} {GOOD}") < 0.5


def test_repeated_sentences_cost_their_share():
    quality = GOLD.breakdown(PROMPT, f"{GOOD} {GOOD}")["quality"]
    # Half of the sentences, and about half of the 3-word sequences, were there before.
    assert quality["no_repetition"] < 0.1


@given(st.text(max_size=300), st.integers(0, 40))
def test_any_text_scores_between_0_and_1(text, index):
    prompt = make_prompts(41, "train")[index]
    assert 0 <= reward(text, prompt) <= 1


def test_a_prompt_without_constraints_is_refused():
    with pytest.raises(SawyerError, match="cannot judge the prompt 'Why"):
        reward("Because.", Prompt((user("Why?"),)))
    with pytest.raises(SawyerError, match="no topic 'unicorn'"):
        reward("Because.", Prompt(PROMPT.prompt, {**PROMPT.info, "topic": "unicorn"}))
