"""A reward of many attributes: a linear layer rates them, a small network says how much each counts for a prompt.

Source: ArmoRM (Wang et al. 2024, arXiv 2406.12845). Shapes: C completions, R prompts, A attributes, D hidden size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sawyer.errors import SawyerError
from sawyer.models.heads import draw
from sawyer.models.locate import MULTI_OBJECTIVE, read_json


class MultiObjectiveHead(nn.Module):
    """What stands on a frozen decoder's last hidden states.

    A completion's rating of an attribute is linear in the hidden state of its last token, in standard deviations of the
    attribute in training, less a share of its length. The gate reads the hidden state of the prompt's last token and
    weighs the attributes by a softmax. The score is their weighted sum times a learned scale, so that Bradley-Terry of
    two scores is a probability.

    Args:
        attributes: their names.
        size: D.
        hidden, layers: the gate's inner width and number of inner layers.
        temperature: divides the gate's logits.
        seed: draws the gate.
    """

    mean_A: torch.Tensor
    sd_A: torch.Tensor
    weight_A_D: torch.Tensor
    bias_A: torch.Tensor
    penalty_A: torch.Tensor
    length: torch.Tensor
    prompt_mean_D: torch.Tensor
    prompt_sd_D: torch.Tensor

    def __init__(
        self,
        attributes: Sequence[str],
        size: int,
        *,
        hidden: int = 1024,
        layers: int = 3,
        temperature: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.shape = {"size": size, "hidden": hidden, "layers": layers, "temperature": temperature}
        self.temperature = temperature
        count = len(self.attributes)
        for name in ("bias_A", "mean_A", "penalty_A"):
            self.register_buffer(name, torch.zeros(count))
        self.register_buffer("sd_A", torch.ones(count))
        self.register_buffer("weight_A_D", torch.zeros(count, size))
        self.register_buffer("length", torch.tensor([0.0, 1.0]))  # mean and deviation of log tokens
        self.register_buffer("prompt_mean_D", torch.zeros(size))
        self.register_buffer("prompt_sd_D", torch.ones(size))
        widths = [size, *[hidden] * layers]
        inner = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.gate = nn.Sequential(*inner, nn.Linear(widths[-1], count))
        self.log_scale = nn.Parameter(torch.zeros(()))
        draw(self, [name for name, _ in self.gate.named_parameters(prefix="gate")], seed, torch.float32)

    def ratings(self, hidden_C_D: torch.Tensor) -> torch.Tensor:
        """`[C, A]` in standard deviations of each attribute, before the penalty on length."""
        return nn.functional.linear(hidden_C_D, self.weight_A_D, self.bias_A)

    def lengths(self, tokens_C: torch.Tensor) -> torch.Tensor:
        """`[C]` log tokens, in standard deviations from the mean of training."""
        return (tokens_C.float().log() - self.length[0]) / self.length[1]

    def penalised(self, hidden_C_D: torch.Tensor, tokens_C: torch.Tensor) -> torch.Tensor:
        """`[C, A]` ratings less each attribute's penalty times the length."""
        return self.ratings(hidden_C_D) - self.lengths(tokens_C)[:, None] * self.penalty_A

    def weights(self, prompt_R_D: torch.Tensor) -> torch.Tensor:
        """`[R, A]` how much each attribute counts, in sum 1."""
        logits_R_A = self.gate((prompt_R_D - self.prompt_mean_D) / self.prompt_sd_D)
        return (logits_R_A / self.temperature).softmax(-1)

    def contributions(self, prompt_C_D: torch.Tensor, hidden_C_D: torch.Tensor, tokens_C: torch.Tensor) -> torch.Tensor:
        """`[C, A]` what each attribute adds to a score; the score is their sum. Each completion beside its prompt."""
        return self.log_scale.exp() * self.weights(prompt_C_D) * self.penalised(hidden_C_D, tokens_C)

    def save(self, folder: Path | str) -> None:
        """Write `multi_objective.json` and `multi_objective.safetensors`."""
        folder = Path(folder)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "multi_objective.safetensors")
        (folder / MULTI_OBJECTIVE).write_text(
            json.dumps({"format": 1, "attributes": self.attributes, **self.shape}, indent=2) + "\n"
        )

    @classmethod
    def load(cls, folder: Path | str) -> MultiObjectiveHead:
        """Read what `save` wrote.

        Raises:
            SawyerError: the files are not there or do not belong together.
        """
        folder = Path(folder)
        content = read_json(folder / MULTI_OBJECTIVE)
        try:
            shape = {name: content[name] for name in ("hidden", "layers", "temperature")}
            head = cls(content["attributes"], content["size"], **shape)
            head.load_state_dict(load_file(folder / "multi_objective.safetensors"))
        except (OSError, KeyError, TypeError, RuntimeError) as error:
            raise SawyerError(
                f"The head of the reward model in {folder} cannot be read, {MULTI_OBJECTIVE} and its tensors do "
                "not belong together: copy the folder again."
            ) from error
        return head.eval()


def log_lengths(tokens_C: torch.Tensor) -> torch.Tensor:
    """`[2]` mean and standard deviation of log tokens (1 where all are equal)."""
    logs_C = tokens_C.float().log()
    spread = float(logs_C.std(correction=0))
    return torch.tensor([float(logs_C.mean()), spread if math.isfinite(spread) and spread > 0 else 1.0])
