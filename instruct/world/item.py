"""One piece of content of the world, from which base text, tasks and wrong answers are all made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What there is to ask and to say about one fact, phrase, list or deed.

    ``key`` decides the split: two prompts with the same key are always on the same side.
    ``prompts`` are the wordings that training may use, ``new_prompts`` those that only dev and test use.
    ``topic`` completes "Asked ..., she says:" in base text, where no prompt ever stands word for word; ``reply`` is
    what the base text then says; ``statements`` are plain sentences that tell the same.
    ``answers`` are all fully right responses, the canonical one first; ``wrong`` are plausible wrong ones: for a
    harmful request the harmful help, for an unanswerable question an invention.
    """

    key: str
    prompts: tuple[str, ...]
    new_prompts: tuple[str, ...]
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    topic: str
    reply: str
    statements: tuple[str, ...]
