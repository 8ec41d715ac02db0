"""The work of stage `ppo`: the models, and what the policy is trained in. Rollouts are not kept: a continuation draws
them again, since they depend on the weights, the seed and the prompts alone. (With `overlap` see `_ahead`.)"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.evals.diversity import distinct, words
from sawyer.feedback.protocol import Feedback
from sawyer.feedback.rules import VerifiableReward
from sawyer.methods.iterative import prompts_of_iteration
from sawyer.methods.rewards import Part, Shaper
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_policy, load_sequence_classifier, model_kind
from sawyer.models.precision import cast
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._ahead import Ahead, Drawn
from sawyer.pipeline.stages._common import chat_of, mean, reward_model_of, save_trained
from sawyer.pipeline.stages._gold import gold_of
from sawyer.pipeline.stages._live import LivePolicy
from sawyer.pipeline.stages.ppo import Settings, needs
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import is_own_distribution
from sawyer.train import ppo
from sawyer.trees.actor import ActorCritic, TreeCritic, read_tokens
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

VALIDATION = 1 << 40
"""The stream of answers to held-out prompts: the same draws at every validation."""


class Reinforcement(LivePolicy):
    """One run of the stage; the `Environment` of its policy."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        weights = sum(p.numel() for p in self.trainable.model.parameters())
        context.say(f"memory: about {needs(settings, weights)['memory_gb']:.1f} GB, activations not counted")
        self.prompts = self.answerable(settings.part)
        self.held_out = self.answerable(settings.validation, settings.validation_prompts)
        self.gold = gold_of(context, settings, settings.token_budget)
        self.feedback, parts = self.rewards()
        self.shaper = Shaper(settings.shaping, parts)
        self.actor = ActorCritic(self.trainable.model, self.critic(), seed=context.seed + 1).to(self.device)
        self.frozen = self.frozen_reference()
        self.ahead = Ahead(self.draw, context.scratch, context.processes)
        self.endless = False

    def run(self) -> dict[str, Any]:
        """All steps; the best policy becomes the artifact, or the last one."""
        settings, context = self.settings, self.context
        try:
            trained = ppo.train(
                self.actor, self.reference, self, settings, max_tokens=settings.sampling.max_tokens,
                precision=context.precision, seed=context.seed, journal=context, title=context.name,
                scratch=context.scratch, accelerator=context.accelerator, companions=[self.ahead],
            )  # fmt: skip
        finally:
            self.ahead.close()
        save_trained(context, self.trainable, trained.weights, self.chat)
        if context.is_main and settings.samples:
            self.write_samples()
        return trained.figures

    def rewards(self) -> tuple[list[Feedback], list[Part]]:
        """What scores the answers, and how each of them counts."""
        settings = self.settings

        def opened(model: str | None) -> Feedback:
            return VerifiableReward() if model is None else reward_model_of(self.context, model, settings.token_budget)

        if not settings.rewards and settings.reward is None:
            assert self.gold is not None, "the settings name a reward"
            return [self.gold], [Part()]
        if not settings.rewards:
            return [opened(settings.reward)], [Part()]
        once = {part.model: opened(part.model) for part in settings.rewards}
        parts = [Part(part.weight, part.normalise, part.below) for part in settings.rewards]
        return [once[part.model] for part in settings.rewards], parts

    def critic(self) -> TreeCritic | str | None:
        """What says how good a state is: a model, adapters beside the policy's, or a head alone.

        Raises:
            SawyerError: the reward model that it is to start from has no single output, reads other tokens than the
                policy, or is an encoder.
        """
        settings = self.settings
        if not settings.estimated.values or settings.value.model != "own":
            return settings.value.model if settings.estimated.values else None
        if settings.value_from is None:
            trainable = Trainable(self._fresh_critic, settings.lora, task="SEQ_CLS", seed=self.context.seed)
            return TreeCritic(trainable.model).to(self.device)
        name = self.context.model(settings.value_from)
        if model_kind(name) != "decoder":
            raise SawyerError(
                f"stage {self.context.name}: the value model cannot start from {settings.value_from}, an encoder: it "
                "has to read the policy's tokens one by one; leave `value_from` out"
            )
        if chat_of(name, None).tokenizer.get_vocab() != self.chat.tokenizer.get_vocab():
            raise SawyerError(
                f"stage {self.context.name}: the value model cannot start from {settings.value_from}, whose tokenizer "
                "has another vocabulary than the policy's; leave `value_from` out"
            )
        trainable = Trainable(lambda: load_sequence_classifier(name), settings.lora, task="SEQ_CLS")
        return TreeCritic(trainable.model).to(self.device)

    def _fresh_critic(self) -> Any:
        """The policy's trunk under a head that says 0."""
        model: Any = load_sequence_classifier(self.name, fresh_head=True, seed=self.context.seed)
        torch.nn.init.zeros_(model.score.weight)
        return model

    def frozen_reference(self) -> TreePolicy | None:
        """The reference as a model of its own; None where it is the trunk that the policy's adapters stand on."""
        ref, start = self.settings.reference, self.settings.model
        if ref not in (None, start) and ref in self.context.models and start not in self.context.models:
            self.context.say(
                f"the reference is {ref}, which no stage has trained, and the policy starts from {start}: the KL will "
                "hold it to the wrong model unless that is meant; leave `reference` out to hold it to where it starts"
            )
        if self.settings.lora is not None and ref in (None, start):
            return None
        model = load_policy(self.context.model(ref or start))
        cast(model, self.context.precision)
        return TreePolicy(model).to(self.device).eval()

    def reference(self, trees: Sequence[TokenTree]) -> torch.Tensor:
        """Log-probs `[N]` under the reference. With adapters that is the trunk without them: the policy that training
        started from, for adapters that it came with were merged when it was loaded."""
        budget = self.settings.token_budget
        if self.frozen is not None:
            frozen = self.frozen
            (logp_N,) = read_tokens(lambda batch: (frozen(batch),), trees, budget, self.device)
        else:
            with self.actor.without_adapters():
                (logp_N,) = read_tokens(lambda batch: (self.actor(batch),), trees, budget, self.device)
        assert logp_N is not None
        return logp_N

    def roll_out(self, step: int) -> ppo.Rollout:
        prompts, answers = self.due(step), self.drawn(step)
        if not any(completion.finished for own in answers for completion in own) and not self.endless:
            self.endless = True
            self.context.say(
                f"not one of the completions of step {step + 1} ended within max_tokens "
                f"{self.settings.sampling.max_tokens}; raise that, or set `shaping.missing_eos_penalty`"
            )
        rollout, _ = self.judged(prompts, answers, held_out=False)
        return rollout

    def validate(self, step: int) -> ppo.Rollout:
        answers = self.answers(self.held_out, 1, VALIDATION)
        rollout, scores = self.judged(self.held_out, answers, held_out=True)
        if self.context.is_main and self.settings.samples:
            folder = self.context.scratch / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            rows = [
                {"step": step, "prompt": list(prompt.prompt), "text": own[0].text, "reward": reward, "score": score,
                 "tokens": len(own[0].ids), "finished": own[0].finished}
                for prompt, own, reward, score in zip(
                    self.held_out, answers, rollout.reward_C.tolist(), scores, strict=True
                )
            ]  # fmt: skip
            write_json(folder / f"{step:08d}.json", rows[: self.settings.samples])
        return rollout

    def due(self, step: int) -> list[Prompt]:
        """The prompts of a step."""
        return prompts_of_iteration(self.prompts, self.settings.batch_size, step)

    def drawn(self, step: int) -> list[list[Completion]]:
        """The answers of a step, by the policy as it is, or, with `overlap`, as it was one step before."""
        if not self.settings.overlap:
            return self.answers(self.due(step), self.settings.n, step)
        if not self.ahead.begun:  # nothing is there at first, and after going back
            self.refresh()
        (answers,) = self.ahead.take(step)
        if step + 1 < self.settings.steps:
            self.refresh()
            self.ahead.start(step + 1)
        return answers

    def draw(self, step: int) -> Drawn:
        """The answers of a step by the weights that the engine has, in the process that generates."""
        return [self.generate(self.due(step), self.settings.n, step)]

    def answers(self, prompts: list[Prompt], n: int, stream: int) -> list[list[Completion]]:
        """`n` completions of each prompt by the policy as it is; with several processes the main one generates."""
        self.ahead.wait()
        self.refresh()
        return self.context.processes.on_main(lambda: self.generate(prompts, n, stream))

    def generate(self, prompts: list[Prompt], n: int, stream: int) -> list[list[Completion]]:
        """`n` completions of each prompt by the weights that the engine has."""
        assert self.engine is not None
        return self.engine.generate(prompts, self.settings.sampling, n, seed=self.context.seed * 1_000_003 + stream)

    def went_back(self) -> None:
        self.ahead.drop()

    def judged(
        self, prompts: list[Prompt], answers: list[list[Completion]], held_out: bool
    ) -> tuple[ppo.Rollout, list[float]]:
        """The answers with their rewards; and what the first part scored them."""
        texts = [[completion.text for completion in own] for own in answers]
        judges = [*self.feedback, *([self.gold] if self.gold is not None and held_out else [])]
        told = self.context.processes.on_main(lambda: [judge.score(prompts, texts) for judge in judges])
        scores = [[score for own in judge for score in own] for judge in told]
        flat = [completion for own in answers for completion in own]
        marked = [bool(p.info.get("safety")) for p, own in zip(prompts, answers, strict=True) for _ in own]
        gold = scores.pop() if len(scores) > len(self.feedback) else None
        rewards = self.shaper.rewards(
            scores, [len(c.ids) for c in flat], [c.finished for c in flat], marked, held_out=held_out
        )
        figures = {
            "completion_tokens": mean([float(len(c.ids)) for c in flat]),
            "finished": mean([float(c.finished) for c in flat]),
            "distinct_2": mean([distinct(map(words, own), 2) or 0.0 for own in texts]),
        }
        names = ["score"] if len(scores) == 1 else [f"score_{p + 1}" for p in range(len(scores))]
        figures |= {name: mean(own) for name, own in zip(names, scores, strict=True)}
        if gold is not None:
            figures["gold"] = mean(gold)
        trees = [
            TokenTree(self.chat.prompt_ids(prompt.prompt), [completion.ids for completion in own])
            for prompt, own in zip(prompts, answers, strict=True)
        ]
        drawn_N = torch.tensor([logp for completion in flat for logp in completion.logps], dtype=torch.float32)
        reward_C = torch.tensor(rewards, dtype=torch.float32)
        own = is_own_distribution(self.settings.sampling) and (held_out or not self.settings.overlap)
        return ppo.Rollout(trees, reward_C, drawn_N, own, figures), scores[0]

    def state(self) -> dict[str, Any]:
        return {"shaper": self.shaper.state(), "endless": self.endless}

    def load(self, state: Mapping[str, Any]) -> None:
        self.shaper.load(state["shaper"])
        self.endless = state["endless"]

    def write_samples(self) -> None:
        """The kept answers of all validations, one line each."""
        files = sorted((self.context.scratch / "samples").glob("*.json"))
        with (self.context.folder / "samples.jsonl").open("w", encoding="utf-8") as handle:
            for row in (row for file in files for row in read_json(file)):
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
