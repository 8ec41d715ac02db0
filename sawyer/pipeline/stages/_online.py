"""The work of stage `online`. Nothing is kept between updates but the trainer's checkpoint: a continuation draws the
same answers again, since they depend on the weights, the seed and the prompt alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sawyer.data.records import Prompt
from sawyer.feedback.protocol import Feedback
from sawyer.methods import iterative
from sawyer.models.load import load_policy
from sawyer.models.precision import cast
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean, reward_model_of, save_trained
from sawyer.pipeline.stages._live import LivePolicy
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.train.loop import Trained, train
from sawyer.train.preference import OPTIMISM, REFERENCE, SCORE, SHARED_REFERENCE, preference, shared
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

VALIDATION = 1 << 40
"""Added to the seed of answers to held-out prompts."""


class Steps(LivePolicy):
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.policy = TreePolicy(self.trainable.model)
        self.prompts = self.answerable(settings.part)
        self.held_out = self.answerable(settings.validation, settings.validation_prompts) if settings.validation else []
        self.feedback = feedback_of(settings, context)
        self.reference = self.frozen() if any(loss.reference for loss in settings.losses) else None
        self.optimist: TorchEngine | None = None
        if settings.optimism is not None:
            model: Any = load_policy(self.name).to(self.device)
            precision: Any = context.precision
            self.optimist = TorchEngine(model, self.chat, precision=precision)

    def run(self) -> dict[str, Any]:
        """All updates; the last policy becomes the artifact."""
        settings, context = self.settings, self.context
        trained = self.learn()
        figures: dict[str, Any] = dict(trained.figures)
        if self.held_out:
            self.refresh()
            figures |= self.validate()
            context.log(step=settings.steps, **{name: figures[name] for name in ("validation_reward",)})
        save_trained(context, self.trainable, trained.weights, self.chat)
        return figures

    def learn(self) -> Trained:
        """All updates, each on answers of the policy as the one before left it."""
        context = self.context
        return train(
            self.policy, self.step, preference(self.settings.mix()), self.settings,
            precision=context.precision, seed=context.seed, journal=context, title=context.name,
            scratch=context.scratch, accelerator=context.accelerator,
        )  # fmt: skip

    def frozen(self) -> TreePolicy:
        """pi_0 as the policy computes, to be read only."""
        model = load_policy(self.name)
        cast(model, self.context.precision)
        return TreePolicy(model).to(self.device).eval()

    def step(self, step: int) -> tuple[list[TokenTree], dict[str, float]]:
        """The pairs of one update, and what is worth a curve: answers of the policy as it is, scored."""
        settings = self.settings
        self.refresh()
        every = settings.validate_every
        told = self.validate() if self.held_out and every and step and step % every == 0 else {}
        prompts = iterative.prompts_of_iteration(self.prompts, settings.batch_size, step)
        n = 1 if self._xpo else settings.n
        answers = self.generate(self.engine, prompts, settings.sampling, n, step)
        theirs = self.generate(self.optimist, prompts, settings.sampling, 1, step) if self.optimist else None
        candidates = answers
        if self._xpo and theirs is not None:
            candidates = [[*own, *more] for own, more in zip(answers, theirs, strict=True)]
        texts = [[completion.text for completion in own] for own in candidates]
        scores = self.context.processes.on_main(lambda: self.feedback.score(prompts, texts))
        pairs = iterative.choose_pairs(scores, texts, settings.pairs, self.context.seed + step)
        trees = [self.tree(prompts[pair.prompt], candidates, theirs, scores, pair) for pair in pairs]
        told |= {
            "score": mean([score for own in scores for score in own[:n]]),
            "pairs": float(len(pairs)),
            "completion_tokens": mean([float(len(c.ids)) for own in answers for c in own]),
            "finished": mean([float(c.finished) for own in answers for c in own]),
        }
        return self.with_reference(trees), told

    @property
    def _xpo(self) -> bool:
        return self.settings.optimism is not None and self.settings.optimism.kind == "xpo"

    def tree(
        self,
        prompt: Prompt,
        candidates: list[list[Completion]],
        theirs: list[list[Completion]] | None,
        scores: list[list[float]],
        pair: iterative.Pair,
    ) -> TokenTree:
        """A pair as tokens, with its scores, and with optimism what the reference said."""
        chosen, rejected = (candidates[pair.prompt][k] for k in (pair.chosen, pair.rejected))
        tree = TokenTree(
            self.chat.prompt_ids(prompt.prompt),
            [chosen.ids, rejected.ids],
            values={SCORE: [scores[pair.prompt][k] for k in (pair.chosen, pair.rejected)]},
        )
        if theirs is None:
            return tree
        weight = self.settings.optimism.weight(self.settings.beta)
        if self._xpo:  # the second candidate is the reference's
            return replace(
                tree, values={**tree.values, OPTIMISM: [weight * (k == 1) for k in (pair.chosen, pair.rejected)]}
            )
        (third,) = theirs[pair.prompt]
        return replace(
            tree,
            completions=[*tree.completions, third.ids],
            values={SCORE: [*tree.values[SCORE], 0.0], OPTIMISM: [0.0, 0.0, weight]},
        )

    def with_reference(self, trees: list[TokenTree]) -> list[TokenTree]:
        """The trees with their log-probs under pi_0, where a loss needs them."""
        if self.reference is None or not trees:
            return trees
        readings = {REFERENCE: trees}
        if any(loss.name == "ld_dpo" for loss in self.settings.losses):
            readings[SHARED_REFERENCE] = [shared(tree) for tree in trees]
        budget = self.settings.token_budget
        read = {name: score_trees(self.reference, given, token_budget=budget) for name, given in readings.items()}
        return [
            replace(tree, values={**tree.values, **{name: logps[i] for name, logps in read.items()}})
            for i, tree in enumerate(trees)
        ]

    def validate(self) -> dict[str, float]:
        """The mean score of an answer to each held-out prompt."""
        answers = self.generate(self.engine, self.held_out, self.settings.sampling, 2, VALIDATION)
        texts = [[completion.text for completion in own] for own in answers]
        scores = self.context.processes.on_main(lambda: self.feedback.score(self.held_out, texts))
        return {"validation_reward": mean([score for own in scores for score in own])}

    def generate(
        self, engine: Any, prompts: list[Prompt], sampling: Sampling, n: int, stream: int
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; with several processes the main one generates."""
        return self.context.processes.on_main(
            lambda: engine.generate(prompts, sampling, n, seed=self.context.seed * 1_000_003 + stream)
        )


def feedback_of(settings: Any, context: Context) -> Feedback:
    """What scores the answers."""
    if settings.gold == "verifiable":
        from sawyer.feedback.rules import VerifiableReward

        return VerifiableReward()
    artifact = context.artifacts.get(settings.reward)
    if artifact is not None and artifact.manifest.get("makes") == "preference_model":
        from sawyer.feedback.pairwise import PairwiseModel

        return PairwiseModel(
            context.model(settings.reward),
            precision=context.precision,
            token_budget=settings.token_budget,
            device=context.accelerator.device,
        )
    return reward_model_of(context, settings.reward, settings.token_budget)
