"""What an instruction can be marked as, and what a mark holds."""

from __future__ import annotations

from typing import NamedTuple

Marks = dict[int, str]  # index of the item -> why it is marked


class Kind(NamedTuple):
    """One kind of mark. `needs` names the option without which nobody looks for it."""

    dimension: str
    meaning: str
    needs: str = ""


KINDS = {
    "duplicate": Kind("duplicates", "prompt and answer are those of an earlier row, up to case and spacing"),
    "near_duplicate": Kind("duplicates", "nearly the words of an earlier row, in prompt and answer together"),
    "duplicate_id": Kind("duplicates", "the `id` of an earlier row"),
    "inconsistent": Kind("consistency", "another row has the same prompt and another answer"),
    "contaminated": Kind("contamination", "holds much of a prompt of an evaluation file", "against"),
    "incomplete": Kind("completeness", "breaks off: mid-sentence, in a list or a code block; or says nothing"),
    "placeholder": Kind("completeness", "holds a blank to be filled in, such as {{name}}"),
    "verbose": Kind("conciseness", "far longer than the answers to similar instructions"),
    "repetitive": Kind("conciseness", "says the same words again and again"),
    "language_switch": Kind(
        "language", "answers in another language than it was asked in: a guess, and right for translations"
    ),
    "toxic": Kind("toxicity", "the scorer finds abuse in prompt or answer"),
    "high_loss": Kind("accuracy", "the model finds the answer far less likely than other answers", "model.path"),
    "misaligned": Kind("accuracy", "the instruction makes the answer no likelier (IFD of 1 or more)", "model.path"),
    "low_helpful": Kind("accuracy", "among the least helpful to the reward model", "reward.path"),
    "low_honest": Kind("accuracy", "among the least honest to the reward model", "reward.path"),
    "low_harmless": Kind("accuracy", "among the least harmless to the reward model", "reward.path"),
    "doubtful": Kind("accuracy", "the judge does not trust the answer", "judge"),
}
