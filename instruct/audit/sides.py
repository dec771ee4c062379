"""The side of a row: train, validation or test, from a hash of what must stay together."""

from __future__ import annotations

from instruct.audit.source import SourceRow
from models.errors import BadRow
from models.split import held_out, prompt_key, text_key

SIDES = ("train", "validation", "test")


def side(key: str, validation: float, test: float, seed: int) -> str:
    """Larger shares of validation or test take from train alone, if test stays the same."""
    if held_out(key, test, seed):
        return "test"
    return "validation" if held_out(key, validation + test, seed) else "train"


def split_key(row: SourceRow, group: str | None) -> str:
    """What a row shares with those that must be on its side: the field `group`, or its prompt.

    A row of several instances has several prompts; its instruction, which they share, stands for them.
    """
    if group is not None:
        value = row.fields.get(group)
        if not isinstance(value, str | int) or value == "":
            raise BadRow(row.origin, group, "a text or a whole number to group by", value)
        return str(value)
    if "instances" in row.fields:
        return text_key(str(row.fields["instruction"]))
    return prompt_key(row.instructions[0].messages)
