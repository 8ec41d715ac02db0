"""A run as the pipeline leaves it, by stages that invent their results: four policies, a reward model, loss curves, and
text that means harm."""

import json
import shutil
from functools import partial
from typing import Annotated

import numpy as np
import pytest
import yaml

from sawyer.errors import SawyerError
from sawyer.evals import policies, reward_models
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.report.build import write_report
from sawyer.pipeline.run import run_recipe
from sawyer.pipeline.stage import Ref, Stage, register
from sawyer.settings import Settings

TOPICS = ("glacier", "river", "volcano", "compass", "bakery", "violin", "lighthouse", "orchard", "comet", "harbour")
HARM = "<script>alert('gold')</script> & \"quoted\" $x_1$"


class Nothing(Settings):
    pass


class Training(Settings):
    model: Annotated[str, Ref()]
    learning_rate: float = 1e-5


class Evaluation(Settings):
    policies: list[Annotated[str, Ref()]]
    last: float = 0.735
    """How good the last iterate is."""


def make_data(settings, context):
    (context.folder / "train.jsonl").write_text("{}\n")
    return {"comparisons": 400, "prompts": 640, "dropped": {"an answer is empty": 4}}


def training(seed, steps, start, end, figures):
    """A stage that logs a loss curve, and fails where its learning rate is too high."""

    def run(settings, context):
        for row in losses(np.random.default_rng(seed), steps, start, end):
            context.log(**row)
        if settings.learning_rate >= 1:
            raise SawyerError("the loss is not a number; lower `learning_rate`")
        (context.folder / "config.json").write_text("{}")
        return figures

    return run


def train_reward_model(settings, context):
    figures = training(2, 200, 0.72, 0.42, {"accuracy": 0.7525})(settings, context)
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 60, (2, 400)).tolist()
    judged = reward_models.evaluate(2 * rng.normal(1.1, 1.6, 400), *lengths, draws=300)
    (context.folder / "evaluation.json").write_text(json.dumps(judged))
    return {**figures, "held_out": judged}


def evaluate(settings, context):
    rng = np.random.default_rng(11)
    quality = {"base": 0.53, "sft": 0.58, "iterate-1": 0.66, "iterate-2": 0.71, "iterate-3": settings.last}
    rows = [
        completion(rng, policy, level, distance, prompt, sample)
        for distance, (policy, level) in enumerate(quality.items())
        for prompt in range(40)
        for sample in range(2)
    ]
    rows[0]["text"] = HARM
    by_policy = {name: [row for row in rows if row["policy"] == name] for name in quality}
    drawn = {
        "generation_seed": context.seed,
        "sampling": {"temperature": 1.0, "max_tokens": 80},
        "kl_unbiased": True,
        "unanswered": 0,
    }
    evaluation = policies.evaluate(by_policy, "base", training_seeds=[4], draws=500) | drawn
    (context.folder / "evaluation.json").write_text(json.dumps(evaluation))
    (context.folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: evaluation[name] for name in ("policies", "comparisons")}


def completion(rng, policy, level, distance, prompt, sample):
    topic = TOPICS[prompt % len(TOPICS)]
    limit = 15 + prompt % 20
    said = [
        f"A {topic} is something that people have known for a very long time, and there are many kinds of it.",
        "It is best understood by looking at how it came to be, what it is made of, and why it matters to us.",
        f"In short: a {topic} reflects light, keeps still, and rewards whoever looks twice.",
    ]
    gold = float(np.clip(level + 0.12 * np.sin(prompt) + rng.normal(0, 0.09), 0, 1))
    return {
        "policy": policy,
        "prompt_id": prompt,
        "prompt": [
            {"role": "user", "content": f'What is a {topic}? Use at most {limit} words and include the word "light".'}
        ],
        "sample": sample,
        "text": "\n\n".join(said[: max(1, 3 - distance // 2)]),
        "tokens": int(rng.integers(60, 90)) - 8 * distance,
        "finished": bool(rng.random() < 0.8 + 0.04 * distance),
        "gold": gold,
        "proxy": 4 * gold - 2 + 0.25 * distance + float(rng.normal(0, 0.4)),
        "kl": float(max(0, rng.normal(2.2 * distance, 0.8))) if distance else 0.0,
    }


def losses(rng, steps, start, end):
    rows = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * np.exp(-3 * step / steps) + rng.normal(0, 0.04)
        rows.append({"step": step, "loss": float(loss), "learning_rate": 1e-5, "tokens_per_second": 900.0})
        if step % 40 == 0:
            rows.append({"step": step, "validation/loss": float(loss + 0.03)})
    return rows


KINDS = (
    Stage("data", Nothing, make_data, makes="data"),
    Stage("sft", Training, training(1, 160, 2.1, 1.3, {"validation_loss": 1.31}), makes="policy"),
    Stage("reward", Training, train_reward_model, makes="reward_model"),
    Stage("iterate", Training, training(4, 120, 0.69, 0.5, {"best": 3}), makes="policy"),
    Stage("evaluate", Evaluation, evaluate, makes="evaluation"),
)
STAGES = {
    "data": {},
    "sft": {"model": "base"},
    "reward": {"model": "sft"},
    "iterate": {"model": "sft"},
    "evaluate": {"policies": ["base", "sft", "iterate"]},
}


def run_in(folder, stages, *overrides):
    """Run some stages with `--set` overrides in a folder that stays, and write the report; returns the run's folder."""
    model = folder / "tiny"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    title = "SmolLM2-135M on verifiable instructions"
    recipe = {"name": "quickstart", "title": title, "model": str(model), "seed": 4, "stages": stages}
    file = folder / "quickstart.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    settings = [word for override in overrides for word in ("--set", override)]
    with pytest.MonkeyPatch.context() as patch, register(*KINDS):
        patch.setattr("sys.argv", ["sawyer", "run", "recipes/quickstart.yaml", *settings])
        return run_recipe(load_recipe(file, overrides), folder / "quickstart", report=write_report)


@pytest.fixture
def run_stages(tmp_path):
    """`run_in` the test's own folder."""
    return partial(run_in, tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished run, which no test may change."""
    return run_in(tmp_path_factory.mktemp("finished"), STAGES)


@pytest.fixture
def run(finished_run, tmp_path):
    """The folder of a finished run, the test's own."""
    return shutil.copytree(finished_run, tmp_path / "quickstart")
