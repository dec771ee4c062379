"""`stages.dpo`, but with the logits of every position: python -m bench.all_logits <options of stages.dpo>

What the output layer costs where positions that predict no target reach it too.
"""

from __future__ import annotations

import torch
from torch import nn

import rl.pairs
import rl.reference
from models.layout import Batch
from models.logprobs import TokenLogprobs, hidden_states
from stages.dpo import DPOStage, run
from train.entry import start


def everywhere(model: nn.Module, batch: Batch) -> TokenLogprobs:
    """As `token_logprobs`, by way of the whole table."""
    places = torch.arange(batch["input_ids"].numel())[batch["segment"].flatten() > 0]
    logits = model.get_output_embeddings()(hidden_states(model, batch, places))
    at = torch.searchsorted(places, batch["source"])
    return TokenLogprobs(logits.float().log_softmax(-1)[at, batch["target"]], None)


if __name__ == "__main__":
    rl.pairs.token_logprobs = rl.reference.token_logprobs = everywhere
    start("dpo", DPOStage, run)
