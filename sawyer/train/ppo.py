"""Reinforcement learning from feedback: PPO and its relatives, which differ in how they estimate an advantage.

    for step = 1 .. T:
        answer the next prompts n times each with the policy as it is, and score the answers
        log-probs of policy and reference, and values, of every token, in packed passes
        rewards of tokens: the score on the last one, less beta KL(pi || ref) along the way
        advantages, whitened over the whole batch
        epochs x mini-batches: one update each, on min(rho A, clip(rho) A), the value loss, KL and entropy
        now and then: held-out prompts, and the best policy so far is kept

A mini-batch is whole prompts with all their completions, packed into trees, so that a prompt is computed once for its
completions and nothing is padded. Its loss is a mean over the mini-batch whatever the packing. Log-probs of the rollout
are computed by the trainer and not taken from the engine, so that ratios start at 1 to rounding. Where the answers are
not draws of the policy as it is (`sampling` that cuts off, or answers of one step before), each token counts by the
ratio of the two, w = pi / mu with the engine's mu, so that w rho is the ratio of the policy in training to what drew.

Shapes: N tokens of completions, C completions, end to end and prompt after prompt.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sawyer.errors import SawyerError
from sawyer.journal import Journal
from sawyer.losses import kl, policy
from sawyer.methods.advantages import advantages, returns, token_rewards, whiten
from sawyer.train.checkpoints import Checkpoints, Companion
from sawyer.train.loop import Trained, update
from sawyer.train.optim import MasterWeights, learning_rate
from sawyer.train.ppo_batch import Batch, Rollout, carrying, clipped_objective, mini_batches, weighted, whitened
from sawyer.train.ppo_settings import PPOSettings
from sawyer.train.ppo_state import Memory, Snapshots
from sawyer.trees.actor import ActorCritic, read_tokens
from sawyer.trees.tree import TokenTree, TreeBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

FAR = {"fp32": 1e-3, "bf16": 0.05}
"""Nats a token: a mean log-ratio to the reference of more than this, before the first update, says that the policy does
not start from it."""
MOST_CONSTANT = 3
"""After so many steps in a row in which all completions earned the same, training stops."""

Reference = Callable[[Sequence[TokenTree]], torch.Tensor]
"""Log-probs `[N]` of trees' tokens under the frozen reference."""


class Environment(Protocol):
    """What a policy is trained in. The same step and weights must give the same rollout, or a continuation is another
    training."""

    def roll_out(self, step: int) -> Rollout:
        """Answers to the prompts of step `step` (from 0)."""
        ...

    def validate(self, step: int) -> Rollout:
        """Answers to held-out prompts after `step` steps."""
        ...

    def went_back(self) -> None:
        """The policy is an earlier one again: whatever was begun by the one that it left is of no use."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What is remembered from step to step, as JSON."""
        ...

    def load(self, state: Mapping[str, Any]) -> None: ...


def train(
    actor: ActorCritic,
    reference: Reference,
    environment: Environment,
    settings: PPOSettings,
    *,
    max_tokens: int,
    precision: str,
    seed: int,
    journal: Journal,
    title: str,
    scratch: Path,
    accelerator: Accelerator | None = None,
    companions: Sequence[Companion] = (),
) -> Trained:
    """Train `actor` in place; afterwards it holds the best policy by held-out reward, within the KL's ceiling, or with
    `keep: last` the last one.

    Args:
        max_tokens: the longest completion, for `average: constant`.
        scratch: where checkpoints and the best policy go; what is found there is continued, to the bit-same result.
        accelerator: splits the rows of an update over its processes.
        companions: whose state checkpoints hold, beside that of the training.

    Returns:
        the float32 weights of that policy, and the figures of the last tenth of the steps and of its validation.

    Raises:
        SawyerError: a reward or the loss is not a number, or every completion earns the same step after step; the last
            checkpoint is kept.
    """
    torch.manual_seed(seed)
    weights = MasterWeights(actor, settings, precision, apart=ActorCritic.is_critic)
    if settings.gradient_checkpointing:
        actor.checkpoint_activations()
    checkpoints = Checkpoints(
        scratch,
        settings.checkpoint_every,
        writes=accelerator is None or accelerator.is_main_process,
        companions=companions,
    )
    snapshots = Snapshots(scratch, accelerator)
    memory = Memory(settings)
    first, recorded = checkpoints.resume(weights, journal)
    if first:
        memory.load(checkpoints.carried["memory"])
        environment.load(checkpoints.carried["environment"])
    recent: deque[dict[str, float]] = deque(recorded, maxlen=max(1, settings.steps // 10))

    def validate(step: int) -> None:
        seen = read(actor, reference, environment.validate(step), settings)
        _refuse_nan(seen.rollout, step, title, checkpoints)
        if step == 0 and abs(seen.log_ratio) > FAR[precision]:
            journal.say(
                f"{title}: before the first update the policy's log-probs are {seen.log_ratio:+.3f} nats a token from "
                "those of its reference, which is another model: the KL is measured to that one"
            )
        figures = {"reward": float(seen.rollout.reward_C.mean()), "kl": seen.kl, **seen.rollout.figures}
        journal.log(step=step, **{f"validation_{name}": value for name, value in figures.items()})
        if memory.saw(step, figures):
            snapshots.save(step, weights)

    with journal.progress(settings.steps, title, unit="step", start=first) as bar:
        if first == 0:
            validate(0)
        for step in range(first, settings.steps):
            beta = memory.control.begin(step)
            batch = read(actor, reference, environment.roll_out(step), settings)
            _refuse_nan(batch.rollout, step, title, checkpoints)
            figures = {
                "reward": float(batch.rollout.reward_C.mean()), **batch.rollout.figures,
                "kl": batch.kl, "kl_coefficient": beta, "entropy": batch.entropy,
            }  # fmt: skip
            if memory.is_constant(batch.rollout.reward_C):
                _refuse_constant(batch.rollout, memory, step, title, checkpoints, journal)
            else:
                advantage_N, return_N = estimate(batch, settings, beta, memory)
                figures |= learn(
                    actor, batch, advantage_N, return_N, settings, weights, step=step, beta=beta, seed=seed,
                    max_tokens=max_tokens, accelerator=accelerator, kept=checkpoints.kept, title=title,
                )  # fmt: skip
            memory.control.after(batch.kl)
            recent.append({name: value for name, value in figures.items() if name != "tokens_per_second"})
            journal.log(step=step + 1, **figures)
            bar.advance(reward=figures["reward"], kl=batch.kl)
            if (reason := memory.collapsed(figures, step + 1, journal)) is not None and memory.stopped is None:
                snapshots.restore(memory.best["step"], weights)
                weights.optimizer.state.clear()
                memory.control.tighten()
                environment.went_back()
                journal.say(f"{title}: back to step {memory.best['step']} with twice the KL coefficient: {reason}")
            last = step + 1 == settings.steps or memory.stopped is not None
            if last or (settings.validate_every and (step + 1) % settings.validate_every == 0):
                validate(step + 1)
            if last:
                break
            carried = {"memory": memory.state(), "environment": environment.state()}
            if checkpoints.after(step + 1, weights, journal, list(recent), carried):
                snapshots.keep_only(memory.best["step"])
    if settings.keep == "best":
        snapshots.restore(memory.best["step"], weights)
    weights.release()
    actor.eval()
    means = {n: sum(f[n] for f in recent) / len(recent) for n in recent[-1] if all(n in f for f in recent)}
    return Trained(weights, {**means, **memory.figures(step + 1)})


def read(actor: ActorCritic, reference: Reference, rollout: Rollout, settings: PPOSettings) -> Batch:
    """What the models say of a rollout's tokens."""
    actor.check_context(rollout.trees)
    actor.eval()

    def own(batch: TreeBatch) -> tuple[torch.Tensor | None, ...]:
        seen = actor.read(batch)
        return seen.logp_N, seen.value_N

    logp_N, value_N = read_tokens(own, rollout.trees, settings.token_budget, actor.device)
    assert logp_N is not None
    lengths = [len(completion) for tree in rollout.trees for completion in tree.completions]
    counts = torch.tensor([len(tree.completions) for tree in rollout.trees])
    return Batch(
        rollout,
        torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        torch.arange(len(counts)).repeat_interleave(counts),
        logp_N,
        reference(rollout.trees),
        value_N,
        torch.ones_like(logp_N)
        if rollout.own
        else policy.importance_weights(logp_N, rollout.drawn_logp_N, cap=settings.importance_cap),
    )


def estimate(
    batch: Batch, settings: PPOSettings, beta: float, memory: Memory
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`[N]` advantages, and with values `[N]` what those should have been."""
    reward_C = batch.rollout.reward_C
    kl_N = None
    if settings.kl_as == "reward" and beta > 0:
        kl_N = kl.ESTIMATORS[settings.kl_estimator](batch.logp_N, batch.reference_logp_N)
    reward_N = token_rewards(reward_C, batch.completion_index_N, kl_N, beta)
    return_C = returns(reward_N, batch.completion_index_N, len(reward_C))
    expected = memory.expected.mean if memory.expected.count else float(return_C.mean())
    memory.expected.add(return_C.tolist())
    advantage_N = advantages(
        settings.estimator, reward_N, batch.completion_index_N, batch.tree_index_C, value_N=batch.value_N,
        baseline=expected, gamma=settings.gamma, gae_lambda=settings.gae_lambda,
    )  # fmt: skip
    return_N = None if batch.value_N is None else advantage_N + batch.value_N
    return whiten(advantage_N) if settings.whitened is True else advantage_N, return_N


def learn(
    actor: ActorCritic,
    batch: Batch,
    advantage_N: torch.Tensor,
    return_N: torch.Tensor | None,
    settings: PPOSettings,
    weights: MasterWeights,
    *,
    step: int,
    beta: float,
    seed: int,
    max_tokens: int,
    accelerator: Accelerator | None,
    kept: Callable[[], str],
    title: str,
) -> dict[str, float]:
    """Epochs x mini-batches over one rollout: the figures, means over the updates."""
    warming = step < settings.value.warmup and batch.value_N is not None
    objective = clipped_objective(settings, beta, warming=warming)
    trees = carrying(batch, advantage_N, return_N)
    per_step = settings.epochs * settings.mini_batches
    means: dict[str, float] = {}
    parts = list(mini_batches(len(trees), settings, seed, step))
    began = time.perf_counter()
    actor.train()
    for number, part in enumerate(parts):
        done = step * per_step + number
        rate = learning_rate(done, settings.optimiser_steps, settings)
        apart = None if settings.value.rate is None else settings.value.rate * rate / settings.learning_rate
        some = weighted([trees[i] for i in part], settings.averaged, max_tokens)
        if settings.whitened == "mini_batch":
            some = whitened(some)
        told, norm = update(actor, some, objective, weights, 0.0 if warming else rate, accelerator, apart or rate)
        if not math.isfinite(told["loss"]) or not math.isfinite(norm):
            raise SawyerError(
                f"{title}: the loss is not a number in step {step + 1} of {settings.steps}; lower `learning_rate` (now "
                f"{settings.learning_rate:g}) or raise `kl.coefficient`; {kept()}"
            )
        for name, value in {**told, "grad_norm": norm}.items():
            means[name] = means.get(name, 0.0) + value / len(parts)
    actor.eval()
    if return_N is not None and batch.value_N is not None:
        means["explained_variance"] = policy.explained_variance(batch.value_N, return_N)
    if batch.rollout.own:
        means["engine_gap"] = float((batch.logp_N - batch.rollout.drawn_logp_N).abs().mean())
    else:
        means["importance"] = float(batch.weight_N.mean())
    tokens = settings.epochs * sum(tree.tokens for tree in trees)
    return {
        **means, "learning_rate": 0.0 if warming else rate, "tokens": tokens,
        "tokens_per_second": tokens / (time.perf_counter() - began),
    }  # fmt: skip


def _refuse_nan(rollout: Rollout, step: int, title: str, checkpoints: Checkpoints) -> None:
    bad = int((~torch.isfinite(rollout.reward_C)).sum())
    if bad:
        raise SawyerError(
            f"{title}: the reward of {bad} of {len(rollout.reward_C)} completions after {step} steps is not a number; "
            f"look at the reward model, or score in fp32; {checkpoints.kept()}"
        )


def _refuse_constant(
    rollout: Rollout, memory: Memory, step: int, title: str, checkpoints: Checkpoints, journal: Journal
) -> None:
    said = f"all {len(rollout.reward_C)} completions of step {step + 1} earned {float(rollout.reward_C[0]):g}"
    if memory.constant >= MOST_CONSTANT:
        raise SawyerError(
            f"{title}: {said}, as in the {MOST_CONSTANT - 1} steps before, so there is nothing to learn; give a reward "
            f"that tells answers apart, or raise `n` or `batch_size`; {checkpoints.kept()}"
        )
    journal.say(f"{title}: {said}; nothing is learned from it")
