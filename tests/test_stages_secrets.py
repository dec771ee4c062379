"""Keys and passwords planted wherever a person has them: none of them is written by a stage."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import stage
from tiny_data import INSTRUCTIONS, sft, written

PLANTED = {
    "HF_TOKEN": "hf_PLANTEDplantedPLANTEDplantedPLANTED",
    "WANDB_API_KEY": "c0ffee" * 6 + "PLNT",
    "OPENAI_API_KEY": "sk-PLANTEDplantedPLANTEDplanted0123",
    "MY_DATABASE_PASSWORD": "correct-horse-PLANTED",
}
AT_ADDRESSES = ("PLANTED-user", "PLANTED-password")
TYPED = "https://{}:{}@example.org/x".format(*AT_ADDRESSES)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Somebody's working tree: a remote with a password in it, a change that holds a key, and data."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "train.py").write_text("pass\n")
    written(folder / "alpaca.jsonl", INSTRUCTIONS)
    for command in ("init -q", "add .", "commit -qm x", f"remote add origin {TYPED}"):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b@c", *command.split()], cwd=folder, check=True)
    (folder / "train.py").write_text(f"key = '{PLANTED['OPENAI_API_KEY']}'\n")
    return folder


def leaks(folder: Path, *texts: str) -> Iterator[str]:
    """Where a secret stands below a folder or in a text."""
    held = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}
    held |= {f"stream {i}": text.encode() for i, text in enumerate(texts)}
    for secret in (*PLANTED.values(), *AT_ADDRESSES):
        yield from (f"{place}: {secret}" for place, content in held.items() if secret.encode() in content)


@pytest.mark.parametrize("backend", ["wandb", "tensorboard"])
def test_no_secret_of_environment_options_or_checkout_is_written(
    backend: str, llama_folder: str, checkout: Path, tmp_path: Path
) -> None:
    token, password = PLANTED["HF_TOKEN"], PLANTED["MY_DATABASE_PASSWORD"]
    typed = (f"tracking.notes='{TYPED}'", f"tracking.tags=[{token}]", f"tracking.group={password}")
    options = sft(tmp_path, llama_folder, "alpaca.jsonl", f"tracking={backend}", *typed, "debug=true")
    environment = {**PLANTED, "WANDB_MODE": "offline", "HOME": str(tmp_path / "home")}
    ended = stage("sft", *options, cwd=checkout, environment=environment)
    assert ended.code == 0, ended.stderr
    (checkout / "train.py").unlink()
    assert list(leaks(tmp_path, ended.stdout, ended.stderr)) == []
    assert list(tmp_path.rglob("*.wandb" if backend == "wandb" else "events.*"))


WRONG = (f"model.path='{TYPED}'", f"data.path='{TYPED}'", f"data.key={PLANTED['OPENAI_API_KEY']},", f"seed='{TYPED}'")


@pytest.mark.parametrize("wrong", WRONG, ids=["model", "data", "unknown", "number"])
def test_no_secret_stands_in_the_line_of_an_error(
    wrong: str, llama_folder: str, tmp_path: Path, checkout: Path
) -> None:
    options = sft(tmp_path, llama_folder, "alpaca.jsonl", "tracking=none", wrong, "debug=true")
    ended = stage("sft", *options, cwd=checkout, environment=PLANTED)
    assert ended.code in (2, 3, 4)
    assert list(leaks(tmp_path / "out", ended.stdout, ended.stderr)) == []
