"""Weights that stopped being numbers."""

from __future__ import annotations

import torch
from torch import nn


def bad_tensor(model: nn.Module) -> str | None:
    """The name of the first parameter that holds NaN or infinity; None where all are numbers.

    Of a parameter that ZeRO-3 has partitioned, this process's part is looked at.
    """
    held = ((name, getattr(weight, "ds_tensor", weight)) for name, weight in model.named_parameters())
    return next((name for name, weight in held if not torch.isfinite(weight).all()), None)


def first_bad_weight(model: nn.Module) -> str:
    """The same as the end of a sentence, empty where all are numbers."""
    name = bad_tensor(model)
    return "" if name is None else f"; the weights {name} are not numbers"
