"""What stage `iterate` is given beside its prompts: pairs that are there already, and answers of someone else."""

from __future__ import annotations

import json
from typing import Any

from sawyer.data.records import Comparison, Prompt
from sawyer.errors import SawyerError
from sawyer.pipeline.stages._common import read_part
from sawyer.pipeline.stages._live import LivePolicy
from sawyer.rollout import kv_cache
from sawyer.rollout.protocol import Completion
from sawyer.train.preference import SCORE
from sawyer.trees.build import comparison_tree
from sawyer.trees.tree import TokenTree


class GivenAnswers(LivePolicy):
    """A policy that learns, and what is there for it to learn from."""

    prompts: list[Prompt]
    """What it is asked in training."""

    def offline_pairs(self) -> list[Comparison]:
        """The pairs that are there already and fit into the context."""
        if self.settings.offline is None:
            return []
        offline = self.settings.offline
        pairs = read_part(self.context, offline.data, offline.part, (Comparison,))
        room = kv_cache.context(self.trainable.model)
        fitting = [pair for pair in pairs if room is None or self.tree_of(pair).longest_path <= room]
        if len(fitting) < len(pairs):
            self.context.say(f"{len(pairs) - len(fitting)} pairs of {offline.data}/{offline.part} exceed the context")
        if not fitting:
            raise SawyerError(f"stage {self.context.name}: no pair of {offline.data}/{offline.part} fits the context")
        return fitting

    def teachers_answers(self) -> dict[str, list[Completion]]:
        """What someone else answered, by prompt, where it fits into the context.

        Raises:
            SawyerError: to no prompt.
        """
        teacher = self.settings.teacher
        if teacher is None:
            return {}
        room, left_out = kv_cache.context(self.trainable.model), 0
        answers: dict[str, list[Completion]] = {}
        for record in read_part(self.context, teacher.data, teacher.part, (Comparison,)):
            tokens = len(self.chat.prompt_ids(record.prompt))
            for text in record.completions if teacher.take == "all" else record.completions[:1]:
                ids = tuple(self.chat.completion_ids(text))
                if room is not None and tokens + len(ids) > room:
                    left_out += 1
                else:
                    answers.setdefault(asked(record), []).append(Completion(ids, (0.0,) * len(ids), text, True))
        if left_out:
            self.context.say(f"{left_out} answers of {teacher.data}/{teacher.part} exceed the context")
        if not any(asked(prompt) in answers for prompt in self.prompts):
            raise SawyerError(
                f"stage {self.context.name}: no prompt of {self.settings.data}/{self.settings.part} is among those of "
                f"{teacher.data}/{teacher.part}: give a `teacher` that answered the same prompts, or leave it out"
            )
        return answers

    def tree_of(self, record: Comparison) -> TokenTree:
        """A pair as tokens, with its scores; 1 and 0 where it has none, or where they are to be win rates."""
        scores = [1.0, 0.0]
        if record.scores is not None and self.settings.scores == "rewards":
            scores = [record.scores[0], record.scores[-1]]
        tree = comparison_tree(self.chat, record, pair=True)
        return TokenTree(tree.prompt, tree.completions, values={SCORE: scores})


def asked(record: Any) -> str:
    """What tells the prompts of records from each other."""
    return json.dumps([[message["role"], message["content"]] for message in record.prompt])
