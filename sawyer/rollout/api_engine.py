"""Generation by a model behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, llama.cpp, Ollama and many others.

Every completion is a request of its own, so that each can be cached, repeated and given up alone, and because many
endpoints know no `n`. The prompt is then billed once for each of its samples; most vendors discount a repeated one.

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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.api_cache import AnswerCache
from sawyer.rollout.api_calls import (
    Filtered,
    Reply,
    Unreadable,
    estimated_tokens,
    read_reply,
    request_body,
    sampling_fields,
)
from sawyer.rollout.api_ledger import Ledger
from sawyer.rollout.api_pace import LONGEST_WAIT, Pace, backoff
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Completion, Sampling

if TYPE_CHECKING:
    import torch
    from openai import AsyncOpenAI

    from sawyer.rollout.api_trouble import Trouble

Sleep = Callable[[float], Awaitable[None]]
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass
class _Job:
    """One question, and the completions (prompt, sample) that its answer is for: equal prompts are asked once."""

    body: dict[str, Any]
    question: dict[str, Any]
    places: list[tuple[int, int]] = field(default_factory=list)


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
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            model: what the endpoint calls it.
            cache: folder of answers that are not asked for again; it may serve many models and endpoints.
            sleep, clock: how time passes.

        Raises:
            SawyerError: the endpoint is no base URL, or the key's variable no name of one.
        """
        self.model = model
        self.settings = settings or ApiSettings()
        self.endpoint = checked_endpoint(self.settings.endpoint)
        if not _VARIABLE.fullmatch(self.settings.key_variable):  # it may be the key itself, so it is not repeated here
            raise SawyerError(
                "key_variable must be the name of an environment variable, in capitals such as OPENAI_API_KEY, and "
                "never the key itself"
            )
        self.ledger = Ledger(self.settings.price_in, self.settings.price_out)
        self._cache = AnswerCache(cache) if cache is not None else None
        self._sleep = sleep
        self._pace = Pace(self.settings.requests_per_minute, self.settings.tokens_per_minute, sleep=sleep, clock=clock)

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

        Rate limits, server errors, timeouts and unreadable replies are asked again, `retries` times.

        Raises:
            SawyerError: n is not positive; the sampling settings contradict each other or cannot be asked of an
                endpoint; the endpoint refuses the key or the model, or cannot be reached. Without `keep_failed` also: a
                prompt is empty or refused, or its answer kept back or not readable.
        """
        from sawyer.rollout.sampling import check_sampling

        check_sampling(sampling, n)
        completions: list[list[Completion]] = [[Completion.failed("the prompt is empty")] * n for _ in prompts]
        jobs = self._jobs(prompts, sampling_fields(sampling, self.settings), n, seed)
        empty = next((index for index, prompt in enumerate(prompts) if not prompt.text.strip()), None)
        if empty is not None and not keep_failed:
            raise SawyerError(f"prompt {empty} is empty")
        key = self._key()

        async def work(client: AsyncOpenAI, waiting: Iterator[_Job]) -> None:
            for job in waiting:
                answer, new = await self._answer(client, job, key)
                if isinstance(answer, str) and not keep_failed:
                    raise SawyerError(f"prompt {job.places[0][0]}: {answer}")
                for prompt, sample in job.places:
                    completions[prompt][sample] = _completion(answer)
                if new and progress is not None:
                    progress(new)

        async def work_all() -> None:
            waiting = iter(jobs)
            async with self._client(key) as client:
                tasks = [
                    asyncio.ensure_future(work(client, waiting))
                    for _ in range(min(self.settings.concurrency, len(jobs)))
                ]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

        if jobs:
            _run(work_all)
        return completions

    def _jobs(self, prompts: Sequence[Prompt], fields: Mapping[str, Any], n: int, seed: int) -> list[_Job]:
        jobs: dict[str, _Job] = {}
        for index, prompt in enumerate(prompts):
            if not prompt.text.strip():
                continue
            for sample in range(n):
                body = request_body(self.model, prompt, fields, self.settings, seed, sample)
                question = {"endpoint": self.endpoint, "request": body, "seed": seed, "sample": sample}
                job = jobs.setdefault(json.dumps(question), _Job(body, question))
                job.places.append((index, sample))
        return list(jobs.values())

    async def _answer(self, client: AsyncOpenAI, job: _Job, key: str) -> tuple[Reply | str, int]:
        """The answer to a question, or why there is none; and how many tokens were generated for it just now."""
        known = self._cache.find(job.question) if self._cache is not None else None
        if known is not None:
            self.ledger.add(cached=1)
            return known, 0
        reply = await self._ask_until_answered(client, job.body, key)
        if isinstance(reply, str):
            self.ledger.add(failed=1)
            return reply, 0
        self.ledger.count(reply)
        if self._cache is not None:
            self._cache.store(job.question, reply)
        return reply, reply.tokens_out or len(reply.logps)

    async def _ask_until_answered(self, client: AsyncOpenAI, body: Mapping[str, Any], key: str) -> Reply | str:
        """A reply, or why this prompt has none.

        Raises:
            SawyerError: nothing gets through.
        """
        from sawyer.rollout.api_trouble import Then

        attempt = 0
        while True:
            sent = await self._pace.admit(estimated_tokens(body))
            outcome = await self._ask(client, body, key)
            attempt += 1
            if isinstance(outcome, Reply):
                if outcome.tokens_in is not None and outcome.tokens_out is not None:
                    sent.tokens = outcome.tokens_in + outcome.tokens_out
                return outcome
            again = outcome.then in (Then.RETRY_OR_STOP, Then.RETRY_OR_FAIL)
            times = f", {attempt} times in a row" if again and attempt > 1 else ""
            if again and attempt <= self.settings.retries:
                wait = backoff(attempt, outcome.retry_after)
                if wait <= LONGEST_WAIT:
                    self.ledger.add(retries=1)
                    if outcome.retry_after is not None:
                        self._pace.hold(wait)
                    await self._sleep(wait)
                    continue
                times = f" and asks to wait {wait:.0f} s"
            if outcome.then in (Then.FAIL, Then.RETRY_OR_FAIL):
                return f"{outcome.what}{times}; {outcome.mend}"
            raise SawyerError(f"{self.endpoint} {outcome.what}{times}; {outcome.mend}")

    async def _ask(self, client: AsyncOpenAI, body: Mapping[str, Any], key: str) -> Reply | Trouble:
        """Send a request once. What goes wrong is returned and not raised: the client's errors hold the headers."""
        import openai

        from sawyer.rollout.api_trouble import filtered, not_text, timed_out, trouble_of, unreadable

        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        seconds = self.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                response = await client.chat.completions.with_raw_response.create(
                    model=body["model"],
                    messages=body["messages"],
                    extra_body=rest,
                    extra_headers=None if key else {"Authorization": openai.omit},
                )
            return read_reply(response.http_response.text)
        except TimeoutError:
            return timed_out(seconds)
        except Unreadable as error:
            return unreadable(str(error))
        except Filtered:
            return filtered()
        except UnicodeEncodeError:
            return not_text()
        except openai.OpenAIError as error:
            return trouble_of(
                error,
                model=self.model,
                key=self.settings.key_variable,
                has_key=bool(key),
                seconds=seconds,
                hide=lambda text: text.replace(key, "***") if key else text,
            )

    def _client(self, key: str) -> AsyncOpenAI:
        """A client for one event loop. It retries nothing by itself: that is counted and paced here."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=key or "none",
            base_url=self.endpoint,
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


def _completion(answer: Reply | str) -> Completion:
    if isinstance(answer, str):
        return Completion.failed(answer)
    return Completion((), answer.logps, answer.text, answer.finished)


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
