"""The work of stage `self_reward`: the loop of `iterate`, with prompts and rewards by the policy itself. In an
iteration's folder are, beside what `_iterate` keeps there,

    instructions-R/  what the writer wrote in round R     instructions.json  the prompts that were kept of it
    points/  the judge's replies about the answers        points.json  how many of these could not be read
    judge/, judge-first/  its replies about ranked answers, of the iterate and of pi_0, and .json  how it did
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from sawyer.data.records import Comparison, Prompt, user
from sawyer.data.rouge import Overlaps
from sawyer.evals.judge_accuracy import judge_accuracy
from sawyer.feedback.ratings import Rated
from sawyer.feedback.scales import ADDITIVE
from sawyer.methods.self_instruct import grow
from sawyer.numerics import release
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.stages._common import mean, read_part
from sawyer.pipeline.stages._engines import engine_for
from sawyer.pipeline.stages._iterate import Iterations
from sawyer.pipeline.stages._raters import Rater
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine

INSTRUCTIONS = 500
"""Where the seeds of a writer's rounds begin, apart from those of answers."""


class SelfRewarding(Iterations):
    """One run of the stage."""

    def get_ready(self) -> None:
        """The answers that the judge is measured on."""
        ranked = self.settings.ranked
        self.ranked = read_part(self.context, ranked.data, ranked.part, (Comparison,), ranked.limit)
        self.compares = False

    def prompts_of(self, folder: Path, t: int) -> list[Prompt]:
        """New prompts by the policy, and before the first ones how well it judges."""
        if t == 0:
            self.accuracy(folder / _FIRST)
        made = self.context.processes.on_main(lambda: self.instructions(folder, t))
        prompts = [Prompt((user(text),), {"source": "self-instruct", "iteration": t + 1}) for text in made["kept"]]
        return self.fitting(prompts, "prompts of its own")

    def instructions(self, folder: Path, t: int) -> dict[str, Any]:
        """What the writer wrote and what was kept of it, in a file."""
        file = folder / "instructions.json"
        if file.exists():
            return read_json(file)
        settings, context = self.settings, self.context
        engine: Engine | None = self.engine
        if settings.writer is not None:
            engine = engine_for(context, settings, context.model(settings.writer))
        assert engine is not None

        def ask(number: int, prompts: list[Prompt]) -> list[Completion]:
            answers = generate_resumably(
                engine,
                prompts,
                settings.instruct_sampling,
                1,
                seed=context.seed + 1000 * t + INSTRUCTIONS + number,
                folder=folder / f"instructions-{number}",
                journal=context,
                title=f"prompts of its own, round {number}",
                keep_failed=True,
            )
            return [own[0] for own in answers]

        wanted = settings.instruct.model_copy(update={"instructions": settings.prompts})
        grown = grow([prompt.text for prompt in self.prompts], ask, wanted, context.seed + t)
        if grown.stopped is not None:
            context.say(grown.stopped)
        overlaps = Overlaps()
        for before in range(1, t + 1):
            for text in read_json(folder.parent / f"iteration-{before}" / "instructions.json")["kept"]:
                overlaps.add(text)
        new = [text for text in grown.kept if overlaps.nearest(text)[0] < settings.instruct.max_overlap]
        dropped = {**grown.dropped, **({"it was made before": len(grown.kept) - len(new)} if t else {})}
        write_json(file, {"kept": new or grown.kept, "dropped": dropped, "rounds": grown.rounds})
        release()  # a writer of its own
        return read_json(file)

    def judged(self, prompts: list[Prompt], texts: list[list[str]], folder: Path, title: str) -> list[list[Rated]]:
        """The policy's points for answers, as it is now."""
        assert self.engine is not None
        return Rater(self.settings.judge, self.engine, folder, self.context, title).rate(ADDITIVE, prompts, texts)

    def rewards(self, prompts: list, texts: list[list[str]], file: Path) -> list[list[float]]:
        """The mean points of each completion, not a number where none could be read."""

        def once() -> list[list[float]]:
            rated = self.judged(prompts, texts, file.parent / "points", "points for its own answers")
            shares = [one.unread / len(one.values) for own in rated for one in own]
            write_json(file.parent / "points.json", {"unread": mean(shares)})
            return [[one.mean for one in own] for own in rated]

        return [[math.nan if one is None else one for one in own] for own in self.kept(file, once)]

    def accuracy(self, file: Path) -> dict[str, Any]:
        """How well the policy as it is now judges the ranked answers."""

        def once() -> dict[str, Any]:
            if not file.exists():
                prompts = [Prompt(record.prompt) for record in self.ranked]
                texts = [list(record.completions) for record in self.ranked]
                rated = self.judged(prompts, texts, file.with_suffix(""), "points for ranked answers")
                ratings = [[one.mean for one in own] for own in rated]
                unread = [[one.unread / len(one.values) for one in own] for own in rated]
                write_json(file, judge_accuracy(ratings, unread, seed=self.context.seed))
            return read_json(file)

        return self.context.processes.on_main(once)

    def validate(self, folder: Path, t: int) -> dict[str, Any]:
        """How well the iterate judges, and how the prompts were made."""
        made = self.context.processes.on_main(lambda: [read_json(folder / name) for name in _KEPT])
        return {
            "prompts": len(made[0]["kept"]),
            "rounds": made[0]["rounds"],
            "unread": made[1]["unread"],
            "judge": self.accuracy(folder / "judge.json"),
        }

    def best(self, figures: list[dict[str, Any]]) -> int:
        """The last: points of different judges say nothing about which iterate is better."""
        return len(figures) - 1

    def run(self) -> dict[str, Any]:
        """As in `iterate`, with the judge's accuracy of pi_0 besides."""
        figures = super().run()
        first = self.context.processes.on_main(lambda: read_json(self.context.scratch / "iteration-1" / _FIRST))
        before, after = (own["pairwise"]["mean"] for own in (first, figures["iterations"][-1]["judge"]))
        self.context.say(
            f"of two ranked answers the judge rated the better one higher {before:.2f} of the time before and "
            f"{after:.2f} after (a tie is a half)"
        )
        return {**figures, "pairwise_before": before, "pairwise_after": after, "judge_first": first}

    def write(self, best: int) -> None:
        """As in `iterate`, with the prompts of each iterate and what its judge did."""
        super().write(best)
        for t in range(self.settings.iterations):
            made, out = self.context.scratch / f"iteration-{t + 1}", self.context.folder / "iterates" / str(t + 1)
            for name in ("instructions.json", "judge.json", "scored.json"):
                shutil.copy(made / name, out / name)


_FIRST = "judge-first.json"
_KEPT = ("instructions.json", "points.json")
