"""Claims about artefacts: sealed whole, read whole, and nothing else is ever loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from models.errors import ArtifactError
from train.artifact import MANIFEST, is_artifact_folder, numbers, read_artifact, seal, write_json
from train.digests import digest, file_digest, folder_digests

FACTS = {"stage": "sft", "kind": "policy", "identity": "abc"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed stage with a model of two files, one of them in a folder."""
    stage = tmp_path / "sft"
    (stage / "model" / "sub").mkdir(parents=True)
    (stage / "model" / "model.safetensors").write_bytes(b"\0weights\xff")
    (stage / "model" / "sub" / "config.json").write_text("{}")
    seal(stage, FACTS)
    return stage


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_the_manifest_holds_the_sha256_of_every_file_of_the_model(folder: Path) -> None:
    assert json.loads((folder / MANIFEST).read_text())["files"] == {
        "model.safetensors": hashlib.sha256(b"\0weights\xff").hexdigest(),
        "sub/config.json": hashlib.sha256(b"{}").hexdigest(),
    }


def test_what_was_sealed_reads_back(folder: Path) -> None:
    artifact = read_artifact(folder)
    assert artifact.identity == "abc" and artifact.model_folder == str(folder / "model")
    assert {k: artifact.manifest[k] for k in FACTS} == FACTS


def test_a_stage_without_a_model_seals_too(tmp_path: Path) -> None:
    assert seal(tmp_path, FACTS).manifest["files"] == {}
    assert read_artifact(tmp_path).manifest["files"] == {}


def test_a_flipped_bit_is_found_and_named_with_both_digests(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    expected = file_digest(file)
    file.write_bytes(b"\0weights\xfe")
    with pytest.raises(ArtifactError, match=f"{file}: digest {file_digest(file)[:12]}.*{expected[:12]}"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "sub/config.json"])
def test_a_missing_or_cut_file_is_found_and_named(folder: Path, name: str) -> None:
    file = folder / "model" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=name):
        read_artifact(folder)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: missing"):
        read_artifact(folder)


def test_a_folder_without_a_manifest_is_not_sealed(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="not sealed"):
        read_artifact(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "5", "{}", '{"files": {}, "stage": "sft", "kind": "policy"}']
)
def test_a_broken_manifest_is_named(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match=f"{folder / MANIFEST}: broken manifest"):
        read_artifact(folder)


@pytest.mark.parametrize("files", [["model.safetensors"], None, {"model.safetensors": None}, "model.safetensors"])
def test_files_that_are_no_digests_are_a_broken_manifest(folder: Path, files: object) -> None:
    edit_manifest(folder, files=files)
    with pytest.raises(ArtifactError, match="broken manifest"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["../outside", "/outside", "sub/../../outside"])
def test_a_manifest_that_leads_outside_is_refused(folder: Path, name: str) -> None:
    outside = folder / "outside"
    outside.write_text("x")
    name = str(outside) if name.startswith("/") else name
    edit_manifest(folder, files={name: file_digest(outside)})
    with pytest.raises(ArtifactError, match="outside the artefact"):
        read_artifact(folder)


def test_a_link_out_of_the_model_is_refused_though_its_content_is_right(folder: Path, tmp_path: Path) -> None:
    file = folder / "model" / "model.safetensors"
    moved = file.rename(tmp_path / "moved")
    file.symlink_to(moved)
    with pytest.raises(ArtifactError, match="outside the artefact"):
        read_artifact(folder)


def test_a_model_folder_that_is_a_link_out_is_refused(folder: Path, tmp_path: Path) -> None:
    moved = (folder / "model").rename(tmp_path / "moved")
    (folder / "model").symlink_to(moved)
    with pytest.raises(ArtifactError, match="outside the artefact"):
        read_artifact(folder)


@pytest.mark.parametrize("kind", ["file", "link", "in a folder"])
def test_what_joined_the_model_after_sealing_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """Loaders read whatever lies there: a chat template, an adapter, other shards."""
    file = folder / "model" / ("sub/new.jinja" if kind == "in a folder" else "new.jinja")
    if kind == "link":
        (tmp_path / "elsewhere").write_text("x")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text("x")
    with pytest.raises(ArtifactError, match=r"new\.jinja.*not in the manifest"):
        read_artifact(folder)


def test_reading_without_verifying_looks_at_the_manifest_alone(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()
    assert read_artifact(folder, verify=False).identity == "abc"


def test_content_follows_what_was_made_and_from_what_alone(folder: Path) -> None:
    before = read_artifact(folder).content
    edit_manifest(folder, wall_seconds=7, hardware={"host_cpus": 96}, metrics={"loss": 1})
    assert read_artifact(folder).content == before
    edit_manifest(folder, identity="abd")
    assert read_artifact(folder).content != before


def test_content_follows_the_weights(folder: Path) -> None:
    before = read_artifact(folder).content
    (folder / "model" / "model.safetensors").write_bytes(b"other")
    assert seal(folder, FACTS).content != before


def test_sealing_again_gives_the_same_manifest(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    seal(folder, FACTS)
    assert (folder / MANIFEST).read_bytes() == before


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.fsync", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def _interrupted(_: int) -> None:
    raise KeyboardInterrupt


def test_a_stages_folder_is_known_by_either_record(tmp_path: Path) -> None:
    assert not is_artifact_folder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert is_artifact_folder(tmp_path)


def test_digests_ignore_the_order_of_keys_and_see_every_value() -> None:
    assert digest({"a": 1, "b": [2, {"c": 3}]}) == digest({"b": [2, {"c": 3}], "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [1, 1], None)}) == 7


def test_folder_digests_go_deep_and_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "b")
    assert folder_digests(tmp_path / "in") == {"deep/a": hashlib.sha256(b"a").hexdigest()}


def test_numbers_of_nested_metrics_have_full_names() -> None:
    metrics = {
        "loss": 0.5,
        "steps": 3,
        "kept": {"iteration": 2, "why": "best"},
        "rounds": [1, 2],
        "name": "x",
        "ok": True,
    }
    metrics["gold"] = {"honest": {"mean": 0.7, "low": 0.6, "high": 0.8}}
    assert numbers(metrics) == {"loss": 0.5, "steps": 3, "kept.iteration": 2, "gold.honest": 0.7}
    assert numbers(metrics["kept"] | {"deep": {"er": 1}}, between="/") == {"iteration": 2, "deep/er": 1}
