"""Claims about mixtures: how many rows of each source, which ones, and in which order they are learnt."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command import stage
from hypothesis import given
from hypothesis import strategies as st

from instruct.mixture import allot, draw, largest_remainder
from instruct.readers import InstructionData, Mixing, Part
from instruct.sources import instructions
from models.errors import ConfigError

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=1)


def unweighted(sizes: dict[str, int]) -> dict[str, float | None]:
    return dict.fromkeys(sizes)


def mixture(folder: Path, sizes: dict[str, int], weights: dict[str, float] | None = None, **mixing: Any) -> Any:
    sources = {}
    for name, n in sizes.items():
        path = folder / f"{name}.jsonl"
        rows = ({"prompt": f"{name} {i}", "completion": "x", "kind": str(i % 10 == 0)} for i in range(n))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        weight = (weights or {}).get(name)
        sources[name] = Part(format="prompt_completion", path=str(path), eval_fraction=0.0, weight=weight)
    return InstructionData(format="mixture", path="mixture", sources=sources, mixing=Mixing(**mixing))


# --- how many ---------------------------------------------------------------------------------------------------------


@given(SIZES)
def test_sources_without_options_keep_all_their_rows(sizes: dict[str, int]) -> None:
    assert allot(sizes, unweighted(sizes), Mixing()) == sizes


@given(SIZES, st.integers(1, 2000), st.floats(1, 20), st.integers(1, 600))
def test_rows_add_up_to_the_total(sizes: dict[str, int], total: int, temperature: float, cap: int) -> None:
    found = allot(sizes, unweighted(sizes), Mixing(rows=total, temperature=temperature, cap=cap))
    assert sum(found.values()) == total and set(found) == set(sizes)


def test_a_temperature_of_two_takes_square_roots_of_the_sizes() -> None:
    assert allot({"a": 900, "b": 100}, {"a": None, "b": None}, Mixing(temperature=2, rows=400)) == {"a": 300, "b": 100}


def test_a_cap_limits_what_a_large_source_counts() -> None:
    assert allot({"a": 10_000, "b": 50}, {"a": None, "b": None}, Mixing(cap=150)) == {"a": 150, "b": 50}


def test_weights_are_shares_of_the_rows_whatever_the_sizes() -> None:
    assert allot({"a": 10, "b": 190}, {"a": 3.0, "b": 1.0}, Mixing()) == {"a": 150, "b": 50}


def test_weights_for_some_sources_alone_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.b\.weight has no value"):
        allot({"a": 1, "b": 1}, {"a": 1.0, "b": None}, Mixing())


@given(st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1), st.integers(0, 1000))
def test_no_share_is_off_by_a_row_or_more(shares: dict[str, float], total: int) -> None:
    found = largest_remainder(shares, total)
    assert sum(found.values()) == total
    for name, share in shares.items():
        assert abs(found[name] - total * share / sum(shares.values())) < 1 + 1e-9


# --- which ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 200), st.text(max_size=4))
def test_rows_repeat_as_evenly_as_they_can(size: int, n: int, seed: str) -> None:
    counts = Counter(draw(range(size), n, seed))
    assert sum(counts.values()) == n
    assert max(counts.values(), default=0) - (min(counts.values()) if len(counts) == size else 0) <= 1


def test_a_mixture_names_the_source_of_each_row(tmp_path: Path) -> None:
    found = instructions(mixture(tmp_path, {"a": 30, "b": 10}, weights={"a": 1.0, "b": 1.0}))
    assert Counter(x.source for x in found.train) == {"a": 20, "b": 20}
    assert all(x.messages[0].content.startswith(x.source) for x in found.train)


def test_balance_gives_the_values_of_a_field_equal_shares(tmp_path: Path) -> None:
    data = mixture(tmp_path, {"a": 100}).sources["a"]
    data.balance = "kind"
    one = InstructionData(**vars(data))
    assert Counter(x.group for x in instructions(one).train) == {"True": 50, "False": 50}


def test_only_rows_with_a_value_are_read_and_the_others_counted(tmp_path: Path) -> None:
    data = mixture(tmp_path, {"a": 100}).sources["a"]
    found = instructions(InstructionData(**{**vars(data), "only": {"kind": ["True"]}}))
    assert [x.messages[0].content for x in found.train] == [f"a {i}" for i in range(0, 100, 10)]
    assert {reason: len(lines) for reason, lines in found.readings[0].dropped.items()} == {
        "kind is none of data.only": 90
    }


def test_the_world_gives_the_families_that_are_asked_for() -> None:
    options = {"format": "world", "path": "world", "limit": 64, "eval_fraction": 0.0}
    whole = instructions(InstructionData(**options))
    part = instructions(InstructionData(**options, only={"family": ["plus", "list"]}))
    assert len(whole.train) == 64 and len(part.train) == 8
    assert {x.messages for x in part.train} <= {x.messages for x in whole.train}
    with pytest.raises(ConfigError, match=r"data\.only\.colour"):
        instructions(InstructionData(**options, only={"colour": ["red"]}))


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("mine.format=alpaca",), "data.sources.mine.path"),
        (("mine.format=alpacca", "mine.path=x"), "must be one of"),
        (("mine.format=alpaca", "mine.path=x", "mine.wieght=2"), "data.sources.mine.wieght"),
        (("mine.format=alpaca", "mine.path=x", "mine.weight=much"), "data.sources.mine.weight"),
        (("mine.format=alpaca", "mine.path=x", "mine.weight=-1"), "data.weight=-1"),
    ],
)
def test_a_wrong_source_is_refused_by_its_name(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    sources = [f"data.sources.{option}" for option in options]
    ended = stage("sft", "data=mixture", *sources, "model.path=x", cwd=tmp_path)
    assert ended.code == 2 and said in ended.error


def test_sources_outside_a_mixture_are_refused() -> None:
    with pytest.raises(ConfigError, match="read by data=mixture alone"):
        InstructionData(format="alpaca", path="x", sources={"a": Part(format="alpaca", path="y")})
    with pytest.raises(ConfigError, match=r"data\.sources is empty"):
        instructions(InstructionData(format="mixture", path="mixture"))
