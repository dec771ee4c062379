"""Teachers: a model in a local folder, or an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from instruct.generation.requests import Failure, Receive, Reply, Request, Teacher
from models.chat import ChatFormat, Message
from models.errors import ConfigError
from models.generation import Sample, end_tokens, sample
from models.http import Limits, NoAnswer, Service, check_address, secret, shown
from models.loading import ModelConfig, load_policy, max_positions
from models.options import INPUT, RUNTIME


@dataclass
class TeacherConfig(ModelConfig):
    """Who answers: a model folder (`path`), or an endpoint (`url` and `model`)."""

    path: str | None = field(default=None, metadata=INPUT)  # a model: an artefact, a transformers folder, a hub name
    url: str | None = None  # an OpenAI-compatible endpoint, as http://localhost:8000/v1
    model: str | None = None  # what the endpoint calls the model
    key_env: str = field(default="OPENAI_API_KEY", metadata=RUNTIME)  # the environment variable that holds the key
    temperature: float = 0.7  # of its samples; 0: the likeliest token every time
    max_new_tokens: int = 1024  # of a reply; what is longer is cut off, and dropped
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # fields of the endpoint's request, as +teacher.extra.top_p=0.9; null leaves out one of ours, as seed
    concurrency: int = field(default=8, metadata=RUNTIME)  # requests under way at the endpoint at once
    batch_size: int = field(default=32, metadata=RUNTIME)  # prompts that a local model answers at once
    patience: int = field(default=10, metadata=RUNTIME)  # failed requests in a row that end the run
    limits: Limits = field(default_factory=Limits, metadata=RUNTIME)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.path is None) == (self.url is None):
            raise ConfigError("teacher: say either teacher.path=... (a local model) or teacher.url=... (an endpoint)")
        if self.url is not None:
            check_address("teacher.url", self.url)
            secret("teacher.key_env", self.key_env)
            if self.model is None:
                raise ConfigError("teacher.model has no value; say which model of teacher.url answers")
        if self.temperature < 0:
            raise ConfigError(f"teacher.temperature={self.temperature}: expected 0 or more")
        for name in ("max_new_tokens", "concurrency", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"teacher.{name}={getattr(self, name)}: expected at least 1")


def load_teacher(cfg: TeacherConfig, folder: str | None, digests: dict[str, str]) -> Teacher:
    """The teacher that `cfg` names. folder: of a local model; digests: of what its files hold, by option."""
    return Endpoint(cfg) if folder is None else LocalModel(folder, cfg, digests)


class Endpoint:
    """A service at `<url>/chat/completions`, asked by several threads."""

    def __init__(self, cfg: TeacherConfig) -> None:
        url = (cfg.url or "").rstrip("/")
        self.name = f"{cfg.model} at {url}"
        self.sampling = {"temperature": cfg.temperature, "max_tokens": cfg.max_new_tokens}
        self.extra = dict(cfg.extra)
        self.identity = {"url": url, "model": cfg.model, **self.sampling, "extra": self.extra}
        self.model, self.key_env, self.concurrency = cfg.model, cfg.key_env, cfg.concurrency
        self.service = Service(f"{url}/chat/completions", cfg.limits, secret("teacher.key_env", cfg.key_env))

    def answer(self, requests: Sequence[Request], receive: Receive, stop: threading.Event) -> None:
        def one(request: Request) -> None:
            with _stopping(stop):
                if not stop.is_set():
                    receive(request, self._answer(request, stop))

        # What is under way when an error or an interrupt comes is paid for: it is received before the pool closes.
        with ThreadPoolExecutor(self.concurrency) as pool, _stopping(stop):
            list(pool.map(one, requests))

    def _answer(self, request: Request, stop: threading.Event) -> Reply | Failure:
        messages = [{"role": "user", "content": request.text}]
        fields = {"model": self.model, "messages": messages, **self.sampling, "seed": _seed(request) % 2**31}
        body = {name: value for name, value in {**fields, **self.extra}.items() if value is not None}
        try:
            return _completion(self.service.post(body, random.Random(request.key), stop))
        except NoAnswer as fault:
            if fault.status in (401, 404):
                wrong = f"the key in {self.key_env}" if fault.status == 401 else "teacher.url and teacher.model"
                raise ConfigError(f"{self.name}: {fault}; check {wrong}") from fault
            return Failure(fault.reason, fault.detail)


class LocalModel:
    """A model in this process, asked in batches. Each request samples from a stream of its own."""

    def __init__(self, folder: str, cfg: TeacherConfig, digests: dict[str, str]) -> None:
        self.name = str(cfg.path)
        self.identity = {
            "files": digests,
            "dtype": cfg.dtype,
            "temperature": cfg.temperature,
            "max_new_tokens": cfg.max_new_tokens,
        }
        self.model, self.tokenizer = load_policy(folder, cfg)
        self.chat, self.cfg = ChatFormat(self.tokenizer), cfg
        self.room = max_positions(self.model) - cfg.max_new_tokens

    def answer(self, requests: Sequence[Request], receive: Receive, stop: threading.Event) -> None:
        fitting: list[tuple[Request, list[int]]] = []
        for request in requests:
            ids = self.chat.prompt((Message("user", request.text),))
            if len(ids) <= self.room:
                fitting.append((request, ids))
            else:
                room = f"{len(ids)} tokens, and {max(0, self.room)} are left beside teacher.max_new_tokens"
                receive(request, Failure("a prompt longer than the model's positions", room, outage=False))
        for start in range(0, len(fitting), self.cfg.batch_size):
            if stop.is_set():
                return
            batch = fitting[start : start + self.cfg.batch_size]
            for (request, ids), found in zip(batch, self._sample(batch), strict=True):
                text = self.chat.text(found.ids)
                receive(request, Reply(text, found.ended, now(), len(ids), len(found.ids)))

    def _sample(self, batch: Sequence[tuple[Request, list[int]]]) -> list[Sample]:
        return sample(
            self.model,
            [ids for _, ids in batch],
            max_new_tokens=self.cfg.max_new_tokens,
            ends=end_tokens(self.model, self.tokenizer, self.chat),
            temperature=self.cfg.temperature,
            generator=[torch.Generator().manual_seed(_seed(request)) for request, _ in batch],
            batch_size=len(batch),
        )


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Sets `stop` where something is raised within."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def now() -> str:
    """The time, in seconds of UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seed(request: Request) -> int:
    return int(request.key[:15], 16)


def _completion(raw: Any) -> Reply | Failure:
    """The first choice of a chat completion. Failure where the reply has another shape."""
    try:
        choice = raw["choices"][0]
        text = choice["message"]["content"]
    except (LookupError, TypeError):
        return Failure("junk: no choices[0].message.content", shown(str(raw)))
    if not isinstance(text, str):
        return Failure("junk: the content is no text", shown(str(choice)))
    usage = raw.get("usage")
    counted = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(text, choice.get("finish_reason") not in ("length", "content_filter"), now(), *counted)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value > 0 else 0
