"""Claims about splits: no prompt on both sides, the same rows held out whatever is added, and every row counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import saved

from models.chat import Message
from models.errors import ConfigError, DataError, Origin
from models.reading import Row
from models.split import DataSource, held_out, prompt_key, read_split


class Said:
    def __init__(self, text: str, origin: Origin) -> None:
        self.text, self.origin = text, origin


def said(row: Row) -> list[Said]:
    return [Said(row.text("text"), row.origin)]


def split_texts(folder: Path, texts: list[str], **options: Any) -> tuple[list[str], list[str]]:
    path = saved(folder, "split.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    split = read_split(DataSource(path=str(path), **options), said, lambda record: record.text)
    return [record.text for record in split.train], [record.text for record in split.eval]


@given(
    texts=st.lists(st.text("abcdefgh", min_size=1), min_size=1, max_size=30),
    more=st.lists(st.text("abcdefgh", min_size=1), max_size=30),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_all_rows_shares_no_prompt_and_is_stable_under_added_rows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], more: list[str], seed: int
) -> None:
    always_trained = next(t for t in map(str, range(1000)) if not held_out(t, 0.4, seed))
    folder = tmp_path_factory.mktemp("split")
    train, held = split_texts(folder, [always_trained, *texts], eval_fraction=0.4, seed=seed)
    assert sorted(train + held) == sorted([always_trained, *texts]) and not set(train) & set(held)
    more_train, more_held = split_texts(folder, [always_trained, *more, *texts], eval_fraction=0.4, seed=seed)
    assert set(train) <= set(more_train) and set(held) <= set(more_held)


def test_a_split_holds_out_about_the_stated_share() -> None:
    # 10,000 independent draws of 0.2: standard deviation 40, so within 200 of 2,000 but for one time in a million.
    assert abs(sum(held_out(str(i), 0.2, seed=3) for i in range(10_000)) - 2000) < 200


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    small = {i for i in range(500) if held_out(str(i), 0.1, 0)}
    assert small < {i for i in range(500) if held_out(str(i), 0.3, 0)}


def test_share_zero_holds_out_nothing(tmp_path: Path) -> None:
    assert split_texts(tmp_path, ["a", "b"], eval_fraction=0.0) == (["a", "b"], [])


def test_the_limit_counts_records_from_the_first(tmp_path: Path) -> None:
    assert split_texts(tmp_path, ["a", "b", "c"], eval_fraction=0.0, limit=2) == (["a", "b"], [])


def test_nothing_usable_is_an_error_with_the_counts(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jsonl", '{"text": 1}\n{"text": 2}\n{}\n[]\n')
    with pytest.raises(DataError, match=r"a\.jsonl: no usable row among 4 \(text: not a text 3, not an object 1\)"):
        read_split(DataSource(path=str(path), on_bad_row="skip"), said, lambda record: record.text)


def test_blank_lines_alone_are_no_rows(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": "\n \r\n", "a.json": "[]", "a.csv": "text\n"}.items():
        path = saved(tmp_path, name, content)
        with pytest.raises(DataError, match="no usable row among 0"):
            read_split(DataSource(path=str(path)), said, lambda record: record.text)


def test_all_rows_held_out_is_an_error(tmp_path: Path) -> None:
    held = next(text for text in map(str, range(1000)) if held_out(text, 0.5, 0))
    with pytest.raises(DataError, match="none is left to train on"):
        split_texts(tmp_path, [held], eval_fraction=0.5)


def test_overlap_with_the_evaluation_file_is_an_error_unless_dropped(tmp_path: Path) -> None:
    evaluation = str(saved(tmp_path, "eval.jsonl", '{"text": "b"}\n{"text": "z"}\n'))
    with pytest.raises(DataError, match=r"split\.jsonl:2: this prompt also stands in .*eval\.jsonl.*on_overlap=drop"):
        split_texts(tmp_path, ["a", "b", "c"], eval_path=evaluation)
    dropped = split_texts(tmp_path, ["a", "b", "c"], eval_path=evaluation, on_overlap="drop")
    assert dropped == (["a", "c"], ["b", "z"])


def test_what_an_overlap_drops_is_counted_with_its_rows(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "b"}\n')
    evaluation = saved(tmp_path, "b.jsonl", '{"text": "b"}\n')
    data = DataSource(path=str(path), eval_path=str(evaluation), on_overlap="drop")
    split = read_split(data, said, lambda record: record.text)
    assert list(split.readings[0].notes.values()) == [[2, 3]]
    assert str(split).endswith("1 for training, 1 for evaluation")


def test_prompt_keys_ignore_case_spacing_and_what_follows_the_first_reply() -> None:
    asked = (Message("user", "What  is\nIT?"),)
    followed = (Message("user", "what is it?"), Message("assistant", "x"), Message("user", "and then?"))
    assert prompt_key(asked) == prompt_key(followed)
    assert prompt_key(asked) != prompt_key((Message("user", "what is it"),))
    assert prompt_key(asked) != prompt_key((Message("system", "Be brief."), *asked))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_row": "ignore"}, "data.on_bad_row=ignore: must be one of error, skip"),
        ({"on_unusable": "skip"}, "data.on_unusable=skip: must be one of error, drop"),
        ({"on_overlap": "skip"}, "data.on_overlap=skip: must be one of error, drop"),
        ({"limit": 0}, "data.limit=0: must be 1 or more"),
        ({"eval_fraction": 1.0}, r"data.eval_fraction=1.0: must lie in \[0, 1\)"),
        ({"eval_fraction": float("nan")}, "data.eval_fraction=nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSource(path="x", **options)
