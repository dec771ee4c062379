"""Runs of `stages.generate` over twelve seeds, and a teacher that answers them well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from teacher_server import (
    Behaviour,
    saying,
)
from tiny_data import NAMES

SEEDS = [
    {"instruction": f"Name one river of the land {name}.", "input": "", "output": f"The river {name} flows there."}
    for name in NAMES
]
QUICK = (
    "teacher.limits.timeout=1",
    "teacher.limits.tries=2",
    "teacher.limits.wait=0.01",
    "teacher.limits.max_wait=0.1",
)
KEY = "sk-very-secret-key"


def scholar(_: int, body: dict[str, Any]) -> Behaviour:
    """Answers every template as a good teacher would, and the same prompt always in the same way."""
    prompt = body["messages"][-1]["content"]
    land = (re.findall("|".join(NAMES), prompt) or ["nowhere"])[-1]
    about = f"{land} {'abcdefghij'[len(prompt) % 10] * 3}"
    if prompt.startswith("Say the message"):
        return saying(f'"Which stream runs through {land} country, and where?"', usage={"prompt_tokens": 7})
    if prompt.startswith("Rewrite the prompt"):
        return saying(f"#New Prompt#: Compare two {land} streams of about {about} by length, depth and fish.")
    if prompt.startswith("Read the prompt"):
        return saying(f"Which mountains of {about} were climbed first and by whom?")
    if prompt.startswith("Do these two messages"):
        return saying("Yes", usage={"prompt_tokens": 2})
    if prompt.startswith("Do these two prompts"):
        return saying("Not equal.")
    if prompt.startswith("Below is a text"):
        return saying(f"What can be said of the waters in {land} today?", usage={"prompt_tokens": 7})
    if prompt.startswith("Below are a message"):
        return saying("Score: 5")
    if prompt.startswith("Here are tasks"):
        number = sum(map(ord, prompt))
        return saying(f"Tell a tale of {about} in {number} words about {number * 7} hens and {number * 3} {land}.")
    if prompt.startswith("Here is a task"):
        return saying("Input: none\nOutput: Once upon a time.", usage={"prompt_tokens": 11, "completion_tokens": 6})
    return saying(f"It is about {about}.")


def options(folder: Path, url: str, *more: str, method: str = "back_translate") -> tuple[str, ...]:
    """A run over the twelve seeds, its outputs below `folder`; of back_translate, one request for each."""
    data = ("data=alpaca", f"data.path={folder / 'seeds.jsonl'}", "data.eval_fraction=0", "name=x")
    filters = ("filter.max_similarity=0.95", "min_score=1")
    place = (f"outputs={folder / 'out'}", f"method={method}", f"teacher.url={url}", "teacher.model=m")
    return (*data, *place, *QUICK, *filters, *more)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/x/generate/rows.jsonl").read_text().splitlines()]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "source": {**row["source"], "time": None}} for row in rows]


def counts(artifact: Any) -> dict[str, Any]:
    """The tally of the manifest, after checking that it is complete."""
    found = artifact.manifest["metrics"]
    assert found["asked"] == found["kept"] + sum(found["dropped"].values()) + sum(found["failed"].values())
    assert found["kept"] == len((artifact.folder / "rows.jsonl").read_text().splitlines())
    return found
