"""`engine=trl`: a stage trained by TRL's own trainer, on the same token ids in the same order with the same optimizer.

The oracle that our trainer is tested with, the peer that it is measured against, and the way out for what it lacks.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import huggingface_hub
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from models.adapters import AdapterConfig
from models.errors import ConfigError
from models.layout import Tree
from train.batches import ShuffledBatches
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig, make_optimizer, rate_multiplier, training_arguments
from train.training import complete, going_on
from train.trl_rows import Columns, conversation_columns, only_axis, pairs_of, row_order

ENGINES = ("ours", "trl")
# Our losses that TRL's DPOTrainer has with the same formula, of sums or per token, under its name.
LOSSES = {
    ("sigmoid", False): "sigmoid",
    ("sigmoid", True): "sigmoid_norm",
    ("robust", False): "robust",
    ("ipo", True): "ipo",
    ("hinge", False): "hinge",
    ("apo_zero", False): "apo_zero",
    ("apo_down", False): "apo_down",
    ("bco", False): "bco_pair",
}


class _Loss(Protocol):
    """What is asked of a preference loss."""

    name: str
    length_normalised: bool
    beta: float
    beta_schedule: str
    label_smoothing: float
    nll: float


def check_engine(engine: str, sharding: Sharding, adapter: AdapterConfig, trainer: TrainerConfig) -> None:
    """Raise ConfigError unless the engine exists, shards and measures as asked, and trains what the adapter does."""
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine}: expected {' or '.join(ENGINES)}")
    if engine == "trl" and sharding.stage is not None:
        raise ConfigError(f"engine=trl does not run with deepspeed.stage={sharding.stage}; use deepspeed=none")
    if engine == "trl" and trainer.eval_every:
        raise ConfigError(f"engine=trl measures nothing under way: trainer.eval_every={trainer.eval_every}; say 0")
    if engine == "trl" and adapter.is_adapter:  # its losses read the output layer's weight past what wraps the layer
        raise ConfigError(f"engine=trl does not run with adapter={adapter.method}; use engine=ours")


def check_preference_loss(loss: _Loss) -> None:
    """Raise ConfigError unless TRL's DPOTrainer has this loss."""
    if (loss.name, loss.length_normalised) not in LOSSES:
        asked = f"loss={loss.name} with loss.length_normalised={str(loss.length_normalised).lower()}"
        raise ConfigError(
            f"engine=trl has no {asked}; use one of {', '.join(sorted({n for n, _ in LOSSES}))}, or engine=ours"
        )
    for option, neutral in (("nll", 0.0), ("beta_schedule", "constant")):
        if (value := getattr(loss, option)) != neutral:
            raise ConfigError(f"engine=trl has no loss.{option}={value}; use loss.{option}={neutral}, or engine=ours")


@dataclass(frozen=True)
class TRLEngine:
    """TRL's trainers inside a run: its checkpoints, log and seal. `trees` are the rows that `batches` order.

    Every method trains the model that it is given to the last step.
    """

    run: Run
    tokenizer: PreTrainedTokenizerBase
    trees: Sequence[Tree]
    batches: ShuffledBatches
    trainer: TrainerConfig

    def supervised(self, policy: PreTrainedModel) -> None:
        """SFTTrainer on the targets."""
        import trl  # noqa: PLC0415  seconds, and only where it is asked for

        config = partial(trl.SFTConfig, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
        self._train(policy, conversation_columns(self.trees), config, trl.SFTTrainer)

    def reward(self, model: PreTrainedModel, labels: Sequence[tuple[Tensor, Tensor]], *, center: float) -> None:
        """RewardTrainer on the head's row of the one labelled axis.

        labels: of each tree, scores (K, A) and whether they are labelled. Raises ConfigError unless all are pairs on
        one axis.
        """
        import trl  # noqa: PLC0415

        axis = only_axis([labelled for _, labelled in labels])
        pairs = pairs_of(self.trees, [scores[:, axis] for scores, _ in labels])
        columns = {
            "chosen_ids": [pair.prompt + pair.chosen for pair in pairs],
            "rejected_ids": [pair.prompt + pair.rejected for pair in pairs],
        }
        config = partial(trl.RewardConfig, max_length=None, center_rewards_coefficient=center or None)
        with one_output(model, axis):
            self._train(model, columns, config, trl.RewardTrainer)

    def preference(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        preferences: Sequence[Tensor],
        loss: _Loss,
    ) -> None:
        """DPOTrainer, which asks the reference itself. `reference` is a copy of the policy of its own.

        preferences: (K,) of each tree. Raises ConfigError unless all are pairs.
        """
        import datasets  # noqa: PLC0415
        import trl  # noqa: PLC0415

        pairs = pairs_of(self.trees, preferences)
        columns = {
            "prompt_ids": [pair.prompt for pair in pairs],
            "chosen_ids": [pair.chosen for pair in pairs],
            "rejected_ids": [pair.rejected for pair in pairs],
        }
        kind = LOSSES[loss.name, loss.length_normalised]
        options = {"loss_type": [kind], "beta": loss.beta, "label_smoothing": loss.label_smoothing}

        def made(train_dataset: datasets.Dataset, **given: Any) -> Trainer:
            """DPOTrainer tokenises what it is made with, even ids; so ids become its data set afterwards."""
            texts = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
            trainer = trl.DPOTrainer(ref_model=reference, train_dataset=texts, **given)
            trainer.train_dataset = train_dataset
            return trainer

        self._train(policy, columns, partial(trl.DPOConfig, max_length=None, **options), made)

    def _train(
        self,
        model: PreTrainedModel,
        columns: Columns,
        config: Callable[..., TrainingArguments],
        make: Callable[..., Trainer],
    ) -> None:
        import datasets  # noqa: PLC0415

        nothing_reported()
        datasets.disable_progress_bars()
        arguments = training_arguments(
            self.trainer,
            Sharding(),
            self.run.checkpoints,
            n_steps=self.batches.steps,
            share=self.batches.share,
            seed=self.run.cfg.seed,
            kind=partial(config, gradient_checkpointing=False, train_sampling_strategy="sequential"),
        )
        checkpoint, callbacks = going_on(self.run, self.batches)
        optimizer = make_optimizer(model, self.trainer, {})
        with same_tokens(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names that TRL still uses and transformers will drop
            loop = make(
                model=model,
                args=arguments,
                train_dataset=datasets.Dataset.from_dict(columns).select(row_order(self.batches)),
                processing_class=padded_apart(self.tokenizer, self.trees),
                optimizers=(optimizer, LambdaLR(optimizer, rate_multiplier(self.trainer, self.batches.steps))),
                callbacks=callbacks,
            )
            loop.remove_callback(PrinterCallback)
            complete(self.run, loop, checkpoint)


@contextlib.contextmanager
def one_output(model: PreTrainedModel, axis: int) -> Iterator[None]:
    """Inside, the reward model has the output of one axis alone, as RewardTrainer wants it. What it learns stays."""
    config, head = model.config, model.score
    names = config.id2label, config.label2id
    model.score = nn.Linear(head.in_features, 1, bias=False, dtype=head.weight.dtype, device=head.weight.device)
    config.num_labels = model.num_labels = 1
    try:
        with torch.no_grad():
            model.score.weight.copy_(head.weight[axis : axis + 1])
        yield
        with torch.no_grad():
            head.weight[axis] = model.score.weight[0]
    finally:
        model.score, model.num_labels = head.to(model.device), head.out_features
        config.id2label, config.label2id = names


@contextlib.contextmanager
def same_tokens(model: PreTrainedModel) -> Iterator[None]:
    """Inside, TRL may set the special tokens of the model's configurations to its tokenizer's; afterwards they are as
    before."""
    holders = (model.config, model.config.get_text_config(), getattr(model, "generation_config", None))
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    before = [(x, name, getattr(x, name)) for x in holders for name in names if hasattr(x, name)]
    try:
        yield
    finally:
        for holder, name, token in before:
            setattr(holder, name, token)


def padded_apart(tokenizer: PreTrainedTokenizerBase, trees: Sequence[Tree]) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose padding token ends no response.

    A scalar head reads the last token that is not padding, the wrong one where the end of a turn is the padding too.
    """
    ends = {response[-1] for tree in trees for response in tree.responses}
    free = (i for i in (tokenizer.pad_token_id, *range(len(tokenizer))) if i is not None and i not in ends)
    apart = copy.deepcopy(tokenizer)
    apart.pad_token = tokenizer.convert_ids_to_tokens(next(free))
    return apart


def nothing_reported() -> None:
    """TRL tells the hub of every training unless told not to; the variable counts only if set before the hub's library
    is imported, so its constant is set too."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
