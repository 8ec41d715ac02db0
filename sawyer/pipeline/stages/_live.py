"""A policy that answers while it is trained: its weights, and an engine that is given them."""

from __future__ import annotations

from typing import Any

from sawyer.data.records import Prompt
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_policy
from sawyer.models.precision import DTYPES
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import chat_of, prompts_of
from sawyer.pipeline.stages._engines import vllm_engine
from sawyer.rollout import kv_cache
from sawyer.rollout.prompts import read_prompts
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.rollout.unanswered import OF_THE_PROMPT, left_out
from sawyer.rollout.vllm_engine import VllmEngine


class LivePolicy:
    """What `iterate` and `online` hold.

    Args:
        settings: with `model`, `data`, `lora`, `sampling`, `chat_template` and those of the engine.
    """

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.name = context.model(settings.model)
        self.chat = chat_of(self.name, settings.chat_template)
        self.device = context.accelerator.device
        # float32 until the first training casts it
        self.trainable = self.first_policy()
        self.engine = self.make_engine()
        self.cast_body()

    def first_policy(self) -> Trainable:
        """pi_0, on the device, before the engine reads it."""
        trainable = Trainable(lambda: load_policy(self.name), self.settings.lora, seed=self.context.seed)
        trainable.model.to(self.device)
        return trainable

    def cast_body(self) -> None:
        """Cast the body under adapters: now, so that what is trained is merged into the same body before and after a
        continuation."""
        for parameter in self.trainable.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(DTYPES[self.context.precision])

    def make_engine(self) -> TorchEngine | VllmEngine | None:
        """What generates, with weights of its own; None where another process does."""
        if self.settings.engine == "vllm":
            if not self.context.is_main:
                return None
            return vllm_engine(self.context, self.settings, self.name, self.chat)
        model: Any = self.trainable.model
        if self.settings.lora is not None:
            model = load_policy(self.name)
        precision: Any = self.context.precision  # one of the recipe's, which are the engine's
        return TorchEngine(model.to(self.device), self.chat, precision=precision)

    def refresh(self) -> None:
        """Give the engine the policy's weights, in memory."""
        if self.engine is not None:
            self.engine.load(self.trainable.merged())

    def answerable(self, part: str, limit: int | None = None) -> list[Prompt]:
        """The prompts of a part that leave room for an answer; how many do not is said."""
        prompts = prompts_of(self.context, self.settings.data, part, limit)
        return self.fitting(prompts, f"prompts of {self.settings.data}/{part}")

    def fitting(self, prompts: list[Prompt], what: str) -> list[Prompt]:
        """Those that leave room for an answer; how many do not is said.

        Raises:
            SawyerError: none does.
        """
        room = kv_cache.context(self.trainable.model)
        _, problems = read_prompts(prompts, self.chat, self.settings.sampling.max_tokens, room, keep_failed=True)
        why = {i: OF_THE_PROMPT + problem for i, problem in enumerate(problems) if problem is not None}
        if why:
            self.context.say(left_out(prompts, why, what))
        return [prompt for i, prompt in enumerate(prompts) if i not in why]
