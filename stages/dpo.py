"""Preference optimisation: DPO and its family, on rankings, on labelled responses, and on the policy's own samples.

python -m stages.dpo model.path=outputs/demo/sft data=kwise data.path=outputs/demo/reward/rankings.jsonl
python -m stages.dpo model.path=outputs/mine/sft data=hh data.path=harmless.jsonl loss=simpo loss.beta=2.5
python -m stages.dpo model.path=outputs/mine/sft data=unpaired data.path=thumbs.jsonl loss=kto
python -m stages.dpo model.path=outputs/demo/sft data=kwise data.path=outputs/demo/reward/rankings.jsonl \\
    online.rounds=4 reward=outputs/demo/reward
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.adapters import AdapterConfig
from models.chat import ChatFormat, Prompt
from models.errors import ConfigError, DataError
from models.layout import LayoutConfig
from models.loading import (
    ModelConfig,
    load_policy,
    load_scorer,
    max_positions,
    same_tokenizer,
    template_digest,
    tokenizer_digest,
)
from models.objective import Objective
from models.options import INPUT, RUNTIME
from reward.rankings import Ranking
from rl.kto import BALANCED, KTOObjective, KTORows
from rl.online import OnlineConfig
from rl.pairs import PreferenceObjective, PreferenceRows
from rl.preference_loss import KTO, PreferenceLoss
from rl.steps import Stepped
from rl.unpaired import Labelled
from stages.online_rounds import OnlineRounds
from stages.preference_data import PreferenceData, preference_rows, read_preferences
from stages.reference_logprobs import ReferenceLogprobs
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.callbacks import Pace
from train.config import StageConfig
from train.entry import start
from train.evaluation import held_out
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.training import train
from train.trl_engine import TRLEngine, check_engine, check_preference_loss


@dataclass(kw_only=True)
class DPOStage(StageConfig):
    """conf/dpo.yaml"""

    data: PreferenceData
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    loss: PreferenceLoss = field(default_factory=PreferenceLoss)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding, metadata=RUNTIME)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration
    reference_cache: str | None = field(
        default=None, metadata=RUNTIME
    )  # folder where the reference's log-probabilities are kept for other runs; null: <outputs>/reference_logprobs
    reward: str | None = field(default=None, metadata=INPUT)  # the reward model that ranks in online rounds
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        self.data.check(self.loss)
        if self.engine == "trl":
            check_preference_loss(self.loss)
        if self.loss.name == KTO and self.trainer.batch_size < 2:
            raise ConfigError(f"trainer.batch_size={self.trainer.batch_size}: expected at least 2 with loss=kto")
        if self.online.rounds:
            self._check_online()
        elif self.reward is not None or self.online != OnlineConfig():
            raise ConfigError("reward and online.*: not read without rounds; say online.rounds=...")

    def _check_online(self) -> None:
        if self.reward is None:
            raise ConfigError(f"online.rounds={self.online.rounds}: needs a reward model that ranks; say reward=...")
        if self.engine == "trl":
            raise ConfigError("engine=trl does not learn online; use engine=ours, or online.rounds=0")
        if self.trainer.max_steps is not None:
            raise ConfigError(f"trainer.max_steps={self.trainer.max_steps}: not read with online.rounds")
        if self.online.prompts < self.trainer.batch_size:
            raise ConfigError(
                f"online.prompts={self.online.prompts}: expected at least trainer.batch_size={self.trainer.batch_size}"
            )


def run(cfg: DPOStage) -> Artifact:
    """Ask the reference once, train, and seal the policy."""
    with Run(cfg, stage="dpo") as run:
        if run.sealed:
            return run.sealed
        folder = run.input(cfg.model.path, "policy")
        policy, tokenizer = load_policy(folder, cfg.model, cfg.adapter)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        data = read_preferences(cfg.data)
        run.say(str(data))
        reference = reference_logprobs(run, cfg, folder, policy, tokenizer)

        def rows_of(side: list[Ranking] | list[Labelled]) -> PreferenceRows | KTORows:
            rows = preference_rows(side, cfg.loss, chat, cfg.layout, length, policy, bf16=cfg.trainer.bf16)
            if cfg.loss.has_reference:
                rows.refer(reference.of(rows.referred))
            return rows

        objective, held, share = objective_of(cfg), rows_of(data.eval) if data.eval else None, run.share(cfg.trainer)
        measure = None
        if held:
            measure = partial(held_out, policy, held, objective, batch_size=share.rows, bf16=cfg.trainer.bf16)
        if cfg.online.rounds:
            rounds = online_rounds(run, cfg, folder, policy, tokenizer, [record.prompt for record in data.train])
            found = learn(run, cfg, policy, rounds, objective, measure) | {"rounds": rounds.told}
        else:
            rows = rows_of(data.train)
            say_balance(run, rows, cfg.loss)
            batches = ShuffledBatches(
                rows,
                share,
                steps=cfg.trainer.steps(len(rows)),
                seed=cfg.seed,
                shuffle=cfg.trainer.shuffle,
            )
            if cfg.engine == "trl":
                engine = TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer)
                engine.preference(policy, load_policy(folder, cfg.model)[0], rows.preferences, cfg.loss)
                found = measure() if measure else {}
            else:
                found = learn(run, cfg, policy, batches, objective, measure)
            found = {"rankings": len(rows), "rankings_dropped": len(data.train) - len(rows), **found}
        chat.configure(policy)
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics=found)


def learn(
    run: Run,
    cfg: DPOStage,
    policy: PreTrainedModel,
    batches: ShuffledBatches | OnlineRounds,
    objective: Objective,
    measure: Callable[[], dict[str, float]] | None,
) -> dict[str, float]:
    """Train to the end; in online rounds a checkpoint stands at the start of each."""
    stepped, trainer, pace = Stepped(batches, cfg.trainer.accumulation), cfg.trainer, Pace()
    if isinstance(batches, OnlineRounds):
        pace = Pace(batches.steps)
        trainer = replace(trainer, save_every=batches.steps if trainer.save_every else 0)
    return train(run, policy, stepped, objective, trainer, pace=pace, measure=measure)


def online_rounds(
    run: Run,
    cfg: DPOStage,
    folder: str,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
) -> OnlineRounds:
    """What samples from the policy, ranks by the reward model, and refers to the policy of the start."""
    scorer, scorer_tokenizer = load_scorer(run.input(cfg.reward, "reward"), ModelConfig(path=cfg.reward))
    same_tokenizer(tokenizer, scorer_tokenizer, cfg.reward)
    reference = None
    if cfg.loss.has_reference and cfg.online.reference == "start":
        reference = load_policy(folder, cfg.model, quantised=cfg.adapter.quantised)[0]
    chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
    room = length - cfg.online.max_new_tokens
    fitting = list(dict.fromkeys(prompt for prompt in prompts if len(chat.prompt(prompt)) <= room))
    if not fitting:
        raise DataError(f"none of {len(prompts)} prompts leaves room for online.max_new_tokens in {length} tokens")
    run.say(f"{len(fitting)} prompts for online rounds")
    return OnlineRounds(
        run,
        policy,
        tokenizer,
        scorer,
        reference,
        fitting,
        cfg.loss,
        cfg.online,
        cfg.layout,
        length,
        run.share(cfg.trainer),
        cfg.seed,
        cfg.trainer.bf16,
    )


def objective_of(cfg: DPOStage) -> Objective:
    """The loss, which checks before the first step that the policy is its reference, up to the precision."""
    rounded = cfg.trainer.bf16 or cfg.model.dtype != "float32"
    kind = KTOObjective if cfg.loss.name == KTO else PreferenceObjective
    return kind(cfg.loss, starts_at_reference=cfg.adapter.starts_at_model, tolerance=0.1 if rounded else 1e-3)


def reference_logprobs(
    run: Run, cfg: DPOStage, folder: str, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ReferenceLogprobs:
    """What the reference says of responses, asked once and kept for other runs.

    The reference is the policy before its first step, which is the model with its adapter off, unless the adapter
    changes the model from the start.
    """
    about = {
        "model": run.record["inputs"]["model.path"]["digest"],
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer.chat_template),
        "max_length": cfg.layout.max_length or max_positions(policy),
        "dtype": "nf4" if cfg.adapter.quantised else cfg.model.dtype,
    }
    kept = Path(cfg.reference_cache or Path(cfg.outputs) / "reference_logprobs")
    model = (lambda: policy) if cfg.adapter.starts_at_model else (lambda: load_policy(folder, cfg.model)[0])
    return ReferenceLogprobs(kept, about, cfg.layout.bin_tokens, cfg.trainer.bf16, run, model)


def say_balance(run: Run, rows: PreferenceRows | KTORows, loss: PreferenceLoss) -> None:
    """A note where desirable and undesirable responses do not weigh as KTO wants them to."""
    if isinstance(rows, KTORows) and not BALANCED[0] <= (found := rows.balance(loss)) <= BALANCED[1]:
        run.say(
            f"note: desirable responses weigh {found:.3g} times the undesirable, 1 to 4/3 is advised; set "
            "loss.weight_desirable or loss.weight_undesirable"
        )


if __name__ == "__main__":
    start("dpo", DPOStage, run)
