"""TRL's side of a benchmark: its own trainers, collators and loop, set up to be as fast as they can be.

Tuned means: reference log-probs computed once before training, gradient checkpointing off, no logging, no saving, no
padding beyond the batch, the fused AdamW, and every micro-batch size tried. bf16 is TRL's `bf16=True`: autocast over
float32 weights. What is changed in the trainers is what it takes to hand them token ids and to read their figures.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.work import Row
from sawyer.errors import SawyerError


def require(peer: str) -> None:
    """Raise SawyerError unless `peer` is one we can measure against and is installed."""
    if peer != "trl":
        raise SawyerError(f"there is no peer called {peer!r}: the only one is trl")
    if importlib.util.find_spec("trl") is None:
        raise SawyerError("there is no TRL to measure against; in Sawyer's folder, pip install -e '.[bench]'")


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Train as `job` says and return what it took and what came out; see `worker.py` for both."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    from benchmarks.models import load
    from sawyer.models.load import load_tokenizer

    kind: Any
    arguments: Any
    task = job["task"]
    columns = [column for row in rows for column in _columns(task, row)]
    accumulation = job["batch"] * len(columns) // len(rows) // job["micro_batch"]
    common = arguments_of(job, accumulation)
    model: Any = load(job)
    clock = step_clock()
    with tempfile.TemporaryDirectory() as folder:
        if task == "dpo":
            kind, arguments = DPOTrainer, DPOConfig(folder, precompute_ref_log_probs=True, **common)
        elif task == "reward":
            kind, arguments = RewardTrainer, RewardConfig(folder, **common)
        else:
            skip = {"skip_prepare_dataset": True}
            kind = SFTTrainer
            arguments = SFTConfig(folder, dataset_kwargs=skip, padding_free=job["padding_free"], **common)
        trainer = _recording(kind)(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(columns),
            processing_class=load_tokenizer(job["model"]),
            callbacks=[clock],
        )
        seen = _FirstStep(model, task, accumulation)
        trainer.train()
    micro = [float(loss) for loss in trainer.micro_losses]
    return {
        "step_seconds": clock.seconds,
        "losses": [sum(micro[i : i + accumulation]) for i in range(0, len(micro), accumulation)],
        "grad_norms": [float(norm) for norm in trainer.grad_norms],
        "values": seen.values,
        "reference_seconds": trainer.reference_seconds,
    }


def arguments_of(job: dict[str, Any], accumulation: int) -> dict[str, Any]:
    """What all of TRL's trainers are told: the same optimiser as ours, and nothing that takes time beside training."""
    return dict(
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        gradient_checkpointing=False,
        max_length=None,
        seed=job["seed"],
        dataloader_num_workers=0,
        logging_steps=10**9,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _columns(task: str, row: Row) -> list[dict[str, list[int]]]:
    """A row in the columns that TRL's collators read: one line, or one for each pair of a ranking."""
    if "ids" in row:
        labels = [token if scored else -100 for token, scored in zip(row["ids"], row["scored"], strict=True)]
        return [{"input_ids": row["ids"], "labels": labels}]
    prompt, pairs = row["prompt"], itertools.combinations(row["completions"], 2)
    if task == "dpo":
        return [{"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse} for better, worse in pairs]
    return [{"chosen_ids": prompt + better, "rejected_ids": prompt + worse} for better, worse in pairs]


def _recording(kind: type) -> type:
    """`kind` with its losses, gradient norms and the time of its reference pass kept, and ready token ids accepted."""

    class Recording(kind):  # type: ignore[misc, valid-type]  # a class made at run time
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.micro_losses: list[Any] = []
            self.grad_norms: list[Any] = []
            self.reference_seconds: float | None = None
            super().__init__(*arguments, **named)

        def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
            return dataset  # DPOTrainer has no way to say that the data is tokenised already

        def _precompute_ref_logps(self, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            dataset = super()._precompute_ref_logps(*arguments, **named)
            self.reference_seconds = time.perf_counter() - began
            return dataset

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            self.micro_losses.append(loss)
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            self.grad_norms.append(super()._clip_grad_norm(model))
            return self.grad_norms[-1]

    Recording.__name__ = kind.__name__
    return Recording


def step_clock() -> Any:
    """A callback with the `seconds` of each update; its batches have been fetched and collated before."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    return Clock()


class _FirstStep:
    """Keeps what the model says of each completion of the first update: its log-prob, or its reward."""

    def __init__(self, model: Any, task: str, forwards: int) -> None:
        self.task, self.forwards = task, forwards
        self.values: list[list[float]] = []
        self.seen = 0
        model.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, _: Any, __: Any, inputs: dict[str, Any], output: Any) -> None:
        if self.seen == self.forwards:
            return
        self.seen += 1
        if self.task == "reward":
            each = output.logits.detach().float()[:, 0].tolist()
        elif "cu_seq_lens_q" in inputs:  # padding-free: one row, each log-prob at the position before its token
            sizes = inputs["cu_seq_lens_q"].diff().tolist()
            sizes[0] -= 1
            each = [part.sum().item() for part in output.log_probs.detach().float()[0].split(sizes)]
        else:
            each = output.log_probs.detach().float().sum(dim=1).tolist()
        half = len(each) // 2  # [chosen rows; rejected rows]
        rows = [[value] for value in each] if self.task == "sft" else zip(each[:half], each[half:], strict=True)
        self.values.extend(list(row) for row in rows)
