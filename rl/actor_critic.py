"""Policy, reference and critic as one module, so that one backward pass and one optimizer move what learns.

N = target tokens of a batch, C = critics (of the reward, and of the cost under a constraint), A = axes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.layout import Batch
from models.logprobs import hidden_states, token_logprobs


class ActorCriticOutput(NamedTuple):
    """Of the batch's response tokens; `values[i]` is of the state in which token i is chosen."""

    logprobs: Tensor  # (N,)
    entropy: Tensor  # (N,)
    values: Tensor | None  # (N, C)
    ptx_logprobs: Tensor | None  # (N',) of the targets of pretraining text


class ActorCritic(nn.Module):
    """A policy, its frozen reference, and a critic, each with a backbone of its own. critic: None where the algorithm
    has none."""

    _keys_to_ignore_on_save = None  # asked for when a checkpoint lacks the second name of tied weights

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel, critic: tuple[nn.Module, nn.Linear] | None
    ) -> None:
        super().__init__()
        self.policy = policy
        self.critic, self.value_head = critic or (None, None)
        self._frozen = (reference,)  # in a tuple, for it is no part of what is trained, saved and sharded
        self.register_state_dict_post_hook(_drop_tied)

    @property
    def has_critic(self) -> bool:
        return self.critic is not None

    def forward(self, batch: Batch, temperature: float, ptx: Batch | None = None) -> ActorCriticOutput:
        found = token_logprobs(self.policy, batch, temperature=temperature, with_entropy=True)
        values = self.values(batch, batch["source"]) if self.has_critic else None
        text = token_logprobs(self.policy, ptx).logprobs if ptx is not None else None
        return ActorCriticOutput(found.logprobs, found.entropy, values, text)

    def values(self, batch: Batch, at: Tensor) -> Tensor:
        """The critics' of the states at flat positions, (len(at), C)."""
        return self.value_head(hidden_states(self.critic, batch, at)).float()

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float) -> Tensor:
        """(N,)"""
        return token_logprobs(self._frozen[0], batch, temperature=temperature).logprobs


def critic_from(reward_model: PreTrainedModel, weights: Tensor) -> tuple[nn.Module, nn.Linear]:
    """The reward model's backbone, and a head whose rows are weighted sums of its normalised axes. weights: (C, A)."""
    config, rows = reward_model.config, reward_model.score.weight
    std = torch.tensor(getattr(config, "reward_std", [1.0] * len(rows)))
    mean = torch.tensor(getattr(config, "reward_mean", [0.0] * len(rows)))
    scale = weights / std
    head = nn.Linear(rows.shape[1], len(weights)).to(rows)
    with torch.no_grad():
        head.weight.copy_(scale.to(rows) @ rows)
        head.bias.copy_(-(scale @ mean))
    return reward_model.base_model.requires_grad_(True), head


def fresh_critic(policy: PreTrainedModel, n_critics: int) -> tuple[nn.Module, nn.Linear]:
    """A backbone given for it, and a head that values everything at 0."""
    head = nn.Linear(policy.config.get_text_config().hidden_size, n_critics, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return policy.base_model.requires_grad_(True), head


def _drop_tied(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Tied weights are saved once; they stay tied in the module that loads them."""
    seen: set[int] = set()
    for name in [n for n in state if n.startswith(prefix)]:
        address = state[name].data_ptr()
        if address and address in seen:
            del state[name]
        seen.add(address)
