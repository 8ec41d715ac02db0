"""The work of stage `self_instruct`: rounds of instructions, then inputs, then outputs; every answer is kept at once.

    PART.jsonl          the tasks as conversations (without outputs: as prompts)
    alpaca.json         all of them as rows of instruction, input and output
    instructions.json   every instruction that the model wrote, what it was nearest to, and why it was dropped

A killed stage continues from the answers in its scratch folder, and everything else is computed from them again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sawyer.data.files import write_records, write_rows
from sawyer.data.records import Conversation, Prompt, assistant, user
from sawyer.data.splits import split
from sawyer.data.tasks import Task, own_tasks, read_tasks
from sawyer.errors import SawyerError
from sawyer.methods.self_instruct import (
    Grown,
    grow,
    input_prompt,
    instance_problem,
    output_prompt,
    read_input,
)
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import mean
from sawyer.pipeline.stages._engines import engine_for
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine, Sampling
from sawyer.rollout.search import DIVERGED

if TYPE_CHECKING:
    from sawyer.pipeline.stages.self_instruct import Settings

INPUT_CUT = "the input was cut at `max_tokens`"
UNANSWERED = "it could not be answered"


def self_instruct(settings: Settings, context: Context) -> dict[str, Any]:
    """Make the tasks, write the artifact, and return the figures."""
    seeds = own_tasks() if settings.seeds is None else read_tasks(settings.seeds)
    if settings.output_examples and not any(task.output for task in seeds):
        raise SawyerError(f"`output_examples` need seed tasks with outputs, and {settings.seeds} has none")
    context.rewind(0)
    writer = _Writer(settings, context)
    grown = writer.instructions([task.instruction for task in seeds])
    lost: Counter[str] = Counter()
    tasks = [Task(instruction) for instruction in grown.kept]
    if settings.inputs:
        tasks = writer.inputs(tasks, seeds, lost)
    if settings.outputs:
        tasks = writer.outputs(tasks, seeds, lost)
    if not tasks:
        reasons = ", ".join(f"{count}: {reason}" for reason, count in lost.most_common())
        raise SawyerError(f"of {len(grown.kept)} new instructions none became a task ({reasons}); take a larger model")
    return _written(settings, context, grown, tasks, lost)


class _Writer:
    """What asks the model, so that nothing that it has answered is lost."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self.settings, self.context = settings, context
        self.engine: Engine
        if settings.remote is not None:
            from sawyer.rollout.api_engine import ApiEngine

            self.engine = ApiEngine(settings.remote, settings.api, cache=context.scratch / "answers")
        else:
            self.engine = engine_for(context, settings, context.model(str(settings.model)), settings.chat_template)

    def instructions(self, seeds: Sequence[str]) -> Grown:
        """New instructions; each round's figures go to the log, and why it ended early is said."""
        grown = grow(seeds, self._round, self.settings, self.context.seed)
        for number in range(1, grown.rounds + 1):
            of_round = [one for one in grown.proposals if one.round == number]
            kept = [one for one in of_round if one.dropped is None]
            overlap = mean([one.overlap for one in kept])
            self.context.log(round=number, proposals=len(of_round), kept=len(kept), overlap=overlap)
        if grown.stopped is not None:
            self.context.say(grown.stopped)
        for reason, count in grown.dropped.items():
            self.context.say(f"dropped {count} of {len(grown.proposals)} instructions: {reason}")
        return grown

    def _round(self, number: int, prompts: list[Prompt]) -> list[Completion]:
        return self._ask(f"round-{number:05d}", prompts, self.settings.sampling, f"instructions, round {number}")

    def inputs(self, tasks: Sequence[Task], seeds: Sequence[Task], lost: Counter[str]) -> list[Task]:
        """The tasks with inputs, where they need one."""
        prompts = [input_prompt(task.instruction, self._examples_of_inputs(task, seeds)) for task in tasks]
        answers = self._ask("inputs", prompts, self.settings.answer_sampling, "inputs")
        made = []
        for task, answer in zip(tasks, answers, strict=True):
            if answer.error is not None or not answer.finished:
                lost[INPUT_CUT if answer.error is None else UNANSWERED] += 1
                continue
            given = read_input(answer.text)
            made.append(replace(task, input="" if given == task.instruction else given))
        return made

    def outputs(self, tasks: Sequence[Task], seeds: Sequence[Task], lost: Counter[str]) -> list[Task]:
        """The tasks with outputs, those that `instance_problem` finds nothing wrong with."""
        able = [task for task in seeds if task.output]
        prompts = [output_prompt(task, self._draw(able, self.settings.output_examples, task)) for task in tasks]
        answers = self._ask("outputs", prompts, self.settings.answer_sampling, "outputs") if prompts else []
        made = []
        for task, answer in zip(tasks, answers, strict=True):
            done = replace(task, output=answer.text.strip())
            problem = UNANSWERED if answer.error is not None else instance_problem(done, whole=answer.finished)
            if problem is None:
                made.append(done)
            else:
                lost[problem] += 1
        return made

    def _examples_of_inputs(self, task: Task, seeds: Sequence[Task]) -> list[Task]:
        """Half of them with an input, the others without, in any order."""
        count = self.settings.input_examples
        given = self._draw([one for one in seeds if one.input], (count + 1) // 2, task)
        shown = given + self._draw([one for one in seeds if not one.input], count - len(given), task)
        random.Random(f"{self.context.seed}/order/{task.instruction}").shuffle(shown)
        return shown

    def _draw(self, tasks: Sequence[Task], count: int, of: Task) -> list[Task]:
        rng = random.Random(f"{self.context.seed}/{of.instruction}")
        return rng.sample(list(tasks), min(count, len(tasks)))

    def _ask(self, folder: str, prompts: Sequence[Prompt], sampling: Sampling, title: str) -> list[Completion]:
        """One answer to each prompt; those that cannot be had say why in `error`.

        Raises:
            SawyerError: an answer is missing for a reason that does not lie in its prompt.
        """
        answers = generate_resumably(
            self.engine,
            prompts,
            sampling,
            1,
            seed=self.context.seed,
            folder=self.context.scratch / folder,
            journal=self.context,
            title=title,
            keep_failed=True,
        )
        for answer in (own[0] for own in answers):
            if answer.error is not None and (answer.again or answer.error == DIVERGED):
                raise SawyerError(answer.error)
        return [own[0] for own in answers]


def _written(
    settings: Settings, context: Context, grown: Grown, tasks: Sequence[Task], lost: Counter[str]
) -> dict[str, Any]:
    records = [_record(task) for task in tasks]
    parts = split(records, settings.split, settings.split_seed)
    figures: dict[str, Any] = {"instructions": len(grown.kept), "rounds": grown.rounds}
    for part, own in parts.items():
        if not own:
            raise SawyerError(
                f"none of the {len(tasks)} tasks falls into the part '{part}'; give it a larger share, or make more"
            )
        write_records(context.folder / f"{part}.jsonl", own)
        figures[part] = len(own)
    write_rows(context.folder / "instructions.json", [one.row() for one in grown.proposals])
    if settings.outputs:
        write_rows(context.folder / "alpaca.json", [task.row() for task in tasks])
    for reason, count in lost.most_common():
        context.say(f"dropped {count} of {len(grown.kept)} tasks: {reason}")
    figures["proposals"] = len(grown.proposals)
    figures["overlap"] = mean([one.overlap for one in grown.proposals if one.dropped is None])
    figures["with_input"] = mean([float(bool(task.input)) for task in tasks])
    figures["dropped"] = grown.dropped
    figures["tasks_dropped"] = dict(lost)
    if grown.stopped is not None:
        figures["stopped"] = grown.stopped
    return figures


def _record(task: Task) -> Conversation | Prompt:
    info = {"source": "self_instruct"}
    if task.output:
        return Conversation((user(task.question), assistant(task.output)), info)
    return Prompt((user(task.question),), info)
