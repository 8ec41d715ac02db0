"""Stage `d2po` in tests: small settings, and what can be read of a run of it."""

from safetensors.torch import load_file

from sawyer.feedback.rules_text import TextRule
from sawyer.pipeline.stages import d2po
from tests.lives import read_lines
from tests.lives import same as same_tensors

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day", "glacier")]
COMMON = {
    "model": "base", "data": "prompts", "part": "test", "gold": "token_density", "budget": 9, "steps": 4,
    "batch_size": 4, "sampling": {"max_tokens": 40, "min_tokens": 40}, "learning_rate": 1e-2, "checkpoint_every": 1,
}  # fmt: skip
DISCRIMINATOR = {"learning_rate": 1e-2, "first_epochs": 3}
SMALL = {**COMMON, "labels": 3, "label_every": 2, "first_labels": 3, "discriminator": DISCRIMINATOR}
FROZEN = {**COMMON, "method": "frozen", "discriminator": DISCRIMINATOR}
OAIF = {**COMMON, "method": "oaif"}
ADAPTERS = {"r": 2, "dropout": 0.1}
ADAPTED = {**SMALL, "lora": ADAPTERS, "discriminator": {**DISCRIMINATOR, "lora": ADAPTERS}}


def runner(context, updates):
    """`run(stage=None, base=SMALL, **settings)`: the stage, the trees of each update of the policy, and the figures."""

    def call(stage=None, base=SMALL, /, **settings):
        stage = stage or context(ASKED)
        updates.clear()
        figures = d2po.run(d2po.Settings(**{**base, **settings}), stage)
        return stage, list(updates), figures

    return call


def watched_gold(monkeypatch):
    """The pairs that the gold reward was asked about, as they come."""
    sold = []
    score = TextRule.score

    def watched(self, prompts, texts):
        sold.extend((prompt.text, tuple(own)) for prompt, own in zip(prompts, texts, strict=True))
        return score(self, prompts, texts)

    monkeypatch.setattr(TextRule, "score", watched)
    return sold


def logged(stage):
    return read_lines(stage.folder / "metrics.jsonl")


def ledger(stage):
    return read_lines(stage.folder / "ledger.jsonl")


def bits(stage):
    """All weights that the stage made."""
    return {
        f"{file.relative_to(stage.folder)} {name}": tensor
        for file in sorted(stage.folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one, other):
    """The same weights, labels and figures."""
    same_tensors(bits(one), bits(other))
    assert ledger(one) == ledger(other)
    assert logged(one) == logged(other)
