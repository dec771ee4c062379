"""What instruction data is made of."""

from __future__ import annotations

from dataclasses import dataclass

from models.chat import Message
from models.errors import Origin


@dataclass(frozen=True)
class Instruction:
    """A conversation to learn from: at most one system turn, then user and assistant in turn, the assistant's last."""

    messages: tuple[Message, ...]
    origin: Origin
    source: str = ""  # its name in a mixture
    group: str = ""  # its value of the field that data.balance names


@dataclass(frozen=True)
class Document:
    """Plain text to learn from, as in pretraining."""

    text: str
    origin: Origin
