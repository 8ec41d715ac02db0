"""Generation by a model behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, llama.cpp, Ollama and many others.

Every completion is a request of its own, so that each can be cached, repeated and given up alone (`api_session`), and
because many endpoints know no `n`. The prompt is then billed once for each of its samples; most vendors discount a
repeated one.

What is exact and what is not:

- **No tokens.** The API answers in text, so `Completion.ids` is empty. What needs the sampled tokens (PPO, exact KL)
  needs a local engine.
- **Log-probs** are what the endpoint returns, with `ApiSettings.logprobs`, and `()` where it returns none. Mostly they
  are those of the model itself: before temperature, top-p and penalties (OpenAI does not say; vLLM's default is
  `raw_logprobs`). They are log-probs of what was drawn only at temperature 1 without any filter; the end token may be
  missing, and some endpoints round, or write -9999 for anything unlikely.
- **Repeatability** is what the endpoint makes of `seed`: a promise to try, at best. The same seed, prompt and sample
  number send the same request; only the cache makes its answer the same.
- **`finished`** is false where the endpoint says that the answer was cut, or does not say why it ended.

The key is read from the environment at each call, goes into one header and nowhere else, and is blotted out of what the
endpoint says before that becomes part of an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.api_cache import AnswerCache
from sawyer.rollout.api_calls import Reply, request_body, sampling_fields
from sawyer.rollout.api_ledger import Ledger
from sawyer.rollout.api_pace import Pace
from sawyer.rollout.api_session import Endpoint, GivenUp, Job, Session
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Completion, Sampling

if TYPE_CHECKING:
    import torch
    from openai import AsyncOpenAI

Sleep = Callable[[float], Awaitable[None]]
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class ApiEngine:
    """The `Engine` on a remote model.

    Attributes:
        ledger: requests, tokens and cost since the engine was made.
    """

    def __init__(
        self,
        model: str,
        settings: ApiSettings | None = None,
        *,
        cache: Path | None = None,
        tops: int = 0,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            model: what the endpoint calls it.
            cache: folder of answers that are not asked for again; it may serve many models and endpoints.
            tops: how many likeliest alternatives to each token to ask for (`Completion.tops`); endpoints give up to 20.
            sleep, clock: how time passes.

        Raises:
            SawyerError: the endpoint is no base URL, or the key's variable no name of one.
        """
        self.model, self.tops = model, tops
        self.settings = settings = settings or ApiSettings()
        url = checked_endpoint(settings.endpoint)
        if not _VARIABLE.fullmatch(self.settings.key_variable):  # it may be the key itself, so it is not repeated here
            raise SawyerError(
                "key_variable must be the name of an environment variable, in capitals such as OPENAI_API_KEY, and "
                "never the key itself"
            )
        self.ledger = Ledger(settings.price_in, settings.price_out)
        pace = Pace(settings.requests_per_minute, settings.tokens_per_minute, sleep=sleep, clock=clock)
        answers = AnswerCache(cache) if cache is not None else None
        self._endpoint = Endpoint(url, model, settings, self.ledger, pace, answers, sleep, clock)

    def load(self, weights: Mapping[str, torch.Tensor]) -> NoReturn:
        """Weights behind an endpoint cannot be set.

        Raises:
            SawyerError: always.
        """
        raise SawyerError(f"{self.model} is behind an endpoint, its weights cannot be set; train with a local model")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt, in order. See `Engine.generate`.

        Server errors, timeouts, dropped connections and unreadable replies are asked again, `retries` times; rate
        limits for as long as anything gets through, and two minutes more. A prompt that none of this helps is given up
        alone if the endpoint answers others.

        `progress` is called for each answer, with 0 where it came from the cache or there is none.

        What is under way when an error stops everything is waited for, where there is a cache to keep it.

        Raises:
            SawyerError: n is not positive; the sampling settings contradict each other or cannot be asked of an
                endpoint; the endpoint refuses the key or the model, cannot be reached, or answers nobody. Without
                `keep_failed` also: a prompt is empty, refused or given up, or its answer kept back.
        """
        from sawyer.rollout.sampling import check_sampling

        check_sampling(sampling, n)
        completions: list[list[Completion]] = [[Completion.failed("the prompt is empty")] * n for _ in prompts]
        jobs = self._jobs(prompts, sampling_fields(sampling, self.settings), n, seed)
        empty = next((index for index, prompt in enumerate(prompts) if not prompt.text.strip()), None)
        if empty is not None and not keep_failed:
            raise SawyerError(f"prompt {empty} is empty")
        key = self._key()

        async def work(session: Session, waiting: Iterator[Job]) -> None:
            for job in waiting:
                answer, new = await session.answer(job)
                if isinstance(answer, GivenUp) and not keep_failed:
                    raise SawyerError(f"prompt {job.places[0][0]}: {answer.reason}")
                for prompt, sample in job.places:
                    completions[prompt][sample] = _completion(answer)
                if progress is not None:
                    progress(new)

        async def work_all() -> None:
            waiting = iter(jobs)
            async with self._client(key) as client:
                session = Session(self._endpoint, client, key, jobs)
                count = min(self.settings.concurrency, len(jobs))
                tasks = [asyncio.ensure_future(work(session, waiting)) for _ in range(count)]
                try:
                    await asyncio.gather(*tasks)
                except SawyerError:
                    await _cancelled(tasks)
                    await session.finish()
                    raise
                finally:
                    await _cancelled([*tasks, *session.in_flight])

        if jobs:
            _run(work_all)
        return completions

    def _jobs(self, prompts: Sequence[Prompt], fields: Mapping[str, Any], n: int, seed: int) -> list[Job]:
        jobs: dict[str, Job] = {}
        for index, prompt in enumerate(prompts):
            if not prompt.text.strip():
                continue
            for sample in range(n):
                body = request_body(self.model, prompt, fields, self.settings, seed, sample, self.tops)
                question = {"endpoint": self._endpoint.url, "request": body, "seed": seed, "sample": sample}
                job = jobs.setdefault(json.dumps(question), Job(body, question))
                job.places.append((index, sample))
        return list(jobs.values())

    def _client(self, key: str) -> AsyncOpenAI:
        """A client for one event loop. It retries nothing by itself: that is counted and paced here."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=key or "none",
            base_url=self._endpoint.url,
            max_retries=0,
            timeout=self.settings.timeout,
        )

    def _key(self) -> str:
        key = os.environ.get(self.settings.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise SawyerError(f"the key in {self.settings.key_variable} holds characters that no key has; set it again")
        return key


def checked_endpoint(url: str) -> str:
    """A base URL without its last slash.

    Raises:
        SawyerError: it is no http(s) URL, goes on after the base, or holds a password or a query (where keys hide).
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SawyerError(
            "the endpoint's URL holds a password or a query; give its base only, and keys by an environment variable"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise SawyerError(f"the endpoint {url!r} is not a URL; give one such as http://localhost:8000/v1")
    base = url.rstrip("/")
    if base.endswith("/completions"):
        raise SawyerError(f"give the endpoint's base URL, which ends before /chat/completions, not {url}")
    return base


def _completion(answer: Reply | GivenUp) -> Completion:
    if isinstance(answer, GivenUp):
        return Completion.failed(answer.reason, again=answer.again)
    return Completion((), answer.logps, answer.text, answer.finished, tops=answer.tops)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and come back when all have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _run(work: Callable[[], Any]) -> None:
    """Run a coroutine to its end; in a thread of its own where this one has an event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
        nested = True
    except RuntimeError:
        nested = False
    if not nested:
        asyncio.run(work())
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()
