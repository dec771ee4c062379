"""Several processes of one stage on this machine.

    python -m launch.local n=8 -m stages.sft model.path=… data=alpaca data.path=… deepspeed=zero2

n: processes. grace: seconds that they have left to end by themselves once one has failed, 15 unless said.

Each is told its place as torchrun tells it: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
The first that fails ends them all; what it said, or which signal killed it, is printed once, and its exit code is this
command's. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are passed on to every process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
TO_REQUEUE = 75  # a stage's exit code after a save that somebody asked for; its other processes end likewise
LOST = 1  # its exit code where another process has gone, or after a fault that it does not know
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class UsageError(Exception):
    """What was typed cannot be run."""


@dataclass(frozen=True)
class Command:
    """What was asked for. python: the arguments of each interpreter, from `-m` on."""

    n: int
    python: tuple[str, ...]
    grace: float = 15.0

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Command:
        """Raises UsageError."""
        if "-m" not in arguments or arguments[-1] == "-m":
            raise UsageError("no stage; say python -m launch.local n=2 -m stages.sft ...")
        start = list(arguments).index("-m")
        said = {"n": "", "grace": str(cls.grace)}
        for argument in arguments[:start]:
            name, equals, value = argument.partition("=")
            if name not in said or not equals:
                raise UsageError(f"unknown option {argument}; expected n=... and grace=..., then -m and a stage")
            said[name] = value
        if not said["n"].isdecimal() or int(said["n"]) < 1:
            raise UsageError(f"n={said['n']}: expected a number of processes, as in n=2")
        try:
            grace = float(said["grace"])
        except ValueError:
            raise UsageError(f"grace={said['grace']}: expected seconds") from None
        return cls(int(said["n"]), tuple(arguments[start:]), grace)


@dataclass
class Rank:
    """One of the processes, and the thread that relays what it says."""

    number: int
    process: subprocess.Popen[bytes]
    errors: list[bytes] = field(default_factory=list)  # held back: only those of the first that fails are for a person
    relay: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.relay = threading.Thread(target=self._relay, daemon=True)

    @property
    def code(self) -> int:
        """As a shell gives it, of a process that has ended."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def cause(self) -> bytes:
        """Why it failed."""
        if self.process.returncode < 0:
            number = -self.process.returncode
            hint = "; if nobody sent it, the machine ran out of memory" if number == signal.SIGKILL else ""
            return f"error: rank {self.number} was killed by signal {number}{hint}\n".encode()
        return b"".join(self.errors) or f"error: rank {self.number} ended with exit code {self.code}\n".encode()

    def _relay(self) -> None:
        mark = f"[rank {self.number}] ".encode() if self.number else b""
        for line in self.process.stderr or ():
            if line.startswith(b"error: "):
                self.errors.append(line)
            else:
                _print(mark + line)


def main(arguments: Sequence[str]) -> int:
    """Start, watch, and say why it ended. Returns the exit code."""
    try:
        command = Command.read(arguments)
    except UsageError as error:
        _print(f"error: {error}\n".encode())
        return 2
    ranks: list[Rank] = []
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: send(ranks, number))
    environment = shared_environment(command.n)
    for number in range(command.n):
        ranks.append(Rank(number, started(number, command, environment)))
    for rank in ranks:
        rank.relay.start()
    failed = first_failure(ranks)
    if failed is not None:
        end_all(ranks, command.grace, ask=failed.code != TO_REQUEUE)
    for rank in ranks:
        rank.relay.join(1.0)  # what a process leaves running may hold the stream open
    if failed is None:
        return 0
    _print(failed.cause())
    return failed.code


def shared_environment(n: int) -> dict[str, str]:
    """What all processes are told: where the first of them listens, and each one's share of the cores."""
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), **os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    return {**environment, "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}


def started(number: int, command: Command, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process. Only the first has this one's standard output; none reads the terminal."""
    return subprocess.Popen(
        [sys.executable, *command.python],
        env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
        stdin=subprocess.DEVNULL,
        stdout=None if number == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C comes to this process, which passes it on once
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def first_failure(ranks: Sequence[Rank]) -> Rank | None:
    """Wait for the first that fails; None where all end well.

    Of several that are found together the one that was killed, or knew why, came first: others then lost it.
    """
    running = list(ranks)
    while running:
        ended = [rank for rank in running if rank.process.poll() is not None]
        failed = [rank for rank in ended if rank.code]
        if failed:
            return min(failed, key=lambda rank: rank.code == LOST)
        running = [rank for rank in running if rank not in ended]
        time.sleep(0.02)
    return None


def end_all(ranks: Sequence[Rank], grace: float, *, ask: bool) -> None:
    """Let all end within `grace` seconds. ask: by SIGTERM, where they do not end by themselves anyway."""
    if ask:
        send(ranks, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(rank.process.poll() is None for rank in ranks):
        time.sleep(0.02)
    send(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.process.wait()


def send(ranks: Sequence[Rank], number: int) -> None:
    """A signal to every process that runs."""
    for rank in ranks:
        rank.process.send_signal(number)  # nothing where it has ended


def _end_with_parent() -> None:
    """In the child: whoever kills the launcher so that it can pass nothing on asks its processes to stop."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _print(line: bytes) -> None:
    """Whole lines, though several threads write."""
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
