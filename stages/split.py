"""Training, validation and test rows of instruction data, verbatim, parted by a hash of the prompt.

python -m stages.data split data=alpaca data.path=rows.json validation=0.05 test=0.05

One prompt never stands on two sides, and rows that are added later move none.
"""

from __future__ import annotations

from dataclasses import dataclass

from instruct.audit.sides import SIDES, side, split_key
from instruct.audit.source import read_source, write_rows
from instruct.readers import InstructionData
from models.errors import ConfigError, DataError
from train.artifact import Artifact
from train.config import StageConfig
from train.entry import start
from train.run import Run


@dataclass(kw_only=True)
class SplitStage(StageConfig):
    """conf/split.yaml"""

    data: InstructionData
    validation: float = 0.05  # share of prompts
    test: float = 0.05  # share of prompts
    group: str | None = None  # a field of the rows that names what must stay together; null: the prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.validation, self.test) < 0 or not self.validation + self.test < 1:
            raise ConfigError(f"validation={self.validation} test={self.test}: shares of 0 or more, together below 1")
        if self.data.eval_fraction or self.data.eval_path:
            raise ConfigError("data.eval_fraction, data.eval_path: a split makes its own; use validation= and test=")


def run(cfg: SplitStage) -> Artifact:
    """Read, give every row a side, and write the three files."""
    with Run(cfg, stage="split") as run:
        if run.sealed:
            return run.sealed
        source = read_source(cfg.data)
        run.say(str(source.reading))
        parts = {name: [] for name in SIDES}
        for row in source.rows:
            parts[side(split_key(row, cfg.group), cfg.validation, cfg.test, cfg.seed)].append(row)
        if not parts["train"]:
            raise DataError(f"{cfg.data.path}: none of {len(source.rows)} rows is left to train on; hold out less")
        for name, rows in parts.items():
            run.write(f"{name}.jsonl", lambda path, rows=rows: write_rows(path, rows))
        run.say(", ".join(f"{name} {len(rows)}" for name, rows in parts.items()) + f", in {run.folder}")
        return run.seal("data", metrics={name: len(rows) for name, rows in parts.items()})


if __name__ == "__main__":
    start("split", SplitStage, run)
