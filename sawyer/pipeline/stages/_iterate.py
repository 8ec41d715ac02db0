"""The work of stage `iterate`. One iteration's folder in the scratch holds each step's result; what is there is not
done again:

    answers-K/  the completions at temperature K      scored.json  their rewards      pairs.jsonl  made of them
    reference.json  log-probs under pi_0              checkpoint/  of the training under way
    validation/  answers to held-out prompts          learned.safetensors  the iterate's weights or adapters, float32
    done.json  its figures
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sawyer.data.files import write_records
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.methods import iterative
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_policy
from sawyer.models.precision import DTYPES
from sawyer.numerics import release
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import chat_of, mean, prompts_of, reward_model_of
from sawyer.pipeline.stages._engines import vllm_engine
from sawyer.rollout import kv_cache
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.prompts import read_prompts
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.rollout.unanswered import OF_THE_PROMPT, left_out
from sawyer.rollout.vllm_engine import VllmEngine
from sawyer.train.loop import train
from sawyer.train.objectives import dpo
from sawyer.train.reference import with_reference
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

LEARNED = "learned.safetensors"


class Iterations:
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.name = context.model(settings.model)
        self.chat = chat_of(self.name, settings.chat_template)
        self.device = context.accelerator.device
        # float32 until the first training casts it
        self.trainable = Trainable(lambda: load_policy(self.name), settings.lora, seed=context.seed)
        self.trainable.model.to(self.device)  # before the engine reads it
        self.prompts = self.answerable(settings.part)
        self.held_out = self.answerable(settings.validation, settings.validation_prompts)
        self.engine = self.make_engine()
        for parameter in self.trainable.model.parameters():
            if not parameter.requires_grad:  # the body under adapters: now, so that an iterate is merged into the same
                parameter.data = parameter.data.to(DTYPES[context.precision])  # body before and after a continuation
        self.reward = reward_model_of(context, settings.reward, settings.token_budget)

    def answerable(self, part: str, limit: int | None = None) -> list[Prompt]:
        """The prompts of a part that leave room for an answer; how many do not is said."""
        prompts = prompts_of(self.context, self.settings.data, part, limit)
        room = kv_cache.context(self.trainable.model)
        _, problems = read_prompts(prompts, self.chat, self.settings.sampling.max_tokens, room, keep_failed=True)
        why = {i: OF_THE_PROMPT + problem for i, problem in enumerate(problems) if problem is not None}
        if why:
            self.context.say(left_out(prompts, why, f"prompts of {self.settings.data}/{part}"))
        return [prompt for i, prompt in enumerate(prompts) if i not in why]

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

    def run(self) -> dict[str, Any]:
        """All iterations; the best of them by validation reward becomes the artifact."""
        figures = [self.iteration(t) for t in range(self.settings.iterations)]
        best = max(range(len(figures)), key=lambda t: figures[t]["validation_reward"])
        self.context.say(f"iterate {best + 1} is the best on validation")
        if self.context.is_main:
            self.write(best)
        return {"iterations": figures, "best": best + 1}

    def iteration(self, t: int) -> dict[str, Any]:
        """Generate, score, pair, train, validate; leaves the policy at iterate t + 1."""
        folder = self.context.scratch / f"iteration-{t + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "done.json"
        if done.exists():
            if t + 1 == self.settings.iterations or not (folder.parent / f"iteration-{t + 2}" / "done.json").exists():
                self.take(folder)
            return read_json(done)
        if self.context.is_main:
            self.rewind(folder)

        prompts = iterative.prompts_of_iteration(self.prompts, self.settings.prompts, t)
        completions, scored = self.answers(prompts, folder, t)
        release()  # the engine's cache, before the optimiser's state needs the room
        trees = [
            TokenTree(
                self.chat.prompt_ids(prompts[pair.prompt].prompt),
                [completions[pair.prompt][pair.chosen].ids, completions[pair.prompt][pair.rejected].ids],
            )
            for pair in scored["pairs"]
        ]
        trees = with_reference(
            lambda: load_policy(self.name),
            trees,
            precision=self.context.precision,
            token_budget=self.settings.token_budget,
            file=folder / "reference.json",
            journal=self.context,
            device=self.device,
            writes=self.context.is_main,
        )
        policy = TreePolicy(self.trainable.model)
        trained = train(
            policy, trees, dpo(beta=self.settings.beta), self.settings,
            precision=self.context.precision, seed=self.context.seed + t, journal=self.context,
            title=f"iteration {t + 1} of {self.settings.iterations}", scratch=folder,
            accelerator=self.context.accelerator,
        )  # fmt: skip
        trained.weights.install()
        if self.context.is_main:
            save_file(self.trainable.learned(), folder / LEARNED)
        self.refresh()
        last = trained.figures
        del trained  # and with it the optimiser
        release()
        figures = {**scored["figures"], "pairs": len(trees), **last, **self.validate(folder, t)}
        self.context.log(iteration=t + 1, **{k: v for k, v in figures.items() if k != "loss"})
        if self.context.is_main:
            write_json(done, figures)
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        return figures

    def rewind(self, folder: Path) -> None:
        """Drop the figures of an iteration that was begun and has no checkpoint to go on from."""
        position = folder / "position.json"
        if not position.exists():
            write_json(position, self.context.position())
        if not (folder / "checkpoint").exists():
            self.context.rewind(read_json(position))

    def take(self, folder: Path) -> None:
        """Set the policy and the engine to the finished iterate of that folder."""
        self.trainable.take(load_file(folder / LEARNED))
        self.refresh()

    def refresh(self) -> None:
        """Give the engine the policy's weights, in memory."""
        if self.engine is not None:
            self.engine.load(self.trainable.merged())

    def answers(self, prompts: list, folder: Path, t: int) -> tuple[list[list[Completion]], dict[str, Any]]:
        """Each prompt's completions, and their rewards, pairs and figures."""
        settings = self.settings
        completions: list[list[Completion]] = [[] for _ in prompts]
        for k, temperature in enumerate(settings.temperatures):
            share = settings.n // len(settings.temperatures) + (k < settings.n % len(settings.temperatures))
            if share:
                part = self.generate(prompts, share, temperature, folder / f"answers-{k}", 1000 * t + k, "answers")
                for own, more in zip(completions, part, strict=True):
                    own.extend(more)
        texts = [[completion.text for completion in own] for own in completions]
        rewards = self.rewards(prompts, texts, folder / "scored.json")
        pairs = iterative.best_and_worst(rewards, texts, settings.pairs)
        if not pairs:
            raise SawyerError(
                f"stage {self.context.name}: all completions of every prompt are equal or score the same in iteration "
                f"{t + 1}, so there is no pair to learn from; raise `n` or `temperatures`, or lower `pairs.min_margin`"
            )
        if self.context.is_main:
            write_records(folder / "pairs.jsonl", iterative.comparisons(prompts, completions, pairs))
        figures = {
            "reward": mean([mean(own) for own in rewards]),
            "reward_best_of_n": mean([max(own) for own in rewards]),
            "tokens": mean([len(c.ids) for own in completions for c in own]),
            "finished": mean([float(c.finished) for own in completions for c in own]),
        }
        return completions, {"pairs": pairs, "figures": figures}

    def validate(self, folder: Path, t: int) -> dict[str, float]:
        """The policy's mean penalised reward on held-out prompts, one answer each at temperature 1."""
        completions = self.generate(self.held_out, 1, 1.0, folder / "validation", 1000 * t + 999, "validation")
        texts = [[completion.text for completion in own] for own in completions]
        rewards = self.rewards(self.held_out, texts, folder / "validation.json")
        penalty = self.settings.pairs.length_penalty
        return {
            "validation_reward": mean(
                [mean(iterative.penalised(r, own, penalty)) for r, own in zip(rewards, texts, strict=True)]
            ),
            "validation_tokens": mean([len(c.ids) for own in completions for c in own]),
        }

    def generate(
        self, prompts: list, n: int, temperature: float, folder: Path, stream: int, what: str
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; with several processes the main one generates."""

        def once() -> list[list[Completion]]:
            assert self.engine is not None
            return generate_resumably(
                self.engine,
                prompts,
                self.settings.sampling.model_copy(update={"temperature": temperature}),
                n,
                seed=self.context.seed + stream,
                folder=folder,
                journal=self.context,
                title=f"{what} at temperature {temperature:g}",
            )

        return self.context.processes.on_main(once)

    def rewards(self, prompts: list, texts: list[list[str]], file: Path) -> list[list[float]]:
        """The reward of each completion, kept in `file`; with several processes the main one scores."""

        def once() -> list[list[float]]:
            if not file.exists():
                write_json(file, self.reward.score(prompts, texts))
            return read_json(file)

        return self.context.processes.on_main(once)

    def write(self, best: int) -> None:
        """The artifact: the best iterate in float32, every iterate in the run's precision, and their pairs."""
        out, dtype = self.context.folder, DTYPES[self.context.precision]
        for t in range(self.settings.iterations):
            made = self.context.scratch / f"iteration-{t + 1}"
            self.trainable.take(load_file(made / LEARNED))
            self.trainable.save(out / "iterates" / str(t + 1), self.chat, dtype=dtype)
            shutil.copy(made / "pairs.jsonl", out / "iterates" / str(t + 1) / "pairs.jsonl")
        self.trainable.take(load_file(self.context.scratch / f"iteration-{best + 1}" / LEARNED))
        self.trainable.save(out, self.chat)
