"""Preference optimisation: DPO and its family, on rankings, on labelled responses, and on the policy's own samples.

python -m stages.dpo model.path=outputs/demo/sft data=kwise data.path=outputs/demo/reward/rankings.jsonl
python -m stages.dpo model.path=outputs/mine/sft data=hh data.path=harmless.jsonl loss=simpo loss.beta=2.5
python -m stages.dpo model.path=outputs/mine/sft data=unpaired data.path=thumbs.jsonl loss=kto
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.adapters import AdapterConfig
from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions, template_digest, tokenizer_digest
from models.options import RUNTIME
from rl.kto import BALANCED, KTOObjective, KTORows
from rl.pairs import PreferenceObjective, PreferenceRows
from rl.preference_loss import KTO, PreferenceLoss
from rl.steps import Stepped
from stages.preference_data import PreferenceData, preference_rows, read_preferences
from stages.reference_logprobs import ReferenceLogprobs
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.entry import start
from train.evaluation import held_out
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig
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
    deepspeed: Sharding = field(default_factory=Sharding)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration
    reference_cache: str | None = field(
        default=None, metadata=RUNTIME
    )  # folder where the reference's log-probabilities are kept for other runs; null: <outputs>/reference_logprobs

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        self.data.check(self.loss)
        if self.engine == "trl":
            check_preference_loss(self.loss)
        if self.loss.name == KTO and self.trainer.batch_size < 2:
            raise ConfigError(f"trainer.batch_size={self.trainer.batch_size}: expected at least 2 with loss=kto")


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
        rows_of = partial(
            preference_rows, loss=cfg.loss, chat=chat, layout=cfg.layout, max_length=length, policy=policy
        )
        rows, held = rows_of(data.train), rows_of(data.eval) if data.eval else None
        say_balance(run, rows, cfg.loss)
        refer(run, cfg, folder, policy, tokenizer, [rows, held])
        objective = objective_of(cfg)
        measure = partial(held_out, policy, held, objective) if held else None
        batches = ShuffledBatches(rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed)
        if cfg.engine == "trl":
            engine = TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer)
            engine.preference(policy, load_policy(folder, cfg.model)[0], rows.preferences, cfg.loss)
            found = measure() if measure else {}
        else:
            stepped = Stepped(batches, cfg.trainer.accumulation)
            found = run.train(policy, stepped, objective, cfg.trainer, measure=measure)
        metrics = {"rankings": len(rows), "rankings_dropped": len(data.train) - len(rows), **found}
        chat.configure(policy)
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics=metrics)


def objective_of(cfg: DPOStage) -> PreferenceObjective | KTOObjective:
    """The loss, which checks before the first step that the policy is its reference, up to the precision."""
    rounded = cfg.trainer.bf16 or cfg.model.dtype != "float32"
    kind = KTOObjective if cfg.loss.name == KTO else PreferenceObjective
    return kind(cfg.loss, starts_at_reference=cfg.adapter.starts_at_model, tolerance=0.1 if rounded else 1e-3)


def refer(
    run: Run,
    cfg: DPOStage,
    folder: str,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sides: list[PreferenceRows | KTORows | None],
) -> None:
    """Give rows their reference log-probabilities, where the loss has a reference.

    The reference is the policy before its first step, which is the model with its adapter off, unless the adapter
    changes the model from the start.
    """
    if not cfg.loss.has_reference:
        return
    about = {
        "model": run.record["inputs"]["model.path"]["digest"],
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer.chat_template),
        "max_length": cfg.layout.max_length or max_positions(policy),
        "dtype": "nf4" if cfg.adapter.quantised else cfg.model.dtype,
    }
    folder_of_cache = Path(cfg.reference_cache or Path(cfg.outputs) / "reference_logprobs")
    model = (lambda: policy) if cfg.adapter.starts_at_model else (lambda: load_policy(folder, cfg.model)[0])
    known = ReferenceLogprobs(folder_of_cache, about, cfg.layout.bin_tokens, run.say, model)
    for rows in filter(None, sides):
        rows.refer(known.of(rows.referred))


def say_balance(run: Run, rows: PreferenceRows | KTORows, loss: PreferenceLoss) -> None:
    """A note where desirable and undesirable responses do not weigh as KTO wants them to."""
    if isinstance(rows, KTORows) and not BALANCED[0] <= (found := rows.balance(loss)) <= BALANCED[1]:
        run.say(
            f"note: desirable responses weigh {found:.3g} times the undesirable, 1 to 4/3 is advised; set "
            "loss.weight_desirable or loss.weight_undesirable"
        )


if __name__ == "__main__":
    start("dpo", DPOStage, run)
