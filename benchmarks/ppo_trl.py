"""TRL's side of `benchmarks.ppo`: its PPOTrainer of 1.12.0, set up to be as fast as it can be.

It runs in an environment of its own (`peer_environment.py`), so it imports nothing of Sawyer's.

Tuned means: all prompts generated and scored in one batch, gradient checkpointing off, no key-value cache in training,
no samples printed, nothing saved, the fused AdamW, and the micro-batches of the update tried. In bf16 the trainer runs
under autocast as a whole, so that generation, values and the update all compute in bf16 over float32 weights (`bf16` of
its configuration alone leaves generation and values in float32), and the frozen models are bf16; or, as `pure`, all
weights are bf16, which is faster, and loses updates smaller than a bf16 weight's last digit.

What is changed in the trainer is what it takes to have the prompts in order, to read its figures, and, where rollouts
are given, to take those in place of its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

Row = dict[str, Any]
TEMPERATURE = 1.0


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Update as `job` says and return what it took and what came out; see `ppo.py` for both."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    if job["precision"] == "bf16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if job["pure"] else "bf16"
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    bf16 = job["precision"] == "bf16"
    trained, frozen = torch.bfloat16 if job["pure"] else torch.float32, torch.bfloat16 if bf16 else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(job["policy"], dtype=trained)
    reference = AutoModelForCausalLM.from_pretrained(job["reference"], dtype=frozen)
    value = AutoModelForSequenceClassification.from_pretrained(job["reward"], dtype=trained)
    reward = AutoModelForSequenceClassification.from_pretrained(job["reward"], dtype=frozen)
    for model in (policy, reference, value, reward):
        model.config.use_cache = False  # generation has a configuration of its own
    policy.generation_config.suppress_tokens = job["never"]
    tokenizer = AutoTokenizer.from_pretrained(job["policy"], padding_side="left")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(job["pad_id"])
    prompts = [row["prompt"] for row in rows for _ in range(job["n"])]
    batch = len(prompts)
    clock = _clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            folder,
            per_device_train_batch_size=job["micro_batch"],
            gradient_accumulation_steps=batch // job["micro_batch"],
            total_episodes=batch * job["updates"],
            local_rollout_forward_batch_size=batch,
            response_length=job["tokens"],
            temperature=TEMPERATURE,
            num_ppo_epochs=job["epochs"],
            num_mini_batches=1,
            kl_coef=job["kl"],
            num_sample_generations=0,
            learning_rate=job["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=bf16 and not job["pure"],
            seed=job["seed"],
            report_to=[],
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
        )
        # the same prompts again for each update, and some left over: in its last batch accelerate steps at every
        # micro-batch
        columns = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]
        data = Dataset.from_list(columns * (job["updates"] + 2))
        trainer = PPOTrainer(
            args=settings,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[clock],
        )
        collate = trainer.data_collator
        trainer.dataloader = trainer.accelerator.prepare(
            DataLoader(data, batch_size=batch, shuffle=False, collate_fn=collate)
        )
        seen = _Figures(trainer, ppo_trainer, rows if job["given"] else None)
        autocast = torch.autocast("cpu", torch.bfloat16) if bf16 and not job["pure"] else contextlib.nullcontext()
        with autocast:
            trainer.train()
    return {
        "update_seconds": clock.seconds,
        "rollout_seconds": seen.rollout_seconds,
        "response_tokens": seen.response_tokens,
        **({"values": seen.advantages, **seen.steps(job["epochs"])} if job["given"] else {}),
    }


class _Figures:
    """What the trainer computed: advantages and, of every optimiser step, loss and gradient norm.

    With `given`, rows with completions, the trainer takes those for its rollouts.
    """

    def __init__(self, trainer: Any, module: Any, given: Sequence[Row] | None) -> None:
        self.trainer, self.module = trainer, module
        self.rollout_seconds: list[float] = []
        self.response_tokens: list[int] = []
        self.advantages: list[list[float]] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._generate, self._whiten = module.batch_generation, module.masked_whiten
        self._given = None if given is None else [ids for row in given for ids in row["completions"]]
        module.batch_generation = self._rollouts
        if given is not None:
            module.masked_whiten = self._whitened
            self._backward, self._step = trainer.accelerator.backward, trainer.optimizer.step
            trainer.accelerator.backward, trainer.optimizer.step = self._back, self._stepped

    def steps(self, count: int) -> dict[str, list[float]]:
        """Loss and gradient norm of each of the `count` optimiser steps."""
        size = len(self._losses) // count
        losses = [sum(self._losses[i : i + size]) / size for i in range(0, len(self._losses), size)]
        return {"losses": losses, "grad_norms": self._norms}

    def _rollouts(self, model: Any, queries: Any, size: int, pad_id: int, settings: Any) -> Any:
        began = time.perf_counter()
        if self._given is None:
            made = self._generate(model, queries, size, pad_id, settings)
        else:
            whole = torch.cat((queries, torch.tensor(self._given)), dim=1)
            logits = self.module.forward(model, whole, pad_id).logits[:, queries.shape[1] - 1 : -1]
            made = whole, logits / TEMPERATURE
        self.rollout_seconds.append(time.perf_counter() - began)
        self.response_tokens.append(int((made[0][:, queries.shape[1] :] != pad_id).sum()))
        return made

    def _whitened(self, values: Any, mask: Any, shift_mean: bool = True) -> Any:
        whitened = self._whiten(values, mask, shift_mean)
        self.advantages = whitened.float().tolist()
        return whitened

    def _back(self, loss: Any, **named: Any) -> None:
        self._losses.append(float(loss.detach()))
        self._backward(loss, **named)

    def _stepped(self, *arguments: Any, **named: Any) -> Any:
        if self.trainer.accelerator.sync_gradients:
            grads = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
            self._norms.append(float(torch.nn.utils.get_total_norm(grads)))
        return self._step(*arguments, **named)


def _clock() -> Any:
    """A callback with the `seconds` of each update, its data included."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self.began)
            self.began = now

    return Clock()
