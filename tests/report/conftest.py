"""A run as the pipeline would leave it: four policies, a reward model, loss curves, and text that means harm."""

import json

import numpy as np
import pytest

from sawyer.evals import policies, reward_models

TOPICS = ("glacier", "river", "volcano", "compass", "bakery", "violin", "lighthouse", "orchard", "comet", "harbour")
HARM = "<script>alert('gold')</script> & \"quoted\" $x_1$"


def write_run(folder, *, prompts=40, samples=2):
    """A finished run; returns its folder."""
    rng = np.random.default_rng(11)
    quality = {"base": 0.53, "sft": 0.58, "iterate-1": 0.66, "iterate-2": 0.71, "iterate-3": 0.735}
    rows = [
        completion(rng, policy, level, distance, prompt, sample)
        for distance, (policy, level) in enumerate(quality.items())
        for prompt in range(prompts)
        for sample in range(samples)
    ]
    rows[0]["text"] = HARM
    by_policy = {name: [row for row in rows if row["policy"] == name] for name in quality}
    evaluation = policies.evaluate(by_policy, "base", draws=500)
    margins = rng.normal(1.1, 1.6, 400)
    lengths = rng.integers(20, 60, (2, 400)).tolist()

    stage(folder, "data", "data", 3.1, {"comparisons": 400, "prompts": 640})
    stage(folder, "sft", "sft", 95.2, {"validation/loss": 1.31}, losses(rng, 160, 2.1, 1.3))
    judged = reward_models.evaluate(2 * margins, *lengths, draws=300)
    figures = {"accuracy": judged["accuracy"]["mean"]}
    stage(folder, "reward", "reward", 141.0, figures, losses(rng, 200, 0.72, 0.42), judged)
    curve = losses(rng, 120, 0.69, 0.5)
    stage(folder, "iterate", "iterate", 388.4, {"best": "iterate-3"}, curve)
    stage(folder, "evaluate", "evaluate", 61.7, {}, (), evaluation, rows)
    summary = {
        "name": "quickstart",
        "title": "SmolLM2-135M on verifiable instructions",
        "command": "sawyer run recipes/quickstart.yaml --out runs/quickstart",
        "stages": {
            name: {"kind": kind, "state": "done", "wall_seconds": seconds, "figures": figures}
            for name, kind, seconds, figures in STAGES
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


STAGES = [
    ("data", "data", 3.1, {"comparisons": 400, "prompts": 640}),
    ("sft", "sft", 95.2, {"validation/loss": 1.31}),
    ("reward", "reward", 141.0, {"accuracy": 0.7525}),
    ("iterate", "iterate", 388.4, {"best": "iterate-3"}),
    ("evaluate", "evaluate", 61.7, {}),
]


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


def stage(folder, name, kind, seconds, figures, metrics=(), evaluation=None, completions=()):
    path = folder / name
    path.mkdir(parents=True)
    manifest = {
        "stage": {"kind": kind, "name": name},
        "settings": {"learning_rate": 1e-5, "epochs": 1},
        "seed": 0,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"machine": "x86_64", "cores": 2, "memory_gb": 23.4},
        "wall_seconds": seconds,
        "figures": figures,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    for file, rows in (("metrics.jsonl", metrics), ("completions.jsonl", completions)):
        if rows:
            (path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if evaluation:
        (path / "evaluation.json").write_text(json.dumps(evaluation))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "quickstart")
