"""Stage `self_reward`: own prompts, own answers, own points, DPO; killed anywhere it ends in the same bits."""

import json
from io import StringIO

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, Prompt, user
from sawyer.errors import SawyerError
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.progress import Voice
from sawyer.pipeline.stages import _iterate, _raters, self_reward
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine
from tests.conftest import tiny_config

THINGS = ("river", "town", "bridge", "light", "word", "day", "cloud", "stone", "wheel", "letter", "garden", "window")
SMALL = {
    "model": "base", "data": "seeds", "ranked": {"data": "ranked"}, "iterations": 2, "prompts": 4, "n": 3,
    "sampling": {"max_tokens": 6}, "batch_size": 3, "learning_rate": 1e-2, "checkpoint_every": 1,
    "instruct": {"requests": 2, "ask_for": 3, "examples": 2, "own_examples": 0, "min_words": 3},
    "judge": {"samples": 2, "temperature": 0.7, "max_tokens": 8, "retries": 0, "unread_limit": None},
}  # fmt: skip


def task(j):
    """Some words in another order for every j."""
    return " ".join(THINGS[k % 12] for k in (j, j + 3, 5 * j + 1, 7 * j + 2, j * j))


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


class Talks:
    """Stands between the stage and its engine: lists and judgements, which a random model cannot write, are written
    here; answers are the engine's own."""

    def __init__(self, generate, judges: bool = True) -> None:
        self.generate, self.judges, self.asked, self.dies_at = generate, judges, [], None
        self.engines = {}

    def __call__(self, engine, prompts, sampling, n=1, *, seed=0, progress=None, keep_failed=False):
        text = prompts[0].text
        kind = "list" if text.startswith("Go on with the list") else "judge" if "adding up points" in text else "answer"
        self.asked.append((kind, n, len(prompts)))
        self.engines.setdefault(kind, []).append(engine)
        if self.dies_at == len(self.asked):
            raise Killed
        if kind == "answer" or (kind == "judge" and not self.judges):
            return self.generate(engine, prompts, sampling, n, seed=seed, progress=progress, keep_failed=keep_failed)
        said = self.listed if kind == "list" else self.judged
        return [
            [Completion((1,), (0.0,), said(prompt, seed, i, k), True) for k in range(n)]
            for i, prompt in enumerate(prompts)
        ]

    def listed(self, prompt, seed, i, k):
        at = (seed + 5 * i) % 7
        return "\n".join(f"{m}. {task(at + m)}" for m in range(1, 4))

    def judged(self, prompt, seed, i, k):
        answer = prompt.text.split("[begin of answer]\n")[1].split("\n[end of answer]")[0]
        return "No idea." if answer == "so so" and k else f"Score: {(len(answer) + k) % 6}"


@pytest.fixture
def stage(tmp_path, monkeypatch, tiny_tokenizer):
    """`stage(out, **settings)`: the artifact's folder, the figures, what was asked of the engine."""
    config = tiny_config("llama", tiny_tokenizer)
    config.max_position_embeddings = 4096
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(tmp_path / "policy")
    tiny_tokenizer.save_pretrained(tmp_path / "policy")
    for name in ("seeds", "ranked"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "seeds" / "train.jsonl", [Prompt((user(f"What is a {t}?"),)) for t in THINGS[:4]])
    ranked = [Comparison((user(f"What is a {t}?"),), ("well said", "so so", "no")) for t in THINGS[4:7]]
    write_records(tmp_path / "ranked" / "validation.jsonl", ranked)
    original = TorchEngine.generate

    def call(out: str, dies_at: int | None = None, judges: bool = True, **settings):
        talks = Talks(original, judges)
        talks.dies_at = dies_at
        monkeypatch.setattr(TorchEngine, "generate", lambda engine, *args, **kw: talks(engine, *args, **kw))
        for name in ("folder", "scratch"):
            (tmp_path / out / name).mkdir(parents=True, exist_ok=True)
        artifacts = {name: Artifact(tmp_path / name, {"name": name, "makes": "data"}) for name in ("seeds", "ranked")}
        context = Context(
            "self", tmp_path / out / "folder", tmp_path / out / "scratch", seed=5, artifacts=artifacts,
            models={"base": str(tmp_path / "policy")}, voice=Voice(StringIO()),
        )  # fmt: skip
        try:
            figures = self_reward.run(self_reward.Settings(**{**SMALL, **settings}), context)
        finally:
            context.close()
        call.engines = talks.engines
        return tmp_path / out / "folder", figures, talks.asked

    return call


def test_two_iterations_and_a_kill_at_every_kind_of_step(stage, tmp_path, monkeypatch):
    whole, figures, asked = stage("whole")

    iteration = ["list", "answer", "judge", "judge"]  # prompts, answers, points of these, and how good the judge is
    assert [kind for kind, *_ in asked] == ["judge", *iteration, *iteration]
    assert asked[0] == ("judge", 2, 9)
    made = [json.loads((whole / "iterates" / str(t) / "instructions.json").read_text())["kept"] for t in (1, 2)]
    assert 0 < len(made[0]) <= 4
    assert not set(made[0]) & set(made[1])
    first, second = figures["iterations"]
    assert (first["prompts"], figures["best"]) == (len(made[0]), 2)
    assert figures["judge_first"]["pairwise"]["n"] == 3
    assert figures["judge_first"]["unread"]["mean"] == pytest.approx(1 / 6)
    assert set(second["judge"]) == {"pairwise", "ties", "spearman", "kendall", "exact", "unread"}
    for t, own in enumerate((first, second), 1):
        pairs = read_records(whole / "iterates" / str(t) / "pairs.jsonl")
        assert own["pairs"] == len(pairs) > 0
        points = json.loads((whole / "iterates" / str(t) / "scored.json").read_text())
        assert own["reward_best_of_n"] >= own["reward"] >= 0
        assert {pair.prompt[0]["content"] for pair in pairs} <= set(made[t - 1])
        assert len(points) == len(made[t - 1])
        assert all(len(pair.chosen) % 6 != len(pair.rejected) % 6 for pair in pairs)
    weights = [load_file(whole / "iterates" / str(t) / "model.safetensors") for t in (1, 2)]
    assert not torch.equal(*(own["model.embed_tokens.weight"] for own in weights))

    dies = iter([2, 3, 4, 5, 8])  # at which call of the engine, counted in each life
    before, lives, train = [], 0, _iterate.train

    def mortal(*args, **kwargs):
        trained = train(*args, **kwargs)
        if not before:
            before.append(True)
            raise Killed  # after the training, before its result is written
        return trained

    monkeypatch.setattr(_iterate, "train", mortal)
    while True:
        try:
            broken, again, _ = stage("broken", next(dies, None))
            break
        except Killed:
            lives += 1
    assert lives >= 4
    assert again == figures
    for file in (path for path in whole.rglob("*") if path.is_file() and path.name != "metrics.jsonl"):
        assert file.read_bytes() == (broken / file.relative_to(whole)).read_bytes(), file
    assert steps(broken) == steps(whole)


def test_another_model_may_write_the_prompts_and_fewer_answers_measure_the_judge(stage):
    _, figures, asked = stage("out", iterations=1, writer="base", ranked={"data": "ranked", "limit": 2})
    assert asked[0] == ("judge", 2, 6)
    assert figures["judge_first"]["pairwise"]["n"] == 2
    assert figures["pairwise_after"] == figures["iterations"][0]["judge"]["pairwise"]["mean"]
    engines = stage.engines
    assert len(engines["list"]) == 1
    assert engines["list"][0] is not engines["answer"][0]
    assert all(engine is engines["answer"][0] for engine in engines["judge"])


def test_points_may_be_read_from_the_tokens_and_are_kept(stage, monkeypatch):
    settings = {"iterations": 1, "judge": {"read": "tokens"}, "ranked": {"data": "ranked", "limit": 1}}
    folder, figures, asked = stage("out", **settings)
    assert [kind for kind, *_ in asked] == ["list", "answer"]
    points = [own for of_prompt in json.loads((folder / "iterates/1/scored.json").read_text()) for own in of_prompt]
    assert all(0 < own < 5 for own in points)
    assert figures["judge_first"]["unread"]["mean"] == 0
    monkeypatch.setattr(_raters, "rate_by_tokens", lambda *args: pytest.fail("this has been asked before"))
    for name in ("done.json", "judge-first.json", "scored.json"):  # as if it had been killed before
        (folder.parent / "scratch" / "iteration-1" / name).unlink()
    assert stage("out", **settings)[1]["judge_first"] == figures["judge_first"]


def steps(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row.get("iteration"), row.get("step"), row.get("loss")) for row in rows]


def test_a_policy_that_cannot_judge_stops_the_stage_with_what_it_says(stage):
    with pytest.raises(SawyerError, match="no readable answer to"):
        stage("out", judges=False, judge={**SMALL["judge"], "samples": 3, "unread_limit": 0.5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instruct": {"instructions": 9}}, "`prompts` says how many prompts to make"),
        ({"loss": "sppo"}, "points are none"),
        ({"loss": "kto"}, "learns from pairs"),
        ({"judge": {"samples": 3}}, "set a temperature above 0"),
        ({"judge": {"read": "tokens"}, "engine": "vllm"}, "needs `engine: torch`"),
        ({"ranked": None}, "ranked"),
        ({"reward": "base"}, "reward"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        self_reward.Settings(**{**SMALL, **settings})


def test_what_it_starts_from_is_as_in_the_paper():
    settings = self_reward.Settings(model="base", data="seeds", ranked={"data": "ranked"})
    assert (settings.n, settings.temperatures, settings.sampling.top_p) == (4, [0.7], 0.9)
    assert (settings.reference, settings.beta, settings.judge.samples) == ("moving", 0.1, 3)
    assert self_reward.Settings(**settings.model_dump()) == settings
