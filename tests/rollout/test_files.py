"""Generation in chunks: nothing done twice, nothing lost."""

import contextlib
from dataclasses import replace

from sawyer.data.records import Prompt
from sawyer.journal import Silent
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import Sampling


class Counting:
    """Answers with the prompt's text, and remembers what it was asked; fails after `allowed` calls."""

    def __init__(self, allowed: int = 99) -> None:
        self.asked: list[list[str]] = []
        self.allowed = allowed

    def generate(self, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        if len(self.asked) == self.allowed:
            raise KeyboardInterrupt
        self.asked.append([prompt.text for prompt in prompts])
        return [[Completion((1, k), (-0.5, -0.25), f"{p.text}/{k}", True) for k in range(n)] for p in prompts]

    def load(self, weights):
        pass


def generate(engine, folder):
    prompts = [Prompt(str(i)) for i in range(7)]
    return generate_resumably(
        engine, prompts, Sampling(), 2, seed=0, folder=folder, journal=Silent(), title="answers", chunk=7
    )


def test_an_interrupted_generation_goes_on_where_it_stopped(tmp_path):
    whole = generate(Counting(), tmp_path / "whole")
    with contextlib.suppress(KeyboardInterrupt):
        generate(Counting(allowed=2), tmp_path / "broken")
    second = Counting()
    assert generate(second, tmp_path / "broken") == whole
    assert second.asked == [["6"]]


def test_what_is_read_back_is_what_was_written(tmp_path):
    class Full(Counting):
        def generate(self, *args, **kwargs):
            return [[replace(c, full_logps=(-0.7, -0.1)) for c in own] for own in super().generate(*args, **kwargs)]

    first = generate(Full(), tmp_path)
    assert first[0][0].full_logps == (-0.7, -0.1)
    assert generate(Counting(allowed=0), tmp_path) == first


def test_a_completion_survives_its_row():
    for completion in (Completion((1, 2), (-0.5, -1.0), "ab", True), Completion.failed("the prompt is empty")):
        row = completion.row()
        assert Completion.from_row(row) == completion
        assert ("error" in row) == (completion.error is not None)


def test_a_finished_generation_asks_nothing(tmp_path):
    first = generate(Counting(), tmp_path)
    engine = Counting(allowed=0)
    assert generate(engine, tmp_path) == first
    assert [own[1].text for own in first] == [f"{i}/1" for i in range(7)]
