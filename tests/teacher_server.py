"""A real HTTP server in a thread, which answers as a test tells it: well, late, endlessly or with junk."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """`url`, and what came in: bodies, headers and times, in the order of arrival."""

    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[str]:
        """The user's turn of each chat completion that was asked for."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    @property
    def waits(self) -> list[float]:
        """Seconds between one request and the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


@contextlib.contextmanager
def serving(behaviour: Callable[[int, Any], Behaviour]) -> Iterator[Server]:
    """A server for as long as the block lasts. behaviour: of the request's number, from 0 on, and its JSON body."""
    server, lock, under_way = Server(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
                server.times.append(time.monotonic())
                under_way[0] += 1
                server.most_at_once = max(server.most_at_once, under_way[0])
            try:
                self.server_closing = server.closing
                behaviour(number, body)(self)
            except OSError:
                pass  # the client has gone
            finally:
                with lock:
                    under_way[0] -= 1

        def log_message(self, *_: Any) -> None:
            return

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            return

    http = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


def in_turn(*behaviours: Behaviour) -> Callable[[int, Any], Behaviour]:
    """Each request gets the next behaviour, those after the last one get that."""
    return lambda number, _: behaviours[min(number, len(behaviours) - 1)]


def giving(content: bytes | str, status: int = 200, **headers: str) -> Behaviour:
    """A whole reply of these bytes; `Retry_After` in headers stands for `Retry-After`."""
    raw = content.encode() if isinstance(content, str) else content

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return give


def saying(text: Any, finish: str = "stop", usage: Any = None) -> Behaviour:
    """A chat completion with this content."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return giving(json.dumps({"id": "1", "model": "m", "choices": [choice], "usage": usage}))


def hanging(handler: BaseHTTPRequestHandler) -> None:
    """Nothing at all, until the server closes."""
    handler.server_closing.wait(30)  # type: ignore[attr-defined]


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    """The connection closed without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    """Fewer bytes than were promised."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [')
    handler.connection.shutdown(socket.SHUT_RDWR)


def raw(content: bytes) -> Behaviour:
    """Exactly these bytes, HTTP or not."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(content)
        handler.connection.shutdown(socket.SHUT_RDWR)

    return give


def dripping(start: bytes, drop: bytes = b" ") -> Behaviour:
    """A start, and then one drop every 20 ms for ever."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not handler.server_closing.wait(0.02):  # type: ignore[attr-defined]
            handler.wfile.write(drop)

    return give


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A body that never ends, as fast as it is read."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while not handler.server_closing.is_set():  # type: ignore[attr-defined]
        handler.wfile.write(block)
