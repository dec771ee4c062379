"""As much of a W&B server as its client needs to send runs: it keeps what comes, row by row where a row belongs."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


@dataclass
class SentRun:
    """What a server holds of one run."""

    about: dict[str, Any] = field(default_factory=dict)  # the variables that it was made or changed with
    history: dict[int, dict[str, Any]] = field(default_factory=dict)  # by the number of the row
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [self.history[row]["_step"] for row in sorted(self.history)]


@dataclass
class WandbServer:
    url: str = ""
    runs: dict[str, SentRun] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # addresses of requests that belong to no run
    falls_silent: bool = False  # once it has taken up a run

    def answer(self, query: str, given: dict[str, Any]) -> Any:
        """What GraphQL's `data` is for one operation."""
        operation = re.search(r"(?:query|mutation) (\w+)", query).group(1)
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], SentRun())
            run.about |= {name: value for name, value in given.items() if value is not None}
            return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": True}}
        if operation == "RunResumeStatus":
            known = given["name"] in self.runs
            return {"model": {"bucket": self._resumed(given["name"]) if known else None}}
        if operation == "Viewer":
            return {"viewer": {"id": "us", "entity": "us", "username": "us", "teams": {"edges": []}, "flags": "{}"}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "CreateArtifact":
            self.artifacts.append(given["input"])
            made = {"id": "made", "state": "COMMITTED", "artifactSequence": {"id": "all", "latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in given["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, name: str) -> dict[str, Any]:
        project = {"name": "hhh-align", "entity": {"name": "us"}}
        own = {"id": name, "name": name, "displayName": self.runs[name].about.get("displayName"), "project": project}
        return {**own, "sweepName": None, "description": None, "config": "{}", "historyLineCount": 0}

    def _resumed(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        tail = [json.dumps(run.history[max(run.history)])] if run.history else []
        counts = {"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(tail), "eventsTail": "[]", "summaryMetrics": json.dumps(run.summary)}
        about = {"tags": run.about.get("tags") or [], "wandbConfig": '{"t": 1}', "config": "{}"}
        return {**self._bucket(name), **counts, **tails, **about}

    def stream(self, run: SentRun, body: dict[str, Any]) -> None:
        """Lines of a run's files, each at its place."""
        for name, part in body.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == HISTORY:
                run.history |= dict(enumerate(lines, start=part["offset"]))
            elif name == SUMMARY:
                run.summary |= lines[-1]
        if body.get("complete"):
            run.exits.append(body["exitcode"])


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server for as long as the block lasts."""
    server = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if server.falls_silent and server.runs:
                threading.Event().wait(60)
            if self.path.endswith("/file_stream"):
                server.stream(server.runs[self.path.split("/")[-2]], json.loads(body))
                self._say({})
            elif self.path == "/graphql":
                asked = json.loads(body)
                self._say({"data": server.answer(asked["query"], asked.get("variables") or {})})
            else:
                server.others.append(self.path)
                self._say({})

        def do_PUT(self) -> None:
            self._body()
            self._say({})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _say(self, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads, http.block_on_close = True, False
    server.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
