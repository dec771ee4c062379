"""An objective's means on held-out rows."""

from __future__ import annotations

import torch
from torch import nn

from models.objective import Objective, Rows


@torch.no_grad()
def held_out(
    model: nn.Module, rows: Rows, objective: Objective, *, batch_size: int, bf16: bool = False
) -> dict[str, float]:
    """`eval_<metric>` for every metric of the objective, over all rows; empty where there are no rows.

    batch_size: rows at once; where a micro-batch of training fits, so does one of as many rows. bf16: in the precision
    of a training with bf16=true. Every process must ask; each reads all rows, so that they gather the
    weights of each layer together under ZeRO-3.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums: dict[str, list[float]] = {}
    for start in range(0, len(rows), batch_size):
        batch = rows.collate(range(start, min(start + batch_size, len(rows))))
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            _, metrics = objective(model, batch, batch["units"])
        for name, (total, count) in metrics.items():
            entry = sums.setdefault(name, [0.0, 0.0])
            entry[0] += float(total)
            entry[1] += float(count)
    model.train(was_training)
    return {f"eval_{name}": total / count for name, (total, count) in sums.items() if count}
