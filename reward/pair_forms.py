"""Forms of preference data whose rows hold two answers, one of them better."""

from __future__ import annotations

from models.chat import Message
from models.conversations import chat_message, prompt_of, read_prompt, read_transcript, sharegpt_message
from models.reading import Row, UnusableRow
from reward.judged import Judged, number, pair


def pairs(row: Row) -> Judged:
    """{"prompt", "chosen", "rejected"}, each a text or a list of messages, and perhaps a `margin` of 0 or more.

    Answers may be whole conversations; without a `prompt` they must be, and the turns before the last are the prompt.
    """
    (chosen_context, chosen), (rejected_context, rejected) = _reply(row, "chosen"), _reply(row, "rejected")
    prompt = list(read_prompt(row, "prompt")) if row.has("prompt") or not chosen_context else chosen_context
    if any(context and context != prompt for context in (chosen_context, rejected_context)):
        raise UnusableRow(row.origin, "prompts of chosen and rejected differ")
    margin = number(row, "margin") if row.has("margin") else 1.0
    if margin < 0:
        raise row.bad("margin", "0 or more: by how much chosen is the better one")
    return pair(prompt_of(prompt, row, "chosen"), chosen, rejected, margin)


def _reply(row: Row, name: str) -> tuple[list[Message], str]:
    if not isinstance(row.value(name), list):
        return [], row.filled(name)
    turns = [chat_message(turn) for turn in row.rows(name)]
    if not turns or turns[-1].role != "assistant":
        raise row.bad(name, "a text, or messages that end with the assistant's")
    return turns[:-1], turns[-1].content


def hh(row: Row) -> Judged:
    """{"chosen", "rejected"}: two transcripts of one conversation that part at the last reply (hh-rlhf)."""
    prompt, chosen = read_transcript(row, "chosen")
    other_prompt, rejected = read_transcript(row, "rejected")
    if not (chosen.strip() and rejected.strip()):
        raise UnusableRow(row.origin, "empty reply")
    if prompt != other_prompt:
        raise UnusableRow(row.origin, "prompts of chosen and rejected differ")
    return pair(prompt, chosen, rejected)


def sharegpt_pairs(row: Row) -> Judged:
    """{"conversations": [{"from", "value"}, ...], "chosen": {"from", "value"}, "rejected": {...}}."""
    turns = [sharegpt_message(turn) for turn in row.rows("conversations")]
    chosen, rejected = sharegpt_message(row.row("chosen")), sharegpt_message(row.row("rejected"))
    return pair(prompt_of(turns, row, "conversations"), chosen.content, rejected.content)


def stack_exchange(row: Row) -> Judged:
    """{"question", "response_j", "response_k"}: j has more votes than k."""
    return pair(read_prompt(row, "question"), row.filled("response_j"), row.filled("response_k"))


def llmbar(row: Row) -> Judged:
    """{"input", "output_1", "output_2", "label"}: the label is the number of the better output."""
    better = row.value("label")
    if type(better) is not int or better not in (1, 2):
        raise row.bad("label", "1 or 2")
    outputs = row.filled("output_1"), row.filled("output_2")
    return pair(read_prompt(row, "input"), outputs[better - 1], outputs[2 - better])
