"""The work of stage `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.data.attributes import conditioned_prompt
from sawyer.data.records import Prompt
from sawyer.evals import best_of_n, stats
from sawyer.evals import policies as arithmetic
from sawyer.feedback.likelihood import Reader
from sawyer.feedback.protocol import Feedback
from sawyer.numerics import release
from sawyer.pipeline.files import write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import prompts_of, reward_model_of
from sawyer.pipeline.stages._conditioned import wanted
from sawyer.pipeline.stages._engines import Engines
from sawyer.pipeline.stages._gold import gold_of
from sawyer.rollout.conditioned import ConditionedEngine
from sawyer.rollout.decodings import decoding, is_search
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion
from sawyer.rollout.sampling import Sampling, is_own_distribution
from sawyer.rollout.unanswered import left_out, unanswered

Answers = Sequence[Sequence[Completion]]
OWN = ""
"""The way of decoding that `sampling` says, which has no name."""


def evaluate_policies(settings: Any, context: Context) -> dict[str, Any]:
    """Answers of every policy, their scores, and what can be said of them; written as the stage's artifact."""
    prompts = prompts_of(context, settings.data, settings.part, settings.limit)
    what = f"prompts of {settings.data}/{settings.part}"
    places = {name: place for ref in settings.policies for name, place in _expanded(context, ref, settings).items()}
    places |= {name: context.model(asked.policy) for name, asked in settings.asked.items()}
    values = {
        name: wanted(context, name, place, settings.asked[name].attributes if name in settings.asked else {})
        for name, place in places.items()
    }
    gold, proxy = gold_of(context, settings, settings.token_budget), _reward_model(settings.proxy, settings, context)
    reference = context.model(settings.reference) if settings.reference else None
    reader = Reader(
        reference,
        precision=context.precision,
        token_budget=settings.token_budget,
        device=context.accelerator.device,
    )
    engines = Engines(context, settings)

    ways = {OWN: settings.sampling} | {name: decoding(name, settings.sampling) for name in settings.decodings}

    rows: dict[str, dict[str, list[dict[str, Any]]]] = {way: {} for way in ways}
    missing: dict[int, str] = {}
    for name, place in places.items():
        answers = _answers(settings, context, engines, name, place, values[name], prompts, ways)
        release()  # the engine
        for completions in answers.values():
            missing |= unanswered(completions)
        if len(missing) == len(prompts):
            left_out(prompts, missing, what)  # raises: no answer is left to judge
        kept = [i for i in range(len(prompts)) if i not in missing]
        for way, completions in answers.items():
            asked, own = [prompts[i] for i in kept], [completions[i] for i in kept]
            columns = {
                "gold": _scores(gold, asked, own),
                "proxy": _scores(proxy, asked, own),
                **_read(reader, settings, context, name, place, values[name], asked, own),
            }
            rows[way][name] = _rows(kept, own, columns)
            release()
    curve, points = _best_of(settings, context, engines, prompts, missing, gold, proxy)
    if missing:  # by one policy or another: all are judged on the same prompts
        context.say(left_out(prompts, missing, what))
        rows = {
            way: {name: [row for row in own if row["prompt_id"] not in missing] for name, own in of_way.items()}
            for way, of_way in rows.items()
        }

    evaluations = {way: _compared(settings, context, of_way, ways[way]) for way, of_way in rows.items()}
    evaluation = evaluations.pop(OWN) | {"unanswered": len(missing)}
    if settings.asked:
        evaluation["asked"] = {name: own for name, own in values.items() if own}
    if evaluations:
        evaluation["decodings"] = evaluations
    if points:
        evaluation["best_of_n"] = {"policy": settings.reference, "samples": settings.best_of, "points": points}
        _write_curve(context.folder / "best_of_n.jsonl", prompts, curve)
    write_json(context.folder / "evaluation.json", evaluation)
    for way, of_way in rows.items():
        _write_rows(context.folder / f"completions{way and '-'}{way}.jsonl", prompts, of_way)
    headline = arithmetic.headline(evaluation)
    context.say(headline)
    return {"headline": headline, "policies": evaluation["policies"], "comparisons": evaluation["comparisons"]}


def _answers(
    settings: Any,
    context: Context,
    engines: Engines,
    name: str,
    place: str,
    values: Mapping[str, int],
    prompts: Sequence[Prompt],
    ways: Mapping[str, Sampling],
) -> dict[str, list[list[Completion]]]:
    """A policy's answers by each way of decoding; `values` are the attributes that it is asked for."""
    engine = ConditionedEngine(engines.of(place), values) if values else engines.of(place)
    return {
        way: generate_resumably(
            engine,
            prompts,
            sampling,
            1 if way and is_search(sampling) else settings.n,
            seed=context.seed,
            folder=context.scratch / f"{name}{way and '.'}{way}",
            journal=context,
            title=f"{name} answers {len(prompts)} held-out prompts{way and ', '}{way}",
            keep_failed=True,
        )
        for way, sampling in ways.items()
    }


def _rows(
    kept: Sequence[int], answers: Answers, columns: Mapping[str, Sequence[Sequence[Any]] | None]
) -> list[dict[str, Any]]:
    """A row for each answer to the prompts that are kept."""
    return [
        {
            "prompt_id": i,
            "sample": k,
            "text": completion.text,
            "tokens": len(completion.ids),
            "finished": completion.finished,
            **{column: values[at][k] if values else None for column, values in columns.items()},
        }
        for at, (i, own) in enumerate(zip(kept, answers, strict=True))
        for k, completion in enumerate(own)
    ]


def _compared(
    settings: Any, context: Context, rows: dict[str, list[dict[str, Any]]], sampling: Sampling
) -> dict[str, Any]:
    """What can be said of the policies' answers by one way of decoding."""
    order = list(rows)
    subject, seeds = _subject(context, settings, order), _training_seeds(context, settings)
    return arithmetic.evaluate(
        rows, order[0], order=order, subject=subject, training_seeds=seeds, previous=settings.previous
    ) | _how_drawn(sampling, context)


def _best_of(
    settings: Any,
    context: Context,
    engines: Engines,
    prompts: Sequence[Prompt],
    missing: dict[int, str],
    gold: Feedback | None,
    proxy: Feedback | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What best-of-n by the proxy would reach from the reference: by prompt and n, and by n with intervals.

    Prompts that are `missing` are left out; those that the reference cannot answer join them.
    """
    if settings.best_of is None:
        return [], []
    completions = generate_resumably(
        engines.of(context.model(settings.reference)),
        prompts,
        settings.sampling,
        settings.best_of,
        seed=context.seed + 1,  # other samples than those of the reference as one of the policies
        folder=context.scratch / "best-of",
        journal=context,
        title=f"{settings.best_of} samples of {settings.reference} for best-of-n",
        keep_failed=True,
    )
    release()  # the engine
    missing |= unanswered(completions)
    kept = [i for i in range(len(prompts)) if i not in missing]
    asked, answers = [prompts[i] for i in kept], [completions[i] for i in kept]
    chosen_by = _scores(proxy, asked, answers)
    if not kept or chosen_by is None:
        return [], []
    sizes = best_of_n.sizes(settings.best_of)
    reached = {
        column: best_of_n.curve(chosen_by, values, sizes)
        for column, values in (("gold", _scores(gold, asked, answers)), ("proxy", chosen_by))
        if values is not None
    }
    by_prompt = [
        {"prompt_id": i, "n": n, "kl": best_of_n.kl(n), **{c: float(values[at, k]) for c, values in reached.items()}}
        for at, i in enumerate(kept)
        for k, n in enumerate(sizes)
    ]
    points = [
        {"n": n, "kl": best_of_n.kl(n)}
        | {column: arithmetic.as_json(stats.bootstrap_mean(values[:, k])) for column, values in reached.items()}
        for k, n in enumerate(sizes)
    ]
    return by_prompt, points


def _reward_model(ref: str | None, settings: Any, context: Context) -> Feedback | None:
    if ref is None:
        return None
    return reward_model_of(context, ref, settings.token_budget)


def _how_drawn(sampling: Sampling, context: Context) -> dict[str, Any]:
    """What `evaluation.json` says of the completions: their seed, the sampling, and whether the KL is unbiased."""
    changed = sampling.model_dump(mode="json", exclude_defaults=True)
    return {
        "generation_seed": context.seed,
        "sampling": {"temperature": sampling.temperature, **changed},
        "kl_unbiased": is_own_distribution(sampling),
    }


def _training_seeds(context: Context, settings: Any) -> list[int]:
    """The seeds of the recipes that trained the policies; nothing is known of models that were given."""
    refs = [*settings.policies, *(asked.policy for asked in settings.asked.values())]
    manifests = [context.artifacts[ref].manifest for ref in refs if ref in context.artifacts]
    return sorted({manifest["recipe_seed"] for manifest in manifests if "recipe_seed" in manifest})


def _expanded(context: Context, ref: str, settings: Any) -> dict[str, str]:
    """Name and place of a policy, or of each iterate of an `iterate` stage where all are asked for."""
    place = context.model(ref)
    iterates = Path(place) / "iterates"
    if settings.iterates == "best" or not iterates.is_dir():
        return {ref: place}
    numbers = sorted(int(folder.name) for folder in iterates.iterdir())
    return {f"{ref}-{number}": str(iterates / str(number)) for number in numbers}


def _subject(context: Context, settings: Any, order: Sequence[str]) -> str:
    """Whom the headline is about: the last policy; of an `iterate` stage the iterate chosen on validation."""
    if settings.asked:
        return order[-1]
    last = settings.policies[-1]
    best = context.artifact(last).figures.get("best") if last in context.artifacts else None
    return f"{last}-{best}" if f"{last}-{best}" in order else order[-1]


def _read(
    reader: Reader,
    settings: Any,
    context: Context,
    name: str,
    place: str,
    values: Mapping[str, int],
    prompts: Sequence[Prompt],
    answers: Answers,
) -> dict[str, list[list[float | None]] | None]:
    """The columns `kl` and `entropy` of a policy's answers; where there is no reference, nothing is read.

    `values` are the attributes that the policy was asked for; the reference reads the prompts without.
    """
    if reader.reference is None:
        return {"kl": None, "entropy": None}
    shown = [conditioned_prompt(prompt, values) for prompt in prompts] if values else None
    readings, why = reader.read(place, prompts, answers, shown=shown)
    if why is not None:
        context.say(f"the KL of {name} to {settings.reference} is left out: {why}")
    return {
        "kl": [[one.log_ratio for one in own] for own in readings],
        "entropy": [[one.entropy for one in own] for own in readings],
    }


def _scores(
    feedback: Feedback | None, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
) -> list[list[float]] | None:
    if feedback is None:
        return None
    return feedback.score(prompts, [[completion.text for completion in own] for own in completions])


def _write_rows(file: Path, prompts: Sequence[Prompt], rows: dict[str, list[dict[str, Any]]]) -> None:
    with file.open("w") as handle:
        for name, own in rows.items():
            for row in own:
                prompt = list(prompts[row["prompt_id"]].prompt)
                handle.write(json.dumps({"policy": name, "prompt": prompt, **row}) + "\n")


def _write_curve(file: Path, prompts: Sequence[Prompt], rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w") as handle:
        for row in rows:
            handle.write(json.dumps({"prompt": list(prompts[row["prompt_id"]].prompt), **row}) + "\n")
