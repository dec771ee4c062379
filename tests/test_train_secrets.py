"""What is taken for a secret, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.secrets import HIDDEN, without_secrets


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://bob:hunter2@host/x", f"https://{HIDDEN}@host/x"),
        ("https://ghp_abc@host:8000/x", f"https://{HIDDEN}@host:8000/x"),
        ("postgresql://bob:p4ss@db/studies and more", f"postgresql://{HIDDEN}@db/studies and more"),
        ("https://host/x?rows=3&token=abc123&side=all", f"https://host/x?rows=3&token={HIDDEN}&side=all"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {HIDDEN}"),
        ("teacher.api_key=abcdef", f"teacher.api_key={HIDDEN}"),
        ("OPENAI_API_KEY=abcdef python", f"OPENAI_API_KEY={HIDDEN} python"),
        ("hf_" + "aB3" * 11, HIDDEN),
        ("the key sk-proj-" + "aB1_" * 9 + ".", f"the key {HIDDEN}."),
        ("AKIA" + "A1" * 8, HIDDEN),
    ],
)
def test_what_is_shaped_or_named_as_a_secret_is_cut_out(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "teacher.key_env=OPENAI_API_KEY",
        "layout.bin_tokens=128 eos_token=</s> data.axes=[helpful]",
        "http://localhost:8000/v1?side=all",
        "3f786850e387550fdaab836ed7e6dc881de23001",
        "bob@example.org wrote: risk-averse, task-specific",
        "/data/hf_models_of_our_whole_big_group/sk-learn-experiments-of-2026/rows.jsonl:3",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_values_of_variables_that_are_named_as_secrets_are_cut_out_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "correct horse")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery")
    monkeypatch.setenv("SHORT_KEY", "EMPTY")  # what local servers are given
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))  # a place, not what lies there
    monkeypatch.setenv("HARMLESS", "staple me")
    none = f"{tmp_path} EMPTY staple me"
    config = {"a": ["say correct horse battery", {"correct horse": 1.5}], "b": (None, True, none)}
    left = {"a": [f"say {HIDDEN}", {HIDDEN: 1.5}], "b": [None, True, none]}
    assert without_secrets(config) == left


@given(st.text(alphabet=st.characters(exclude_characters=":/@?&=_-")))
def test_texts_without_marks_of_a_secret_are_left_as_they_are(text: str) -> None:
    assert without_secrets(text) == text or "Bearer" in text or "AKIA" in text
