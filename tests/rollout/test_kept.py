"""An engine whose answers are kept: what was asked once is not asked again, by a killed judge either."""

import contextlib

import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.judges import make_judge
from sawyer.rollout.kept import CHUNK, KeptEngine
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import Sampling

PROMPTS = [Prompt(f"Question {i}?") for i in range(2 * CHUNK)]


class Counting:
    """Says how long the question is; stops the work after so many calls."""

    def __init__(self, allowed=99):
        self.asked, self.calls, self.allowed = 0, 0, allowed

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        if self.calls == self.allowed:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += len(prompts) * n
        progress(3)
        return [[Completion((7,), (-0.5,), f"[[{1 + len(p.text) % 9}]]", True)] * n for p in prompts]

    def load(self, weights):
        raise AssertionError


def test_a_killed_judge_asks_only_for_what_is_missing(tmp_path):
    def score(engine):
        judge = make_judge(KeptEngine(engine, tmp_path, "weights"), JudgeForm(form="pointwise"))
        return judge.score(PROMPTS, [["x"]] * len(PROMPTS))

    with contextlib.suppress(KeyboardInterrupt):
        score(Counting(allowed=1))
    second, third = Counting(), Counting()
    scores = score(second)
    assert second.asked == len(PROMPTS) - CHUNK
    assert score(third) == scores
    assert third.asked == 0


def test_another_question_is_asked(tmp_path):
    engine = Counting()
    told = []

    def ask(identity="a", prompts=PROMPTS[:2], seed=0, **sampling):
        kept = KeptEngine(engine, tmp_path, identity)
        return kept.generate(prompts, Sampling(max_tokens=9, **sampling), 2, seed=seed, progress=told.append)

    first = ask()
    assert ask() == first
    assert (engine.calls, told) == (1, [3])
    for other in ({"identity": "b"}, {"prompts": PROMPTS[:1]}, {"seed": 1}, {"temperature": 0.5}):
        before = engine.calls
        ask(**other)
        assert engine.calls == before + 1
    with pytest.raises(SawyerError, match="cannot take other weights"):
        KeptEngine(engine, tmp_path, "a").load({})
