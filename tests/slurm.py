"""A real Slurm on this machine, without systemd: a controller, two nodes of two processors and two devices that pass
for GPUs, and their munge, in a folder and on ports of their own. It ends with the context that started it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue")
PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SchedulerType=sched/builtin
KillWait=10
ReturnToService=2
GresTypes=gpu
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=2 Gres=gpu:2\n"
NODES = ("here1", "here2")


@dataclass(frozen=True)
class Slurm:
    """A cluster of two nodes. environment: what its commands need."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command of a user."""
        return subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=limit, check=False
        )

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        shown = self.run("scontrol", "show", "job", "--oneliner", number, cwd=self.folder).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, number: str, state: str, limit: float = 300.0) -> dict[str, str]:
        """Wait until the job is in this state. AssertionError where it ends in another, or does not get there."""
        deadline = time.monotonic() + limit
        while (found := self.job(number))["JobState"] != state:
            assert time.monotonic() < deadline, f"not {state} after {limit} s: {found}"
            assert found["JobState"] not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), found
            time.sleep(0.2)
        return found


@contextlib.contextmanager
def local_slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm's daemons below a folder; the test is skipped where they are not installed."""
    if missing := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)")
    _configure(folder)
    cluster = Slurm(folder, {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")})
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("key-file", "pid-file", "seed-file")]
    munge += [f"--socket={folder}/munge.socket", f"--log-file={folder}/munge.log"]
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(_daemon(["munged", "--foreground", "--force", *munge], cluster, folder / "munge.socket"))
        daemons.enter_context(_daemon(["slurmctld", "-D"], cluster, folder / "slurmctld.pid"))
        for node in NODES:
            daemons.enter_context(_daemon(["slurmd", "-D", "-N", node], cluster, folder / f"slurmd-{node}.pid"))
        _wait_for(lambda: cluster.run("sinfo", "--noheader", "--states=idle", cwd=folder).stdout.split()[3:4] == ["2"])
        yield cluster
        cluster.run("scancel", "--user", getpass.getuser(), cwd=folder)


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    host = socket.gethostname().partition(".")[0]
    conf = CONF.format(folder=folder, host=host, user=getpass.getuser(), ctld_port=free_port())
    nodes = [NODE.format(name=name, host=host, port=free_port()) for name in NODES]
    (folder / "slurm.conf").write_text(conf + "".join(nodes))


@contextlib.contextmanager
def _daemon(command: list[str], cluster: Slurm, sign: Path) -> Iterator[None]:
    """sign: the file that is there once it runs."""
    with (cluster.folder / f"{sign.name}.out").open("w") as out:
        program = shutil.which(command[0], path=PATH)
        process = subprocess.Popen([program, *command[1:]], env=cluster.environment, stdout=out, stderr=out)
    try:
        _wait_for(lambda: sign.exists() or process.poll() is not None)
        assert process.poll() is None, f"{command[0]} did not start: {Path(out.name).read_text()}"
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(holds: Callable[[], bool], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, "Slurm did not start"
        time.sleep(0.1)
