"""Candidates become rows: many under way at a time, every one of them counted."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from instruct.generation.asking import Asking
from instruct.generation.methods import Candidate, Draft, Method
from instruct.generation.requests import Failure, Reply, Request, request_key
from instruct.generation.screen import Dropped
from instruct.generation.templates import Ask

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL and halves of characters, which no data file may hold


@dataclass
class Tally:
    """asked = kept + dropped + failed, in candidates; requests and tokens are those of all replies that were used."""

    asked: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def counts(self) -> dict[str, Any]:
        """All of it as plain values for a manifest."""
        return {**vars(self), "dropped": dict(self.dropped), "failed": dict(self.failed)}

    def __str__(self) -> str:
        parts = [f"{self.asked} asked, {self.kept} kept"]
        for name, counted in (("dropped", self.dropped), ("failed", self.failed)):
            if counted:
                reasons = ", ".join(f"{reason} {n}" for reason, n in counted.most_common())
                parts.append(f"{counted.total()} {name} ({reasons})")
        return "; ".join(parts)


@dataclass
class _UnderWay:
    """A candidate: what it asks now, and what it has asked."""

    number: int
    steps: Candidate
    ask: Ask | None = None
    templates: dict[str, str] = field(default_factory=dict)  # name -> digest
    requests: list[str] = field(default_factory=list)
    time: str = ""  # of the last reply


class Rows:
    """Makes `rows` by a method. `dropped` lists the candidates that became none, with the reason."""

    def __init__(self, method: Method, name: str, asking: Asking, seed: int) -> None:
        self.method, self.name, self.asking, self.seed = method, name, asking, seed
        self.tally = Tally()
        self.rows: list[dict[str, Any]] = []
        self.dropped: list[dict[str, Any]] = []

    def make(self, numbers: Iterable[int]) -> None:
        """Take these candidates to their ends side by side: all first requests, then all second ones, …

        What a row is made of never depends on which reply came first.
        """
        candidates = [_UnderWay(n, self.method.candidate(n, self._random(n))) for n in numbers]
        self.tally.asked += len(candidates)
        going = [candidate for candidate in candidates if self._goes_on(candidate, None)]
        while going:
            answers = self.asking.ask([self._request(candidate) for candidate in going])
            going = [c for c, answer in zip(going, answers, strict=True) if self._goes_on(c, answer)]

    def _goes_on(self, candidate: _UnderWay, answer: Reply | Failure | None) -> bool:
        """Take one step; False where it was the last. The candidate is then a row, dropped or failed."""
        if isinstance(answer, Failure):
            self._out(candidate, answer.reason, self.tally.failed)
            return False
        try:
            if answer is None:
                candidate.ask = next(candidate.steps)
            else:
                candidate.time = answer.time
                candidate.ask = candidate.steps.send(self._used(answer))
            return True
        except Dropped as why:
            self._out(candidate, str(why), self.tally.dropped)
        except StopIteration as end:
            self.method.kept(candidate.number, end.value)
            self.tally.kept += 1
            self.rows.append(self._row(candidate, end.value))
        return False

    def _used(self, reply: Reply) -> str:
        """The reply's text, counted. Raises Dropped where it can be part of nothing."""
        self.tally.requests += 1
        self.tally.prompt_tokens += reply.prompt_tokens
        self.tally.reply_tokens += reply.reply_tokens
        if not reply.ended:
            raise Dropped("a reply cut off at teacher.max_new_tokens")
        if not reply.text.strip():
            raise Dropped("an empty reply")
        if _NO_TEXT.search(reply.text):
            raise Dropped("a reply with characters that are no text")
        return reply.text

    def _request(self, candidate: _UnderWay) -> Request:
        assert candidate.ask is not None
        template, text = candidate.ask
        step = len(candidate.requests)
        deciding = {"method": self.name, "prompt": text, "index": [candidate.number, step], "seed": self.seed}
        key = request_key(**deciding, teacher=self.asking.teacher.identity)
        candidate.requests.append(key)
        candidate.templates[template] = self.method.templates.digest(template)
        return Request(key, text)

    def _random(self, number: int) -> random.Random:
        return random.Random(f"{self.seed} {self.name} {number}")

    def _out(self, candidate: _UnderWay, reason: str, counted: Counter[str]) -> None:
        counted[reason] += 1
        self.dropped.append({"candidate": candidate.number, "reason": reason, "requests": candidate.requests})

    def _row(self, candidate: _UnderWay, draft: Draft) -> dict[str, Any]:
        return {
            "messages": [{"role": message.role, "content": message.content} for message in draft.messages],
            "source": {
                "seeds": [str(origin) for origin in draft.seeds],
                "method": self.name,
                "teacher": self.asking.teacher.name,
                "templates": candidate.templates,
                "requests": candidate.requests,
                "time": candidate.time,
            },
        }
