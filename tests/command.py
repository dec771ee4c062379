"""Stages from outside: `python -m stages.X …` as a person types it, each in a process of its own; and in this process.

Starting Python and importing everything takes seconds, so one process imports once and forks a child for each command.
The child has its own arguments, environment, working directory, streams and exit code, and can be killed. `fresh=True`
starts an interpreter instead. `processes=n` starts n that know of each other, as torchrun does; with `fresh`, torchrun.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore

from models.errors import HHHError
from train.entry import checked
from train.schemas import schema_node

ROOT = Path(__file__).parent.parent
# What a stage imports once it has a model; here once for all.
AHEAD = (
    "stages.pipeline",
    "stages.chat",
    *(f"transformers.models.{m}.modeling_{m}" for m in ("llama", "gpt2", "qwen2")),
)
ENVIRONMENT = {
    "HHH_TESTS": "1",
    "HF_HUB_OFFLINE": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # only a process without other threads forks well
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
}


@dataclass(frozen=True)
class Ended:
    """What a command left. `code` is negative where a signal ended it."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that a person gets, after checking that it is one and that no traceback stands beside it."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        return lines[0].removeprefix("error: ")


def stage(name: str, *options: str, **how: Any) -> Ended:
    """Run `python -m stages.<name> <options>`, as `program` does; without a tracker unless an option says otherwise."""
    tracked = any(option.startswith("tracking") for option in options) or name in ("chat", "report")
    return program(f"stages.{name}", *options, *([] if tracked else ["tracking=none"]), **how)


def program(
    module: str,
    *arguments: str,
    cwd: Path,
    stdin: str = "",
    fault: str | None = None,
    environment: dict[str, str] | None = None,
    fresh: bool = False,
    processes: int = 1,
    limit: float = 120.0,
    limits: dict[str, int] | None = None,
) -> Ended:
    """Run `python -m <module> <arguments>` in `cwd`.

    fault: the place at which the process kills itself, as train.faults names it. limit: seconds, an error beyond.
    limits: what the system allows it, as resource.setrlimit names them; RLIMIT_AS beyond what it starts with.
    """
    planted = {"HHH_FAULT": fault} if fault else {}
    env = {**os.environ, **ENVIRONMENT, **planted, **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        streams = {stream: str(Path(folder) / stream) for stream in ("stdin", "stdout", "stderr")}
        Path(streams["stdin"]).write_text(stdin, encoding="utf-8")
        job = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": env, "limit": limit}
        job |= {"processes": processes, "port": free_port(), "limits": limits or {}}
        code = _started(job, streams) if fresh else _forked(job, streams)
        read = {s: Path(streams[s]).read_text(encoding="utf-8") for s in ("stdout", "stderr")}
    assert code is not None, f"still running after {limit} s: {module} {arguments}\n{read['stderr']}"
    return Ended(code, **read)


def composed(name: str, *options: str) -> Any:
    """The checked configuration that these options give a stage, in this process; untracked unless they say so."""
    schemas = importlib.import_module("stages.pipeline").PARTS
    for part, kind in {**schemas, name: schema(name)}.items():
        ConfigStore.instance().store(name=f"{part}_schema", node=schema_node(kind, options))
    quiet = {"chat": (), "report": (), "pipeline": ("tracking=none",)}.get(name, ("tracking=none", "threads=1"))
    with initialize_config_module("conf", version_base="1.3"):
        return checked(compose(config_name=name, overrides=[*quiet, *options]))


def run(name: str, *options: str) -> Any:
    """What the stage's own `run` returns, in this process."""
    return importlib.import_module(f"stages.{name}").run(composed(name, *options))


def refused(kind: type[HHHError], name: str, *options: str) -> str:
    """The message of the error of this kind in which the stage ends, run in this process."""
    with pytest.raises(kind) as caught:
        run(name, *options)
    return str(caught.value)


def schema(name: str) -> type:
    """The configuration dataclass of a stage."""
    hints = typing.get_type_hints(importlib.import_module(f"stages.{name}").run)
    return hints["cfg"]


def _started(job: dict[str, Any], streams: dict[str, str]) -> int | None:
    with contextlib.ExitStack() as files:
        opened = {s: files.enter_context(open(streams[s], "r" if s == "stdin" else "w")) for s in streams}
        python = [sys.executable, "-m"]
        if job["processes"] > 1:
            together = [f"--nproc_per_node={job['processes']}", f"--master_port={job['port']}"]
            python += ["torch.distributed.run", *together, "-m"]
        command = [*python, job["module"], *job["arguments"]]
        try:
            return subprocess.run(
                command, cwd=job["cwd"], env=job["env"], timeout=job["limit"], check=False, **opened
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _forked(job: dict[str, Any], streams: dict[str, str]) -> int | None:
    server = _server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps({**job, "streams": streams}) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with its input."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        cwd=tempfile.gettempdir(),
    )


def _serve() -> None:
    """Fork a child for every line of the input, and answer with its exit code; null where it ran out of time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell started in the background
    before = dict(os.environ)
    for name in AHEAD:
        importlib.import_module(name)
    gc.freeze()  # no child walks through, and so copies, what was imported
    imported = {name: value for name, value in os.environ.items() if name not in before}
    while line := sys.stdin.readline():
        job = json.loads(line)
        pids = []
        for rank in range(job["processes"]):
            pids.append(os.fork())
            if pids[-1] == 0:
                _become({**job, "env": job["env"] | imported | _place(job, rank)})
                return  # the interpreter shuts down as that of any stage
        print(json.dumps(_waited(pids, job["limit"])), flush=True)


def _place(job: dict[str, Any], rank: int) -> dict[str, str]:
    """What torchrun tells each of several processes."""
    if job["processes"] == 1:
        return {}
    here, all_of_them = str(rank), str(job["processes"])
    place = {"RANK": here, "LOCAL_RANK": here, "WORLD_SIZE": all_of_them, "LOCAL_WORLD_SIZE": all_of_them}
    return {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"])}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _waited(pids: list[int], limit: float) -> int | None:
    """The first exit code that is not 0, after which the others are killed; 0 when all have ended with it."""
    deadline, running = time.monotonic() + limit, set(pids)
    code: int | None = 0
    while running and code == 0:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                code = code or os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            code = None
        time.sleep(0.01)
    for pid in running:
        os.killpg(pid, signal.SIGABRT)  # faulthandler says where it hung
        os.waitpid(pid, 0)
    return code


def _become(job: dict[str, Any]) -> None:
    """Turn this child into `python -m <module> <arguments>`."""
    os.setsid()
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        file = os.open(job["streams"][name], os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    for name, most in job["limits"].items():
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most += held if name == "RLIMIT_AS" else 0
        resource.setrlimit(getattr(resource, name), (most, resource.RLIM_INFINITY))
    faulthandler.enable()
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.argv = [job["module"], *job["arguments"]]
    sys.modules.pop(job["module"], None)
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
