"""A scorer behind an address as a source of reward.

    POST {"prompts": [[{"role": "user", "content": "..."}, ...], ...], "completions": ["...", ...]}
    200  {"scores": [0.5, ...]}

One score a completion, in their order; null where the scorer has none.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from models.errors import ConfigError, DataError, HHHError, Unavailable
from models.http import Limits, NoAnswer, Service, secret, shown
from reward.responses import Response, scores_in


class RemoteSource:
    """Scores of responses by a service, asked in batches, several at once."""

    def __init__(
        self, option: str, url: str, *, key_env: str, batch_size: int, concurrency: int, limits: Limits
    ) -> None:
        self.who, self.key_env = f"{option}.url={url}", f"{option}.key_env={key_env}"
        self.batch_size, self.concurrency = batch_size, concurrency
        self.service = Service(url, limits, secret(f"{option}.key_env", key_env))

    def __call__(self, responses: Sequence[Response]) -> list[float]:
        batches = [responses[i : i + self.batch_size] for i in range(0, len(responses), self.batch_size)]
        stop = threading.Event()  # one batch that has no scores makes those of the others useless

        def ask(batch: Sequence[Response]) -> list[float]:
            try:
                return self._asked(batch, stop)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                return [score for scores in pool.map(ask, batches) for score in scores]
            finally:
                stop.set()

    def _asked(self, batch: Sequence[Response], stop: threading.Event) -> list[float]:
        body = {
            "prompts": [[{"role": m.role, "content": m.content} for m in response.prompt] for response in batch],
            "completions": [response.text for response in batch],
        }
        try:
            answer = self.service.post(body, random.Random(len(batch)), stop)
        except NoAnswer as fault:
            raise self._fault(fault) from fault
        if not isinstance(answer, dict) or "scores" not in answer:
            raise DataError(f'{self.who}: expected {{"scores": [...]}}, got {shown(str(answer), 80)}')
        return scores_in(answer["scores"], len(batch), self.who)

    def _fault(self, fault: NoAnswer) -> HHHError:
        if fault.passes:
            return Unavailable(
                f"{self.who}: {fault}, after {self.service.limits.tries} tries; start the stage again once it answers"
            )
        if fault.status in (401, 403):
            return ConfigError(f"{self.who}: {fault}; check the key that {self.key_env} names")
        if fault.status is not None:
            return ConfigError(f"{self.who}: {fault}; check the address and what it takes")
        return DataError(f"{self.who}: {fault}")
