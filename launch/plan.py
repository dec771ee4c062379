"""What a stage will need of a GPU's memory, and the command that fits, before anything is loaded or queued.

python -m launch.plan gpus=8 memory=80 -m stages.sft model.path=... adapter=lora data=alpaca data.path=...
python -m launch.plan gpus=8 nodes=4 tokens=4096 -m stages.ppo model.path=... reward.path=... data=prompts data.path=...

What stands behind `-m` is the stage's command as it is typed to run it. Of the model its config.json alone is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import stages  # noqa: F401  settings that libraries read when they are imported
from launch.planning.blueprint import positions
from launch.planning.composing import STAGES, composed, nearest, stage_schema
from launch.planning.fitting import Machine, Planner
from launch.planning.planned import GIB, Planned
from launch.planning.rows import RowShape
from models.errors import ConfigError
from stages.ppo import PPOStage
from stages.sft import SFTStage
from train.entry import report_error
from train.help import options

LONGEST = 2048  # tokens of a row where nothing says how long they are
USAGE = "python -m launch.plan gpus=8 memory=80 -m stages.sft model.path=... data=alpaca data.path=..."


@dataclass
class PlanConfig:
    """The machine, and what is not known of the rows."""

    gpus: int = 1  # of a node
    memory: float = 80.0  # GiB of a GPU
    nodes: int = 1
    headroom: float = 0.1  # share of the memory that is left to the driver, libraries and fragmentation
    tokens: int | None = None  # of a prompt with one response; null: layout.max_length, or what the model holds to 2048
    prompt: int | None = None  # of these, the prompt's; null: half, under PPO all but rl.max_new_tokens
    responses: int = 2  # of a ranking; under PPO rl.samples
    device: str = "cuda"  # whose kernels are counted: cuda or cpu
    json: bool = False  # the whole plan as JSON

    def __post_init__(self) -> None:
        for name in ("gpus", "nodes", "memory"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected above 0")
        if not 0 <= self.headroom < 1:
            raise ConfigError(f"headroom={self.headroom}: expected a share in [0, 1)")
        if self.responses < 2:
            raise ConfigError(f"responses={self.responses}: expected at least 2")
        if self.device not in ("cuda", "cpu"):
            raise ConfigError(f"device={self.device}: expected cuda or cpu")

    @property
    def machine(self) -> Machine:
        return Machine(self.gpus * self.nodes, self.memory * (1 - self.headroom) * GIB, self.device)


def parsed(arguments: Sequence[str]) -> tuple[PlanConfig, str, list[str]]:
    """The plan's own options, the stage, and the stage's options. Raises ConfigError."""
    if "-m" not in arguments:
        raise ConfigError(f"no -m stages.<name>: expected {USAGE}")
    at = arguments.index("-m")
    module, stage_options = (arguments[at + 1 : at + 2] or ["nothing"])[0], list(arguments[at + 2 :])
    known = [field.name for field in fields(PlanConfig)]
    for argument in arguments[:at]:
        name, is_option, _ = argument.partition("=")
        if not is_option or name not in known:
            raise ConfigError(f"unknown option {name}{nearest(name, known)}")
    room, _, stage = module.partition(".")
    if room != "stages":
        raise ConfigError(f"-m {module}: expected stages.<name>{nearest(stage or module, STAGES)}")
    stage_schema(stage)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PlanConfig), OmegaConf.from_dotlist(list(arguments[:at])))
        return OmegaConf.to_object(merged), stage, stage_options
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def row_shape(plan: PlanConfig, cfg: Any) -> RowShape:
    """Tokens of a row, as far as the options say."""
    tokens = plan.tokens or cfg.layout.max_length or min(positions(cfg), LONGEST)
    if isinstance(cfg, PPOStage):
        response, responses = cfg.rl.max_new_tokens, cfg.rl.samples
        prompt = plan.prompt or tokens - response
    else:
        prompt = plan.prompt or tokens // 2
        response, responses = tokens - prompt, 1 if isinstance(cfg, SFTStage) else plan.responses
    if prompt < 1 or response < 1:
        raise ConfigError(f"tokens={tokens}: expected more than the {prompt if prompt > 0 else response} of a part")
    return RowShape(prompt, response, responses)


def planned(plan: PlanConfig, stage: str, stage_options: Sequence[str]) -> Planned:
    """The whole plan."""
    shape = row_shape(plan, composed(stage, stage_options))
    planner = Planner(stage, stage_options, shape, plan.machine)
    best, fits = planner.best()
    return Planned(plan.gpus, plan.nodes, plan.memory, plan.headroom, stage, list(stage_options), planner, best, fits)


def help_text() -> str:
    """The options, with what they do."""
    lines = [str(sys.modules[__name__].__doc__), "options"]
    for name, default, meaning in options(PlanConfig):
        shown = f"  {name}={default}"
        lines.append(f"{shown:<24}  {meaning}".rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the plan. Returns the exit code: 0, 6 where nothing fits, or that of what is wrong."""
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return 0
    known: list[str] = []
    try:
        plan, stage, stage_options = parsed(arguments)
        known = [name for name, _, _ in options(stage_schema(stage))]
        found = planned(plan, stage, stage_options)
    except Exception as error:
        return report_error(error, known, debug="debug=true" in arguments)
    print(json.dumps(found.as_dict(), indent=2) if plan.json else found.text())
    try:
        found.check()
    except Exception as error:
        return report_error(error, known, debug=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
