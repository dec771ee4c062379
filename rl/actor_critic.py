"""Policy, critic and reference as one module, so that one backward pass and one optimizer move what learns.

N = target tokens of a batch, C = values of each (of the reward, and of a cost where there is one), A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from models.layout import Batch
from models.logprobs import hidden_states, logprobs_from_hidden, token_logprobs
from models.sharing import SharedScorer
from models.voices import Backbone, Voices, rows_of

CRITIC = "critic"
LEARNT_BY_CRITIC = (CRITIC, rows_of(CRITIC))  # names of its modules and of its adapters


class ActorCriticOutput(NamedTuple):
    """Of the batch's response tokens; `values[i]` is of the state in which token i is chosen."""

    logprobs: Tensor  # (N,)
    entropy: Tensor  # (N,) without gradient
    values: Tensor | None  # (N, C); None without a critic
    ptx_logprobs: Tensor | None  # (N',) of the targets of pretraining text


class ValueHead(nn.Linear):
    """States (N, H) to values (N, C), in the head's precision and then in float32."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.to(self.weight.dtype)).float()


class Critic(nn.Module):
    """A backbone of its own, which may be a voice of the policy's, and a head."""

    def __init__(self, backbone: nn.Module, value_head: ValueHead) -> None:
        super().__init__()
        self.backbone, self.value_head = backbone, value_head

    def forward(self, batch: Batch) -> Tensor:
        """Values (N, C) of the states in which the batch's targets are chosen."""
        return self.value_head(self._states(batch))

    def _states(self, batch: Batch) -> Tensor:
        """A voice is there to save memory, so it keeps nothing for its backward pass: it speaks again then."""
        given = (self.backbone, batch, batch["source"])
        if not isinstance(self.backbone, Backbone) or self.backbone.is_gradient_checkpointing:
            return hidden_states(*given)
        return checkpoint(hidden_states, *given, use_reentrant=False, preserve_rng_state=False)


class ActorCritic(nn.Module):
    """A policy; its critic, which is a head where it reads the policy's own states, and None where advantages need no
    values; and the reference: a frozen model, or one of the policy's voices."""

    _keys_to_ignore_on_save = None  # asked for when a checkpoint lacks the second name of tied weights

    def __init__(
        self, policy: PreTrainedModel, critic: Critic | ValueHead | None, reference: PreTrainedModel | Voices
    ) -> None:
        super().__init__()
        self.policy, self.critic, self.reference = policy, critic, reference
        self.register_state_dict_post_hook(_drop_what_comes_again)

    def forward(self, batch: Batch, temperature: float, ptx: Batch | None = None) -> ActorCriticOutput:
        # The critic goes first, so that the backward pass, which starts at the end, is through with the policy's
        # activations when a critic that is a voice makes its own.
        values = self.critic(batch) if isinstance(self.critic, Critic) else None
        states = hidden_states(self.policy, batch, batch["source"])
        if isinstance(self.critic, ValueHead):
            values = self.critic(states)
        head = self.policy.get_output_embeddings()
        found = logprobs_from_hidden(states, batch["target"], head, temperature, with_entropy=True)
        text = token_logprobs(self.policy, ptx).logprobs if ptx is not None else None
        return ActorCriticOutput(found.logprobs, found.entropy, values, text)

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float) -> Tensor:
        """Of the batch's targets, (N,)."""
        if not isinstance(self.reference, Voices):
            return token_logprobs(self.reference, batch, temperature=temperature).logprobs
        with self.reference.speaking(self.reference.origin):
            return token_logprobs(self.policy, batch, temperature=temperature).logprobs

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """What the trainer asks for where trainer.gradient_checkpointing=true."""
        if isinstance(self.reference, Voices):
            self.reference.checkpoint_activations()
            return
        self.policy.activation_checkpointing_enable(**options)
        if isinstance(self.critic, Critic):
            self.critic.backbone.activation_checkpointing_enable(**options)


def critic_voice(voices: Voices, reward_model: nn.Module, weights: Sequence[Sequence[float]]) -> Critic:
    """A critic on the policy's own backbone. It starts as the reward model where that is a voice, too; otherwise as the
    model without an adapter, and its values at zero: then the first advantages are the returns, and no head's noise."""
    if isinstance(reward_model, SharedScorer):
        voices.add(CRITIC, reward_model.adapter, train=True)
        voices.copy(reward_model.name, CRITIC)
        return Critic(Backbone(voices, CRITIC), value_head(reward_model, weights))
    voices.add(CRITIC, voices.model.adapter.config, train=True)
    return Critic(Backbone(voices, CRITIC), zero_head(voices.model, len(weights)))


def value_head(reward_model: nn.Module, weights: Sequence[Sequence[float]]) -> ValueHead:
    """One column for each row of weights (C, A): the weighted sum of the reward model's normalised axes."""
    mean, std = (
        torch.tensor(getattr(reward_model.config, f"reward_{name}", default))
        for name, default in (("mean", 0.0), ("std", 1.0))
    )
    scale = torch.tensor(weights) / std
    rows = reward_model.score.weight.detach().cpu().float()
    head = ValueHead(rows.shape[1], len(weights))
    with torch.no_grad():
        head.weight.copy_(scale @ rows)
        head.bias.copy_(-(scale * mean).sum(1))
    return head


def zero_head(policy: PreTrainedModel, n_values: int) -> ValueHead:
    """Values of zero to begin with."""
    head = ValueHead(policy.config.get_text_config().hidden_size, n_values)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _drop_what_comes_again(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """A reference comes from its own folder; tied weights are saved once, and stay tied where they are loaded."""
    seen: set[int] = set()
    for name in [n for n in state if n.startswith(prefix)]:
        address = state[name].data_ptr()
        if name.startswith(prefix + "reference.") or (address and address in seen):
            del state[name]
        else:
            seen.add(address)
