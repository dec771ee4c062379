"""Claims about a run's record: it is what the run makes, not how, where or when it makes it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.errors import ArtifactError
from models.options import CODE, INPUT, RUNTIME
from train import records
from train.artifact import MANIFEST, RUN_RECORD, seal
from train.records import differences, record_of, recorded


@dataclass
class Watching:
    backend: str = "none"


@dataclass
class Source:
    path: str = field(default="", metadata=INPUT)
    extra: str | None = field(default=None, metadata=INPUT)
    limit: int | None = None


@dataclass
class Stage:
    data: Source
    rate: float = 1e-3
    outputs: str = field(default="outputs", metadata=RUNTIME)
    tracking: Watching = field(default_factory=Watching, metadata=RUNTIME)


@dataclass
class Compared:
    models: dict[str, str] = field(default_factory=dict, metadata=INPUT)


@dataclass
class Judged:
    judge: str | None = field(default=None, metadata=CODE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    return path


def identity(stage: str = "sft", **options: object) -> str:
    data = {name: options.pop(name) for name in ("path", "extra", "limit") if name in options}
    return record_of(stage, Stage(Source(**data), **options))["identity"]


def artifact(folder: Path, weights: str = "w") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_text(weights)
    seal(folder, {"stage": "sft", "kind": "policy", "identity": "abc", "wall_seconds": 1})
    return folder


# --- identity ---------------------------------------------------------------------------------------------------------


def test_how_a_stage_runs_is_no_part_of_its_identity(file: Path) -> None:
    want = identity(path=str(file))
    assert identity(path=str(file), outputs="elsewhere", tracking=Watching("wandb")) == want
    assert "outputs" not in record_of("sft", Stage(Source(str(file))))["config"]
    assert "tracking.backend" not in record_of("sft", Stage(Source(str(file))))["config"]


def test_every_other_option_is_part_of_it(file: Path) -> None:
    found = [
        identity(path=str(file)),
        identity(path=str(file), rate=2e-3),
        identity(path=str(file), limit=1),
        identity("reward", path=str(file)),
        identity(path=str(file), extra=str(file)),
    ]
    assert len(set(found)) == len(found)


def test_models_by_name_are_inputs_whose_name_and_content_count_and_not_their_place(tmp_path: Path) -> None:
    one, moved = artifact(tmp_path / "one"), artifact(tmp_path / "moved")
    other = artifact(tmp_path / "other", weights="v")
    made = {
        key: record_of("evaluate", Compared({name: str(path)}))
        for key, name, path in (("one", "a", one), ("moved", "a", moved), ("other", "a", other), ("renamed", "b", one))
    }
    found = {key: record["identity"] for key, record in made.items()}
    assert found["one"] == found["moved"]
    assert len({found["one"], found["other"], found["renamed"]}) == 3
    assert made["one"]["parents"] == {"models.a": str(one)}
    assert differences(made["one"], made["other"]) == ["models.a"]


def test_the_content_of_a_file_counts_and_its_place_does_not(file: Path, tmp_path: Path) -> None:
    before = identity(path=str(file))
    moved = tmp_path / "there" / "other name.jsonl"
    moved.parent.mkdir()
    shutil.copy(file, moved)
    assert identity(path=str(moved)) == before
    file.write_text('{"a": 2}\n')
    assert identity(path=str(file)) != before


def test_the_content_of_a_folder_counts_and_its_place_does_not(tmp_path: Path) -> None:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "a").write_text("a")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = identity(path=str(tmp_path / "one"))
    assert identity(path=str(tmp_path / "two")) == before
    (tmp_path / "two" / "deep" / "a").rename(tmp_path / "two" / "deep" / "b")
    assert identity(path=str(tmp_path / "two")) != before


def test_a_hub_name_stands_for_itself() -> None:
    assert identity(path="owner/set") != identity(path="owner/other")


def test_an_artefact_counts_by_what_was_made_not_when(tmp_path: Path) -> None:
    one = artifact(tmp_path / "one")
    before = identity(path=str(one))
    again = shutil.copytree(one, tmp_path / "again")
    manifest = json.loads((again / MANIFEST).read_text())
    (again / MANIFEST).write_text(json.dumps({**manifest, "wall_seconds": 99}))
    assert identity(path=str(again)) == before
    assert identity(path=str(artifact(tmp_path / "other", "x"))) != before


def test_an_unfinished_stage_is_no_input(tmp_path: Path) -> None:
    (tmp_path / RUN_RECORD).write_text("{}")
    with pytest.raises(ArtifactError, match="not sealed"):
        identity(path=str(tmp_path))


def test_other_code_makes_another_identity(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(path=str(file))
    monkeypatch.setattr(records, "code_digest", lambda: "other")
    assert identity(path=str(file)) != before


def test_the_record_names_inputs_and_parents(file: Path, tmp_path: Path) -> None:
    parent = artifact(tmp_path / "sft")
    record = record_of("reward", Stage(Source(str(file), extra=str(parent), limit=3)))
    assert record["stage"] == "reward" and record["parents"] == {"data.extra": str(parent)}
    assert record["config"] == {"data.path": str(file), "data.extra": str(parent), "data.limit": 3, "rate": 1e-3}
    assert set(record["inputs"]) == {"data.path", "data.extra"}
    json.dumps(record)


# --- differences ------------------------------------------------------------------------------------------------------


def test_a_record_does_not_differ_from_itself_wherever_its_inputs_stand(file: Path, tmp_path: Path) -> None:
    moved = shutil.copy(file, tmp_path / "moved.jsonl")
    before, now = record_of("sft", Stage(Source(str(file)))), record_of("sft", Stage(Source(str(moved))))
    assert differences(before, now) == [] == differences(before, before)
    assert before["identity"] == now["identity"]


def test_each_option_that_differs_is_named_with_both_values(file: Path) -> None:
    before = record_of("sft", Stage(Source(str(file))))
    now = record_of("sft", Stage(Source(str(file), limit=5), rate=0.5))
    assert differences(before, now) == ["data.limit (None before, 5 now)", "rate (0.001 before, 0.5 now)"]


def test_a_file_that_changed_under_its_name_is_told_from_another_file(file: Path, tmp_path: Path) -> None:
    before = record_of("sft", Stage(Source(str(file))))
    file.write_text("{}\n")
    [line] = differences(before, record_of("sft", Stage(Source(str(file)))))
    assert line.startswith("data.path (its content changed: digest ")
    other = tmp_path / "other.jsonl"
    other.write_text("{ }\n")
    assert differences(before, record_of("sft", Stage(Source(str(other))))) == ["data.path"]


def test_an_input_that_came_or_went_is_a_difference(file: Path) -> None:
    without, with_it = record_of("sft", Stage(Source(str(file)))), record_of("sft", Stage(Source(str(file), str(file))))
    assert differences(without, with_it) == ["data.extra"] == differences(with_it, without)


def test_other_code_is_a_difference(file: Path) -> None:
    record = record_of("sft", Stage(Source(str(file))))
    assert differences({**record, "code": "older"}, record) == ["the code"]


def test_a_broken_record_differs(file: Path) -> None:
    assert differences({}, record_of("sft", Stage(Source(str(file)))))


# --- what a folder holds ----------------------------------------------------------------------------------------------


def test_the_manifest_counts_before_the_run_record(tmp_path: Path) -> None:
    assert recorded(tmp_path) is None
    (tmp_path / RUN_RECORD).write_text('{"stage": "run"}')
    assert recorded(tmp_path) == {"stage": "run"}
    (tmp_path / MANIFEST).write_text('{"stage": "sealed"}')
    assert recorded(tmp_path) == {"stage": "sealed"}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "5"])
def test_a_broken_record_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_RECORD).write_text(content)
    assert recorded(tmp_path) == {}


def test_a_function_counts_by_its_name_and_by_what_stands_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judges_of_records.py"
    file.write_text("def kind(): ...\ndef strict(): ...\n")
    before, other, none = (
        record_of("sft", Judged(judge)) for judge in ("judges_of_records.kind", "judges_of_records.strict", None)
    )
    assert len({record["identity"] for record in (before, other, none)}) == 3
    file.write_text("def kind(): return 1\n")
    after = record_of("sft", Judged("judges_of_records.kind"))
    assert after["identity"] != before["identity"]
    [line] = differences(before, after)
    assert line.startswith("judge (its content changed")
