"""The work of stage `iterate`. One iteration's folder in the scratch holds each step's result; what is there is not
done again:

    answers-K/  the completions at temperature K      scored.json  their rewards      pairs.jsonl  made of them
    answers-of-V-K/  those of an earlier policy       snapshot-K.safetensors  a policy from the middle of the training
    trees.json  the pairs as tokens, with their scores
    reference.json  log-probs under the reference     checkpoint/  of the training under way
    validation/  answers to held-out prompts          learned.safetensors  the iterate's weights or adapters, float32
    done.json  its figures
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sawyer.data.files import write_records
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import prefer
from sawyer.methods import exploration, games, iterative
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_policy
from sawyer.models.precision import DTYPES
from sawyer.numerics import release
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean
from sawyer.pipeline.stages._divergence import from_first
from sawyer.pipeline.stages._feedback import feedback_of
from sawyer.pipeline.stages._iterate_given import GivenAnswers, asked
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion
from sawyer.train.loop import Objective, train
from sawyer.train.objectives import sft
from sawyer.train.preference import SCORE, preference
from sawyer.train.reference import with_reference
from sawyer.train.snapshots import Snapshots
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

LEARNED = "learned.safetensors"


class Iterations(GivenAnswers):
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.prompts = self.answerable(settings.part)
        self.offline = self.offline_pairs()
        self.teacher = self.teachers_answers()
        self.get_ready()

    def get_ready(self) -> None:
        """What scores the answers, and the prompts that iterates are compared on."""
        settings, context = self.settings, self.context
        self.held_out = self.answerable(settings.validation, settings.validation_prompts)
        self.reward = feedback_of(settings, context)
        self.compares = hasattr(self.reward, "prefer")
        if self.compares and settings.scores == "win_rates" and settings.pairs.length_penalty:
            raise SawyerError(
                f"stage {context.name}: {settings.reward} gives probabilities, from which a length penalty would make "
                "something else: set `pairs.length_penalty` to 0, or score with a reward model"
            )

    def run(self) -> dict[str, Any]:
        """All iterations; the best of them becomes the artifact."""
        figures = [self.iteration(t) for t in range(self.settings.iterations)]
        best = self.best(figures)
        if self.context.is_main:
            self.write(best)
        labels = {"gold_labels": sum(own["gold_labels"] for own in figures)} if self.settings.has_gold else {}
        return {"iterations": figures, "best": best + 1, **labels}

    def best(self, figures: list[dict[str, Any]]) -> int:
        """Which iterate (from 0) becomes the artifact: the best by validation reward."""
        best = max(range(len(figures)), key=lambda t: figures[t]["validation_reward"])
        self.context.say(f"iterate {best + 1} is the best on validation")
        return best

    def prompts_of(self, folder: Path, t: int) -> list[Prompt]:
        """What iteration t answers."""
        return iterative.prompts_of_iteration(self.prompts, self.settings.prompts, t)

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

        prompts = self.prompts_of(folder, t)
        completions, scored = self.answers(prompts, folder, t)
        release()  # the engine's cache, before the optimiser's state needs the room
        trees = self.trees(prompts, completions, scored, folder, t)
        if self.settings.start == "first" and t > 0:
            del self.trainable
            self.trainable = self.first_policy()
            self.cast_body()
        policy = TreePolicy(self.trainable.model)
        trained = train(
            policy, trees, self.objective(), self.settings,
            precision=self.context.precision, seed=self.context.seed + t, journal=self.context,
            title=f"iteration {t + 1} of {self.settings.iterations}", scratch=folder,
            accelerator=self.context.accelerator,
            companions=[*self.snapshots(folder, len(trees)), *from_first(self.context, self.settings, trees)],
        )  # fmt: skip
        trained.weights.install()
        if self.context.is_main:
            save_file(self.trainable.learned(), folder / LEARNED)
        self.refresh()
        last = trained.figures
        del trained  # and with it the optimiser
        release()
        figures = {
            **scored["figures"],
            "pairs": len(scored["pairs"]),
            "trained_on": len(trees),
            **last,
            **self.validate(folder, t),
        }
        if self.settings.has_gold:  # every answer that the gold reward has seen
            figures["gold_labels"] = sum(map(len, completions)) + len(self.held_out)
        self.context.log(iteration=t + 1, **{k: v for k, v in figures.items() if k != "loss"})
        if self.context.is_main:
            write_json(done, figures)
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        return figures

    def objective(self) -> Objective:
        """What an iteration's training minimises."""
        return sft() if self.settings.learn == "best" else preference(self.settings.mix())

    def trees(
        self, prompts: list, completions: list[list[Completion]], scored: dict[str, Any], folder: Path, t: int
    ) -> list[TokenTree]:
        """What iteration t trains on: the new pairs, those of earlier iterations, and those that were there."""
        settings = self.settings
        new = [
            TokenTree(
                self.chat.prompt_ids(prompts[pair.prompt].prompt),
                [completions[pair.prompt][k].ids for k in (pair.chosen, pair.rejected)],
                values={SCORE: [scored["scores"][pair.prompt][k] for k in (pair.chosen, pair.rejected)]},
            )
            for pair in scored["pairs"]
        ]
        if self.context.is_main and settings.replay:
            write_json(folder / "trees.json", [[tree.prompt, tree.completions, tree.values[SCORE]] for tree in new])
        earlier: list[TokenTree] = []
        for before in range(t, 0, -1) if settings.replay else ():
            rows = read_json(folder.parent / f"iteration-{before}" / "trees.json")
            earlier += [TokenTree(prompt, own, values={SCORE: scores}) for prompt, own, scores in rows]
        trees = [*new, *earlier[: round(settings.replay * len(new))]]
        if settings.learn == "best":
            return [TokenTree(tree.prompt, tree.completions[:1]) for tree in trees]
        if settings.offline is not None:
            count = round(settings.offline.share * len(new))
            trees += [self.tree_of(self.offline[(t * count + k) % len(self.offline)]) for k in range(count)]
        if not any(loss.reference for loss in settings.losses):
            return trees
        return with_reference(
            lambda: self.reference(t),
            trees,
            precision=self.context.precision,
            token_budget=settings.token_budget,
            file=folder / "reference.json",
            journal=self.context,
            device=self.device,
            writes=self.context.is_main,
            also_shared=any(loss.name == "ld_dpo" for loss in settings.losses),
        )

    def reference(self, t: int) -> Any:
        """The reference of iteration t: pi_0, or the iterate that it starts from, in float32."""
        model: Any = load_policy(self.name)
        if self.settings.reference == "moving" and t > 0:
            iterate = Trainable(lambda: model, self.settings.lora, seed=self.context.seed)
            iterate.take(load_file(self.context.scratch / f"iteration-{t}" / LEARNED))
            model = iterate.model
            if self.settings.lora is not None:
                model = model.merge_and_unload()
        return model

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

    def snapshots(self, folder: Path, trees: int) -> list[Snapshots]:
        """What keeps policies from the middle of a training, where there is to be exploration by them."""
        settings = self.settings
        if settings.explore is None or not settings.explore.snapshots:
            return []
        steps = exploration.snapshot_steps(settings.updates(trees), settings.explore.snapshots)
        files = {folder / f"snapshot-{k}.safetensors": step for k, step in enumerate(steps, 1)}
        return [Snapshots(files, self.trainable.learned, writes=self.context.is_main)]

    def become(self, variant: exploration.Variant) -> None:
        """Set the policy and the engine to one of another step."""
        if variant.iteration == 0:
            learned = self.first_policy().learned()
        else:
            name = LEARNED if variant.snapshot is None else f"snapshot-{variant.snapshot}.safetensors"
            learned = load_file(self.context.scratch / f"iteration-{variant.iteration}" / name)
        self.trainable.take(learned)
        self.refresh()

    def drawn(self, prompts: list, folder: Path, t: int) -> tuple[list[list[Completion]], int]:
        """The n completions of each prompt, and how many of them are the current policy's, which come first."""
        settings, explore = self.settings, self.settings.explore
        others = exploration.variants(t, explore) if explore is not None else []
        counts = exploration.shares(settings.n, len(others), explore.share if explore is not None else 0)
        completions: list[list[Completion]] = [[] for _ in prompts]
        for j, count in enumerate(counts):
            if j and count:
                self.become(others[j - 1])
            name = "answers" if j == 0 else f"answers-of-{others[j - 1].name}"
            for k, (temperature, share) in enumerate(
                zip(settings.temperatures, exploration.divided(count, settings.temperatures), strict=True)
            ):
                if share:
                    stream = 1000 * t + 100 * j + k
                    part = self.generate(prompts, share, temperature, folder / f"{name}-{k}", stream, "answers")
                    for own, more in zip(completions, part, strict=True):
                        own.extend(more)
        if others:
            self.take(folder.parent / f"iteration-{t}")
        return completions, counts[0]

    def answers(self, prompts: list, folder: Path, t: int) -> tuple[list[list[Completion]], dict[str, Any]]:
        """Each prompt's candidates, and their rewards, what losses see of these, pairs and figures."""
        settings = self.settings
        if self.compares and t == 0:  # of pi_0, which iterates are to beat
            self.generate(self.held_out, 1, 1.0, folder / "validation-first", 999_999, "validation")
        completions, current = self.drawn(prompts, folder, t)
        answered = [len(own) for own in completions]
        for own, prompt in zip(completions, prompts, strict=True):
            own.extend(self.teacher.get(asked(prompt), []))
        texts = [[completion.text for completion in own] for own in completions]
        rewards = self.rewards(prompts, texts, folder / "scored.json")
        pairs = iterative.choose_pairs(rewards, texts, settings.pairs, self.context.seed + t)
        if not pairs:
            raise SawyerError(
                f"stage {self.context.name}: all completions of every prompt are equal or score the same in iteration "
                f"{t + 1}, so there is no pair to learn from; raise `n` or `temperatures`, or lower `pairs.min_margin`"
            )
        if self.context.is_main:
            write_records(folder / "pairs.jsonl", iterative.comparisons(prompts, completions, pairs))
        own_rewards = [own[:count] for own, count in zip(rewards, answered, strict=True)]
        own_answers = [c for own, count in zip(completions, answered, strict=True) for c in own[:count]]
        figures = {
            **iterative.reward_figures(own_rewards),
            "tokens": mean([len(c.ids) for c in own_answers]),
            "finished": mean([float(c.finished) for c in own_answers]),
        }
        if settings.explore is not None:
            theirs = [current <= pair.chosen < answered[pair.prompt] for pair in pairs]
            figures["chosen_explored"] = mean([float(own) for own in theirs])
        if settings.teacher is not None:
            figures["chosen_teacher"] = mean([float(pair.chosen >= answered[pair.prompt]) for pair in pairs])
        scores = [self.seen(own, own_texts) for own, own_texts in zip(rewards, texts, strict=True)]
        return completions, {"pairs": pairs, "rewards": rewards, "scores": scores, "figures": figures}

    def seen(self, rewards: list[float], texts: list[str]) -> list[float]:
        """What losses with scores see of one prompt's candidates."""
        if self.settings.scores == "rewards":
            return rewards
        if self.compares:
            return games.with_itself(rewards)
        return games.from_rewards(iterative.penalised(rewards, texts, self.settings.pairs.length_penalty))

    def validate(self, folder: Path, t: int) -> dict[str, float]:
        """The policy's mean penalised reward on held-out prompts, one answer each at temperature 1; with a pairwise
        model how often that answer beats pi_0's."""
        completions = self.generate(self.held_out, 1, 1.0, folder / "validation", 1000 * t + 999, "validation")
        texts = [[completion.text for completion in own] for own in completions]
        file = folder / "validation.json"
        if self.compares:
            first = self.context.scratch / "iteration-1" / "validation-first"
            theirs = self.generate(self.held_out, 1, 1.0, first, 999_999, "validation")
            pairs = [(own[0], other[0].text) for own, other in zip(texts, theirs, strict=True)]
            rewards = self.kept(file, lambda: [[p] for p in prefer(self.reward, self.held_out, pairs)])
        else:
            rewards = self.rewards(self.held_out, texts, file)
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
        """The reward of each completion, kept in `file`."""
        return self.kept(file, lambda: self.reward.score(prompts, texts))

    def kept(self, file: Path, scores: Callable[[], list[list[float]]]) -> list[list[float]]:
        """Scores from their file, or made and written; with several processes the main one scores."""

        def once() -> list[list[float]]:
            if not file.exists():
                write_json(file, scores())
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
