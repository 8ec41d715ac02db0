"""PPO as one writes it with transformers alone: `generate()`, padded batches, a loop.

The peer of `benchmarks.ppo` where there is no TRL with a PPO trainer. With given rollouts it is the plain reference.

Policy and value model are two models in float32, trained together by one AdamW (fused); reference and reward model are
frozen. In bf16 the two that are trained compute under autocast, the frozen ones are bf16. Logits are computed at the
response's positions only (`logits_to_keep`), rewards and values without a key-value cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.work import Row

GAMMA, LAMBDA, CLIP, VALUE_CLIP, VALUE_COEFFICIENT = 1.0, 0.95, 0.2, 0.2, 0.1
"""TRL's defaults."""


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Update as `job` says and return what it took and what came out; see `ppo.py` for both."""
    loop = _Loop(job, rows)
    with torch.autocast("cpu", torch.bfloat16) if job["precision"] == "bf16" else contextlib.nullcontext():
        for _ in range(job["updates"]):
            loop.update()
    return {
        "update_seconds": loop.seconds,
        "rollout_seconds": loop.rollout_seconds,
        "response_tokens": loop.response_tokens,
        **({"values": loop.advantages, "losses": loop.losses, "grad_norms": loop.norms} if job["given"] else {}),
    }


class _Loop:
    """Shapes: B completions, their Q positions of left-padded prompts, their R response tokens."""

    def __init__(self, job: dict[str, Any], rows: Sequence[Row]) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        frozen = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
        self.job = job
        self.policy: Any = AutoModelForCausalLM.from_pretrained(job["policy"], dtype=torch.float32)
        self.reference: Any = AutoModelForCausalLM.from_pretrained(job["reference"], dtype=frozen)
        self.value: Any = AutoModelForSequenceClassification.from_pretrained(job["reward"], dtype=torch.float32)
        self.reward: Any = AutoModelForSequenceClassification.from_pretrained(job["reward"], dtype=frozen)
        for model in (self.policy, self.reference, self.value, self.reward):
            model.eval()  # no dropout, on either side
        weights = [*self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=job["learning_rate"], weight_decay=0.0, fused=True)
        prompts = [row["prompt"] for row in rows for _ in range(job["n"])]
        width = max(map(len, prompts))
        self.query_B_Q = torch.tensor([[job["pad_id"]] * (width - len(own)) + list(own) for own in prompts])
        self.given_B_R = torch.tensor([ids for row in rows for ids in row["completions"]]) if job["given"] else None
        self.seconds: list[float] = []
        self.rollout_seconds: list[float] = []
        self.response_tokens: list[int] = []
        self.advantages: list[list[float]] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        torch.manual_seed(job["seed"])

    def update(self) -> None:
        """Rollout, scores, values, advantages, and the epochs on them."""
        began = time.perf_counter()
        response_B_R = self._rollouts() if self.given_B_R is None else self.given_B_R
        self.rollout_seconds.append(time.perf_counter() - began)
        self.response_tokens.append(response_B_R.numel())
        ids_B_T = torch.cat((self.query_B_Q, response_B_R), dim=1)
        with torch.no_grad():
            parts = [self._scored(part, response_B_R.shape[1]) for part in ids_B_T.split(self.job["micro_batch"])]
        logp_B_R, reference_B_R, value_B_R, score_B = (torch.cat(part) for part in zip(*parts, strict=True))
        reward_B_R = -self.job["kl"] * (logp_B_R - reference_B_R)
        reward_B_R[:, -1] += score_B
        advantage_B_R = _gae(reward_B_R, value_B_R)
        return_B_R = advantage_B_R + value_B_R
        advantage_B_R = (advantage_B_R - advantage_B_R.mean()) * (advantage_B_R.var() + 1e-8).rsqrt()
        self.advantages = advantage_B_R.tolist()
        for _ in range(self.job["epochs"]):
            self._epoch(ids_B_T, logp_B_R, value_B_R, advantage_B_R, return_B_R)
        self.seconds.append(time.perf_counter() - began)

    @torch.no_grad()
    def _rollouts(self) -> torch.Tensor:
        tokens, pad_id = self.job["tokens"], self.job["pad_id"]
        out = self.policy.generate(
            self.query_B_Q, attention_mask=(self.query_B_Q != pad_id).long(), do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=pad_id,
            suppress_tokens=self.job["never"],
        )  # fmt: skip
        return out[:, self.query_B_Q.shape[1] :]

    def _scored(self, ids_B_T: torch.Tensor, length: int) -> tuple[torch.Tensor, ...]:
        inputs = self._inputs(ids_B_T)
        score_B_T = self.reward.score(self.reward.base_model(**inputs).last_hidden_state)[..., 0]
        return (
            self._logp(self.policy, ids_B_T, length),
            self._logp(self.reference, ids_B_T, length),
            self._values(ids_B_T, length),
            score_B_T[:, -1].float(),
        )

    def _epoch(
        self,
        ids_B_T: torch.Tensor,
        old_logp_B_R: torch.Tensor,
        old_value_B_R: torch.Tensor,
        advantage_B_R: torch.Tensor,
        return_B_R: torch.Tensor,
    ) -> None:
        size, length = self.job["micro_batch"], return_B_R.shape[1]
        tensors = (ids_B_T, old_logp_B_R, old_value_B_R, advantage_B_R, return_B_R)
        total = 0.0
        for ids, old_logp, old_value, advantage, target in zip(*(t.split(size) for t in tensors), strict=True):
            ratio = (self._logp(self.policy, ids, length) - old_logp).exp()
            policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
            value = self._values(ids, length)
            clipped = value.clamp(old_value - VALUE_CLIP, old_value + VALUE_CLIP)
            value_loss = 0.5 * torch.max((value - target) ** 2, (clipped - target) ** 2).mean()
            loss = (policy_loss + VALUE_COEFFICIENT * value_loss) * len(ids) / len(ids_B_T)
            loss.backward()
            total += float(loss.detach())
        self.losses.append(total)
        if self.job["given"]:
            weights = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in weights])))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _inputs(self, ids_B_T: torch.Tensor) -> dict[str, Any]:
        mask_B_T = ids_B_T != self.job["pad_id"]
        mask_B_T[:, self.query_B_Q.shape[1] :] = True
        positions = (mask_B_T.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids_B_T, "attention_mask": mask_B_T.long(), "position_ids": positions, "use_cache": False}

    def _logp(self, model: Any, ids_B_T: torch.Tensor, length: int) -> torch.Tensor:
        logits = model(**self._inputs(ids_B_T), logits_to_keep=length + 1).logits[:, :-1].float()
        response = ids_B_T[:, -length:, None]
        return logits.gather(-1, response)[..., 0] - logits.logsumexp(-1)

    def _values(self, ids_B_T: torch.Tensor, length: int) -> torch.Tensor:
        hidden = self.value.base_model(**self._inputs(ids_B_T)).last_hidden_state
        return self.value.score(hidden[:, -length - 1 : -1])[..., 0].float()


def _gae(reward_B_R: torch.Tensor, value_B_R: torch.Tensor) -> torch.Tensor:
    """Generalised advantage estimates, backwards from the last token (Schulman et al. 2016, equation 16)."""
    advantages = []
    following, ahead = torch.zeros(len(reward_B_R)), torch.zeros(len(reward_B_R))
    for t in reversed(range(reward_B_R.shape[1])):
        following = reward_B_R[:, t] + GAMMA * ahead - value_B_R[:, t] + GAMMA * LAMBDA * following
        ahead = value_B_R[:, t]
        advantages.append(following)
    return torch.stack(advantages[::-1], dim=1)
