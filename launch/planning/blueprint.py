"""A stage without data in it: the models that it holds, each weight a tensor without content, and what it runs them on.

Models are made from their configurations alone, by the code that the stages make them with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedModel

from instruct.supervised import supervised
from launch.planning.rows import BatchOf, RowShape, preference_rows, ranking_rows, rollout_rows, supervised_rows
from models.adapters import AdapterConfig, adapt
from models.attention import BY_TREE
from models.chat import add_chat_template
from models.errors import ArtifactError
from models.layout import Batch
from models.loading import DTYPES, ModelConfig, grow, language_config, load_tokenizer, scorer_config
from models.objective import Objective
from models.scorer import AXES
from models.scratch import llama_config
from models.sharing import voices_of
from models.voices import Voices
from reward.training import RankingObjective
from rl.actor_critic import CRITIC, OF_CRITIC, ActorCritic, fresh_critic, zero_head
from rl.objective import PolicyObjective
from rl.rollout import EVALUATED
from stages.base import BaseStage
from stages.dpo import DPOStage, objective_of
from stages.ppo import PPOStage
from stages.reward import RewardStage
from stages.sft import SFTStage

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: four bits, and doubly quantised scales of blocks of 64


class Weight(NamedTuple):
    """One tensor of a model."""

    role: str  # policy, critic, reference, reward or referee
    numel: int
    n_bytes: float
    trained: bool
    sharded: bool  # among what the trainer is given, which ZeRO shards


@dataclass(frozen=True)
class Blueprint:
    """What a stage holds, and what it computes."""

    model: nn.Module  # what the trainer is given
    objective: Objective
    batch: BatchOf
    weights: list[Weight]
    config: Any  # of the policy
    forwards: dict[str, tuple[Callable[[Batch], object], BatchOf, int]] = field(default_factory=dict)
    # What runs without a graph, by its name: on so many rows of a batch.
    frozen: Sequence[nn.Module] = ()  # beside the model
    voices: Voices | None = None  # of the policy

    @property
    def trained_share(self) -> float:
        """Of the policy's numbers and those that learn with it, those that learn."""
        own = [weight for weight in self.weights if weight.sharded]
        return sum(w.numel for w in own if w.trained) / sum(w.numel for w in own)


def blueprint(cfg: Any, shape: RowShape) -> Blueprint:
    """Of the stage that the configuration is of."""
    with torch.device("meta"):
        made = BUILDERS[type(cfg)](cfg, shape)
    fake, known = FakeTensorMode(allow_non_fake_inputs=True), {}
    for model in (made.model, *made.frozen):
        _work_as_cpu(model, fake, known)
    if made.voices is not None:
        made.voices.look()
    return made


def _work_as_cpu(model: nn.Module, fake: FakeTensorMode, known: dict[int, nn.Parameter]) -> None:
    """Put tensors that compute shapes and types as a CPU would in the place of those without a device."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in known:  # tied weights stay one
                with fake:
                    like = torch.empty_like(parameter, device="cpu")
                known[id(parameter)] = nn.Parameter(like, parameter.requires_grad)
            module._parameters[name] = known[id(parameter)]
        for name, buffer in module.named_buffers(recurse=False):
            with fake:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _base(cfg: BaseStage, shape: RowShape) -> Blueprint:
    model = LlamaForCausalLM(llama_config(cfg.architecture, cfg.architecture.vocabulary))
    batch = supervised_rows(RowShape(1, shape.longest - 1), cfg.layout)
    return _learner(model, cfg, supervised, batch)


def _sft(cfg: SFTStage, shape: RowShape) -> Blueprint:
    return _learner(_policy(cfg.model, cfg.adapter), cfg, supervised, supervised_rows(shape, cfg.layout))


def _reward(cfg: RewardStage, shape: RowShape) -> Blueprint:
    model = _adapted(_classifier(language_config(config_folder(cfg.model.path), cfg.model), cfg.model), cfg)
    return _learner(model, cfg, RankingObjective(cfg.loss), ranking_rows(shape, cfg.layout))


def _dpo(cfg: DPOStage, shape: RowShape) -> Blueprint:
    policy = _policy(cfg.model, cfg.adapter)
    return _learner(policy, cfg, objective_of(cfg), preference_rows(shape, cfg.layout, cfg.loss.name))


def _learner(model: PreTrainedModel, cfg: Any, objective: Objective, batch: BatchOf) -> Blueprint:
    """One model that learns alone. It needs less where it is measured, a micro-batch at a time."""
    role = "reward" if isinstance(cfg, RewardStage) else "policy"
    weights = list(_weights(model, lambda _: role, quantised(cfg)))
    return Blueprint(model, objective, batch, weights, model.config)


def _ppo(cfg: PPOStage, shape: RowShape) -> Blueprint:
    folder = config_folder(cfg.model.path)
    policy = _policy(cfg.model, cfg.adapter)
    voices = voices_of(policy, folder)
    paths = [*cfg.reward.paths, *(term.path for term in cfg.reward.also.values() if term.path)]
    judges = {"reward": paths, "referee": [cfg.referee] if cfg.referee else []}
    apart = [(role, _judge(path, cfg, voices, role)) for role, found in judges.items() for path in found]
    frozen = [(role, model) for role, model in apart if model is not None]
    reference: PreTrainedModel | Voices = voices or _policy(cfg.model, None).requires_grad_(False)
    if not isinstance(reference, Voices):
        frozen.append(("reference", reference))
    model = ActorCritic(policy, reference, _critic(cfg, policy, voices, frozen))
    weights = list(_weights(model, _role_in_policy, quantised(cfg)))
    for role, other in frozen:
        weights += [weight._replace(sharded=False) for weight in _weights(other, lambda _, role=role: role, False)]
    batch = rollout_rows(shape, cfg)

    def evaluated(rows: Batch) -> None:
        for reading in model.readings(cfg.rl.temperature).values():  # one model after the other
            reading.of(rows)

    rows = max(1, EVALUATED // shape.tokens) * shape.responses
    forwards = {"evaluating a rollout": (evaluated, batch, rows)}
    others = [other for _, other in frozen]
    return Blueprint(model, PolicyObjective(cfg.rl), batch, weights, policy.config, forwards, others, voices)


def _critic(cfg: PPOStage, policy: PreTrainedModel, voices: Voices | None, frozen: list[Any]) -> nn.Module | None:
    """As stages.critics starts one: on a backbone of its own, the reward model's where there is one."""
    n_critics = 2 if cfg.rl.constraint.limit is not None else 1
    if not cfg.rl.kind.critic:
        return None
    if cfg.rl.critic == "head":
        return zero_head(policy, n_critics)
    if voices is not None:
        return fresh_critic(voices, n_critics)
    judge = next((model for role, model in frozen if role == "reward"), policy)
    return fresh_critic(_of_config(AutoModelForSequenceClassification, judge.config, cfg.model), n_critics)


def _judge(path: str, cfg: PPOStage, voices: Voices | None, role: str) -> PreTrainedModel | None:
    """A reward model; None where it is a voice of the policy, as one that is yet to be trained is taken to be."""
    folder = Path(config_folder(path))
    if voices is not None and (not folder.is_dir() or (folder / "adapter.json").is_file()):
        voices.add(f"{role}_{len(voices.others)}", cfg.adapter, train=False)
        return None
    if folder.is_dir():
        config = scorer_config(str(folder), cfg.reward)
    else:
        config = language_config(config_folder(cfg.model.path), cfg.model)
    return _classifier(config, cfg.reward).requires_grad_(False)


def _role_in_policy(name: str) -> str:
    parts = set(name.split("."))
    if parts & {*OF_CRITIC, CRITIC}:
        return "critic"
    return next(
        (role for role in ("reward", "referee") if any(part.startswith(f"{role}_") for part in parts)), "policy"
    )


def _policy(cfg: ModelConfig, adapter: AdapterConfig | None) -> PreTrainedModel:
    """As load_policy makes it, its chat tokens included where the tokenizer is there."""
    folder = config_folder(cfg.path)
    model = _of_config(AutoModelForCausalLM, language_config(folder, cfg), cfg)
    new_tokens = _chat_tokens(folder, cfg)
    grow(model, new_tokens.stop)
    return model if adapter is None else adapt(model, _plain(adapter), new_tokens, folder)


def _classifier(config: Any, cfg: ModelConfig) -> PreTrainedModel:
    if not hasattr(config, "reward_mean"):  # of a language model
        config.num_labels = len(AXES)
    config.get_text_config().pad_token_id = 0  # without one it takes no batch
    return _of_config(AutoModelForSequenceClassification, config, cfg)


def _adapted(model: PreTrainedModel, cfg: Any) -> PreTrainedModel:
    folder = config_folder(cfg.model.path)
    new_tokens = _chat_tokens(folder, cfg.model)
    return adapt(grow(model, new_tokens.stop), _plain(cfg.adapter), new_tokens, folder)


def _of_config(kind: Any, config: Any, cfg: ModelConfig) -> PreTrainedModel:
    options = {"attn_implementation": BY_TREE, "dtype": DTYPES[cfg.dtype], "trust_remote_code": cfg.trust_remote_code}
    return kind.from_config(config, **options)


def _chat_tokens(folder: str, cfg: ModelConfig) -> range:
    """Ids of the tokens that a chat template would add; none where only the configuration is there."""
    try:
        tokenizer = load_tokenizer(folder, cfg)
    except ArtifactError:
        return range(0)
    n_old = len(tokenizer)
    return range(n_old, n_old + add_chat_template(tokenizer))


def _plain(adapter: AdapterConfig) -> AdapterConfig:
    """Low-rank updates keep the same whatever the weights below them are kept in."""
    return replace(adapter, method="lora") if adapter.quantised else adapter


def quantised(cfg: Any) -> bool:
    """Whether the frozen weights of the stage are in four bits."""
    return getattr(cfg, "adapter", None) is not None and cfg.adapter.quantised


def _weights(model: nn.Module, role: Callable[[str], str], four_bits: bool) -> Iterator[Weight]:
    narrow: set[int] = set()
    if four_bits:
        narrow = {id(m.get_base_layer().weight) for m in model.modules() if isinstance(m, LoraLayer)}
    for name, parameter in model.named_parameters():
        size = NF4 if id(parameter) in narrow else parameter.element_size()
        numel = parameter.numel()
        yield Weight(role(name), numel, numel * size, parameter.requires_grad, True)


def positions(cfg: Any) -> int:
    """How many the stage's model was made for."""
    if isinstance(cfg, BaseStage):
        return cfg.architecture.positions
    config = language_config(config_folder(cfg.model.path), cfg.model).get_text_config()
    return getattr(config, "max_position_embeddings", None) or 1024


def config_folder(path: str) -> str:
    """Where the configuration of a model or an artefact lies; a hub name as it is."""
    inner = Path(path) / "model"
    return str(inner) if (inner / "config.json").is_file() else path


BUILDERS: dict[type, Callable[[Any, RowShape], Blueprint]] = {
    BaseStage: _base,
    SFTStage: _sft,
    RewardStage: _reward,
    DPOStage: _dpo,
    PPOStage: _ppo,
}
