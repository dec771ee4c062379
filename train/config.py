"""What every stage can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from models.errors import ConfigError
from models.options import RUNTIME
from train.tracking import TrackingConfig


@dataclass
class StageConfig:
    """The options that all stages share; a stage adds its own, `adapter`, `trainer` and `deepspeed` among them."""

    name: str = field(default="default", metadata=RUNTIME)  # the experiment: outputs/<name>/<stage>, and W&B's group
    outputs: str = field(default="outputs", metadata=RUNTIME)
    seed: int = 0
    resume: str = field(
        default="auto", metadata=RUNTIME
    )  # auto; restart: clear an older run; force: go on all the same
    threads: int = field(default=0, metadata=RUNTIME)  # of the CPU; 0: torch's choice
    process_timeout: float = field(default=1800.0, metadata=RUNTIME)  # seconds that one process waits for another
    debug: bool = field(default=False, metadata=RUNTIME)  # show tracebacks
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata=RUNTIME)

    def __post_init__(self) -> None:
        if self.resume not in ("auto", "restart", "force"):
            raise ConfigError(f"resume={self.resume}: expected auto, restart or force")
        if not self.name or self.name.startswith(("/", ".")) or ".." in Path(self.name).parts:
            raise ConfigError(f"name={self.name}: expected a plain folder name")
        if self.threads < 0:
            raise ConfigError(f"threads={self.threads}: expected 0 or more")
        if not self.process_timeout > 0:
            raise ConfigError(f"process_timeout={self.process_timeout}: expected seconds above 0")
        if (adapter := getattr(self, "adapter", None)) is not None:
            sharded = self.deepspeed.stage == 3
            adapter.check(gradient_checkpointing=self.trainer.gradient_checkpointing, weights_sharded=sharded)
