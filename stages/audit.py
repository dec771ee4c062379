"""What instruction data is like and what is wrong with it: audit.html for a person, audit.json with row numbers.

python -m stages.data audit data=alpaca data.path=rows.json against=[questions.jsonl]
python -m stages.data audit data=alpaca data.path=rows.json model.path=outputs/x/sft reward.path=outputs/x/reward
"""

from __future__ import annotations

from dataclasses import dataclass

from instruct.audit.account import account, write_measures
from stages.audit_page import render
from stages.inspection import Inspection, inspect
from train.artifact import Artifact, write_json
from train.entry import start
from train.run import Run


@dataclass(kw_only=True)
class AuditStage(Inspection):
    """conf/audit.yaml"""


def run(cfg: AuditStage) -> Artifact:
    """Mark the rows, and write the page, the numbers, and the measures of every row."""
    with Run(cfg, stage="audit") as run:
        if run.sealed:
            return run.sealed
        found = inspect(run, cfg)
        counted = account(found)
        run.write("audit.json", lambda path: write_json(path, counted))
        run.write("audit.html", lambda path: path.write_text(render(found, counted), encoding="utf-8"))
        run.write("measures.jsonl", lambda path: write_measures(path, found))
        rows = {name: marked["rows"] for name, marked in counted["marks"].items()}
        run.say(", ".join(f"{name} {n}" for name, n in rows.items() if n) or "no row is marked")
        run.say(f"{run.folder / 'audit.html'}")
        return run.seal("audit", metrics={"rows": len(found.source.rows), "marked": rows})


if __name__ == "__main__":
    start("audit", AuditStage, run)
