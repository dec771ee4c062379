"""Reinforcement learning against learned rewards: PPO, GRPO, RLOO, REINFORCE++.

python -m stages.ppo model.path=outputs/demo/sft reward.path=outputs/demo/reward data=world_prompts
python -m stages.ppo model.path=outputs/mine/sft reward.path=outputs/mine/reward data=prompts data.path=questions.jsonl
python -m stages.ppo rl.algorithm=grpo rl.samples=8 model.path=... reward.path=... data=prompts data.path=...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from instruct.prompts import Asked, PromptData
from instruct.readers import WORLD, InstructionData
from instruct.sources import questions, replay
from instruct.supervised import SupervisedRows, document_trees
from models.adapters import AdapterConfig
from models.chat import ChatFormat
from models.errors import ConfigError
from models.generation import Sample, end_tokens
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions
from models.options import INPUT, RUNTIME
from models.partitioned import partition
from models.sharing import voices_of
from models.voices import Voices
from reward.sources import RewardSources
from rl.actor_critic import OF_CRITIC, ActorCritic
from rl.config import RLConfig
from rl.experience import Controls
from rl.loop import Minibatches, RLBatches
from rl.objective import PolicyObjective
from rl.rollout import Question, Ranks, RolloutEngine, Scorer, freeze
from rl.samplers import Sampling, load_sampler
from rl.selection import Selection
from stages.critics import starting_critic
from stages.reward_terms import RewardTerms, reward_terms
from stages.rollout_log import RolloutLog
from stages.world_panel import world_gold
from train.artifact import Artifact
from train.callbacks import Pace
from train.config import StageConfig
from train.entry import start
from train.processes import gathered, rank, world_size
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.training import train


@dataclass(kw_only=True)
class PPOStage(StageConfig):
    """conf/ppo.yaml"""

    data: PromptData
    reward: RewardSources
    referee: str | None = field(default=None, metadata=INPUT)  # a reward model of other data: picks the checkpoint
    ptx: InstructionData | None = None  # pretraining text for rl.ptx_coef
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding, metadata=RUNTIME)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rl.ptx_coef:
            return
        if self.ptx is None:
            raise ConfigError(
                "rl.ptx_coef is above 0 but ptx names no text; say data@ptx=text ptx.path=..., or ptx_coef=0"
            )
        parts, partitioned = world_size() * self.trainer.accumulation, self.deepspeed.stage == 3 and world_size() > 1
        if partitioned and self.rl.ptx_batch_size < parts:
            raise ConfigError(
                f"rl.ptx_batch_size={self.rl.ptx_batch_size}: deepspeed=zero3 takes text in every micro-batch of every "
                f"process, expected at least processes × trainer.accumulation = {parts}; or use deepspeed=zero2"
            )


def run(cfg: PPOStage) -> Artifact:
    """Roll out, score, update, and seal the policy that the referee likes best."""
    with Run(cfg, stage="ppo") as run:
        if run.sealed:
            return run.sealed
        folder, frozen = run.input(cfg.model.path, "policy"), freezing(run.sharding)
        policy, tokenizer = load_policy(folder, cfg.model, cfg.adapter)
        chat, voices = ChatFormat(tokenizer), voices_of(policy, folder)
        reward = reward_terms(cfg.reward, tokenizer, cfg.layout, run.say, voices, frozen)
        check_constraint(cfg.rl, reward.columns)
        critic = starting_critic(cfg.rl, reward, policy, voices, lambda: load_policy(folder, cfg.model)[0], run.say)
        model = ActorCritic(policy, voices or frozen(load_policy(folder, cfg.model)[0]), critic)
        engine = rollout_engine(cfg, model, end_tokens(policy, tokenizer, chat), reward, run.folder)
        pool, held = prompts(cfg, chat, max_positions(policy), run.say)
        judge = referee(cfg, run, tokenizer, reward, voices, frozen)
        selection = selecting(cfg, run.folder, engine, held, judge, chat)
        objective = PolicyObjective(cfg.rl, first_ratio=0.1 if cfg.trainer.bf16 else 1e-3)
        controls = Controls.of(cfg.rl)
        log = RolloutLog(run, cfg.rl, controls, reward.columns, selection)
        batches = RLBatches(
            engine=engine,
            pool=pool,
            cfg=cfg.rl,
            objective=objective,
            controls=controls,
            minibatches=Minibatches(cfg.trainer.batch_size, cfg.trainer.accumulation),
            seed=cfg.seed,
            ptx=pretraining_rows(cfg, tokenizer),
            after_update=log.finished,
        )
        if not gone_on(run, batches, selection, log):
            log.start()
        rates = dict.fromkeys(OF_CRITIC, cfg.rl.critic_learning_rate)
        train(run, model, batches, objective, cfg.trainer, rates=rates, pace=Pace(after_step=batches.after_step))
        run.say(selection.restore_best())
        chat.configure(policy)
        metrics = {"kept": selection.best, "looks": selection.looks, "alerts": log.told()}
        sealed = run.seal("policy", model=policy, tokenizer=tokenizer, metrics=metrics)
        selection.forget_best()
        return sealed


def gone_on(run: Run, batches: RLBatches, selection: Selection, log: RolloutLog) -> bool:
    """Let checkpoints hold what the loop remembers, and take it from the one that is there. False where none is."""
    run.state |= {"rl": batches.state_dict, "selection": selection.state_dict, "alerts": log.alerts.state_dict}
    run.files["experience.pt"] = batches.write
    restored = run.restored_state()
    if restored:
        batches.load_state_dict(restored["rl"], run.restored_file("experience.pt"))
        selection.load_state_dict(restored["selection"])
        log.alerts.load_state_dict(restored["alerts"])
    return bool(restored)


def freezing(sharding: Sharding) -> Callable[[nn.Module], nn.Module]:
    """How models that only answer are kept: under ZeRO-3 each process has its part of their weights, too."""
    return (lambda model: partition(freeze(model))) if sharding.stage == 3 else freeze


def prompts(
    cfg: PPOStage, chat: ChatFormat, positions: int, say: Callable[[str], object]
) -> tuple[list[Question], list[Question]]:
    """For rollouts, and held out, where a response has room beside them."""
    data, room = questions(cfg.data), (cfg.layout.max_length or positions) - cfg.rl.max_new_tokens
    pool, held = fitting(data.train, chat, room), fitting(data.eval, chat, room)[: cfg.rl.evaluation_prompts]
    say(f"{len(pool)} prompts for rollouts ({len(data.train) - len(pool)} too long), {len(held)} held out")
    return pool, held


def selecting(
    cfg: PPOStage, folder: Path, engine: RolloutEngine, held: Sequence[Question], judge: Scorer, chat: ChatFormat
) -> Selection:
    """What looks at held-out prompts, in the embedded world by the truth, too."""

    def text(sample: Sample) -> str:
        return chat.text(sample.ids)

    gold = world_gold(cfg.data.seed, held, text) if cfg.data.path == WORLD else None
    return Selection(folder, engine, held, judge, cfg.rl, text=text, gold=gold)


def referee(
    cfg: PPOStage,
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    reward: RewardTerms,
    voices: Voices | None,
    frozen: Callable[[nn.Module], nn.Module],
) -> RewardTerms:
    """What picks the checkpoint: a reward model of other data where there is one."""
    if cfg.referee is None:
        run.say("no referee=: the reward that the policy learns from picks the checkpoint, too")
        return reward
    return reward_terms(cfg.reward.but_path(cfg.referee), tokenizer, cfg.layout, run.say, voices, frozen)


def check_constraint(cfg: RLConfig, columns: Sequence[str]) -> None:
    """Raise ConfigError where what is to be held is not scored."""
    if cfg.constraint.limit is not None and cfg.constraint.axis not in columns:
        raise ConfigError(f"rl.constraint.axis={cfg.constraint.axis}: expected one of {', '.join(columns)}")


def rollout_engine(cfg: PPOStage, model: ActorCritic, ends: set[int], reward: Scorer, folder: Path) -> RolloutEngine:
    """Sampling, scoring and evaluation as the options say."""
    return RolloutEngine(
        model=model,
        scorer=reward,
        sampler=load_sampler(cfg.rl.sampler, Sampling(ends, cfg.rl.max_new_tokens, cfg.rl.temperature), folder),
        temperature=cfg.rl.temperature,
        layout=cfg.layout,
        ranks=Ranks(rank(), world_size(), gathered),
        bf16=cfg.trainer.bf16,
    )


def fitting(asked: Sequence[Asked], chat: ChatFormat, room: int) -> list[Question]:
    """The prompts that leave room for a response."""
    found = [(a, ids) for a in asked if len(ids := chat.prompt(a.prompt)) <= room]
    return [Question(number, a.prompt, ids, a.fields) for number, (a, ids) in enumerate(found)]


def pretraining_rows(cfg: PPOStage, tokenizer: PreTrainedTokenizerBase) -> SupervisedRows | None:
    """Documents for PTX, where it has a weight."""
    if not cfg.rl.ptx_coef:
        return None
    return SupervisedRows(document_trees(replay(cfg.ptx), tokenizer), cfg.layout, cfg.layout.max_length or 512)


if __name__ == "__main__":
    start("ppo", PPOStage, run)
