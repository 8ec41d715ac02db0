"""A judge on any engine: what it is shown, how its verdicts are read, and that order does not matter."""

import pytest

from sawyer.data.records import Prompt, assistant, user
from sawyer.errors import SawyerError
from sawyer.feedback.judge import Judge, comparison_prompt, rating, rating_prompt, verdict
from sawyer.feedback.protocol import prefer
from sawyer.rollout.api_engine import ApiEngine
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Completion
from sawyer.rollout.search import DIVERGED
from tests.rollout.chat_server import completion
from tests.rollout.conftest import serve

__all__ = ["serve"]

PROMPT = Prompt("What is a river?")


class Scripted:
    """An engine that answers by a function of the question, with a text or a whole completion."""

    def __init__(self, answer):
        self.answer, self.asked, self.sampling = answer, [], None

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        assert n == 1
        assert keep_failed
        self.asked += [prompt.text for prompt in prompts]
        self.sampling = sampling
        answers = [self.answer(prompt.text) for prompt in prompts]
        return [[a if isinstance(a, Completion) else Completion((), (), a, True)] for a in answers]


TOO_LONG = Completion.failed("too long")


def block(question, title):
    return question.split(f"[begin of {title}]\n")[1].split(f"\n[end of {title}]")[0]


def prefers_longer(question):
    a, b = (block(question, f"answer of assistant {letter}") for letter in "AB")
    return f"One is longer. [[{'A' if len(a) > len(b) else 'B'}]]"


def always_first(question):
    return "The first. [[A]]"


def test_the_better_answer_wins_wherever_it_stands():
    prompts = [Prompt(f"Question {i}?") for i in range(20)]
    engine = Scripted(prefers_longer)
    pairs = [("a long answer", "short") if i % 2 else ("short", "a long answer") for i in range(20)]
    assert Judge(engine).prefer(prompts, pairs) == [float(i % 2) for i in range(20)]
    first = [block(question, "answer of assistant A") for question in engine.asked]
    assert 4 <= first.count("short") <= 16, "a coin says who stands first"
    assert len(engine.asked) == 20
    assert engine.sampling.temperature == 0


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("judge", [prefers_longer, always_first, lambda question: "Both are fine."])
def test_swapping_a_pair_gives_one_minus_p(judge, both):
    prompts = [Prompt(f"Question {i}?") for i in range(8)]
    pairs = [("one answer", "another one"), ("b", "a"), ("same", "same"), ("x", "xx")] * 2
    forth = prefer(Judge(Scripted(judge), both_orders=both, seed=3), prompts, pairs)
    back = prefer(Judge(Scripted(judge), both_orders=both, seed=3), prompts, [(b, a) for a, b in pairs])
    assert [p + q for p, q in zip(forth, back, strict=True)] == [1.0] * 8


def test_both_orders_see_through_a_judge_that_likes_the_first():
    engine = Scripted(always_first)
    assert Judge(engine, both_orders=True).prefer([PROMPT], [("x", "y")]) == [0.5]
    assert len(engine.asked) == 2
    assert Judge(engine, both_orders=True).verdicts([PROMPT], [("x", "y")]) == [[1.0, 0.0]]


def test_no_verdict_is_a_draw():
    assert Judge(Scripted(lambda question: "I cannot say.")).prefer([PROMPT], [("x", "y")]) == [0.5]


def test_what_cannot_be_answered_is_a_draw_but_not_everything_may_be():
    some = Scripted(lambda question: TOO_LONG if "river" in question else "[[A]]")
    judge = Judge(some, both_orders=True)
    assert judge.prefer([PROMPT, Prompt("Why?")], [("x", "y"), ("x", "y")]) == [0.5, 0.5]
    assert judge.prefer([PROMPT], [("x", "y")]) == [0.5], "whatever shares its batch"
    assert judge.unread == 4
    with pytest.raises(SawyerError, match="none of 1 questions; the first: too long"):
        Judge(Scripted(lambda question: TOO_LONG)).prefer([PROMPT], [("x", "y")])


def test_what_would_be_answered_another_time_is_no_draw():
    later = Completion.failed("the endpoint has an error of its own", again=True)
    judge = Judge(Scripted(lambda question: later if "river" in question else "[[A]] [[3]]"))
    said = "left 1 of 2 questions for another time; the first: the endpoint has an error of its own"
    for ask in (
        lambda: judge.prefer([PROMPT, Prompt("Why?")], [("x", "y"), ("x", "y")]),
        lambda: judge.score([PROMPT, Prompt("Why?")], [["x"], ["x"]]),
    ):
        with pytest.raises(SawyerError, match=said):
            ask()


def test_a_judge_that_has_diverged_prefers_nothing():
    judge = Judge(Scripted(lambda question: Completion.failed(DIVERGED) if "river" in question else "[[A]]"))
    with pytest.raises(SawyerError, match="the judge cannot answer: the model's logits are not numbers"):
        judge.prefer([PROMPT, Prompt("Why?")], [("x", "y"), ("x", "y")])


def test_questions_without_a_verdict_are_counted():
    judge = Judge(Scripted(lambda question: "[[A]]" if "Why" in question else "I cannot say."), both_orders=True)
    judge.prefer([PROMPT, Prompt("Why?"), PROMPT], [("x", "y"), ("x", "y"), ("same", "same")])
    assert judge.unread == 2
    judge.score([PROMPT, Prompt("Why?")], [["x", "y"], ["x"]])
    assert judge.unread == 5
    assert judge.answered == 7


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("[[A]]", "A"),
        ("so [[B]].", "B"),
        ("[[A]] at first, but [[B]]", "B"),
        ("[A]", None),
        ("[[C]]", None),
        ("", None),
    ],
)
def test_the_last_verdict_counts(answer, letter):
    assert verdict(answer) == letter


@pytest.mark.parametrize(
    ("answer", "number"), [("[[7]]", 7), ("[[3]] no, [[10]]", 10), ("[[0]]", None), ("[[11]]", None), ("7", None)]
)
def test_ratings_are_from_1_to_10(answer, number):
    assert rating(answer) == number


def test_scores_are_ratings_of_each_answer_by_itself():
    engine = Scripted(lambda q: f"[[{min(10, len(block(q, 'answer of the assistant')))}]]")
    judge = Judge(engine)
    assert judge.score([PROMPT, Prompt("Why?")], [["abc", "abcde"], ["a"]]) == [[3.0, 5.0], [1.0]]
    assert judge.score([PROMPT], [["abc"]]) == [[3.0]]


def test_the_whole_dialogue_is_shown():
    turns = (user("Hi"), assistant("Hello"), user("Why?"))
    for question in (comparison_prompt(turns, "x", "y").text, rating_prompt(turns, "x").text):
        assert block(question, "conversation") == "user: Hi\n\nassistant: Hello\n\nuser: Why?"


def test_correctness_is_another_question_than_quality():
    assert rating_prompt((user("Hi"),), "x", "correctness").text != rating_prompt((user("Hi"),), "x").text


def test_every_prompt_may_have_a_grade_of_its_own():
    engine = Scripted(lambda question: "[[5]]")
    assert Judge(engine).rate([PROMPT, PROMPT], [["x"], ["x"]], ["correctness", "quality"]) == [[5.0], [5.0]]
    assert engine.asked == [rating_prompt(PROMPT.prompt, "x", grade).text for grade in ("correctness", "quality")]


def test_a_remote_judge(serve):
    server = serve(lambda request: completion(prefers_longer(request["messages"][-1]["content"])))
    judge = Judge(ApiEngine("m", ApiSettings(endpoint=server.url)))
    assert judge.prefer([PROMPT, Prompt("Why?")], [("long answer", "no"), ("no", "long answer")]) == [1.0, 0.0]
    assert [request["temperature"] for request in server.requests] == [0.0, 0.0]
