"""A stage that a scheduler asks to stop saves, ends with 75, and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ENVIRONMENT, stage
from tiny_data import INSTRUCTIONS, ROLLOUTS, STEPS, sft, written

from train.digests import folder_digests

SAVED = ("trainer.log_every=1", "trainer.save_every=0")  # so that whatever is gone on from was saved when asked to


def options(name: str, tiny: Path, llama_folder: str) -> tuple[str, ...]:
    """12 steps of a stage; PPO has 4 in a rollout."""
    written(tiny / "text.jsonl", ({"text": row["instruction"] + row["output"]} for row in INSTRUCTIONS))
    tuned, passes = f"model.path={tiny / 'outputs/tiny/sft'}", ("trainer.max_steps=12", "data.eval_fraction=0")
    rankings = ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}", tuned, *STEPS, *passes)
    return {
        "base": (
            *("data=text", f"data.path={tiny / 'text.jsonl'}", f"outputs={tiny / 'out'}", *STEPS, *passes),
            *("architecture.layers=1", "architecture.vocabulary=300", "architecture.hidden=32"),
        ),
        "sft": (*sft(tiny, llama_folder, tiny / "alpaca.jsonl"), *passes),
        "reward": rankings,
        "dpo": rankings,
        "ppo": (
            *("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", tuned),
            *(f"reward.path={tiny / 'outputs/tiny/reward'}", *ROLLOUTS),
            *("rl.rollouts=3", "rl.epochs=2", "rl.evaluate_every=1"),
        ),
    }[name]


def made(folder: Path) -> tuple[dict[str, str], list[dict[str, float]]]:
    """What a stage made: the digests of its model's files, and every line of its log, less what the clock says."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return folder_digests(folder / "model"), [
        {k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines
    ]


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("sft", ("sft:step:3=SIGTERM", "sft:step:4=SIGUSR1", "sft:step:12=SIGUSR2")),
        ("base", ("base:step:5=SIGTERM",)),
        ("reward", ("reward:step:5=SIGTERM",)),
        ("ppo", ("ppo:step:3=SIGTERM", "ppo:step:8=SIGUSR1")),
        ("dpo", ("dpo:step:5=SIGUSR1",)),
    ],
)
def test_a_training_that_is_asked_to_stop_saves_and_ends_as_if_it_had_not_been(
    name: str, stops: tuple[str, ...], tiny: Path, llama_folder: str
) -> None:
    given = (*options(name, tiny, llama_folder), *SAVED, f"outputs={tiny / 'asked'}")
    whole = stage(name, *given, f"name={name}-whole", cwd=tiny)
    assert whole.code == 0, whole.stderr
    for stop in stops:
        place, _, number = stop.partition("=")
        ended = stage(name, *given, f"name={name}-cut", cwd=tiny, fault=stop)
        step = place.rpartition(":")[2]
        assert (ended.code, ended.error) == (
            75,
            f"stopped by {number}, saved at step {step}; the same command goes on from there",
        )
        assert not (tiny / "asked" / f"{name}-cut" / name / ".lock").exists()
    ended = stage(name, *given, f"name={name}-cut", cwd=tiny)
    assert ended.code == 0 and f"going on from step {step}" in ended.stderr, ended.stderr
    found = [made(tiny / "asked" / f"{name}-{how}" / name) for how in ("whole", "cut")]
    assert found[0] == found[1]


def test_all_processes_stop_at_one_step_when_one_of_them_is_asked(tiny: Path, llama_folder: str) -> None:
    given = (*options("sft", tiny, llama_folder), *SAVED, f"outputs={tiny / 'asked'}")
    whole = stage("sft", *given, "name=both-whole", cwd=tiny, processes=2)
    assert whole.code == 0, whole.stderr
    ended = stage("sft", *given, "name=both-cut", cwd=tiny, processes=2, fault="sft:step:4@1=SIGTERM")
    assert ended.code == 75 and "saved at step 4" in ended.error
    ended = stage("sft", *given, "name=both-cut", cwd=tiny, processes=2)
    assert ended.code == 0 and "going on from step 4" in ended.stderr
    assert made(tiny / "asked/both-whole/sft") == made(tiny / "asked/both-cut/sft")


def test_what_does_not_train_stops_at_once_and_goes_on_too(tiny: Path) -> None:
    scored = ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}", f"models=[{tiny / 'outputs/tiny/reward'}]", "chunk=8")
    given = (*scored, f"outputs={tiny / 'asked'}")
    assert stage("score", *given, "name=whole", cwd=tiny).code == 0
    ended = stage("score", *given, "name=cut", cwd=tiny, fault="score:chunk:1=SIGTERM")
    assert ended.code == 75 and "stopped by SIGTERM" in ended.error
    ended = stage("score", *given, "name=cut", cwd=tiny)
    assert ended.code == 0 and "going on after 8 rows" in ended.stderr
    lines = [(tiny / "asked" / name / "score/scores.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_an_interrupt_ends_with_130_at_once(tiny: Path, llama_folder: str) -> None:
    given = (*options("sft", tiny, llama_folder), *SAVED, f"outputs={tiny / 'asked'}", "name=interrupted")
    ended = stage("sft", *given, cwd=tiny, fault="sft:step:2=SIGINT")
    assert (ended.code, ended.error) == (130, "interrupted")
    assert not list((tiny / "asked/interrupted/sft").glob("checkpoints/*"))


SECOND = """
import os, signal
from train.preemption import heeded, requested, until_step_ends

reading, writing = os.pipe()
with heeded(), until_step_ends():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the same request, as Slurm delivers it
    assert requested() == "SIGTERM"
    print("asked", flush=True)
    while True:
        os.read(reading, 1)
"""


def test_a_second_signal_ends_a_process_at_once_whatever_it_waits_for(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SECOND], stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}, cwd=tmp_path
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"asked\n"
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
