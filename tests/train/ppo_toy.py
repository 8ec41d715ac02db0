"""A world to reinforce a policy in, without an engine; and a short training in it that can be run as a program, killed
and run again (`resumable` splits it over processes).

    python -m tests.train.ppo_toy FOLDER [--steps N]

It keeps checkpoints in FOLDER/scratch, its log in FOLDER/metrics.jsonl, and ends with FOLDER/weights.safetensors.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from sawyer.train import ppo
from sawyer.train.ppo_settings import PPOSettings
from sawyer.trees.actor import ActorCritic, read_tokens
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch
from tests.train import resumable

PROMPTS = [[10, 11, 12], [40, 41], [60], [30, 33, 35, 37]]


class Toy:
    """Answers of two to six tokens, drawn by plain passes; the reward is the share of tokens of the vocabulary's lower
    half, or what `reward` says of a completion; with `turns`, (step, reward), from that step on."""

    def __init__(self, actor, seed=0, reward=None, n=4, temperature=1.0, turns=None):
        self.actor, self.seed, self.n, self.temperature = actor, seed, n, temperature
        half = actor.core.config.vocab_size // 2
        self.reward = reward or (lambda ids: sum(i < half for i in ids) / len(ids))
        self.turns = turns
        self.calls = []

    @torch.no_grad()
    def answer(self, stream, n):
        self.actor.eval()
        g = torch.Generator().manual_seed(self.seed * 1000 + stream)
        trees = [self.tree(prompt, n, g) for prompt in PROMPTS]
        drawn = torch.cat([drawn for _, drawn in trees])
        flat = [ids for tree, _ in trees for ids in tree.completions]
        rewards = torch.tensor([self.reward(ids) for ids in flat])
        figures = {"completion_tokens": 4.0, "finished": 1.0, "distinct_2": 1.0}
        return ppo.Rollout([tree for tree, _ in trees], rewards, drawn, self.temperature == 1, figures)

    def tree(self, prompt, n, g):
        """A prompt with n answers, all drawn at once, one token after another; and the log-probs of what was drawn."""
        longest = 6
        tokens, logps = [[] for _ in range(n)], [[] for _ in range(n)]
        for _ in range(longest):
            batch = TreeBatch.of([TokenTree(prompt, [[*ids, 0] for ids in tokens])])
            last = [len(prompt) - 1] * n if not tokens[0] else (batch.last_index - 1).tolist()
            logits = self.actor.core.get_output_embeddings()(self.actor.hidden(batch)[last]).float() / self.temperature
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=g)
            for k, (token, logp) in enumerate(
                zip(drawn[:, 0].tolist(), logits.log_softmax(-1).gather(1, drawn)[:, 0].tolist(), strict=True)
            ):
                tokens[k].append(token)
                logps[k].append(logp)
        lengths = [2 + (k + len(prompt)) % 5 for k in range(n)]
        cut = [ids[:length] for ids, length in zip(tokens, lengths, strict=True)]
        return TokenTree(prompt, cut), torch.tensor(
            [logp for own, length in zip(logps, lengths, strict=True) for logp in own[:length]]
        )

    def roll_out(self, step):
        self.calls.append(step)
        if self.turns is not None and step >= self.turns[0]:
            self.reward = self.turns[1]
        return self.answer(step, self.n)

    def validate(self, step):
        return self.answer(999, 2)

    def went_back(self):
        self.calls.append("back")

    def state(self):
        return {}

    def load(self, state):
        pass


def settings_of(**changes) -> PPOSettings:
    """Of a short training in that world."""
    small = {"steps": 3, "batch_size": 4, "learning_rate": 3e-3, "token_budget": 24, "validate_every": None}
    return PPOSettings(**{**small, "schedule": "constant", "warmup_ratio": 0, **changes})


def reference_of(model):
    """Log-probs under a frozen model."""
    frozen = TreePolicy(model)
    return lambda trees: read_tokens(lambda batch: (frozen(batch),), trees, 24, "cpu")[0]


def run(folder: Path, *, steps: int, accelerator=None) -> None:
    torch.set_num_threads(1)
    settings = PPOSettings(
        steps=steps, batch_size=4, mini_batches=2, learning_rate=1e-3, eps=1e-4, token_budget=24, checkpoint_every=3,
        validate_every=4, kl={"schedule": "adaptive", "target": 0.5}, collapse={"action": "warn"},
    )  # fmt: skip
    writes = accelerator is None or accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    actor = ActorCritic(resumable.model("sft").model, "shared")
    trained = ppo.train(
        actor, reference_of(resumable.model("sft").model), Toy(actor), settings, max_tokens=8, precision="fp32", seed=3,
        journal=resumable.OnDisk(folder / "metrics.jsonl", writes), title="ppo", scratch=folder / "scratch",
        accelerator=accelerator,
    )  # fmt: skip
    if writes:
        save_file({name: value.contiguous() for name, value in trained.weights.masters.items()}, folder / "new")
        (folder / "new").rename(folder / "weights.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    run(args.folder, steps=args.steps)
