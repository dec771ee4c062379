"""What a teacher is asked, and what comes back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One user's turn. `key` is the digest of all that decides the reply, the teacher and its sampling included."""

    key: str
    text: str


@dataclass(frozen=True)
class Reply:
    """What a teacher wrote: whether it came to an end, when it came, and how many tokens the teacher counted."""

    text: str
    ended: bool
    time: str
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """No reply. `reason` is short, to count by; `detail` says more. `outage`: the teacher may be at fault."""

    reason: str
    detail: str = ""
    outage: bool = True


def request_key(**deciding: Any) -> str:
    """The digest of all that decides a reply."""
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


Receive = Callable[[Request, Reply | Failure], None]


class Teacher(Protocol):
    """Whoever answers."""

    name: str  # for provenance and messages
    identity: dict[str, Any]  # all that decides what it answers, its sampling included

    def answer(self, requests: Sequence[Request], receive: Receive, stop: threading.Event) -> None:
        """Give every answer to `receive` as it comes, from any thread; begin nothing new once `stop` is set."""
        ...
