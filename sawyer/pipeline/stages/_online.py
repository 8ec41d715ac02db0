"""The work of stage `online`. Nothing is kept between updates but the trainer's checkpoint: a continuation draws the
same answers again, since they depend on the weights, the seed and the prompt alone. (With `overlap` see `_ahead`.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sawyer.data.records import Prompt
from sawyer.feedback.protocol import prefer, win_rates
from sawyer.methods import games, iterative
from sawyer.models.load import load_policy
from sawyer.models.precision import cast
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._ahead import Ahead, Drawn
from sawyer.pipeline.stages._common import mean, save_trained
from sawyer.pipeline.stages._feedback import feedback_of
from sawyer.pipeline.stages._live import LivePolicy
from sawyer.rollout.mixture import MixtureEngine
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.train.loop import Trained, train
from sawyer.train.nash import nash
from sawyer.train.preference import OPTIMISM, REFERENCE, SCORE, SHARED_REFERENCE, preference, shared
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

VALIDATION, OPPONENT = 1 << 40, 1 << 41
"""Added to the seed of answers to held-out prompts, and of answers of another than the policy: with the policy's own
seed they would be the policy's own answers for as long as it is like the other."""

Told = dict[str, float]


class Steps(LivePolicy):
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.policy = TreePolicy(self.trainable.model)
        self.prompts = self.answerable(settings.part)
        self.held_out = self.answerable(settings.validation, settings.validation_prompts) if settings.validation else []
        self.feedback = feedback_of(settings, context)
        needs_reference = settings.nash is not None or any(loss.reference for loss in settings.losses)
        self.reference = self.frozen() if needs_reference else None
        self.other = self.opponent()
        self.ahead = Ahead(self.draw, context.scratch, context.processes)
        self.baseline: list[list[Completion]] | None = None
        if self.held_out and hasattr(self.feedback, "prefer"):  # by the engine as it was made: with pi_0
            self.baseline = self.on_held_out(1, VALIDATION + OPPONENT)

    def run(self) -> dict[str, Any]:
        """All updates; the last policy becomes the artifact."""
        trained = self.learn()
        figures: dict[str, Any] = dict(trained.figures)
        if self.held_out:
            self.refresh()
            validated = self.validate()
            self.context.log(step=self.settings.steps, **validated)
            figures |= validated
        save_trained(self.context, self.trainable, trained.weights, self.chat)
        return figures

    def learn(self) -> Trained:
        """All updates, each on answers of the policy as it is, or, with `overlap`, as it was one update before."""
        settings, context = self.settings, self.context
        objective = preference(settings.mix()) if settings.nash is None else nash(beta=settings.nash.beta)
        try:
            return train(
                self.policy, self.step, objective, settings,
                precision=context.precision, seed=context.seed, journal=context, title=context.name,
                scratch=context.scratch, accelerator=context.accelerator, companions=[self.ahead],
            )  # fmt: skip
        finally:
            self.ahead.close()

    def frozen(self) -> TreePolicy:
        """pi_0 as the policy computes, to be read only."""
        model = load_policy(self.name)
        cast(model, self.context.precision)
        return TreePolicy(model).to(self.device).eval()

    def opponent(self) -> TorchEngine | MixtureEngine | None:
        """Who answers beside the policy: pi_0 with optimism, and with Nash-MD the two mixed."""
        settings = self.settings
        if settings.optimism is None and settings.nash is None:
            return None
        model: Any = load_policy(self.name).to(self.device)
        precision: Any = self.context.precision
        reference = TorchEngine(model, self.chat, precision=precision)
        if settings.nash is None:
            return reference
        assert isinstance(self.engine, TorchEngine), "the settings allow no other engine"
        return MixtureEngine(self.engine, reference, settings.nash.mixture)

    def step(self, step: int) -> tuple[list[TokenTree], Told]:
        """The trees of one update, and what is worth a curve."""
        settings = self.settings
        if settings.overlap:
            drawn = self.ahead.take(step)
            self.refresh()
        else:
            self.refresh()
            drawn = self.ahead.take(step)
        every = settings.validate_every
        told = self.validate() if self.held_out and every and step and step % every == 0 else {}
        if settings.overlap and step + 1 < settings.steps:
            self.ahead.start(step + 1)
        trees, about = self.pairs(step, drawn) if settings.nash is None else self.games(step, drawn)
        own = [completion for samples in drawn[0] for completion in samples]
        told |= about | {
            "completion_tokens": mean([float(len(completion.ids)) for completion in own]),
            "finished": mean([float(completion.finished) for completion in own]),
        }
        return self.with_reference(trees), told

    def due(self, step: int) -> list[Prompt]:
        """The prompts of an update."""
        return iterative.prompts_of_iteration(self.prompts, self.settings.batch_size, step)

    def draw(self, step: int) -> Drawn:
        """The policy's answers of an update, and one of the opponent to each prompt where there is one."""
        settings, prompts = self.settings, self.due(step)
        n = 1 if self._xpo or settings.nash is not None else settings.n
        drawn = [self.generate(self.engine, prompts, n, step)]
        if self.other is not None:
            drawn.append(self.generate(self.other, prompts, 1, step + OPPONENT))
        return drawn

    def generate(self, engine: Any, prompts: list[Prompt], n: int, stream: int) -> list[list[Completion]]:
        """`n` completions of each prompt; with several processes only the main one may ask."""
        return engine.generate(prompts, self.settings.sampling, n, seed=self.context.seed * 1_000_003 + stream)

    def pairs(self, step: int, drawn: Drawn) -> tuple[list[TokenTree], Told]:
        """A pair of each prompt whose answers differ."""
        settings, prompts = self.settings, self.due(step)
        answers, theirs = drawn[0], drawn[1] if self.other is not None else None
        candidates = answers
        if self._xpo and theirs is not None:
            candidates = [[*own, *more] for own, more in zip(answers, theirs, strict=True)]
        texts = [[completion.text for completion in own] for own in candidates]
        scores, about = self.heard(lambda: self.scores(prompts, texts))
        pairs = iterative.choose_pairs(scores, texts, settings.pairs, self.context.seed + step)
        trees = [self.tree(prompts[pair.prompt], candidates, theirs, scores, pair) for pair in pairs]
        own_scores = [score for scored, own in zip(scores, answers, strict=True) for score in scored[: len(own)]]
        return trees, {"score": mean(own_scores), "pairs": float(len(pairs)), **about}

    def heard(self, ask: Callable[[], Any]) -> tuple[Any, Told]:
        """What the feedback says, asked in the main process, and of judges how many questions had no verdict."""

        def asked() -> tuple[Any, int]:
            before = getattr(self.feedback, "unread", 0)
            return ask(), getattr(self.feedback, "unread", 0) - before

        said, unread = self.context.processes.on_main(asked)
        return said, {"unread": float(unread)} if hasattr(self.feedback, "unread") else {}

    def scores(self, prompts: list[Prompt], texts: list[list[str]]) -> list[list[float]]:
        """What the feedback says of each answer: its score, or, where it compares answers, the share of games that one
        wins against the prompt's others; for SPPO that share in any case, with a draw against itself (algorithm 1)."""
        if any(loss.name == "sppo" for loss in self.settings.losses):
            return [games.with_itself(own) for own in win_rates(self.feedback, prompts, texts)]
        if hasattr(self.feedback, "prefer"):
            return win_rates(self.feedback, prompts, texts)
        return self.feedback.score(prompts, texts)

    def games(self, step: int, drawn: Drawn) -> tuple[list[TokenTree], Told]:
        """Each answer of the policy, with the probability that it beats its opponent's."""
        prompts, (answers, theirs) = self.due(step), drawn
        against = [(own.text, other.text) for (own,), (other,) in zip(answers, theirs, strict=True)]
        won, about = self.heard(lambda: prefer(self.feedback, prompts, against))
        trees = [
            TokenTree(self.chat.prompt_ids(prompt.prompt), [own.ids], values={SCORE: [p]})
            for prompt, (own,), p in zip(prompts, answers, won, strict=True)
        ]
        return trees, about

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

    def validate(self) -> Told:
        """The mean score of two answers to each held-out prompt; where the feedback compares, how often they beat
        pi_0's."""
        answers = self.on_held_out(2, VALIDATION)
        texts = [[completion.text for completion in own] for own in answers]
        on_main = self.context.processes.on_main
        if self.baseline is None:
            scores = on_main(lambda: self.feedback.score(self.held_out, texts))
            return {"validation_reward": mean([score for own in scores for score in own])}
        prompts = [prompt for prompt in self.held_out for _ in range(2)]
        against = [(text, first.text) for own, (first,) in zip(texts, self.baseline, strict=True) for text in own]
        return {"validation_win_rate": mean(on_main(lambda: prefer(self.feedback, prompts, against)))}

    def on_held_out(self, n: int, stream: int) -> list[list[Completion]]:
        """Answers of the engine, with the weights that it has, to the held-out prompts."""
        return self.context.processes.on_main(lambda: self.generate(self.engine, self.held_out, n, stream))
