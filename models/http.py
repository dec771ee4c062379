"""JSON over HTTP to a service that may fail: each request tried within limits of time, size and number.

It knows nothing of what is asked, so a teacher, a judge and a remote scorer can all stand on it.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from models.errors import ConfigError

SECRET = 8  # characters from which on a key is taken for one; local servers are given `EMPTY` and the like


@dataclass
class Limits:
    """What a request may take."""

    timeout: float = 120.0  # seconds for one try, from the connection to the last byte of the reply
    tries: int = 5  # of one request, the first included
    wait: float = 1.0  # seconds before the second try; doubles with each, less up to half of it at random
    max_wait: float = 60.0  # seconds before any try, even where the service asks for more
    max_bytes: int = 8_000_000  # of a reply

    def __post_init__(self) -> None:
        for name in ("timeout", "wait", "max_wait"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"limits.{name}={getattr(self, name)}: expected seconds, above 0")
        for name in ("tries", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name}={getattr(self, name)}: expected at least 1")


class NoAnswer(Exception):
    """A request without a usable answer.

    reason: short and free of particulars, to count by. detail: what the service or the system said, in one line.
    status: of HTTP, where there was one. passes: whether the same request may be answered a moment later.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        status: int | None = None,
        passes: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail, self.status = reason, detail, status
        self.passes, self.retry_after = passes, retry_after


@dataclass(frozen=True)
class Service:
    """An address that takes JSON and gives JSON. The key goes into one header and is cut out of whatever comes back.

    reads: where false, an answer is None, whatever the reply holds.
    """

    url: str
    limits: Limits = field(default_factory=Limits)
    key: str | None = field(default=None, repr=False)
    reads: bool = True

    def post(self, body: Any, rng: random.Random, stop: threading.Event | None = None) -> Any:
        """The JSON that answers `body`. Raises NoAnswer after the last try, or at once where another is of no use.

        rng: draws the jitter of the waits. stop: once it is set, nothing is tried again.
        """
        payload, stop = json.dumps(body).encode(), stop or threading.Event()
        for tried in range(1, self.limits.tries + 1):
            try:
                return self._try(payload)
            except NoAnswer as fault:
                last = tried == self.limits.tries or not fault.passes
                if last or stop.wait(self._pause(tried, fault.retry_after, rng)):
                    raise
        raise AssertionError("the last try returns or raises")

    def _pause(self, tried: int, retry_after: float, rng: random.Random) -> float:
        backoff = self.limits.wait * 2.0 ** min(tried - 1, 30) * rng.uniform(0.5, 1.0)
        return min(max(backoff, retry_after), self.limits.max_wait)

    def _try(self, payload: bytes) -> Any:
        place = urlsplit(self.url)
        connection = _connection(place, self.limits.timeout)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        target = place._replace(scheme="", netloc="", fragment="").geturl() or "/"
        try:
            with _Deadline(connection, self.limits.timeout):
                connection.request("POST", target, payload, headers)
                response = connection.getresponse()
                raw = _body(response, self.limits.max_bytes)
        finally:
            connection.close()
        if self.key is not None and len(self.key) >= SECRET:
            raw = raw.replace(self.key.encode(), b"[key]")
        if response.status != http.client.OK:
            raise _refusal(response, raw)
        return _parsed(raw) if self.reads else None


class _Deadline:
    """Connects, and ends the connection when the time is up. What fails inside is raised as NoAnswer.

    A socket's own time-out starts anew with every byte, so a slow drip would never meet it.
    """

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.connection, self.seconds, self.passed = connection, seconds, False

    def __enter__(self) -> None:
        started = time.monotonic()
        try:
            self.connection.connect()
        except (OSError, UnicodeError) as error:  # Unicode: a host name with an impossible label
            raise self._no_answer(error, "no connection") from error
        self.socket = self.connection.sock
        self.timer = threading.Timer(max(0.0, started + self.seconds - time.monotonic()), self._end)
        self.timer.daemon = True
        self.timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.timer.cancel()
        if self.passed and (error is None or isinstance(error, Exception)):
            raise NoAnswer("time-out", f"no whole reply within {self.seconds:g} s", passes=True) from error
        if isinstance(error, OSError | http.client.HTTPException):
            raise self._no_answer(error, "a reply that was cut off or is no HTTP") from error

    def _end(self) -> None:
        self.passed = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # ended by itself at this moment

    def _no_answer(self, error: Exception, reason: str) -> NoAnswer:
        if isinstance(error, TimeoutError):
            return NoAnswer("time-out", f"nothing came within {self.seconds:g} s", passes=True)
        return NoAnswer(reason, shown(str(error) or type(error).__name__), passes=True)


def _connection(place: SplitResult, timeout: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    return kind(place.hostname or "", place.port, timeout=timeout)


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    raw = response.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise NoAnswer(f"a reply of more than {max_bytes} bytes")
    if response.length:  # a read of so many bytes does not complain of an early end
        raise http.client.IncompleteRead(raw, response.length)
    return raw


def _refusal(response: http.client.HTTPResponse, raw: bytes) -> NoAnswer:
    """What a status other than 200 means. A redirection is not followed: the key is for one address."""
    passes = response.status in (408, 409, 425, 429) or response.status >= 500
    retry_after = _seconds(response.getheader("Retry-After")) if passes else 0.0
    try:
        said = json.loads(raw)["error"]
        text = said["message"] if isinstance(said, dict) else said
    except (ValueError, LookupError, TypeError, RecursionError):
        text = raw.decode("utf-8", "replace")
    status = f"status {response.status}"
    return NoAnswer(status, shown(str(text)), status=response.status, passes=passes, retry_after=retry_after)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("a reply that is no JSON", shown(raw[:200].decode("utf-8", "replace"))) from error


def _seconds(retry_after: str | None) -> float:
    """The header `Retry-After`, in seconds or as a date; 0 where there is none or it says neither."""
    if retry_after is None:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def shown(text: str, length: int = 200) -> str:
    """A text of unknown make, safe to print in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def check_address(option: str, url: str) -> None:
    """Raise ConfigError unless `url` is a plain web address. It is not repeated where it may hold a secret."""
    try:
        place = urlsplit(url)
        plain = place.scheme in ("http", "https") and place.hostname and place.port != 0
    except ValueError:
        plain = False
    if plain and ("@" in place.netloc or place.query or place.fragment):
        raise ConfigError(f"{option}: a name, a password or a query stands in it; put the key into a variable instead")
    if not plain or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ConfigError(f"{option}={url}: expected an address such as http://localhost:8000/v1")


def secret(option: str, variable: str) -> str | None:
    """The key in an environment variable; None where it is unset. Raises ConfigError, which repeats no value."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise ConfigError(f"{option}: expected the name of an environment variable in capitals, never the key itself")
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ConfigError(f"{option}={variable}: the key in it holds a character that no header can; set it anew")
    return key or None
