"""Instruction tuning on more than one file: mixtures, streams, replay, and the weights that are kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from command import refused, run, stage
from tiny_data import INSTRUCTIONS, STEPS, sft, written

from models.errors import ArtifactError, ConfigError, DataError
from train.artifact import Artifact
from train.digests import folder_digests

HALVES = {"first": INSTRUCTIONS[:12], "second": INSTRUCTIONS[12:]}


def halves(folder: Path) -> None:
    for name, rows in HALVES.items():
        written(folder / f"{name}.jsonl", rows)


def mixture(folder: Path, model: str, *options: str, held_out: float = 0.2) -> tuple[str, ...]:
    sources = (
        f"data.sources.{name}.{option}"
        for name in HALVES
        for option in ("format=alpaca", f"path={folder / name}.jsonl", f"eval_fraction={held_out}")
    )
    return ("data=mixture", *sources, f"model.path={model}", f"outputs={folder / 'out'}", *STEPS, *options)


def logged(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.folder / "metrics.jsonl").read_text().splitlines()]


def weights(artifact: Artifact) -> dict[str, str]:
    return folder_digests(artifact.folder / "model")


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_a_mixture_logs_the_loss_of_each_source(tmp_path: Path, llama_folder: str) -> None:
    halves(tmp_path)
    made = run("sft", *mixture(tmp_path, llama_folder))
    assert {"nll", "nll/first", "nll/second"} <= set(logged(made)[0])
    assert {"eval_nll/first", "eval_nll/second"} <= set(made.manifest["metrics"])
    assert [reading["kept"] for reading in made.manifest["facts"]["data"]] == [12, 12]
    written(tmp_path / "second.jsonl", HALVES["first"])
    line = refused(ConfigError, "sft", *mixture(tmp_path, llama_folder))
    assert "data.sources.second.path (its content changed" in line


def test_a_sequential_mixture_learns_one_source_after_the_other(tmp_path: Path, llama_folder: str) -> None:
    halves(tmp_path)
    options = mixture(tmp_path, llama_folder, "data.mixing.schedule=sequential", "trainer.max_steps=4", held_out=0.0)
    found = [set(line) & {"nll/first", "nll/second"} for line in logged(run("sft", *options))]
    assert [sources for sources in found if sources] == [{"nll/first"}] * 2 + [{"nll/second"}] * 2


def test_replay_has_its_share_of_the_rows(tmp_path: Path, llama_folder: str) -> None:
    data = written(tmp_path / "a.jsonl", INSTRUCTIONS)
    text = written(tmp_path / "b.jsonl", [{"text": "lima ."}] * 9)
    again = ("data@replay=text", f"replay.path={text}", "replay.eval_fraction=0.0")
    options = (*sft(tmp_path, llama_folder, data), "data.eval_fraction=0.0", *again)
    assert run("sft", *options, "name=all").manifest["metrics"]["rows"] == 24 + 9
    made = run("sft", *options, "name=some", "replay_share=0.2")
    assert made.manifest["metrics"]["rows"] == 30 and any("nll/replay" in line for line in logged(made))
    earlier = ("data@replay=alpaca", f"replay.path={data}", "replay.eval_fraction=0.0", "replay.limit=4")
    options = (*sft(tmp_path, llama_folder, data), "data.eval_fraction=0.0", *earlier)
    assert run("sft", *options, "name=earlier").manifest["metrics"]["rows"] == 28


def test_a_table_of_a_task_is_tuned_on_through_its_template(tmp_path: Path, llama_folder: str) -> None:
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("review", "stars"), *((f"the library {i}", i % 2) for i in range(20))])
    columns = "data.columns={text: review, label: stars}"
    options = ("data=task", "data.template=sentiment", columns, f"data.path={path}")
    ended = stage("sft", *options, f"model.path={llama_folder}", f"outputs={tmp_path}", *STEPS, cwd=tmp_path)
    assert ended.code == 0 and "20 of 20 rows kept" in ended.stderr
    ended = stage("sft", *options, "data.template=sentimant", f"model.path={llama_folder}", cwd=tmp_path)
    assert ended.code == 2 and "template sentimant" in ended.error and "sentiment" in ended.error


# --- streams ----------------------------------------------------------------------------------------------------------


def test_an_unshuffled_stream_trains_as_the_file_in_memory(tmp_path: Path, llama_folder: str) -> None:
    data = written(tmp_path / "a.jsonl", INSTRUCTIONS)
    options = (*sft(tmp_path, llama_folder, data), "trainer.shuffle=false", "trainer.max_steps=5")
    streamed = run("sft", *options, "name=stream", "data.streaming=true")
    assert streamed.manifest["metrics"]["eval_nll"] > 0
    assert weights(streamed) == weights(run("sft", *options, "name=memory"))


def test_a_killed_stream_ends_with_the_same_weights(tmp_path: Path, llama_folder: str) -> None:
    data = written(tmp_path / "a.jsonl", INSTRUCTIONS)
    options = (*sft(tmp_path, llama_folder, data), "data.streaming=true", "data.stream_buffer=7")
    options = (*options, "trainer.max_steps=8", "trainer.save_every=2")
    assert stage("sft", *options, "name=cut", cwd=tmp_path, fault="sft:step:5").code == -9
    assert weights(run("sft", *options, "name=cut")) == weights(run("sft", *options, "name=whole"))


def test_a_stream_needs_steps(tmp_path: Path, llama_folder: str) -> None:
    options = (*sft(tmp_path, llama_folder, "x"), "data.streaming=true", "trainer.max_steps=null")
    assert "needs trainer.max_steps" in refused(ConfigError, "sft", *options)


# --- the weights that are kept ----------------------------------------------------------------------------------------


def worsening(folder: Path, model: str, *options: str) -> tuple[str, ...]:
    """Training whose held-out loss is best after one step: every further one is too large."""
    data = written(folder / "a.jsonl", INSTRUCTIONS)
    rates = ("trainer.learning_rate=1.0", "trainer.schedule=constant", "trainer.max_grad_norm=1e9")
    return (*sft(folder, model, data), "data.eval_fraction=0.3", *rates, *options)


def test_the_best_weights_are_kept_and_training_stops(tmp_path: Path, llama_folder: str) -> None:
    options = worsening(tmp_path, llama_folder)
    watched = ("trainer.max_steps=9", "trainer.eval_every=1", "trainer.keep=best", "trainer.patience=2")
    best = run("sft", *options, *watched, "name=best")
    looks = [line for line in logged(best) if "eval_nll" in line]
    kept = best.manifest["metrics"]["kept_step"]
    assert len(looks) == kept + 2 < 9, "two looks without gain end it"
    assert min(looks, key=lambda line: line["eval_nll"])["step"] == kept
    assert best.manifest["metrics"]["eval_nll"] == pytest.approx(looks[kept - 1]["eval_nll"])
    assert weights(best) == weights(run("sft", *options, f"trainer.max_steps={kept}", "name=short"))
    assert not (best.folder / "best").exists()


def test_a_killed_run_keeps_the_same_best(tmp_path: Path, llama_folder: str) -> None:
    watched = ("trainer.max_steps=6", "trainer.eval_every=1", "trainer.keep=best", "trainer.save_every=2")
    options = worsening(tmp_path, llama_folder, *watched)
    assert stage("sft", *options, "name=cut", cwd=tmp_path, fault="sft:step:5").code == -9
    cut, whole = run("sft", *options, "name=cut"), run("sft", *options, "name=whole")
    assert weights(cut) == weights(whole) and logged(cut) == logged(whole)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("trainer.keep=best",), "trainer.eval_every=0"),
        (("trainer.eval_every=1", "data.eval_fraction=0.0"), "without held-out rows"),
        (("trainer.eval_every=1", "trainer.metric=bleu"), "trainer.metric=bleu: not measured"),
        (("trainer.eval_every=1", "engine=trl"), "engine=trl measures nothing"),
    ],
)
def test_measuring_what_cannot_be_measured_is_refused(
    tmp_path: Path, llama_folder: str, options: tuple[str, ...], said: str
) -> None:
    data = written(tmp_path / "a.jsonl", INSTRUCTIONS)
    more = ("data.eval_fraction=0.3",) if len(options) == 1 or "data" not in options[1] else ()
    assert said in refused(ConfigError, "sft", *sft(tmp_path, llama_folder, data), *more, *options)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_ids_that_come_twice_end_with_3_unless_a_policy_says_so(tmp_path: Path, llama_folder: str) -> None:
    rows = [{**row, "id": i % 20} for i, row in enumerate(INSTRUCTIONS)]
    options = sft(tmp_path, llama_folder, written(tmp_path / "a.jsonl", rows))
    ended = stage("sft", *options, cwd=tmp_path)
    assert ended.code == 3 and "a.jsonl:21:id: 0 is also the id of line 1" in ended.error
    dropped = run("sft", *options, "data.on_duplicate_id=drop", "name=dropped").manifest["facts"]["data"][0]
    assert dropped["kept"] == 20 and dropped["dropped"]["id of an earlier row"]["lines"] == [21, 22, 23, 24]
    kept = run("sft", *options, "data.on_duplicate_id=keep", "name=kept").manifest["facts"]["data"][0]
    assert kept["kept"] == 24


def test_repeated_and_contradictory_rows_are_counted(tmp_path: Path, llama_folder: str) -> None:
    rows = [*INSTRUCTIONS, INSTRUCTIONS[3], {**INSTRUCTIONS[5], "output": "no ."}]
    made = run("sft", *sft(tmp_path, llama_folder, written(tmp_path / "a.jsonl", rows)), "data.eval_fraction=0.0")
    notes = made.manifest["facts"]["data"][0]["notes"]
    assert notes["the same row again"]["lines"] == [25]
    assert notes["another answer to the same prompt"]["lines"] == [26]


def test_a_file_that_changed_since_the_checkpoint_ends_with_4(tmp_path: Path, llama_folder: str) -> None:
    data = written(tmp_path / "a.jsonl", INSTRUCTIONS)
    options = (*sft(tmp_path, llama_folder, data), "trainer.max_steps=3", "trainer.save_every=1")
    assert stage("sft", *options, cwd=tmp_path, fault="sft:step:2").code == -9
    written(Path(data), INSTRUCTIONS[::-1])
    line = refused(ArtifactError, "sft", *options)
    assert "data.path (its content changed: digest" in line and "before" in line and "now" in line
    written(Path(data), INSTRUCTIONS)
    run("sft", *options)


def test_a_filter_that_leaves_no_row_ends_with_3_and_its_counts(tmp_path: Path, llama_folder: str) -> None:
    options = sft(tmp_path, llama_folder, written(tmp_path / "a.jsonl", INSTRUCTIONS))
    line = refused(DataError, "sft", *options, "data.only.input=[nothing]")
    assert "no usable row among 24 (input is none of data.only 24)" in line
