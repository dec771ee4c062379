"""One copy of the weights for policy, reference, reward model and critic: the same numbers as from four."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from models.adapter_files import save_adapter
from models.adapters import AdapterConfig, adapt
from models.layout import Batch, Tree, collate
from models.loading import ModelConfig, load_policy, load_shared_scorer
from models.scorer import reward_model_from
from models.sharing import SharedScorer, voices_of, why_apart
from models.voices import POLICY, Voices, weights_of
from rl.actor_critic import CRITIC, ActorCritic, Critic, critic_voice, value_head

METHODS = ("lora", "rslora", "dora")
WEIGHTS = [[1.0, 0.5, 2.0], [0.0, 0.0, -1.0]]  # of a reward, and of a cost
TREES = [
    Tree.of([5, 6, 7], [[8, 9, 10]]),
    Tree.of([11, 12], [[13, 14], [15]]),
    Tree.of([16] * 140, [[17] * 70, [18] * 60]),
]


def tuned(folder: str, place: Path) -> str:
    """The model with chat tokens in its own weights, as a stage of supervised tuning leaves it."""
    model, tokenizer = load_policy(folder, ModelConfig(path=folder))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def far(model: nn.Module, seed: int) -> None:
    """Trained weights as if training had moved them far."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1


def reward_adapter(base: str, place: Path, method: str) -> str:
    """A trained reward model's adapter on the base."""
    policy, tokenizer = load_policy(base, ModelConfig(path=base))
    model = reward_model_from(policy, tokenizer, torch.Generator().manual_seed(1))
    model = adapt(model, AdapterConfig(method, rank=4), base=base)
    far(model, 2)
    model.config.reward_mean, model.config.reward_std = [1.0, -2.0, 0.5], [2.0, 0.5, 4.0]
    model.config.reward_length_slope, model.config.reward_length_mean = [0.1, 0.0, -0.1], 2.0
    save_adapter(model, place, root=place.parent)
    tokenizer.save_pretrained(place)
    return str(place)


class Shared(NamedTuple):
    """All of them on one backbone."""

    voices: Voices
    reward: SharedScorer
    model: ActorCritic


class Parts:
    """Folders of a base and of a reward model's adapter on it."""

    def __init__(self, folder: str, tmp_path: Path, method: str) -> None:
        self.cfg, self.adapter = ModelConfig(path="unread"), AdapterConfig(method, rank=8)
        self.base = tuned(folder, tmp_path / "sft")
        self.reward = reward_adapter(self.base, tmp_path / "reward", method)

    def policy(self) -> PreTrainedModel:
        torch.manual_seed(3)
        policy, _ = load_policy(self.base, self.cfg, self.adapter)
        far(policy, 4)
        return policy

    def shared(self) -> Shared:
        voices = voices_of(self.policy(), self.base)
        assert voices is not None and why_apart(voices, self.reward, torch.float32) is None
        reward, _ = load_shared_scorer(self.reward, self.cfg, voices)
        return Shared(voices, reward, ActorCritic(voices.model, critic_voice(voices, reward, WEIGHTS), voices))

    def theirs(self) -> PreTrainedModel:
        """The reward model as plain peft loads it, its adapter ready to be trained."""
        plain = AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=3)
        return PeftModel.from_pretrained(plain, self.reward, is_trainable=True).base_model.model.eval()

    def separate(self) -> ActorCritic:
        """Every model with weights of its own."""
        reference, _ = load_policy(self.base, self.cfg)
        backbone = self.theirs().base_model
        head = value_head(self.shared().reward, WEIGHTS)
        return ActorCritic(self.policy(), Critic(backbone, head), reference.requires_grad_(False))


@pytest.fixture(params=METHODS)
def parts(request: pytest.FixtureRequest, any_folder: str, tmp_path: Path) -> Parts:
    return Parts(any_folder, tmp_path, request.param)


def batch() -> Batch:
    return collate(TREES, bin_tokens=64)


def loss(model: ActorCritic) -> Tensor:
    """Some function of all that is learnt from."""
    found = model(batch(), 0.7)
    targets = torch.linspace(-1, 1, len(found.logprobs))
    return (found.values - targets[:, None]).square().mean() - (found.logprobs * targets).mean()


def gradients(model: ActorCritic, policy: dict[str, nn.Parameter], critic: dict[str, nn.Parameter]) -> list[Tensor]:
    model.zero_grad()
    loss(model).backward()
    head = model.critic.value_head
    return [p.grad.clone() for p in (*policy.values(), *critic.values(), head.weight, head.bias)]


def of_shared(model: ActorCritic) -> list[Tensor]:
    policy = model.policy
    return gradients(model, weights_of(policy, POLICY), weights_of(policy.base_model, CRITIC))


def test_one_backbone_computes_what_four_copies_compute(parts: Parts) -> None:
    shared, separate = parts.shared().model, parts.separate()
    ours, theirs = shared(batch(), 0.7), separate(batch(), 0.7)
    assert ours.values.shape == (len(ours.logprobs), 2)
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    references = (model.reference_logprobs(batch(), 0.7) for model in (shared, separate))
    torch.testing.assert_close(*references, atol=1e-5, rtol=1e-5)


def test_gradients_of_policy_and_critic_are_those_of_four_copies(parts: Parts) -> None:
    shared, separate = parts.shared().model, parts.separate()
    theirs = gradients(separate, weights_of(separate.policy, POLICY), weights_of(separate.critic.backbone, "default"))
    for one, other in zip(of_shared(shared), theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
