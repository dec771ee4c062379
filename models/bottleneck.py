"""Bottleneck adapters (Houlsby et al. 2019): a small network after the sublayers, added to what they say."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Names of the projections that write attention and feed-forward results to the residual stream.
WRITERS = ("o_proj", "out_proj", "down_proj", "c_proj", "fc2", "dense_4h_to_h", "wo")


class Bottleneck(nn.Module):
    """y + up(gelu(down(y))) of a projection's output y. `up` starts at 0, so that nothing changes at first."""

    def __init__(self, projection: nn.Module, width: int, size: int) -> None:
        super().__init__()
        weight = next(projection.parameters())
        self.projection = projection
        self.down = nn.Linear(width, size).to(weight.device, torch.float32)
        self.up = nn.Linear(size, width).to(weight.device, torch.float32)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.projection(x)
        return y + self.up(nn.functional.gelu(self.down(y.to(self.down.weight.dtype)))).to(y.dtype)


def insert_bottlenecks(model: PreTrainedModel, targets: list[str], size: int) -> int:
    """Wrap every module whose last name is one of `targets`, and say how many."""
    width = model.config.get_text_config().hidden_size
    names = [name for name, _ in model.base_model.named_modules() if name.rpartition(".")[2] in targets]
    for name in names:
        above, _, last = name.rpartition(".")
        parent = model.base_model.get_submodule(above)
        setattr(parent, last, Bottleneck(getattr(parent, last), width, size))
    return len(names)
