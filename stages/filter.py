"""The rows of instruction data that a policy keeps, verbatim, in rows.jsonl; why the others went in dropped.jsonl.

python -m stages.data filter data=alpaca data.path=rows.json drop=[duplicate,near_duplicate,toxic,language:zh]
python -m stages.data filter data=alpaca data.path=rows.json model.path=outputs/x/sft max_loss=4 min_difficulty=0.2
"""

from __future__ import annotations

from dataclasses import dataclass, field

from instruct.audit.policy import Policy, counts, dropped_rows, write_dropped
from instruct.audit.source import write_rows
from models.errors import DataError
from stages.inspection import Inspection, inspect
from train.artifact import Artifact
from train.entry import start
from train.run import Run


@dataclass(kw_only=True)
class FilterStage(Inspection):
    """conf/filter.yaml"""

    drop: list[str] = field(
        default_factory=lambda: ["duplicate", "near_duplicate", "incomplete"]
    )  # marks of stages.audit, and language:<code>; of repeated rows the first stays
    max_words: int | None = None  # of an answer
    max_loss: float | None = None  # nats a token of an answer under model.path
    min_difficulty: float | None = None  # IFD of an answer under model.path

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {"against": self.against or self.data.eval_path, "model.path": self.model.path}
        given |= {"reward.path": self.reward.path, "judge": self.judge}
        self.policy().check([name for name, value in given.items() if value])

    def policy(self) -> Policy:
        return Policy(self.drop, self.max_words, self.max_loss, self.min_difficulty, self.limits.near_duplicate)


def run(cfg: FilterStage) -> Artifact:
    """Mark the rows, part them by the policy, write both sides and say the counts."""
    with Run(cfg, stage="filter") as run:
        if run.sealed:
            return run.sealed
        found = inspect(run, cfg)
        gone = dropped_rows(found, cfg.policy())
        kept = [row for i, row in enumerate(found.source.rows) if i not in gone]
        dropped, n_read = counts(found, gone), found.source.reading.n_rows
        said = ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "none"
        run.write("dropped.jsonl", lambda path: write_dropped(path, found, gone))
        if not kept:
            raise DataError(f"{cfg.data.path}: the policy leaves none of {n_read} rows ({said}); drop less")
        run.write("rows.jsonl", lambda path: write_rows(path, kept))
        run.say(f"{n_read} rows in, {len(kept)} kept, {n_read - len(kept)} dropped: {said}")
        run.say(f"{run.folder / 'rows.jsonl'}")
        return run.seal("data", metrics={"rows": n_read, "kept": len(kept), "dropped": dropped})


if __name__ == "__main__":
    start("filter", FilterStage, run)
