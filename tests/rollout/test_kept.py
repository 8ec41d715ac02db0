"""An engine whose answers are kept: nothing is asked twice, also after a kill."""

import pytest

from sawyer.data.records import Prompt
from sawyer.journal import Silent
from sawyer.rollout import kept
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion, Sampling

PROMPTS = [Prompt(f"Question {i}") for i in range(10)]


class Killed(BaseException):
    pass


class Counting:
    def __init__(self, dies_after=None):
        self.asked, self.dies_after, self.loaded = [], dies_after, None

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise Killed
        self.asked += [prompt.text for prompt in prompts]
        return [[Completion((k,), (0.0,), f"{prompt.text}/{seed}/{k}", True) for k in range(n)] for prompt in prompts]

    def load(self, weights):
        self.loaded = weights


def test_a_killed_engine_asks_only_for_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "CHUNK", 4)  # two prompts of two samples
    whole = KeptEngine(Counting(), tmp_path / "whole", Silent(), "").generate(PROMPTS, Sampling(), 2, seed=3)
    first = Counting(dies_after=4)
    with pytest.raises(Killed):
        KeptEngine(first, tmp_path / "broken", Silent(), "").generate(PROMPTS, Sampling(), 2, seed=3)
    second = Counting()
    again = KeptEngine(second, tmp_path / "broken", Silent(), "")
    assert again.generate(PROMPTS, Sampling(), 2, seed=3) == whole
    assert first.asked + second.asked == [prompt.text for prompt in PROMPTS]


def test_calls_that_ask_something_else_do_not_meet(tmp_path):
    engine = Counting()
    keeping = KeptEngine(engine, tmp_path, Silent(), "")
    calls = [(PROMPTS[:2], 1, 0), (PROMPTS[:2], 1, 1), (PROMPTS[:2], 2, 0), (PROMPTS[1:3], 1, 0)]
    texts = [
        [one.text for own in keeping.generate(some, Sampling(), n, seed=seed) for one in own]
        for some, n, seed in calls * 2
    ]
    assert texts[:4] == texts[4:]
    assert len(engine.asked) == 8
    keeping.load({"w": 1})
    assert engine.loaded == {"w": 1}
