"""PPO against the learned reward.

python -m stages.ppo model.path=outputs/demo/sft reward.path=outputs/demo/reward data=world_prompts
python -m stages.ppo model.path=outputs/mine/sft reward.path=outputs/mine/reward data=prompts data.path=questions.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.prompts import PromptData
from instruct.readers import InstructionData
from instruct.sources import prompts, replay
from instruct.supervised import SupervisedRows, document_trees
from models.adapters import AdapterConfig
from models.chat import ChatFormat, Prompt
from models.errors import ConfigError
from models.generation import end_tokens
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, load_scorer, max_positions, same_tokenizer
from models.options import INPUT
from models.scorer import score_trees
from rl.actor_critic import ActorCritic, critic_from
from rl.ppo import PPOBatches, PPOConfig, PPOObjective
from rl.rollout import RolloutEngine, Scorer, freeze
from rl.selection import Selection
from train.artifact import Artifact
from train.callbacks import Pace
from train.entry import start
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig


@dataclass(kw_only=True)
class PPOStage(StageConfig):
    """conf/ppo.yaml"""

    data: PromptData
    reward: ModelConfig = field(default_factory=ModelConfig)
    referee: str | None = field(default=None, metadata=INPUT)  # a reward model of other data: picks the checkpoint
    ptx: InstructionData | None = None  # pretraining text for ppo.ptx_coef
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding)


def run(cfg: PPOStage) -> Artifact:
    """Roll out, score, update, and seal the policy that the referee likes best."""
    with Run(cfg, stage="ppo") as run:
        if run.sealed:
            return run.sealed
        policy, tokenizer = load_policy(run.input(cfg.model.path, "policy"), cfg.model, cfg.adapter)
        chat, room = ChatFormat(tokenizer), (cfg.layout.max_length or max_positions(policy)) - cfg.ppo.max_new_tokens
        reward_model, critic = reward_and_critic(cfg, run, tokenizer)
        model = ActorCritic(policy, *critic)
        engine = rollout_engine(cfg, run, end_tokens(policy, tokenizer, chat), scorer(reward_model, cfg))
        data = prompts(cfg.data)
        train, held = fitting(data.train, chat, room), fitting(data.eval, chat, room)[: cfg.ppo.evaluation_prompts]
        run.say(f"{len(train)} prompts for rollouts ({len(data.train) - len(train)} too long), {len(held)} held out")
        judge = scorer(referee(cfg, run, reward_model), cfg)
        selection = Selection(run.folder, policy, engine, held, chat, judge, cfg.ppo)
        controller = cfg.ppo.kl.controller()
        run.state |= {"kl": controller.state_dict, "selection": selection.state_dict}
        if restored := run.restored_state():
            controller.load_state_dict(restored["kl"])
            selection.load_state_dict(restored["selection"])
        else:
            selection.look(0, 0.0, run.generator("look 0"))
        batches = PPOBatches(
            model,
            engine,
            [chat.prompt(prompt) for prompt in train],
            cfg.ppo,
            minibatch=cfg.trainer.batch_size,
            seed=cfg.seed,
            controller=controller,
            ptx=pretraining_rows(cfg, tokenizer),
            on_rollout=lambda i, metrics: report(run, i, metrics, batches.steps_per_rollout),
            after_update=lambda i, kl: selection.look(i, kl, run.generator(f"look {i}")),
        )
        run.train(
            model,
            batches,
            PPOObjective(cfg.ppo),
            cfg.trainer,
            rates=dict.fromkeys(("critic", "value_head"), cfg.ppo.critic_learning_rate),
            pace=Pace(batches.steps_per_rollout, batches.after_step),
        )
        kept = selection.restore_best()
        run.say(
            f"kept the policy after rollout {kept['iteration']}: referee {kept['referee']:.3f}, KL {kept['kl']:.2f}"
        )
        chat.configure(policy)
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics={"kept": kept, "looks": selection.looks})


def reward_and_critic(
    cfg: PPOStage, run: Run, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, tuple[nn.Module, nn.Linear]]:
    """The frozen reward model, and a critic that starts as a copy of it. Both read the policy's own token ids."""
    folder = run.input(cfg.reward.path, "reward")
    reward_model, reward_tokenizer = load_scorer(folder, cfg.reward)
    same_tokenizer(tokenizer, reward_tokenizer, cfg.reward.path)
    return freeze(reward_model), critic_from(load_scorer(folder, cfg.reward)[0], cfg.ppo.axis_weights)


def referee(cfg: PPOStage, run: Run, reward_model: PreTrainedModel) -> PreTrainedModel:
    """The reward model that picks the checkpoint: one of other data where there is one."""
    if cfg.referee is None:
        run.say("no referee=: the reward model that the policy learns from picks the checkpoint, too")
        return reward_model
    return freeze(load_scorer(run.input(cfg.referee, "reward"), cfg.reward)[0])


def scorer(model: PreTrainedModel, cfg: PPOStage) -> Scorer:
    """Helpful, honest and harmless of each response."""
    return lambda trees: score_trees(model, trees, cfg.layout)


def rollout_engine(cfg: PPOStage, run: Run, ends: set[int], score: Scorer) -> RolloutEngine:
    """Sampling and evaluation against a frozen copy of the starting policy."""
    folder = run.input(cfg.model.path, "policy")
    reference, _ = load_policy(folder, cfg.model, quantised=cfg.adapter.quantised)
    return RolloutEngine(
        freeze(reference),
        score,
        ends=ends,
        max_new_tokens=cfg.ppo.max_new_tokens,
        temperature=cfg.ppo.temperature,
        bin_tokens=cfg.layout.bin_tokens,
        batch_size=cfg.ppo.prompts,
    )


def fitting(conversations: Sequence[Prompt], chat: ChatFormat, room: int) -> list[Prompt]:
    """The prompts that leave room for a response."""
    return [prompt for prompt in conversations if len(chat.prompt(prompt)) <= room]


def pretraining_rows(cfg: PPOStage, tokenizer: PreTrainedTokenizerBase) -> SupervisedRows | None:
    """Documents for PTX, where it has a weight."""
    if cfg.ppo.ptx_coef == 0:
        return None
    if cfg.ptx is None:
        raise ConfigError(
            "ppo.ptx_coef is above 0 but ptx names no text; say data@ptx=text ptx.path=..., or ptx_coef=0"
        )
    return SupervisedRows(document_trees(replay(cfg.ptx), tokenizer), cfg.layout, cfg.layout.max_length or 512)


def report(run: Run, iteration: int, metrics: dict[str, float], steps: int) -> None:
    """A rollout in the log, and in one line."""
    run.log(metrics, step=iteration * steps)
    run.say(
        f"rollout {iteration}: score {metrics['objective/score']:.3f}, KL {metrics['objective/kl']:.2f}, "
        f"length {metrics['response/length']:.1f}, ended {metrics['response/ended']:.0%}"
    )


if __name__ == "__main__":
    start("ppo", PPOStage, run)
