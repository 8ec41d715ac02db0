"""Contenders of `benchmarks.online`: the updates of stage `online`, and TRL's OnlineDPOTrainer.

An update answers each prompt of its batch twice, with exactly as many tokens as the job says, scores the answers and
makes one step of DPO on the pairs. Both sides read the same prompts in the same order and begin from the same weights;
both call the same rule, or hold the same reward model. What they draw differs, so for a comparison the job may give the
answers; all else is then done as before. With a reward model TRL reads what the chat template writes behind an answer's
end token, too, and ours does not, so that the pairs may differ: what is compared is ordered by the rule.

The peer's generation takes two sequences of each prompt of a micro-batch. Its gradient is the sum over the
micro-batches of an update of their means, and not the mean (OnlineDPOTrainer's own `training_step` leaves out the
division that Trainer's has), so its gradient norms are divided here before they are compared.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.work import Row

TEMPERATURE, BETA = 0.9, 0.1
Job = dict[str, Any]
Answers = list[list[list[list[int]]]]
"""Token ids, by update, prompt and sample."""


def run(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    """Do what `job` says and return what it took and what came out; see `worker.py` for both."""
    given = json.loads(Path(job["answers"]).read_text()) if job["answers"] else None
    return _CONTENDERS[job["contender"]](job, rows, given)


def rule(texts: Sequence[str]) -> list[float]:
    """The reward of each text, the mean code point of its characters: it takes no time and hardly ever comes twice."""
    return [sum(map(ord, text)) / max(1, len(text)) for text in texts]


def _weights(job: Job, rows: Sequence[Row], given: Answers | None) -> dict[str, Any]:
    """Write the models that both sides begin from, as `models.load` makes them."""
    from benchmarks.models import load
    from sawyer.models.load import load_tokenizer
    from sawyer.models.save import save_model

    tokenizer = load_tokenizer(job["model"])
    save_model(load(job), tokenizer, Path(job["folder"], "policy"))
    if job["reward"] == "model":
        save_model(load({**job, "task": "reward"}), tokenizer, Path(job["folder"], "reward"))
    return {}


def _sawyer(job: Job, rows: Sequence[Row], given: Answers | None) -> dict[str, Any]:
    from benchmarks.ours import FirstStep
    from sawyer.data.chat import ChatFormat
    from sawyer.data.files import write_records
    from sawyer.data.records import Prompt
    from sawyer.pipeline.context import Artifact, Context
    from sawyer.pipeline.progress import Voice
    from sawyer.pipeline.stages import _online, online
    from sawyer.rollout.protocol import Completion

    took: list[float] = []
    generated: list[float] = []
    answers: Answers = []
    lines: list[dict[str, Any]] = []
    seen: list[FirstStep] = []

    class Rule:
        name = "rule"

        def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
            return [rule(own) for own in completions]

    class Timed(_online.Steps):
        """The stage's updates, with the time of each."""

        def step(self, step: int) -> Any:
            self.began = time.perf_counter()
            trees, told = super().step(step)
            if step == 0:
                seen.append(FirstStep(self.policy, trees, self.settings.token_budget))
            return trees, told

        def generate(self, engine: Any, prompts: Any, n: int, stream: int) -> Any:
            began = time.perf_counter()
            if given is None:
                drawn = super().generate(engine, prompts, n, stream)
            else:
                drawn = [[_completion(self.chat, ids) for ids in own] for own in given[stream]]
            generated.append(time.perf_counter() - began)
            answers.append([[list(completion.ids) for completion in own] for own in drawn])
            return drawn

    class Watched(Context):
        def log(self, **figures: Any) -> None:
            super().log(**figures)
            took.append(time.perf_counter() - steps.began)
            lines.append(figures)

    def _completion(chat: ChatFormat, ids: Sequence[int]) -> Completion:
        return Completion(tuple(ids), (), chat.decode(ids), False)

    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder, name) for name in ("prompts", "folder", "scratch")}
        for place in places.values():
            place.mkdir()
        write_records(places["prompts"] / "train.jsonl", [Prompt(tuple(row["prompt"])) for row in rows])
        settings = online.Settings.model_validate(
            {
                "model": "policy",
                "data": "prompts",
                "steps": len(rows) // job["batch"],
                "batch_size": job["batch"],
                "sampling": {"temperature": TEMPERATURE, "min_tokens": job["tokens"], "max_tokens": job["tokens"]},
                "options": {"beta": BETA},
                "learning_rate": job["learning_rate"],
                "schedule": "constant",
                "warmup_ratio": 0.0,
                "token_budget": job["token_budget"],
                "checkpoint_every": 10**9,
                **({"reward": "reward"} if job["reward"] == "model" else {"gold": "verifiable"}),
            }
        )
        context = Watched(
            "online", places["folder"], places["scratch"], job["seed"], job["precision"],
            artifacts={"prompts": Artifact(places["prompts"], {"name": "prompts", "figures": {}})},
            models={name: str(Path(job["folder"], name)) for name in ("policy", "reward")},
            voice=Voice(StringIO()),
        )  # fmt: skip
        steps = Timed(settings, context)
        if job["reward"] == "rule":
            steps.feedback = Rule()
        steps.learn()
    return {
        "step_seconds": took,
        "generate_seconds": generated,
        "losses": [line["loss"] for line in lines],
        "grad_norms": [line["grad_norm"] for line in lines],
        "pairs": [int(line["pairs"]) for line in lines],
        "values": seen[0].values(),
        "answers": answers,
    }


def _trl(job: Job, rows: Sequence[Row], given: Answers | None) -> dict[str, Any]:
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    from benchmarks.peers import arguments_of, step_clock
    from sawyer.models.load import load_policy, load_sequence_classifier, load_tokenizer

    size = job["micro_batch"]
    accumulation = job["batch"] // size
    micro_batches: list[dict[str, Any]] = []

    class Timed(OnlineDPOTrainer):
        """The trainer, with what it says of each micro-batch and the time of its generation kept."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.grad_norms: list[float] = []
            super().__init__(*arguments, **named)

        def _generate(self, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            made = super()._generate(*arguments, **named)
            micro_batches.append({"seconds": time.perf_counter() - began, "answers": made[2].tolist()})
            return made

        def _forward(self, model: Any, *arguments: Any, **named: Any) -> Any:
            logp_B_T = super()._forward(model, *arguments, **named)
            if model is not self.ref_model:
                micro_batches[-1]["logps"] = logp_B_T.detach().sum(1).tolist()
            return logp_B_T

        def _calculate_rewards_from_functions(self, *arguments: Any, **named: Any) -> Any:
            reward_B = super()._calculate_rewards_from_functions(*arguments, **named)
            micro_batches[-1]["rewards"] = reward_B.tolist()
            return reward_B

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            micro_batches[-1]["loss"] = float(loss)
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            self.grad_norms.append(float(norm) / accumulation)
            return norm

    def reward(prompts: Any, completions: Sequence[Sequence[dict[str, str]]], **_: Any) -> list[float]:
        return rule([completion[0]["content"] for completion in completions])

    policy: Any = load_policy(str(Path(job["folder"], "policy")))
    tokenizer: Any = load_tokenizer(str(Path(job["folder"], "policy")))
    of_a_model = job["reward"] == "model"
    if given is not None:
        policy.generate = _repeating([own for update in given for own in update], size)
    clock = step_clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = {**arguments_of(job, accumulation), "max_length": job["max_length"]}
        trainer = Timed(
            model=policy,
            reward_funcs=load_sequence_classifier(str(Path(job["folder"], "reward"))) if of_a_model else reward,
            reward_processing_classes=tokenizer if of_a_model else None,
            args=OnlineDPOConfig(
                folder,
                max_new_tokens=job["tokens"],
                generation_kwargs={"min_new_tokens": job["tokens"]},
                cache_implementation=job["cache"],
                temperature=TEMPERATURE,
                beta=[BETA],
                **arguments,
            ),
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    updates = [micro_batches[i : i + accumulation] for i in range(0, len(micro_batches), accumulation)]
    return {
        "step_seconds": clock.seconds,
        "generate_seconds": [sum(one["seconds"] for one in update) for update in updates],
        "losses": [sum(one["loss"] for one in update) for update in updates],
        "grad_norms": trainer.grad_norms,
        "pairs": [job["batch"] for _ in updates],
        "values": [pair for one in updates[0] for pair in _chosen_first(one)],
        "answers": [[own for one in update for own in _by_prompt(one["answers"])] for update in updates],
    }


def _repeating(answers: list[list[list[int]]], size: int) -> Callable[..., Any]:
    """In place of a model's `generate`: the answers to the next `size` prompts, first all first ones."""
    import torch

    places = iter(range(0, len(answers), size))

    def generate(input_ids: Any, **_: Any) -> Any:
        start = next(places)
        own = answers[start : start + size]
        drawn = torch.tensor([one[k] for k in range(2) for one in own])
        return torch.cat([input_ids, drawn], dim=1)

    return generate


def _by_prompt(values: list[Any]) -> list[list[Any]]:
    """From [first of all prompts; second of all prompts] to one list a prompt."""
    half = len(values) // 2
    return [list(pair) for pair in zip(values[:half], values[half:], strict=True)]


def _chosen_first(micro_batch: dict[str, Any]) -> list[list[float]]:
    pairs = zip(_by_prompt(micro_batch["logps"]), _by_prompt(micro_batch["rewards"]), strict=True)
    return [logps if rewards[0] >= rewards[1] else logps[::-1] for logps, rewards in pairs]


_CONTENDERS: dict[str, Callable[..., dict[str, Any]]] = {"weights": _weights, "sawyer": _sawyer, "trl": _trl}
