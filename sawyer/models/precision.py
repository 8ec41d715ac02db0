"""What a precision named in a recipe means."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
