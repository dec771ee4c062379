"""What is seen of a run where it is watched: all that was logged, once, under one name, and nothing secret."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, Ended, composed, refused, stage
from teacher_server import giving, serving
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_data import sft
from wandb_server import WandbServer, wandb_server

from models.errors import ConfigError
from train.wandb_log import records

OFFLINE = {"WANDB_MODE": "offline", "WANDB_API_KEY": ""}
TWELVE = ("trainer.max_steps=12", "trainer.save_every=2", "trainer.log_every=1", "data.eval_fraction=0")
SEEN = ("tracking.tags=[first,tiny]", "tracking.notes=to see")


def history(*files: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, numbers) of every row of history that W&B's files hold, in their order."""
    rows = (record.history for file in files for record in records(file) if record.HasField("history"))
    return [
        (row.step.num, {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row.item}) for row in rows
    ]


def parts(folder: Path) -> list[Path]:
    """W&B's files of a stage, oldest first."""
    return sorted(folder.glob("wandb/*/*.wandb"), key=lambda file: file.stat().st_mtime)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def run_of(file: Path) -> Any:
    return next(record.run for record in records(file) if record.HasField("run"))


# --- what is there ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tiny: Path) -> Path:
    """An SFT of an SFT, watched offline."""
    options = sft(tiny, tiny / "outputs/tiny/sft", tiny / "alpaca.jsonl", "name=seen", "tracking=wandb", *SEEN)
    ended = stage("sft", *options, "data.eval_fraction=0.25", "trainer.eval_every=1", cwd=tiny, environment=OFFLINE)
    assert ended.code == 0, ended.stderr
    return tiny / "out/seen/sft"


def test_the_file_of_an_offline_run_is_complete(tuned: Path) -> None:
    [file] = parts(tuned)
    made, run = manifest(tuned), run_of(file)
    assert (run.run_id, run.run_group, run.job_type, run.display_name) == (
        made["wandb_run_id"],
        "seen",
        "sft",
        "seen/sft",
    )
    assert (list(run.tags), run.notes, run.project) == (["first", "tiny"], "to see", "hhh-align")
    config = {entry.key: json.loads(entry.value_json) for entry in run.config.update}
    assert made["config"].items() <= config.items()
    rows = dict(history(file))
    assert len(logged(tuned)) > 2
    for line in logged(tuned):
        assert {k: v for k, v in line.items() if k != "step"}.items() <= rows[line["step"]].items()
    ends = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for r in records(file) for i in r.summary.update}
    numbers = {name: value for name, value in made["metrics"].items() if isinstance(value, int | float)}
    assert numbers and numbers.items() <= ends.items()
    assert [r.exit.exit_code for r in records(file) if r.HasField("exit")] == [0]


def test_an_artefact_is_logged_with_its_parents_by_name_and_digest(tuned: Path, tiny: Path) -> None:
    [file] = parts(tuned)
    [found] = [r for r in map(artifact_of, records(file)) if r is not None and r.type == "policy"]
    parent, own = tiny / "outputs/tiny/sft", json.loads(found.metadata)
    assert found.name == "seen-sft" and set(found.aliases) == {"latest", own["content"][:12]}
    assert own["identity"] == manifest(tuned)["identity"]
    model, data = own["parents"]["model.path"], own["parents"]["data.path"]
    assert model["artifact"] == f"tiny-sft:{model['digest'][:12]}" and model["path"] == str(parent)
    assert data == {"path": str(tiny / "alpaca.jsonl"), "digest": manifest(tuned)["inputs"]["data.path"]["digest"]}
    assert [Path(entry.local_path).name for entry in found.manifest.contents] == ["manifest.json"]


def artifact_of(record: Any) -> Any:
    if record.HasField("artifact"):
        return record.artifact
    return record.request.log_artifact.artifact if record.request.HasField("log_artifact") else None


def test_the_files_of_the_model_go_along_where_that_is_asked_for(tiny: Path, llama_folder: str) -> None:
    watched = ("name=whole", "tracking=wandb", "tracking.upload_model=true")
    options = sft(tiny, llama_folder, tiny / "alpaca.jsonl", *watched)
    assert stage("sft", *options, cwd=tiny, environment=OFFLINE).code == 0
    [file] = parts(tiny / "out/whole/sft")
    [found] = [r for r in map(artifact_of, records(file)) if r is not None]
    assert {entry.path for entry in found.manifest.contents} >= {"manifest.json", "model/model.safetensors"}
    assert all(Path(entry.local_path).is_file() for entry in found.manifest.contents)


def test_a_stage_that_fails_ends_its_run_as_failed_and_says_why(tiny: Path, tmp_path: Path) -> None:
    options = sft(tmp_path, "nowhere", tiny / "alpaca.jsonl", "tracking=wandb")
    ended = stage("sft", *options, cwd=tmp_path, environment=OFFLINE)
    assert ended.code == 4
    [file] = parts(tmp_path / "out/default/sft")
    assert [r.exit.exit_code for r in records(file) if r.HasField("exit")] == [4]
    [alert] = [r.alert for r in records(file) if r.HasField("alert")]
    assert alert.title == "sft failed" and "nowhere" in alert.text


# --- going on ---------------------------------------------------------------------------------------------------------


def interrupted(tiny: Path, llama_folder: str, name: str, *, faults: tuple[str, ...]) -> Path:
    """An SFT of 12 steps that was killed at these places and started again until it was done; its folder."""
    options = (*sft(tiny, llama_folder, tiny / "alpaca.jsonl"), f"name={name}", *TWELVE)
    for fault in (*faults, None):
        ended = stage("sft", *options, f"tracking={name}", cwd=tiny, fault=fault, environment=OFFLINE)
        assert ended.code == (-9 if fault else 0), ended.stderr
    return tiny / "out" / name / "sft"


def test_a_run_that_was_killed_stays_one_run_and_is_sent_as_one(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    folder = interrupted(tiny, llama_folder, "wandb", faults=("sft:step:5", "sft:save:8"))
    files = parts(folder)
    assert {run_of(file).run_id for file in files} == {manifest(folder)["wandb_run_id"]}
    rows = history(*files)
    assert [step for step, _ in rows] == list(range(1, 13))
    for line, (step, numbers) in zip(logged(folder), rows, strict=True):
        assert line.pop("step") == step and line.items() <= numbers.items()


def test_tensorboard_shows_each_step_of_a_run_that_was_killed_once(tiny: Path, llama_folder: str) -> None:
    folder = interrupted(tiny, llama_folder, "tensorboard", faults=("sft:step:5", "sft:save:8"))
    seen = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    seen.Reload()
    for name in set(logged(folder)[0]) - {"step"}:
        assert [(point.step, pytest.approx(point.value)) for point in seen.Scalars(name)] == [
            (line["step"], line[name]) for line in logged(folder)
        ]
    assert "lineage/text_summary" in seen.Tags()["tensors"]
    assert "_hparams_/session_start_info" in seen.summary_metadata


# --- the mode ---------------------------------------------------------------------------------------------------------


def test_wandb_disabled_by_its_own_variable_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    ended = split(tiny, tmp_path, WANDB_MODE="disabled")
    assert ended.code == 0 and "W&B" not in ended.stderr and not list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("WANDB_MODE", "sometimes", "mode"), ("WANDB_BASE_URL", "no address", "base_url")],
)
def test_a_wrong_setting_of_wandb_ends_with_2(name: str, value: str, said: str, tiny: Path, tmp_path: Path) -> None:
    ended = split(tiny, tmp_path, **{name: value})
    assert ended.code == 2 and said in ended.error


def test_a_key_that_the_server_refuses_leads_offline(tiny: Path, tmp_path: Path) -> None:
    refusing = giving(json.dumps({"errors": [{"message": "user is not logged in"}]}), 401)
    with serving(lambda *_: refusing) as server:
        address = server.url.removesuffix("/v1")
        started = time.monotonic()
        ended = split(tiny, tmp_path, WANDB_MODE="online", WANDB_API_KEY="0" * 40, WANDB_BASE_URL=address)
    assert ended.code == 0 and time.monotonic() - started < 60
    [line] = [line for line in ended.stderr.splitlines() if "W&B" in line]
    assert "offline" in line and "wandb sync" in line and "0" * 40 not in line and server.bodies


def test_without_a_key_nobody_is_asked_at_a_terminal(tiny: Path, tmp_path: Path) -> None:
    """Offered a terminal as all three streams, W&B itself would ask three questions and wait."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []
    threading.Thread(target=lambda: seen.extend(iter(lambda: read(ours), b"")), daemon=True).start()
    environment = {**os.environ, **ENVIRONMENT, **nowhere(tmp_path), "WANDB_MODE": "online"}
    command = [sys.executable, "-m", "stages.split", *split_options(tiny, tmp_path)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, timeout=120, check=False
    )
    os.close(theirs)
    assert ended.returncode == 0
    assert "offline, no key" in b"".join(seen).decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""


def test_an_offline_run_speaks_to_nobody_and_needs_no_home(tiny: Path, tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        ended = split(tiny, tmp_path, HOME="/dev/null", HTTPS_PROXY=proxy, HTTP_PROXY=proxy, https_proxy=proxy)
        assert ended.code == 0, ended.stderr
        with pytest.raises(BlockingIOError):
            listening.accept()
    [line] = [line for line in ended.stderr.splitlines() if "W&B" in line]
    assert line.endswith("out/default/split/wandb")


def split_options(tiny: Path, folder: Path) -> tuple[str, ...]:
    return ("data=alpaca", f"data.path={tiny / 'alpaca.jsonl'}", f"outputs={folder / 'out'}", "tracking=wandb")


def split(tiny: Path, folder: Path, **environment: str) -> Ended:
    """A stage that needs no model, watched."""
    return stage("split", *split_options(tiny, folder), cwd=folder, environment={**nowhere(folder), **environment})


def nowhere(folder: Path) -> dict[str, str]:
    """No key, and no server to be found."""
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    return {**home, "WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3"}


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("tracking.backend=mlflow", "wandb, tensorboard, none"),
        ("tracking.project=a/b", "tracking.project=a/b"),
        ('tracking.tags=[""]', "tracking.tags"),
        ("tracking.upload_model=true", "tracking=wandb"),
    ],
)
def test_a_wrong_option_is_refused(wrong: str, said: str, tiny: Path) -> None:
    options = ("data=alpaca", f"data.path={tiny / 'alpaca.jsonl'}", "tracking=none", wrong)
    assert said in refused(ConfigError, "split", *options)


def test_the_options_of_a_pipeline_reach_all_its_stages() -> None:
    found = composed("pipeline", "tracking=wandb", "tracking.tags=[nightly]", "tracking.project=other")
    stages = (found.base, found.sft, found.reward, found.referee, found.ppo, found.dpo, found.evaluate)
    assert {(part.tracking.project, *part.tracking.tags) for part in stages} == {("other", "nightly")}


# --- with a server ----------------------------------------------------------------------------------------------------


def online(server: WandbServer, home: Path) -> dict[str, str]:
    return {**nowhere(home), "WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}


def test_online_a_run_that_was_killed_goes_on_under_its_id(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    options = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), *TWELVE, "tracking=wandb")
    with wandb_server() as server:
        for fault in ("sft:step:5", None):
            ended = stage("sft", *options, cwd=tmp_path, fault=fault, environment=online(server, tmp_path))
            assert ended.code == (-9 if fault else 0), ended.stderr
            assert f"W&B: {server.url}" in ended.stderr
    [(name, run)] = server.runs.items()
    assert name == manifest(tmp_path / "out/default/sft")["wandb_run_id"]
    assert run.steps == list(range(1, 13)) and run.exits[-1] == 0


def test_a_network_that_dies_under_way_does_not_hold_the_stage(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    options = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), *TWELVE, "tracking=wandb")
    with wandb_server() as server:
        server.falls_silent = True
        environment = {**online(server, tmp_path), "WANDB_FINISH_TIMEOUT": "2"}
        ended = stage("sft", *options, cwd=tmp_path, environment=environment)
    assert ended.code == 0, ended.stderr  # within the time that a stage is given
    assert "not all was sent within 2 s" in ended.stderr and "wandb sync --include-online" in ended.stderr
    assert [step for step, _ in history(*parts(tmp_path / "out/default/sft"))] == list(range(1, 13))
