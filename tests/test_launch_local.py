"""Several processes from one command: what each is told, and what the person is told when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import ENVIRONMENT, ROOT, free_port

BEGIN = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"


@contextmanager
def launched(folder: Path, script: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m launch.local <options> -m job`, job.py being the script."""
    (folder / "job.py").write_text(BEGIN + script)
    command = [sys.executable, "-m", "launch.local", *options, "-m", "job"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(folder: Path, script: str, *options: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output and the lines of standard error."""
    with launched(folder, script, *options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err.splitlines()


def test_every_process_is_told_its_place_as_torchrun_tells_it(tmp_path: Path) -> None:
    script = "import json, pathlib; pathlib.Path(str(rank)).write_text(json.dumps(dict(os.environ)))"
    assert ended(tmp_path, script, "n=3") == (0, "", [])
    told = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"], t["LOCAL_WORLD_SIZE"]) for t in told] == [
        (str(rank), str(rank), "3", "3") for rank in range(3)
    ]
    assert {(t["MASTER_ADDR"], t["MASTER_PORT"]) for t in told} == {("127.0.0.1", told[0]["MASTER_PORT"])}


def test_standard_output_is_the_first_processes_and_other_lines_name_theirs(tmp_path: Path) -> None:
    code, out, err = ended(tmp_path, "print('out', rank); print('note', rank, file=sys.stderr)", "n=2")
    assert (code, out, sorted(err)) == (0, "out 0\n", ["[rank 1] note 1", "note 0"])


def test_the_first_failure_ends_all_is_said_once_and_gives_its_exit_code(tmp_path: Path) -> None:
    script = "if rank == 1: sys.exit(print('error: no rows', file=sys.stderr) or 3)\ntime.sleep(60)"
    began = time.monotonic()
    assert ended(tmp_path, script, "n=3") == (3, "", ["error: no rows"])
    assert time.monotonic() - began < 10


def test_an_error_that_arises_everywhere_is_said_once(tmp_path: Path) -> None:
    assert ended(tmp_path, "sys.exit(print('error: no rows', file=sys.stderr) or 3)", "n=3")[2] == ["error: no rows"]


def test_whoever_lost_a_killed_process_is_not_the_cause(tmp_path: Path) -> None:
    """Both have ended by the time that anybody looks."""
    script = (
        "import pathlib; told = pathlib.Path('pid')\n"
        "if rank == 1: told.write_text(str(os.getpid())); os.kill(os.getpid(), signal.SIGKILL)\n"
        "print('error: another has gone', file=sys.stderr, flush=True)\n"
        "while not told.exists() or not told.read_text(): time.sleep(0.001)\n"
        "stat = pathlib.Path(f'/proc/{told.read_text()}/stat')\n"
        "while stat.exists() and ') Z' not in stat.read_text(): time.sleep(0.001)\n"
        "os._exit(1)"
    )
    code, _, err = ended(tmp_path, script, "n=2")
    assert code == 128 + signal.SIGKILL and len(err) == 1
    assert err[0].startswith("error: rank 1 was killed by signal 9")


def test_a_process_that_does_not_heed_the_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if rank == 0: time.sleep(0.5); sys.exit(7)\n"  # time for the other to be deaf
        "time.sleep(60)"
    )
    began = time.monotonic()
    assert ended(tmp_path, script, "n=2", "grace=0.5") == (7, "", ["error: rank 0 ended with exit code 7"])
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_passed_on_once_to_every_process(number: int, tmp_path: Path) -> None:
    script = (
        "heard = []\n"
        f"signal.signal({number:d}, lambda number, _: heard.append(number))\n"
        "print('up', file=sys.stderr, flush=True); \n"
        "while not heard: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        f"assert heard == [{number:d}]; print('heard', file=sys.stderr); sys.exit(75)"
    )
    with launched(tmp_path, script, "n=2") as process:
        assert process.stderr is not None
        assert sorted(process.stderr.readline() for _ in range(2)) == ["[rank 1] up\n", "up\n"]
        process.send_signal(number)
        said = process.stderr.read().splitlines()
        assert process.wait(30) == 75
    assert {"heard", "[rank 1] heard"} < set(said) and len(said) == 3


def test_those_that_end_for_another_start_are_not_hurried(tmp_path: Path) -> None:
    """75 is said after a save; a second signal would end the others at once."""
    script = (
        "import pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('hurried').touch())\n"
        "time.sleep(rank * 0.5); sys.exit(75)"
    )
    assert ended(tmp_path, script, "n=2")[0] == 75
    assert not (tmp_path / "hurried").exists()


def test_processes_do_not_outlive_a_launcher_that_is_killed(tmp_path: Path) -> None:
    script = "print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    with launched(tmp_path, script, "n=2") as process:
        assert process.stderr is not None
        pids = [process.stderr.readline().split()[-1] for _ in range(2)]
        process.kill()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("n=0", "-m", "job"), "n=0"),
        (("n=two", "-m", "job"), "n=two"),
        (("-m", "job"), "n=2"),
        (("n=2",), "-m stages.sft"),
        (("n=2", "-m"), "-m stages.sft"),
        (("m=2", "-m", "job"), "m=2"),
        (("n=2", "grace=long", "-m", "job"), "grace=long"),
    ],
)
def test_what_cannot_be_read_ends_with_2_and_names_it(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.local", *options],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and told in done.stderr


@pytest.mark.parametrize(
    "launcher",
    [
        "torchrun --nproc-per-node=2 --master-port={port} -m",
        "deepspeed --num_gpus=2 --master_port={port} --no_local_rank --module",
        "accelerate launch --multi_gpu --num_processes=2 --num_machines=1 --main_process_port={port} -m",
    ],
    ids=["torchrun", "deepspeed", "accelerate"],
)
def test_under_other_launchers_an_error_of_every_process_is_said_once_too(launcher: str, tmp_path: Path) -> None:
    """They start the same stage; of their own accord they say more, and end with codes of their own."""
    wanted = ("data=prompts", "data.path=x", "model.path=nowhere", "reward.path=nowhere", "tracking=none")
    done = subprocess.run(
        [*launcher.format(port=free_port()).split(), "stages.ppo", *wanted],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "nowhere" in said[0], done.stderr
