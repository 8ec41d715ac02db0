"""A reward model as feedback: one forward pass over each prompt with all its completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.pair_format import PairFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.template import check_reading
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer, model_kind
from sawyer.models.precision import DTYPES
from sawyer.trees.build import encoder_tree, truncated_trees
from sawyer.trees.encoder import BiEncoderReward, CrossEncoderReward
from sawyer.trees.model import TreeModel, TreeReward
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree


class RewardModel:
    """A scalar reward model (Bradley-Terry); its scores are logits, so `prefer` is the sigmoid of their difference.

    Decoders read a conversation through its chat template. Encoders read a prompt and a completion as `PairFormat` has
    it, together or, bi-encoders, each by itself; what is longer than they were trained on is cut.

    Args:
        name: folder, hub name or alias of a sequence classifier with one output, or of a bi-encoder.
        precision: what it computes in; the reward itself is always float32.
        token_budget: tokens in one forward pass; changes nothing but speed.
        max_tokens: a decoder's longer prompt and completion loses its beginning, and None cuts nothing; an encoder's is
            cut longest first.
        chat_template: of a decoder, by name or as Jinja text; the tokenizer's own (else `plain`) when left out.
        force: take a chat template although the model was trained with another.
        device: where it computes.

    Attributes:
        truncated: completions scored so far that lost something; of a bi-encoder sequences, prompts among them.

    Raises:
        SawyerError: the model cannot be loaded or is no such reward model, was trained with another chat template, or
            is an encoder and given one.
    """

    name = "reward model"

    def __init__(
        self,
        name: str,
        *,
        precision: str = "fp32",
        token_budget: int = 4096,
        max_tokens: int | None = None,
        chat_template: str | None = None,
        force: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        chat = check_reading(name, chat_template, force=force)
        kind, dtype = model_kind(name), DTYPES[precision]
        self.form: ChatFormat | PairFormat
        self.model: TreeReward | CrossEncoderReward | BiEncoderReward
        if kind == "bi":
            self.model = BiEncoderReward(load_bi_encoder(name, dtype=dtype))
        else:
            classifier = load_sequence_classifier(name, dtype=dtype)
            self.model = TreeReward(classifier) if kind == "decoder" else CrossEncoderReward(classifier)
        self.max_tokens = within_context(max_tokens, self.model)
        if chat is not None:
            self.form = chat
        else:
            tokenizer = load_tokenizer(name)
            limit = min(tokenizer.model_max_length, self.max_tokens or self.model.context or 1 << 16)
            self.form = PairFormat(tokenizer, limit, apart=kind == "bi")
        self.model.to(device).eval()
        self.token_budget = token_budget
        self.truncated = 0

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One reward for each completion of each prompt."""
        trees = self._trees(prompts, completions)
        return regrouped(score_trees(self.model, trees, token_budget=self.token_budget), completions)

    def _trees(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[TokenTree]:
        """Prompts and completions as the model reads them; what is cut is counted."""
        if isinstance(self.form, ChatFormat):
            trees, cut = truncated_trees(self.form, [prompt.prompt for prompt in prompts], completions, self.max_tokens)
            self.truncated += cut
            return trees
        form, before = self.form, self.form.truncated
        trees = [encoder_tree(form, prompt.prompt, texts) for prompt, texts in zip(prompts, completions, strict=True)]
        self.truncated += form.truncated - before
        return trees


def within_context(max_tokens: int | None, model: TreeModel) -> int | None:
    """`max_tokens`, or the model's context where that is shorter; None, for no cutting, stays None."""
    if max_tokens is None:
        return None
    if max_tokens < 2:
        raise SawyerError(f"max_tokens is {max_tokens}; a prompt and its completion need at least 2 tokens")
    return min(max_tokens, model.context or max_tokens)


def regrouped(values: Sequence[Sequence[float]], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Numbers of trees, one a completion, as lists by prompt."""
    flat = iter([value for own in values for value in own])
    return [[next(flat) for _ in own] for own in completions]
