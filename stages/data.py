"""Look at instruction data, clean it, part it and make more of it, before anything learns from it.

python -m stages.data audit  data=alpaca data.path=rows.json
python -m stages.data filter data=alpaca data.path=rows.json drop=[duplicate,incomplete,toxic]
python -m stages.data split  data=alpaca data.path=rows.json validation=0.05 test=0.05
python -m stages.data generate method=evolve data=alpaca data.path=rows.json teacher.path=outputs/x/dpo
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from typing import get_type_hints

from models.errors import ConfigError
from train.entry import start
from train.help import help_text

VERBS = {  # each a stage of its own, stages/<verb>.py
    "audit": "what the rows are like and what is wrong with them, as a page and with row numbers",
    "filter": "the rows that a policy keeps, verbatim, and why the others went",
    "split": "training, validation and test rows by prompt, verbatim",
    "generate": "new rows, made by a teacher from these",
}


def main(arguments: list[str]) -> int | None:
    """Run the verb that stands first. Returns an exit code where there is none to run."""
    verb, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("--help", "-h"):
        print(overview())
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.0)
        said = f"unknown verb {verb}; did you mean {near[0]}?" if near and verb else "no verb"
        print(f"error: stages.data: {said} Say one of {', '.join(VERBS)} first", file=sys.stderr)
        return ConfigError.code
    stage = importlib.import_module(f"stages.{verb}")
    schema = get_type_hints(stage.run)["cfg"]
    if {"--help", "-h"} & set(options):
        print(help_text(f"data {verb}", schema, inspect.getdoc(stage) or ""))
        return 0
    sys.argv[1:] = options
    start(verb, schema, stage.run)
    return None


def overview() -> str:
    verbs = "\n".join(f"  {verb:<9} {does}" for verb, does in VERBS.items())
    usage = "python -m stages.data VERB [option=value ...]"
    return f"{usage}\n\n{(__doc__ or '').strip()}\n\nverbs\n{verbs}\n\nVERB --help lists its options"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
