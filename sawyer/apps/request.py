"""What `sawyer generate` was asked for: what can be refused before anything is read, and the hash of it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sawyer import __version__
from sawyer.apps.work import check_out
from sawyer.data.prompts import PromptFile
from sawyer.errors import SawyerError
from sawyer.pipeline.files import digest, path_sha256
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Sampling

PRECISION = "fp32"
BATCH = 256
TOKEN_BUDGET = 32_768
ENGINES = "torch", "vllm"
GOLD = "verifiable"
"""What `by` says for the gold reward, which needs no model."""


@dataclass(frozen=True)
class Request:
    """What `sawyer generate` was asked for. The first group is for any model, the others for one kind each."""

    model: str
    """A model as recipes name it; with `api`, what the endpoint calls it."""
    prompts: Path
    out: Path
    n: int = 1
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    overwrite: bool = False
    best_of: int | None = None
    """How many candidates each completion is the best of."""
    by: str | None = None
    """What chooses among them: a reward model, or `GOLD`."""
    attributes: Mapping[str, int] | None = None
    """What a policy that was trained with attributes is asked for; those that are not named get their usual value."""

    engine: str = "torch"
    """What runs a local model: `torch` or `vllm`."""
    gpus: int | None = None
    """With vLLM: over how many GPUs each weight is split."""
    precision: str | None = None
    """`fp32` or `bf16`, of the reward model too. Default: fp32; with vLLM, what the model's config says."""
    batch: int | None = None
    """Most sequences at a time."""
    token_budget: int | None = None
    """With torch: most tokens of all sequences at a time."""
    chat_template: str | None = None

    api: ApiSettings | None = None
    """For a remote model."""
    cache: Path | None = None
    """Folder of answers that outlives the generation."""

    @property
    def candidates(self) -> int:
        """How many completions are drawn for each that is kept."""
        return self.best_of or 1


def check(request: Request) -> None:
    """Refuse what can be refused before anything is read or loaded.

    Raises:
        SawyerError: says what it is.
    """
    if request.n < 1:
        raise SawyerError(f"--n is {request.n}: ask for at least one completion of each prompt")
    if not request.model.strip():
        raise SawyerError("--model is empty; name a model")
    _check_choice(request)
    _check_place(request)
    if request.precision not in (None, "fp32", "bf16"):
        raise SawyerError(f"--precision is {request.precision!r}; choose fp32 or bf16")
    if request.batch is not None and request.batch < 1:
        raise SawyerError(f"--batch is {request.batch}: at least one sequence must run at a time")
    if request.token_budget is not None and request.token_budget < 1:
        raise SawyerError(f"--token-budget is {request.token_budget}: give at least 1 (one sequence always runs)")
    check_out(request.out, request.overwrite)


def _check_choice(request: Request) -> None:
    if (request.best_of is None) != (request.by is None):
        given, lacking = ("--by", "--best-of") if request.best_of is None else ("--best-of", "--by")
        raise SawyerError(f"{given} needs {lacking} too: --best-of says of how many, --by what the best is chosen by")
    if request.best_of is None:
        return
    if request.best_of < 2:
        raise SawyerError(f"--best-of is {request.best_of}: compare at least 2 candidates")
    if request.sampling.temperature == 0 and request.sampling.num_beams == 1:
        raise SawyerError(
            f"--best-of {request.best_of} with --temperature 0 compares equal completions: set a temperature above 0"
        )


def _check_place(request: Request) -> None:
    """Whether the options are for where the model runs."""
    if request.engine not in ENGINES:
        raise SawyerError(f"--engine is {request.engine!r}; choose {' or '.join(ENGINES)}")
    if request.gpus is not None and (request.engine != "vllm" or request.gpus < 1):
        raise SawyerError(
            "--gpus must be at least 1"
            if request.gpus < 1
            else "--gpus is for vLLM; give --engine vllm too, or drop it"
        )
    local = {
        "--precision": None if request.by is not None else request.precision,
        "--batch": request.batch,
        "--token-budget": request.token_budget,
        "--chat-template": request.chat_template,
        "--engine": None if request.engine == ENGINES[0] else request.engine,
        "--attributes": request.attributes,
    }
    if request.api is not None:
        misplaced = [option for option, value in local.items() if value is not None]
        if misplaced:
            raise SawyerError(
                f"{misplaced[0]} is for local models, and --endpoint names a remote one; drop one of them"
            )
    elif request.cache is not None:
        raise SawyerError("--cache keeps the answers of remote models; give --endpoint too, or drop it")
    if request.token_budget is not None and request.engine != "torch":
        raise SawyerError("--token-budget is for --engine torch, and vLLM fits its memory by itself; drop it")


def fingerprint(request: Request, prompts: PromptFile) -> str:
    """A hash of all that the completions depend on."""
    asked = {
        "version": __version__,
        "prompts": [list(prompt.prompt) for prompt in prompts.prompts],
        "n": request.n,
        "seed": request.seed,
        "sampling": request.sampling.model_dump(mode="json"),
        "best_of": request.best_of,
        "by": _chooser(request, prompts),
    }
    if request.api is not None:
        api = request.api
        sent = {"vendor_options", "send_seed", "length_name", "logprobs"}
        return digest({**asked, "model": request.model, "endpoint": api.endpoint, **api.model_dump(include=sent)})
    torch = request.engine == "torch"
    return digest(
        {
            **asked,
            "model": content_of(request.model),
            "engine": request.engine,
            "precision": request.precision or (PRECISION if torch else None),
            "batch": request.batch or BATCH,
            "token_budget": request.token_budget or (TOKEN_BUDGET if torch else None),
            "chat_template": request.chat_template,
            **({} if request.attributes is None else {"attributes": dict(request.attributes)}),
        }
    )


def _chooser(request: Request, prompts: PromptFile) -> object:
    if request.by is None:
        return None
    if request.by == GOLD:
        return [[prompt.info.get("constraints"), prompt.info.get("topic")] for prompt in prompts.prompts]
    return [content_of(request.by), request.precision]


def content_of(model: str) -> str:
    """What a local model is: the hash of its files; of one on the hub its name."""
    from sawyer.models.locate import resolve

    place = resolve(model)
    return path_sha256(Path(place)) if Path(place).exists() else place
