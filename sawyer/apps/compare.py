"""`sawyer compare`: models on the same held-out prompts, by any feedback, with what can be said and how sure that is.

OUT/comparison.json      all figures and tests          OUT/comparison.html     the same with plots and answers
OUT/completions.jsonl    every answer with its scores   OUT/.comparison.work/   what a kill leaves (`answering`)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.answering import AnswerEmbedder, Answers, Bench, missing
from sawyer.apps.compare_request import Request, check, check_remote, drawn, held_out, shared_with_training
from sawyer.apps.compared_models import Compared, find_models
from sawyer.apps.decodings import decodings_of
from sawyer.apps.named_feedback import Asking, NamedFeedback, find_feedback
from sawyer.apps.request import content_of
from sawyer.apps.work import work_folder
from sawyer.atomic import write_atomically
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.evals import comparison as arithmetic
from sawyer.evals.comparison_sentences import headline, sentences
from sawyer.models.locate import locate, resolve
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, read_json, write_json
from sawyer.pipeline.progress import Voice
from sawyer.rollout.sampling import Sampling, is_own_distribution
from sawyer.rollout.unanswered import left_out

RESULT, PAGE, ROWS = "comparison.json", "comparison.html", "completions.jsonl"


@dataclass
class _Work:
    """One comparison, as far as it is."""

    request: Request
    models: list[Compared]
    prompts: list[Prompt]
    decodings: dict[str, Sampling]
    drawn: list[dict[str, Any]]
    feedback: list[NamedFeedback]
    reference: str | None
    embedder: str | None
    notes: list[str] = field(default_factory=list)
    answers: dict[tuple[str, str, int], Answers] = field(default_factory=dict)
    """By model, decoding and seed."""

    def cells_of(self, model: Compared) -> list[tuple[str, int]]:
        """The decodings and seeds by which a model answers."""
        return [(one["name"], seed) for one in self.drawn for seed in one["seeds"]]

    def together(self, model: Compared, place: str | None = None) -> tuple[list[tuple[str, int]], Answers]:
        """A model's answers to each prompt, all decodings and seeds beside each other, and which these are; those of
        one place alone where it is given."""
        cells = [one for one in self.cells_of(model) if place in (None, model.place(one[1]))]
        of_cells = [self.answers[(model.name, *cell)] for cell in cells]
        return cells, [[one for own in of_cells for one in own[i]] for i in range(len(self.prompts))]


def compare(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Answer, score and compare, or go on with it, and write what came out.

    Returns:
        What `evals.comparison.compare` returns, and beside it what was compared, how, by what, and what has to be known
        of it (`notes`), with a `headline` and `sentences`.

    Raises:
        SawyerError: the request cannot be met; what is done is kept for the same request.
    """
    voice = voice or Voice()
    check(request)
    work = _prepared(request, voice)
    request.out.mkdir(parents=True, exist_ok=True)
    asked = _fingerprint(work)
    _refuse_another(request, asked)
    with disk_errors(request.out), work_folder(request.out / "comparison", "kept", "comparing in") as folder:
        bench = Bench(folder, request.generating, request.api, request.cache, voice)
        _answer(work, bench, voice)
        rows = _rows(work)
        _read(work, bench, rows, voice)
        _embed(work, bench, rows)
        _score(work, bench, rows)
        games = _play(work, bench)
        _count(work, bench, rows)
        result = _result(work, rows, games) | {"fingerprint": asked}
        _write(request.out, work, rows, games, result)
    return result


def _prepared(request: Request, voice: Voice) -> _Work:
    """All that can be found out, and refused, before anything is computed."""
    models = find_models(request.models)
    trained = next((model.seeds for model in models if model.seeds), ())
    if trained and request.seeds != (0,):
        raise SawyerError("models of several seeds answer with the seeds of their trainings; leave out --seeds, --seed")
    seeds = trained or request.seeds
    decodings = decodings_of(request.decoding, request.sampling)
    check_remote(models, decodings, request.api)
    prompts = held_out(request.prompts, request.limit, voice.say)
    generating = request.generating
    asking = Asking(
        "bf16" if generating.precision == "bf16" else "fp32",
        generating.token_budget,
        request.judge_tokens,
        seeds[0],
        request.api,
        request.cache,
    )
    feedback = find_feedback(request.feedback, models, prompts, asking)
    local = next((model for model in models if not model.is_remote), None)
    reference = request.reference or (local.places[0] if local is not None else None)
    embedder = request.embedder or reference
    places = {place for model in models if not model.is_remote for place in model.places}
    for place in sorted(places | {place for place in (reference, embedder) if place is not None}):
        locate(place)  # one that cannot be fetched is refused before another has answered
    work = _Work(
        request,
        models,
        prompts,
        decodings,
        [drawn(name, sampling, request.n, seeds, bool(trained)) for name, sampling in decodings.items()],
        feedback,
        None if reference is None else resolve(reference),
        None if embedder is None else resolve(embedder),
    )
    _note_what_trained(work, voice)
    return work


def _note_what_trained(work: _Work, voice: Voice) -> None:
    """Say which feedback is a proxy, and which prompts were trained on; leave the latter out where asked to."""
    for one in work.feedback:
        if one.trained:
            who = ", ".join(one.trained)
            _note(work, voice, f"{one.name} is what {who} was trained on: to it a proxy, and no measure of its worth")
    shared = shared_with_training(work.prompts, work.models)
    for name, places in shared.items():
        first = next(iter(places.values()))
        many = f"{len(places)} of {len(work.prompts)} prompts were in the training data of {name}"
        _note(work, voice, f"{many}, or share 13 words in a row with it (the first with {first})")
    seen = {place for own in shared.values() for place in own}
    if seen and work.request.drop_shared:
        if len(seen) == len(work.prompts):
            raise SawyerError(f"all {len(seen)} prompts were in the models' training data; take others")
        work.prompts = [prompt for i, prompt in enumerate(work.prompts) if i not in seen]
        _note(work, voice, f"these {len(seen)} prompts are left out (--drop-shared)")
    elif seen:
        voice.say("leave them out with --drop-shared, or take other prompts")


def _answer(work: _Work, bench: Bench, voice: Voice) -> None:
    """Let every model answer, and leave out, for all, what one cannot answer."""
    lacking: dict[int, str] = {}
    for model in work.models:
        for one in work.drawn:
            for seed in one["seeds"]:
                sampling = work.decodings[one["name"]]
                answers = bench.answers(model, work.prompts, sampling, one["samples"], seed)
                lacking |= missing(model, answers)
                work.answers[model.name, one["name"], seed] = answers
                if len(lacking) == len(work.prompts):
                    left_out(work.prompts, lacking, "prompts")  # raises: nothing is left to compare
    bench.let_go()
    if lacking:
        _note(work, voice, left_out(work.prompts, lacking, "prompts"))
        kept = [i for i in range(len(work.prompts)) if i not in lacking]
        work.prompts = [work.prompts[i] for i in kept]
        work.answers = {cell: [answers[i] for i in kept] for cell, answers in work.answers.items()}


def _rows(work: _Work) -> dict[tuple[str, str, int, int, int], dict[str, Any]]:
    """A row for each answer, by model, decoding, seed, prompt and sample."""
    return {
        (name, decoding, seed, i, k): {
            "model": name,
            "decoding": decoding,
            "prompt_id": i,
            "seed": seed,
            "sample": k,
            "text": one.text,
            "finished": one.finished,
            "tokens": len(one.ids) or None,
            "rewards": {},
        }
        for (name, decoding, seed), answers in work.answers.items()
        for i, own in enumerate(answers)
        for k, one in enumerate(own)
    }


def _keys(work: _Work, model: Compared, cells: Sequence[tuple[str, int]]) -> list[list[tuple]]:
    """For each prompt the keys of the rows that `together` puts beside each other."""
    return [
        [(model.name, *cell, i, k) for cell in cells for k in range(len(work.answers[(model.name, *cell)][i]))]
        for i in range(len(work.prompts))
    ]


def _read(work: _Work, bench: Bench, rows: dict[tuple, dict[str, Any]], voice: Voice) -> None:
    """Log-probs and entropies of what local models wrote."""
    from sawyer.feedback.likelihood import Reader

    reader = Reader(work.reference, **_how(work))
    for model in (model for model in work.models if not model.is_remote):
        for place in dict.fromkeys(model.places):
            cells, answers = work.together(model, place)
            readings, why = bench.readings(reader, place, work.prompts, answers)
            for keys, own in zip(_keys(work, model, cells), readings, strict=True):
                for key, one in zip(keys, own, strict=True):
                    rows[key] |= {"logp": one.logp, "entropy": one.entropy, "reference_logp": one.reference_logp}
                    rows[key]["reference_tokens"] = None if one.reference_logp is None else one.tokens
        if why is not None:
            _note(work, voice, f"KL and perplexity of {model.name} are left out: {why} (reference: {work.reference})")
    for model in (model for model in work.models if model.is_remote):
        why = "an endpoint tells no tokens and no distributions"
        _note(work, voice, f"KL, perplexity and entropy of {model.name} are left out: {why}")


def _embed(work: _Work, bench: Bench, rows: dict[tuple, dict[str, Any]]) -> None:
    """Embeddings of all answers, where prompts have several."""
    if work.embedder is None or all(one["samples"] * len(one["seeds"]) < 2 for one in work.drawn):
        return
    embedder = AnswerEmbedder(work.embedder, **_how(work))
    for model in work.models:
        cells, answers = work.together(model)
        texts = [[one.text for one in own] for own in answers]
        vectors = iter(bench.embeddings(embedder, work.prompts, texts))
        for key in (key for own in _keys(work, model, cells) for key in own):
            rows[key]["embedding"] = next(vectors)


def _how(work: _Work) -> dict[str, Any]:
    import torch

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    generating = work.request.generating
    return {"precision": generating.precision, "token_budget": generating.token_budget, "device": device}


def _score(work: _Work, bench: Bench, rows: dict[tuple, dict[str, Any]]) -> None:
    for feedback in (one for one in work.feedback if not one.prefers):
        for model in work.models:
            cells, answers = work.together(model)
            texts = [[one.text for one in own] for own in answers]
            scores = bench.scores(feedback, work.prompts, texts)
            for keys, own in zip(_keys(work, model, cells), scores, strict=True):
                for key, score in zip(keys, own, strict=True):
                    rows[key]["rewards"][feedback.name] = score


def _play(work: _Work, bench: Bench) -> list[dict[str, Any]]:
    """Every two models' answers to a prompt, sample by sample, before the feedbacks that judge pairs."""
    games: list[dict[str, Any]] = []
    design = _design(work)
    by_name = {model.name: model for model in work.models}
    for feedback in (one for one in work.feedback if one.prefers):
        for a, b in design.pairs:
            cells, ours = work.together(by_name[b])
            _, theirs = work.together(by_name[a])
            asked = [
                (key, (own.text, other.text))
                for keys, left, right in zip(_keys(work, by_name[b], cells), ours, theirs, strict=True)
                for key, own, other in zip(keys, left, right, strict=True)
            ]
            told = bench.games(feedback, [work.prompts[key[3]] for key, _ in asked], [pair for _, pair in asked])
            for (key, _), game in zip(asked, told, strict=True):
                _, decoding, seed, i, k = key
                games.append(
                    {"feedback": feedback.name, "decoding": decoding, "a": a, "b": b, "prompt_id": i}
                    | {"seed": seed, "sample": k, "p": game["p"], "games": game.get("games")}
                )
    return games


def _count(work: _Work, bench: Bench, rows: dict[tuple, dict[str, Any]]) -> None:
    """Note what is odd in the answers and in what was said of them."""
    for model in work.models:
        own = [row for row in rows.values() if row["model"] == model.name]
        if empty := sum(not row["text"].strip() for row in own):
            work.notes.append(f"{empty} of {len(own)} answers of {model.name} are empty; they count as they are judged")
    for name, count in bench.truncated.items():
        if count:
            work.notes.append(f"{count} texts were longer than {name} reads, and were cut")
    for name, count in bench.unread.items():
        if count:
            work.notes.append(f"{count} questions to {name} got no verdict, which is a draw, or no rating")


def _design(work: _Work) -> arithmetic.Design:
    request = work.request
    return arithmetic.Design(
        models=tuple(model.name for model in work.models),
        decodings=tuple(work.decodings),
        rewards=tuple(one.name for one in work.feedback if not one.prefers),
        preferences=tuple(one.name for one in work.feedback if one.prefers),
        against=request.against,
        trained_seeds=any(model.seeds for model in work.models),
        unbiased=tuple(name for name, sampling in work.decodings.items() if is_own_distribution(sampling)),
        level=request.level,
        draws=request.draws,
        seed=request.seeds[0],
    )


def _result(work: _Work, rows: dict[tuple, dict[str, Any]], games: list[dict[str, Any]]) -> dict[str, Any]:
    design = _design(work)
    seeds = {model.name: sorted({x.seed for x in model.lineages() if x.seed is not None}) for model in work.models}
    result: dict[str, Any] = {
        "models": [
            {"name": model.name, "given": model.given, "remote": model.is_remote, "trained_with": seeds[model.name]}
            for model in work.models
        ],
        "prompts": {"from": work.request.prompts, "n": len(work.prompts)},
        "decodings": work.drawn,
        "feedback": [one.as_dict() for one in work.feedback],
        "reference": work.reference,
        "embedder": work.embedder,
        "precision": work.request.generating.precision,
        "trained_seeds": design.trained_seeds,
        "level": design.level,
        "alpha": design.alpha,
        "draws": design.draws,
        "seed": design.seed,
        "sawyer": __version__,
        "notes": work.notes,
        **arithmetic.compare(list(rows.values()), games, design),
    }
    return result | {"headline": headline(result), "sentences": sentences(result)}


def _fingerprint(work: _Work) -> str:
    """A hash of all that the result depends on."""
    request = work.request
    return digest(
        {
            "version": __version__,
            "models": [[model.name, [model.content(seed) for seed in model.seeds or (0,)]] for model in work.models],
            "prompts": [list(prompt.prompt) for prompt in work.prompts],
            "drawn": work.drawn,
            "feedback": [[member.depends_on for member in one.scorer.members] for one in work.feedback],
            "read_by": [None if one is None else content_of(one) for one in (work.reference, work.embedder)],
            "generating": vars(request.generating),
            "arithmetic": [request.against, request.level, request.draws, list(request.seeds)],
        }
    )


def _refuse_another(request: Request, asked: str) -> None:
    """Raises SawyerError where the folder holds the result of another comparison."""
    file = request.out / RESULT
    kept = read_json(file)
    if file.exists() and not request.overwrite and (not isinstance(kept, dict) or kept.get("fingerprint") != asked):
        raise SawyerError(
            f"{file} is the result of another comparison; give another --out, or --overwrite to replace it"
        )


def _write(
    out: Path, work: _Work, rows: dict[tuple, dict[str, Any]], games: list[dict[str, Any]], result: dict[str, Any]
) -> None:
    from sawyer.pipeline.report.build import put_page
    from sawyer.pipeline.report.comparison import page

    asked = [list(prompt.prompt) for prompt in work.prompts]
    kept = [{name: value for name, value in row.items() if name != "embedding"} for row in rows.values()]
    lines = [json.dumps({**row, "prompt": asked[row["prompt_id"]]}) + "\n" for row in kept]
    write_atomically(out / ROWS, "".join(lines))
    if games:
        write_atomically(out / "games.jsonl", "".join(json.dumps(game) + "\n" for game in games))
    put_page(page(result, kept, asked), out / PAGE)
    write_json(out / RESULT, result)


def _note(work: _Work, voice: Voice, text: str) -> None:
    work.notes.append(text)
    voice.say(text)
