"""`sawyer judge`: judges say which of two answers is better, in both orders, beside what people said.

OUT                    the rows, with two columns more for each judge: NAME, and NAME:swapped with b shown first
.OUT.work/FINGERPRINT  while it runs: what judges have answered
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps import evaluate_agreement
from sawyer.apps.scorers import JUDGE_BATCH
from sawyer.apps.work import Shown, check_out, work_folder
from sawyer.data.answer_pairs import AnswerPair, AnswerPairs, read_answer_pairs
from sawyer.data.files import write_rows
from sawyer.data.labels import CONTEXT, SWAPPED
from sawyer.errors import SawyerError
from sawyer.feedback.baselines import LengthScore, RandomScore
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.judges import FormJudge, Opinion, make_judge
from sawyer.feedback.panel import FEWEST, Assessment, PanelRule, assessed, check_panel, reliabilities
from sawyer.feedback.protocol import Feedback, prefer
from sawyer.feedback.token_verdicts import TOPS
from sawyer.numerics import release
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, path_sha256
from sawyer.pipeline.progress import Voice
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.kept import KeptEngine

BUILT_IN = ("length", "shorter", "random")
"""Judges that are no model."""
PANEL = "panel"
"""The column of a panel."""


@dataclass(frozen=True)
class Request:
    """What `sawyer judge` was asked for."""

    data: Path
    out: Path
    judge: JudgeForm = field(default_factory=JudgeForm)
    models: Sequence[str] = ()
    """Local models, or with `api` what an endpoint calls them."""
    raters: Sequence[str] = ()
    """Of `BUILT_IN`."""
    api: ApiSettings | None = None
    cache: Path | None = None
    panel: Any = None
    """A `PanelRule`: add a column of what all judges say together."""
    answers: Path | None = None
    """Where every answer of the judges goes, as JSONL."""
    page: Path | None = None
    precision: str = "fp32"
    chat_template: str | None = None
    max_dropped: float = 0.05
    limit: int | None = None
    seed: int = 0
    overwrite: bool = False


@dataclass
class _Said:
    """What a judge said of all pairs: P(a is better), asked with a shown first, and with b shown first."""

    name: str
    forth: list[float | None]
    back: list[float | None]
    about: dict[str, Any]
    answers: list[dict[str, Any]] = field(default_factory=list)


def judge(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Ask, or go on asking, and write the rows with the verdicts; then measure how far all raters agree.

    Returns:
        what was done: `judges` (each with its question and its counts), and `agreement` as `evaluate_agreement` returns
        it, None where there are no labels at all.

    Raises:
        SawyerError: the request cannot be met; what was answered is kept for the same request.
    """
    voice = voice or Voice()
    _check(request)
    read = read_answer_pairs(request.data, max_dropped=request.max_dropped, limit=request.limit)
    _check_names(request, read)
    if read.report.dropped:
        voice.say(str(read.report))
    asked = [path_sha256(request.data), request.limit, [_identity(request, model) for model in request.models]]
    said: list[_Said] = []
    with (
        disk_errors(request.out.parent),
        work_folder(request.out, digest(asked), "judging into") as work,
    ):
        for name in request.raters:
            said.append(_built_in(name, read.pairs, request.seed))
        for model in request.models:
            said.append(_model(model, read.pairs, request, work, voice))
        if request.panel is not None:
            said.append(_panel(said, request.panel, read.pairs))
        write_rows(request.out, _rows(read.pairs, said))
        if request.answers is not None:
            write_rows(request.answers, [row for own in said for row in own.answers])
        shutil.rmtree(work.parent)
    measured = None
    if read.raters or any(p is not None for own in said for p in own.forth):
        to_measure = evaluate_agreement.Request(
            [request.out], page=request.page, seed=request.seed, overwrite=request.overwrite
        )
        measured = evaluate_agreement.evaluate(to_measure, voice)
    return {
        "data": os.fspath(request.data),
        "out": os.fspath(request.out),
        "pairs": len(read.pairs),
        "report": read.report.as_dict(),
        "judges": {own.name: own.about for own in said},
        "agreement": measured,
        "sawyer": __version__,
    }


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each judge."""
    lines = [f"{result['pairs']:,} pairs judged: {result['out']}"]
    for name, about in result["judges"].items():
        if "unread" in about:
            lines.append(f"{name}: {about['unread']:,} of {about['asked']:,} questions without a verdict")
        if "reliability" in about:
            shares = ", ".join(f"{judge} {share:.2f}" for judge, share in about["reliability"].items())
            lines.append(f"right by Dawid and Skene: {shares}")
        if "uncertainty" in about:
            lines.append(f"mean disagreement of the judges: {about['uncertainty']:.3f}")
    return lines


# --- what is asked for ------------------------------------------------------------------------------------------------


def _check(request: Request) -> None:
    """Refuse what contradicts itself, before anything is read."""
    suffix = next((s for s in (".jsonl", ".json", ".parquet") if request.out.name.endswith(s)), None)
    if suffix is None:
        raise SawyerError(f"--out {request.out} must end with .jsonl, .json or .parquet")
    check_out(request.out, request.overwrite, suffix)
    for place, ending in ((request.answers, ".jsonl"), (request.page, ".html")):
        if place is not None:
            check_out(place, request.overwrite, ending)
    for name in request.raters:
        if name not in BUILT_IN:
            raise SawyerError(f"--rater {name}: built-in raters are {', '.join(BUILT_IN)}; for a model give --model")
    if request.precision not in ("fp32", "bf16"):
        raise SawyerError(f"--precision is {request.precision!r}; choose fp32 or bf16")
    if not request.models and not request.raters:
        raise SawyerError(f"nobody is to judge: give --model, or --rater with {', '.join(BUILT_IN)}")
    if not request.models and request.judge != JudgeForm():
        raise SawyerError("the options of a judge's question are for models; give --model, or drop them")
    if not request.models and request.api is not None:
        raise SawyerError("--endpoint names remote models; say which with --model")
    local = bool(request.models) and request.api is None
    of_local = {"chat-template": request.chat_template is not None, "precision": request.precision != "fp32"}
    for name, given in of_local.items():
        if given and not local:
            raise SawyerError(f"--{name} is for local models; drop it")
    if request.api is None and request.cache is not None:
        raise SawyerError("--cache keeps the answers of remote models; give --endpoint too, or drop it")
    if not all(name.strip() for name in request.models):
        raise SawyerError("--model is empty; name a model")
    if request.limit is not None and request.limit < 1:
        raise SawyerError(f"--limit is {request.limit}; at least one pair must stay")
    if request.panel is not None:
        check_panel(len(request.models) + len(request.raters), request.panel, None)


def _check_names(request: Request, read: AnswerPairs) -> None:
    """Refuse columns that would stand twice, and a panel that could not be weighed."""
    names = [*request.raters, *(_name(request, model) for model in request.models)]
    names += [PANEL] if request.panel is not None else []
    for i, name in enumerate(names):
        if name in names[:i]:
            raise SawyerError(f"two judges would be called {name!r}; give each once, or rename a folder")
        if name in read.raters or name in ("id", "prompt", *CONTEXT):
            raise SawyerError(f"{request.data} has a column {name!r} already; rename it")
    if request.panel == "reliability" and len(read.pairs) < FEWEST:
        raise SawyerError(
            f"reliability cannot be measured on {len(read.pairs)} pairs; give at least {FEWEST}, or another --panel"
        )


def _name(request: Request, model: str) -> str:
    return model if request.api is not None else Path(model).name


def _identity(request: Request, model: str) -> Any:
    """What a model's answers depend on besides the questions."""
    if request.api is not None:
        return [model, request.api.endpoint]
    from sawyer.models.locate import resolve

    place = Path(resolve(model))
    weights = path_sha256(place) if place.exists() else str(place)
    return [weights, request.precision, request.chat_template]


# --- who judges -------------------------------------------------------------------------------------------------------


def _built_in(name: str, pairs: Sequence[AnswerPair], seed: int) -> _Said:
    feedback: Feedback = RandomScore(seed) if name == "random" else LengthScore(shorter=name == "shorter")
    prompts = [pair.prompt for pair in pairs]
    forth = prefer(feedback, prompts, [(pair.a, pair.b) for pair in pairs])
    back = prefer(feedback, prompts, [(pair.b, pair.a) for pair in pairs])
    about = {"judge": name, **({"seed": seed} if name == "random" else {})}
    return _Said(name, list(forth), [1 - p for p in back], about)


def _model(model: str, pairs: Sequence[AnswerPair], request: Request, work: Path, voice: Voice) -> _Said:
    """A language model's verdicts. What it has answered before is read from the folder."""
    judge = _loaded(model, request, work, voice)
    prompts = [pair.prompt for pair in pairs]
    try:
        forth = judge.opinions(prompts, [(pair.a, pair.b) for pair in pairs])
        back = judge.opinions(prompts, [(pair.b, pair.a) for pair in pairs]) if judge.sees_order else forth
    except SawyerError as error:
        raise SawyerError(f"{error} (what is answered is kept: run the same command again to go on)") from error
    finally:
        ledger = getattr(judge.engine, "ledger", None)
        if ledger is not None and ledger.used:
            voice.say(str(ledger))
    of_back = [o.value if o.value is None or not judge.sees_order else 1 - o.value for o in back]
    name = _name(request, model)
    question = request.judge.described()
    about = {
        "judge": model,
        **({"endpoint": request.api.endpoint} if request.api is not None else {"precision": request.precision}),
        **{key: value for key, value in question.items() if key != "both_orders"},
        "seed": request.seed,
        "asked": judge.asker.asked,
        "answered": judge.asker.answered,
        "unread": judge.unread,
    }
    rows = [row for i, pair in enumerate(pairs) for row in _answers(name, pair, forth[i], back[i], judge, question)]
    del judge
    release()
    return _Said(name, [opinion.value for opinion in forth], of_back, about, rows)


def _loaded(model: str, request: Request, work: Path, voice: Voice) -> FormJudge:
    if request.api is not None:
        from sawyer.rollout.api_engine import ApiEngine

        tops = TOPS if request.judge.read == "tokens" else 0
        remote = ApiEngine(model, request.api, cache=request.cache or work / "answers", tops=tops)
        return make_judge(remote, request.judge, request.seed)
    import torch

    from sawyer.feedback.template import scoring_format
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.torch_engine import TorchEngine

    chat = scoring_format(model, request.chat_template)
    loaded: Any = load_policy(model, dtype=DTYPES[request.precision])
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    engine = TorchEngine(loaded.to(device), chat, take=True, max_batch=JUDGE_BATCH)
    title = f"ask {_name(request, model)}"
    kept = KeptEngine(engine, work / "answers", _identity(request, model), journal=Shown(voice), title=title)
    return make_judge(kept, request.judge, request.seed)


def _panel(said: Sequence[_Said], rule: PanelRule, pairs: Sequence[AnswerPair]) -> _Said:
    """All judges together, in either order."""
    forth, back = (assessed([getattr(own, order) for own in said], rule) for order in ("forth", "back"))
    about: dict[str, Any] = {"judge": PANEL, "rule": rule, "members": [own.name for own in said]}
    about["uncertainty"] = sum(a.uncertainty for a in forth) / len(forth)
    if rule == "reliability":
        shares = reliabilities([[*own.forth, *own.back] for own in said])
        about["reliability"] = dict(zip(about["members"], shares, strict=True))
    rows = [
        {"id": pair.id, "rater": PANEL, "value": a.value, "uncertainty": a.uncertainty, "members": list(a.members)}
        for pair, a in zip(pairs, forth, strict=True)
    ]
    return _Said(PANEL, _values(forth), _values(back), about, rows)


def _values(found: Sequence[Assessment]) -> list[float | None]:
    """What a panel says; None where none of its members has a verdict."""
    return [a.value if any(p is not None for p in a.members) else None for a in found]


# --- what is written --------------------------------------------------------------------------------------------------


def _rows(pairs: Sequence[AnswerPair], said: Sequence[_Said]) -> list[dict[str, Any]]:
    rows = []
    for i, pair in enumerate(pairs):
        verdicts = {own.name: _label(own.forth[i]) for own in said}
        # what is shown first is called A: with b shown first that is b
        swapped = {own.name + SWAPPED: _label(None if (p := own.back[i]) is None else 1 - p) for own in said}
        rows.append({**pair.row, **verdicts, **swapped})
    return rows


def _label(p: float | None) -> str | None:
    return None if p is None else "A" if p > 0.5 else "B" if p < 0.5 else "tie"


def _answers(
    rater: str, pair: AnswerPair, forth: Opinion, back: Opinion, judge: FormJudge, question: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The record of a pair: each question with the judge's answers."""
    asked = [("a", forth), ("b", back)] if judge.sees_order else [(None, forth)]
    return [
        {
            "id": pair.id,
            "rater": rater,
            "first": first,
            "template": question["template"],
            "version": question["version"],
            "value": opinion.value,
            "answers": [{"text": a.text, "value": a.value, "error": a.error} for a in opinion.answers],
        }
        for first, opinion in asked
    ]
