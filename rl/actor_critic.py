"""Policy, reference and critic as one module, so that one backward pass and one optimizer move what learns.

N = target tokens of a batch, C = critics (of the reward, and of the cost under a constraint), A = axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from models.layout import Batch
from models.logprobs import TokenLogprobs, hidden_states, logprobs_from_hidden, token_logprobs
from models.sharing import SharedScorer
from models.voices import Backbone, Voices, rows_of

POLICY, CRITIC, REFERENCE = "policy", "critic", "reference"
OF_CRITIC = (CRITIC, rows_of(CRITIC))  # parts of the names of its weights
END_VALUES = "end_values"


class ActorCriticOutput(NamedTuple):
    """Of the batch's response tokens; `values[i]` is of the state in which token i is chosen."""

    logprobs: Tensor  # (N,)
    entropy: Tensor  # (N,)
    values: Tensor | None  # (N, C)
    ptx_logprobs: Tensor | None  # (N',) of the targets of pretraining text


class Reading(NamedTuple):
    """What one of the models says of a batch."""

    models: tuple[nn.Module, ...]  # whose weights it takes
    of: Callable[[Batch], dict[str, Tensor]]  # columns of tokens, (N, ...); END_VALUES are of responses, (R, C)


class ValueHead(nn.Linear):
    """States (N, H) to values (N, C), in the head's precision and then in float32."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.to(self.weight.dtype)).float()


class Critic(nn.Module):
    """A backbone of its own, which may be a voice of the policy's, and a head."""

    def __init__(self, backbone: nn.Module, value_head: ValueHead) -> None:
        super().__init__()
        self.backbone, self.value_head = backbone, value_head

    def forward(self, batch: Batch, at: Tensor) -> Tensor:
        """Values of the states at flat positions, (len(at), C)."""
        return self.value_head(self._states(batch, at))

    def _states(self, batch: Batch, at: Tensor) -> Tensor:
        """A voice is there to save memory, so it keeps nothing for the backward pass but speaks again then."""
        if not isinstance(self.backbone, Backbone) or self.backbone.is_gradient_checkpointing:
            return hidden_states(self.backbone, batch, at)
        return checkpoint(hidden_states, self.backbone, batch, at, use_reentrant=False, preserve_rng_state=False)


class ActorCritic(nn.Module):
    """A policy, its frozen reference, and a critic.

    reference: a model, or the voices of the policy where one of them is the reference. critic: a head alone reads the
    policy's own states; None where the algorithm has none.
    """

    _keys_to_ignore_on_save = None  # asked for when a checkpoint lacks the second name of tied weights

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel | Voices, critic: Critic | ValueHead | None
    ) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self._frozen = (reference,)  # in a tuple, for it is no part of what is trained and saved
        self._voices = reference if isinstance(reference, Voices) else None
        self.register_state_dict_post_hook(_drop_tied)

    def forward(self, batch: Batch, temperature: float, ptx: Batch | None = None) -> ActorCriticOutput:
        # The critic goes first, so that the backward pass, which starts at the end, is done with the policy's
        # activations when a critic that is a voice makes its own.
        values = self.critic(batch, batch["source"]) if isinstance(self.critic, Critic) else None
        found, of_head = self._read_policy(batch, batch["source"], temperature)
        text = token_logprobs(self.policy, ptx).logprobs if ptx is not None else None
        return ActorCriticOutput(found.logprobs, found.entropy, of_head if values is None else values, text)

    def readings(self, temperature: float) -> dict[str, Reading]:
        """All that is known of tokens before an update, in columns of their names, from one model after the other."""
        shared = () if self._voices is None else (self.policy,)
        head = (self.critic,) if isinstance(self.critic, ValueHead) else ()

        def of_policy(batch: Batch) -> dict[str, Tensor]:
            found, values = self._read_policy(batch, _states_before_and_after(batch), temperature)
            return {"logprobs": found.logprobs, "entropy": found.entropy, **_valued(values, batch)}

        def of_critic(batch: Batch) -> dict[str, Tensor]:
            return _valued(self.critic(batch, _states_before_and_after(batch)), batch)

        def of_reference(batch: Batch) -> dict[str, Tensor]:
            return {"ref_logprobs": self.reference_logprobs(batch, temperature)}

        found = {POLICY: Reading((self.policy, *head), of_policy)}
        if isinstance(self.critic, Critic):
            found[CRITIC] = Reading((self.critic, *shared), of_critic)
        return found | {REFERENCE: Reading(shared or self._frozen, of_reference)}

    def _read_policy(self, batch: Batch, at: Tensor, temperature: float) -> tuple[TokenLogprobs, Tensor | None]:
        """Log-probabilities of the targets, and a head's values at flat positions, the first of which predict the
        targets."""
        states, target = hidden_states(self.policy, batch, at), batch["target"]
        values = self.critic(states) if isinstance(self.critic, ValueHead) else None
        output = self.policy.get_output_embeddings()
        return logprobs_from_hidden(states[: len(target)], target, output, temperature, with_entropy=True), values

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float) -> Tensor:
        """(N,)"""
        if self._voices is None:
            return token_logprobs(self._frozen[0], batch, temperature=temperature).logprobs
        with self._voices.speaking(self._voices.origin):
            return token_logprobs(self.policy, batch, temperature=temperature).logprobs

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """What the trainer asks for where trainer.gradient_checkpointing=true."""
        if self._voices is not None:
            self._voices.checkpoint_activations()
            return
        self.policy.activation_checkpointing_enable(**options)
        if isinstance(self.critic, Critic):
            self.critic.backbone.activation_checkpointing_enable(**options)


def _states_before_and_after(batch: Batch) -> Tensor:
    """Flat positions of the states in which the tokens are chosen, and of those after the last of each response."""
    return torch.cat([batch["source"], batch["ends"]])


def _valued(values: Tensor | None, batch: Batch) -> dict[str, Tensor]:
    """Values (N + R, C) of such states, as columns."""
    n = len(batch["source"])
    return {} if values is None else {"values": values[:n], END_VALUES: values[n:]}


def critic_from(reward_model: nn.Module, weights: Tensor) -> Critic:
    """A critic that starts as the reward model: on its backbone, or, where that is a voice, as another one; its head's
    rows are weighted sums of the normalised axes. weights: (C, A)."""
    config, rows = reward_model.config, reward_model.score.weight.detach()
    std = torch.tensor(getattr(config, "reward_std", [1.0] * len(rows)))
    mean = torch.tensor(getattr(config, "reward_mean", [0.0] * len(rows)))
    scale = weights / std
    head = ValueHead(rows.shape[1], len(weights)).to(rows)
    with torch.no_grad():
        head.weight.copy_(scale.to(rows) @ rows)
        head.bias.copy_(-(scale @ mean))
    if not isinstance(reward_model, SharedScorer):
        return Critic(reward_model.base_model.requires_grad_(True), head)
    voices = reward_model.voices
    voices.add(CRITIC, reward_model.adapter, train=True)
    voices.copy(reward_model.name, CRITIC)
    return Critic(Backbone(voices, CRITIC), head)


def fresh_critic(policy: PreTrainedModel | Voices, n_critics: int) -> Critic:
    """A critic on a backbone given for it, or on a new voice; its head values everything at 0."""
    if not isinstance(policy, Voices):
        return Critic(policy.base_model.requires_grad_(True), zero_head(policy, n_critics))
    policy.add(CRITIC, policy.model.adapter.config, train=True)
    return Critic(Backbone(policy, CRITIC), zero_head(policy.model, n_critics))


def zero_head(policy: PreTrainedModel, n_critics: int) -> ValueHead:
    """Values everything at 0: the first advantages are the returns, without the noise of a random head."""
    head = ValueHead(policy.config.get_text_config().hidden_size, n_critics, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _drop_tied(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Tied weights are saved once; they stay tied in the module that loads them."""
    seen: set[int] = set()
    for name in [n for n in state if n.startswith(prefix)]:
        address = state[name].data_ptr()
        if address and address in seen:
            del state[name]
        seen.add(address)
