"""The work of stage `d2po`. What outlives a kill lies in the scratch:

    ledger.jsonl  every gold label that was paid for    checkpoint/  of the training: policy and discriminator
    first/        the training of the first discriminator under way
    first.safetensors  the first discriminator, in float32

A continuation draws the same answers again, since they depend on the weights, the seed and the prompt alone, and finds
their labels in the ledger.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.methods.d2po import Candidate, Label, Ledger, Offer, Schedule, agreement, candidates, choose, share_right
from sawyer.methods.iterative import prompts_of_iteration
from sawyer.models.load import load_policy
from sawyer.models.precision import cast
from sawyer.numerics import release
from sawyer.pipeline.metrics import MetricsLog, read_metrics
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean, save_trained
from sawyer.pipeline.stages._discriminator import Unlogged, discriminator_of
from sawyer.pipeline.stages._gold import gold_of
from sawyer.pipeline.stages._live import LivePolicy
from sawyer.rollout.protocol import Completion
from sawyer.train.loop import train
from sawyer.train.preference import preference
from sawyer.train.reference import carrying, read_reference
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

if TYPE_CHECKING:
    from sawyer.pipeline.stages.d2po import Settings
    from sawyer.train.discriminator import Discriminator

FIRST = 1 << 39
VALIDATION = 1 << 40
"""Added to the seed of the answers that the first labels are bought for, and of answers to held-out prompts."""
LEDGER = "ledger.jsonl"


class Rounds(LivePolicy):
    """One run of the stage."""

    settings: Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        self.gold = gold_of(context, settings, settings.token_budget)  # first: what it lacks is said at once
        super().__init__(settings, context)
        self.prompts = self.answerable(settings.part)
        self.held_out = self.answerable(settings.validation, settings.validation_prompts) if settings.validation else []
        self.schedule = Schedule(0 if settings.method == "frozen" else settings.of_cycle, settings.cycle)
        self.ledger = self.open_ledger()
        self.discriminator: Discriminator | None = None
        fresh = False
        if settings.method != "oaif":
            self.discriminator, fresh = discriminator_of(context, settings, self.chat.tokenizer.get_vocab(), self.name)
        self.first = self.first_labels(fresh)
        self.policy = TreePolicy(self.trainable.model)
        self.refers = any(loss.reference for loss in settings.losses)
        self.reference = self.frozen() if self.refers and settings.lora is None else None

    def first_labels(self, fresh: bool) -> int:
        """How many labels are bought before the first update.

        Raises:
            SawyerError: none, for a discriminator with a fresh head.
        """
        settings = self.settings
        if settings.method != "d2po":
            return settings.budget if settings.method == "frozen" else 0
        if settings.first_labels is not None:
            if fresh and settings.first_labels == 0:
                raise SawyerError(
                    f"stage {self.context.name}: `discriminator.model` is a language model, and under a fresh head it "
                    "knows nothing: give it `first_labels` above 0, or start from a reward model"
                )
            return settings.first_labels
        return settings.of_cycle if fresh else 0

    def open_ledger(self) -> Ledger:
        """The ledger with what earlier sessions paid for; the main process writes it."""
        file = self.context.scratch / LEDGER
        log = MetricsLog(file) if self.context.is_main else None
        rows = self.context.processes.on_main(lambda: read_metrics(file))

        def write(labels: Any) -> None:
            if log is not None:
                log.append(*(label.row() for label in labels))

        return Ledger(self.settings.budget, [Label.of(row) for row in rows], write)

    def frozen(self) -> TreePolicy:
        """pi_0 as the policy computes, to be read only. With adapters it is the policy without them."""
        model = load_policy(self.name)
        cast(model, self.context.precision)
        return TreePolicy(model).to(self.device).eval()

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """The first labels, all updates, and the last policy as the artifact, with its discriminator and the ledger."""
        settings, context = self.settings, self.context
        if self.first:
            self.begin()
        trained = train(
            self.policy, self.step, preference(settings.mix()), settings,
            precision=context.precision, seed=context.seed, journal=context, title=context.name,
            scratch=context.scratch, accelerator=context.accelerator,
            companions=[self.discriminator] if settings.method == "d2po" and self.discriminator else [],
        )  # fmt: skip
        figures: dict[str, Any] = dict(trained.figures)
        if self.held_out:
            self.refresh()
            measured = self.validate()
            context.log(step=settings.steps, **measured)
            figures |= measured
        save_trained(context, self.trainable, trained.weights, self.chat)
        if context.is_main:
            if self.discriminator is not None:
                self.discriminator.save(context.folder / "discriminator")
            if (context.scratch / LEDGER).exists():
                shutil.copy(context.scratch / LEDGER, context.folder / LEDGER)
        return figures | self.of_labels()

    def of_labels(self) -> dict[str, Any]:
        """What was bought, and how often the discriminator had been right about it."""
        bought = self.ledger.labels
        right = agreement([label for label in bought if label.step])
        if self.ledger.left:
            self.context.say(f"{self.ledger.left} of the {self.ledger.budget} gold labels were not bought")
        return {
            "gold_labels": self.ledger.used,
            "gold_ties": sum(label.tie for label in bought),
            **({} if right is None else {"discriminator_accuracy": right}),
        }

    def begin(self) -> None:
        """Buy the first labels, for answers of the initial policy, and fit the discriminator to them.

        Raises:
            SawyerError: there is nothing to learn: all answers to a prompt are the same, or score the same.
        """
        context, settings, discriminator = self.context, self.settings, self.discriminator
        assert discriminator is not None, "oaif buys no first labels"
        done = context.scratch / "first.safetensors"
        if done.exists():
            discriminator.load(load_file(done))
            return
        context.rewind(0)
        self.ledger.go_to(0)
        self.buy_first()
        bought = self.ledger.bought(0, 0)
        if not bought:
            raise SawyerError(
                f"stage {context.name}: all completions of every prompt are equal, so there is no pair to buy a label "
                "for; raise the `temperature` of `sampling`, or `n`"
            )
        pairs = [label.comparison() for label in bought if not label.tie]
        if not pairs:
            raise SawyerError(
                f"stage {context.name}: the gold reward is the same for both answers of all {len(bought)} pairs that "
                "were bought, so the discriminator has nothing to learn; raise `max_tokens`, or look at the gold reward"
            )
        fitted = discriminator.fit(
            pairs, settings.discriminator.first_epochs, seed=context.seed, title=f"{context.name}: the discriminator",
            scratch=context.scratch / "first", journal=Unlogged(context),
        )  # fmt: skip
        context.log(
            step=0, gold_labels=self.ledger.used, bought=len(bought), ties=len(bought) - len(pairs), **of_fit(fitted)
        )
        if context.is_main:
            partial = done.with_suffix(".partial")
            save_file({name: tensor.contiguous() for name, tensor in discriminator.state().items()}, partial)
            os.replace(partial, done)
            shutil.rmtree(context.scratch / "first", ignore_errors=True)
        release()

    def buy_first(self) -> None:
        """Labels for pairs of the initial policy, batch after batch, until there are enough, or no more to be had."""
        batch = min(self.settings.batch_size, len(self.prompts))
        for i in range(4 * math.ceil(self.first / batch)):
            wanted = self.first - len(self.ledger.bought(0, 0))
            if wanted <= 0:
                return
            prompts = prompts_of_iteration(self.prompts, batch, i)
            texts = texts_of(self.generate(prompts, self.settings.n, FIRST + i))
            self.buy(0, prompts, texts, candidates(texts), None, wanted)

    # --- an update ----------------------------------------------------------------------------------------------------

    def step(self, index: int) -> tuple[list[TokenTree], dict[str, float]]:
        """The pairs of one update, with gold labels where they were bought, and what is worth a curve."""
        settings, number = self.settings, index + 1
        self.ledger.go_to(number)
        every = settings.validate_every
        validates = bool(self.held_out and every and index and index % every == 0)
        idle = settings.method == "oaif" and not self.schedule.due(number, self.ledger)
        if validates or not idle:
            self.refresh()
        told = self.validate() if validates else {}
        if idle:
            return [], {**told, "pairs": 0.0, "gold_labels": float(self.ledger.used)}
        prompts = prompts_of_iteration(self.prompts, settings.batch_size, index)
        answers = self.generate(prompts, settings.n, index)
        texts = texts_of(answers)
        silver = self.silver(prompts, texts)
        pairs = candidates(texts, silver)
        bought = self.choose_and_buy(number, prompts, texts, pairs, silver)
        trees = self.trees(prompts, answers, pairs, silver)
        told |= self.told(answers, silver, bought) | {"pairs": float(len(trees))}
        if settings.watch_gold:
            told |= self.watched(prompts, texts, pairs)
        if self.discriminator is not None and self.schedule.learns(number, len(bought), self.ledger):
            told |= self.learn(number)
        return self.with_reference(trees), told

    def silver(self, prompts: list[Prompt], texts: list[list[str]]) -> list[list[float]] | None:
        """What the discriminator says of each completion; with several processes the main one asks it."""
        discriminator = self.discriminator
        if discriminator is None:
            return None
        return self.context.processes.on_main(lambda: discriminator.score(prompts, texts))

    def choose_and_buy(
        self,
        number: int,
        prompts: list[Prompt],
        texts: list[list[str]],
        pairs: list[Candidate],
        silver: list[list[float]] | None,
    ) -> list[Label]:
        """The labels that this update buys."""
        due = self.schedule.due(number, self.ledger)
        new = [pair for pair in pairs if self.ledger.find(prompts[pair.prompt], pair_of(texts, pair)) is None]
        chosen = choose(
            [pair.margin for pair in new], due, self.settings.selects, self.context.seed * 1_000_003 + number
        )
        return self.buy(number, prompts, texts, [new[i] for i in chosen], silver, due)

    def buy(
        self,
        number: int,
        prompts: list[Prompt],
        texts: list[list[str]],
        pairs: list[Candidate],
        silver: list[list[float]] | None,
        most: int,
    ) -> list[Label]:
        """Labels for the first of these pairs that have none, at most so many. The main process asks for the gold."""
        offers = [
            Offer(
                prompts[pair.prompt],
                pair_of(texts, pair),
                None if silver is None else (silver[pair.prompt][pair.first], silver[pair.prompt][pair.second]),
            )
            for pair in pairs
        ]
        if not offers or not most:
            return []
        bought = self.ledger.buy(number, offers[:most], self.gold_scores)
        if not self.ledger.left and not self.settings.watch_gold and not self.held_out:
            self.gold = None  # nobody will ask again
            release()
        return bought

    def gold_scores(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """What the gold reward says of each completion; with several processes the main one asks it."""
        gold = self.gold
        assert gold is not None, "there is one as long as anybody asks"
        return self.context.processes.on_main(lambda: gold.score(prompts, texts))

    def trees(
        self,
        prompts: list[Prompt],
        answers: list[list[Completion]],
        pairs: list[Candidate],
        silver: list[list[float]] | None,
    ) -> list[TokenTree]:
        """The pairs as tokens, the better completion first: by its gold label if there is one, else by the
        discriminator. Ties are left out."""
        texts, trees = texts_of(answers), []
        for pair in pairs:
            label = self.ledger.find(prompts[pair.prompt], pair_of(texts, pair))
            margin = pair.margin
            if label is not None:
                first, second = (label.score(text) for text in pair_of(texts, pair))
                margin = first - second
            elif silver is None or margin <= self.settings.silver_margin:
                continue
            if margin == 0:
                continue
            own = answers[pair.prompt]
            order = (pair.first, pair.second) if margin > 0 else (pair.second, pair.first)
            trees.append(TokenTree(self.chat.prompt_ids(prompts[pair.prompt].prompt), [own[k].ids for k in order]))
        return trees

    def told(
        self, answers: list[list[Completion]], silver: list[list[float]] | None, bought: list[Label]
    ) -> dict[str, float]:
        """What is worth a curve."""
        right = agreement(bought)
        told = {
            "gold_labels": float(self.ledger.used),
            "bought": float(len(bought)),
            "ties": float(sum(label.tie for label in bought)),
            "completion_tokens": mean([float(len(c.ids)) for own in answers for c in own]),
            "finished": mean([float(c.finished) for own in answers for c in own]),
        }
        if right is not None:
            told["discriminator_accuracy"] = right
        if silver is not None:
            told["proxy_reward"] = mean([score for own in silver for score in own])
        return told

    def watched(self, prompts: list[Prompt], texts: list[list[str]], pairs: list[Candidate]) -> dict[str, float]:
        """What all answers are worth, and how often the discriminator is right about a pair, bought or not."""
        gold = self.gold_scores(prompts, texts)
        told = {"gold_reward": mean([score for own in gold for score in own])}
        right = share_right([(gold[p.prompt][p.first] - gold[p.prompt][p.second], p.margin) for p in pairs])
        return told if self.discriminator is None or right is None else told | {"silver_accuracy": right}

    def learn(self, number: int) -> dict[str, float]:
        """Fit the discriminator to the labels of the cycle, or to all; what came of it."""
        discriminator = self.discriminator
        assert discriminator is not None, "asked by the caller"
        of_all = self.settings.discriminator.learn_from == "all"
        labels = self.ledger.labels if of_all else self.ledger.bought(self.schedule.cycle(number)[0], number)
        pairs = [label.comparison() for label in labels if not label.tie]
        seed = (self.context.seed + number) % 2**31
        title = f"{self.context.name}: the discriminator, in update {number}"
        return of_fit(discriminator.fit(pairs, self.settings.discriminator.epochs, seed=seed, title=title))

    def with_reference(self, trees: list[TokenTree]) -> list[TokenTree]:
        """The trees with their log-probs under pi_0, where a loss needs them."""
        if not self.refers or not trees:
            return trees
        also_shared = any(loss.name == "ld_dpo" for loss in self.settings.losses)
        budget = self.settings.token_budget
        if self.reference is not None:
            return carrying(trees, read_reference(self.reference, trees, budget, also_shared))
        training = self.policy.training
        adapted: Any = self.trainable.model
        with adapted.disable_adapter():
            logps = read_reference(self.policy, trees, budget, also_shared)
        self.policy.train(training)
        return carrying(trees, logps)

    # --- held-out prompts ---------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Gold and proxy reward and length of an answer to each held-out prompt. They are not paid for."""
        answers = self.generate(self.held_out, 1, VALIDATION)
        texts = texts_of(answers)
        silver = self.silver(self.held_out, texts)
        figures = {
            "validation_gold_reward": mean([score for own in self.gold_scores(self.held_out, texts) for score in own]),
            "validation_tokens": mean([float(len(c.ids)) for own in answers for c in own]),
        }
        if silver is not None:
            figures["validation_proxy_reward"] = mean([score for own in silver for score in own])
        return figures

    def generate(self, prompts: list[Prompt], n: int, stream: int) -> list[list[Completion]]:
        """`n` completions of each prompt; with several processes the main one generates."""
        engine: Any = self.engine
        seed = self.context.seed * 1_000_003 + stream
        return self.context.processes.on_main(lambda: engine.generate(prompts, self.settings.sampling, n, seed=seed))


def texts_of(answers: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in own] for own in answers]


def pair_of(texts: list[list[str]], pair: Candidate) -> tuple[str, str]:
    return texts[pair.prompt][pair.first], texts[pair.prompt][pair.second]


def of_fit(figures: dict[str, float]) -> dict[str, float]:
    """What of a fit is worth a curve."""
    return {"discriminator_loss": figures["loss"]} if figures else {}
