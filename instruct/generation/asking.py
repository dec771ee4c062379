"""Requests to one teacher, each paid for once.

Replies are kept by the digest of their request, in a journal that outlives the run: whoever asks the same again, after
a kill or with other filters, gets the reply that is there. Failures are settled for one run alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict

from instruct.generation.journal import Journal
from instruct.generation.requests import Failure, Reply, Request, Teacher
from models.errors import Unavailable


class Asking:
    """`ask` returns what came of each request; it raises Unavailable after `patience` failures in a row."""

    def __init__(self, teacher: Teacher, replies: Journal, failures: Journal, patience: int) -> None:
        self.teacher, self.replies, self.failures, self.patience = teacher, replies, failures, patience
        self.n_asked = 0  # requests that went out to the teacher, not those that were known
        self.outage = False  # whether the teacher failed in any of them
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._in_a_row = 0

    def ask(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """The answer to each request, in their order; the teacher is asked for those that are not known.

        Failures are settled when all requests have been tried, so what a kill or an outage cut off is asked again, and
        a run that goes on makes of the answers what it would have made without the kill.
        """
        failed: dict[str, Failure] = {}

        def receive(request: Request, answer: Reply | Failure) -> None:
            if isinstance(answer, Reply):
                self.replies.add({"key": request.key, "asked": request.text, **asdict(answer)})
            with self._lock:
                self.n_asked += 1
                if isinstance(answer, Failure):
                    failed[request.key] = answer
                    self._in_a_row += answer.outage
                    self.outage |= answer.outage
                else:
                    self._in_a_row = 0
                if self._in_a_row >= self.patience:
                    self._stop.set()

        self.teacher.answer([r for r in requests if self._known(r) is None], receive, self._stop)
        if self._stop.is_set():
            raise self._unavailable(list(failed.values())[-1])
        for key, failure in failed.items():
            self.failures.add({"key": key, **asdict(failure)})
        return [answer for request in requests if (answer := self._known(request)) is not None]

    def _known(self, request: Request) -> Reply | Failure | None:
        if entry := self.replies.get(request.key):
            return Reply(**{name: entry[name] for name in Reply.__dataclass_fields__})
        if entry := self.failures.get(request.key):
            return Failure(**{name: entry[name] for name in Failure.__dataclass_fields__})
        return None

    def _unavailable(self, last: Failure) -> Unavailable:
        why = f"{last.reason} ({last.detail})" if last.detail else last.reason
        return Unavailable(
            f"{self.teacher.name}: {self.patience} requests in a row failed, the last with {why}; "
            f"{len(self.replies)} replies are kept in {self.replies.path}, and the same command asks for the rest alone"
        )
