"""Policy and critic as one module, so that one backward pass and one optimizer move both.

N = target tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.layout import Batch
from models.logprobs import hidden_states, token_logprobs


class ActorCriticOutput(NamedTuple):
    """Of the batch's response tokens; `values[i]` is of the state in which token i is chosen."""

    logprobs: Tensor  # (N,)
    entropy: Tensor  # (N,) without gradient
    values: Tensor  # (N,)
    ptx_logprobs: Tensor | None  # (N',) of the targets of pretraining text


class ActorCritic(nn.Module):
    """A policy and a critic with backbones of their own. The critic starts as the reward model."""

    _keys_to_ignore_on_save = None  # asked for when a checkpoint lacks the second name of tied weights

    def __init__(self, policy: PreTrainedModel, backbone: nn.Module, value_head: nn.Linear) -> None:
        super().__init__()
        self.policy, self.critic, self.value_head = policy, backbone, value_head
        self.register_state_dict_post_hook(_drop_tied)

    def forward(self, batch: Batch, temperature: float, ptx: Batch | None = None) -> ActorCriticOutput:
        found = token_logprobs(self.policy, batch, temperature=temperature, with_entropy=True)
        values = self.value_head(hidden_states(self.critic, batch, batch["source"])).squeeze(-1).float()
        text = token_logprobs(self.policy, ptx).logprobs if ptx is not None else None
        return ActorCriticOutput(found.logprobs, found.entropy, values, text)


def critic_from(reward_model: PreTrainedModel, weights: Sequence[float]) -> tuple[nn.Module, nn.Linear]:
    """The reward model's backbone, and one head that is the weighted sum of its normalised axes."""
    config, rows = reward_model.config, reward_model.score.weight
    scale = torch.tensor(weights) / torch.tensor(config.reward_std)
    head = nn.Linear(rows.shape[1], 1).to(rows)
    with torch.no_grad():
        head.weight.copy_(scale.to(rows) @ rows)
        head.bias.fill_(-float(scale @ torch.tensor(config.reward_mean)))
    return reward_model.base_model.requires_grad_(True), head


def _drop_tied(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Tied weights are saved once; they stay tied in the module that loads them."""
    seen: set[int] = set()
    for name in [n for n in state if n.startswith(prefix)]:
        address = state[name].data_ptr()
        if address and address in seen:
            del state[name]
        seen.add(address)
