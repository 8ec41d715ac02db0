"""Questions to a model: samples, second tries, what is counted, and when it stops."""

import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.asking import ENOUGH, RETRY_TEMPERATURE, Asker
from sawyer.rollout.protocol import Completion
from sawyer.rollout.search import DIVERGED


class Numbered:
    """An engine that answers by a function of the prompt, the seed and the sample number, and remembers its calls."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        assert keep_failed
        self.calls.append((len(prompts), n, seed, sampling.temperature))
        answers = [[self.answer(prompt.text, seed, k) for k in range(n)] for prompt in prompts]
        return [[a if isinstance(a, Completion) else Completion((), (), a, True) for a in own] for own in answers]


def number(text):
    return int(text) if text.isdigit() else None


def prompts(count):
    return [Prompt(f"Question {i}") for i in range(count)]


def test_samples_are_read_each_by_itself():
    engine = Numbered(lambda text, seed, k: str(k) if k != 1 else "one")
    asker = Asker(engine, temperature=1.0, samples=3, seed=5, max_tokens=9)
    answers = asker.ask(prompts(2), number)
    assert [[answer.value for answer in own] for own in answers] == [[0, None, 2]] * 2
    assert [answer.text for answer in answers[0]] == ["0", "one", "2"]
    assert engine.calls == [(2, 3, 5, 1.0)]
    assert (asker.asked, asker.answered, asker.unread) == (6, 6, 2)
    assert asker.sampling.max_tokens == 9
    assert asker.ask([], number) == []


def test_only_what_cannot_be_read_is_asked_again_warmer_and_with_another_seed():
    def answer(text, seed, k):
        return "3" if text.endswith("0") or seed != 5 else "three"

    engine = Numbered(answer)
    asker = Asker(engine, retries=3, seed=5)
    assert [own[0].value for own in asker.ask(prompts(4), number)] == [3] * 4
    assert [call[0] for call in engine.calls] == [4, 3]
    assert [call[3] for call in engine.calls] == [0.0, RETRY_TEMPERATURE]
    assert engine.calls[1][2] != 5
    assert (asker.asked, asker.answered, asker.unread) == (4, 4, 0)


def test_each_try_has_a_seed_of_its_own_and_what_stays_unread_is_counted():
    engine = Numbered(lambda text, seed, k: f"no {seed}")
    asker = Asker(engine, retries=2, temperature=1.0, samples=2)
    answers = asker.ask(prompts(1), number)
    assert len({call[2] for call in engine.calls}) == 3
    assert {call[3] for call in engine.calls} == {1.0}
    assert answers[0][0].text == f"no {engine.calls[-1][2]}"
    assert (asker.asked, asker.unread) == (2, 2)


def test_a_second_try_that_fails_leaves_the_first_answer():
    engine = Numbered(lambda text, seed, k: "none" if seed == 0 else Completion.failed("refused"))
    [[answer]] = Asker(engine, retries=1).ask(prompts(1), number)
    assert (answer.value, answer.text, answer.error) == (None, "none", None)


def test_what_cannot_be_asked_says_why_and_is_not_asked_again():
    engine = Numbered(lambda text, seed, k: Completion.failed("too long") if text.endswith("1") else "1")
    asker = Asker(engine, retries=2)
    answers = asker.ask(prompts(2), number)
    assert [own[0].error for own in answers] == [None, "too long"]
    assert len(engine.calls) == 1
    assert (asker.asked, asker.answered, asker.unread) == (2, 1, 1)


def test_faults_of_the_model_stop_everything():
    with pytest.raises(SawyerError, match="the critic answered none of 2 questions; the first: too long"):
        Asker(Numbered(lambda *_: Completion.failed("too long")), who="critic").ask(prompts(2), number)
    for failure, said in (
        (Completion.failed(DIVERGED), "the judge cannot answer: the model's logits are not numbers"),
        (Completion.failed("down", again=True), "left 1 of 2 questions for another time; the first: down"),
    ):
        engine = Numbered(lambda text, seed, k, failure=failure: failure if text.endswith("1") else "1")
        with pytest.raises(SawyerError, match=said):
            Asker(engine).ask(prompts(2), number)


def test_a_judge_that_cannot_be_read_is_stopped_early_with_three_examples():
    engine = Numbered(lambda text, seed, k: f"Well,\n\x1b[31m{text} is good" + "!" * 300)
    with pytest.raises(SawyerError) as error:
        Asker(engine, unread_limit=0.5).ask(prompts(1000), number)
    assert engine.calls == [(ENOUGH, 1, 0, 0.0)]
    said = str(error.value)
    assert f"no readable answer to {ENOUGH} of {ENOUGH} questions" in said
    assert said.count(r"'Well,\n\x1b[31mQuestion") == 3
    assert said.isprintable()
    assert len(said) < 1000


def test_a_few_unread_answers_are_borne_and_portions_grow():
    engine = Numbered(lambda text, seed, k: "7" if int(text.split()[1]) % 4 else "seven")
    asker = Asker(engine, unread_limit=0.3)
    assert len(asker.ask(prompts(100), number)) == 100
    assert [call[0] for call in engine.calls] == [20, 20, 40, 20]
    assert asker.unread == 25
    few = Asker(Numbered(lambda *_: "none"), unread_limit=0.0)
    few.ask(prompts(ENOUGH - 1), number)
    with pytest.raises(SawyerError, match=f"to {ENOUGH} of {ENOUGH}"):
        few.ask(prompts(1), number)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "`samples` of the judge is 0"),
        ({"samples": 2}, "with `temperature` 0 all of them would be the same answer"),
        ({"retries": -1}, "`retries` of the judge is -1"),
        ({"temperature": float("nan")}, "`temperature` of the judge is nan"),
        ({"unread_limit": 1.5}, "a share from 0 to 1, not 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(SawyerError, match=said):
        Asker(Numbered(lambda *_: "1"), **settings)
