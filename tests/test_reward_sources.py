"""Claims about what a reward can be made of, as options."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import ConfigError
from reward.sources import RewardSources, RewardTerm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"reward\.path has no value; say reward\.path=\.\.\., reward\.models=\[\.\.\.\], or"),
        ({"path": "a", "models": ["b"]}, r"reward\.path and reward\.models: say one of them"),
        ({"path": "a", "combine": "median"}, "combine=median: expected one of mean, worst, cautious, lower_bound"),
        ({"path": "a", "reads": "all"}, r"reward\.reads=all: expected one of reply, pair"),
        ({"path": "a", "dtype": "int8"}, "dtype=int8"),
        ({"label": "x", "also": {"a": RewardTerm(function="f")}}, r"reward\.label=x: is of reward\.path"),
        ({"also": {"a": RewardTerm()}}, r"reward\.also\.a: say exactly one of reward\.also\.a\.path="),
        ({"also": {"a": RewardTerm(path="x", url="http://h/s")}}, r"reward\.also\.a: say exactly one of"),
        ({"also": {"a": RewardTerm(function="f", label="x")}}, r"reward\.also\.a\.label and .*: are of a path"),
        (
            {"also": {"a": RewardTerm(function="f", weight=float("nan"))}},
            r"reward\.also\.a\.weight=nan: expected",
        ),
        ({"also": {"a": RewardTerm(url="localhost:80")}}, r"reward\.also\.a\.url=localhost:80: expected"),
        ({"also": {"a": RewardTerm(url="http://me:pw@h/")}}, r"reward\.also\.a\.url: a name, a password"),
        (
            {"also": {"a": RewardTerm(url="http://h/", key_env="sk-123")}},
            r"reward\.also\.a\.key_env: expected",
        ),
        (
            {"also": {"a": RewardTerm(url="http://h/", batch_size=0)}},
            r"reward\.also\.a\.batch_size=0: expected",
        ),
        ({"path": "a", "also": {"honest": RewardTerm(function="f")}}, r"reward\.also\.honest: .* has that name"),
    ],
)
def test_what_cannot_be_is_refused_by_its_full_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardSources(**options)


def test_terms_alone_are_enough_and_may_count_negative_or_not_at_all() -> None:
    terms = {"a": RewardTerm(function="f", weight=-0.1), "b": RewardTerm(url="http://h:80/s", weight=0.0)}
    assert RewardSources(also=terms).paths == []
    assert RewardSources(path="x").paths == ["x"] and RewardSources(models=["x", "y"]).paths == ["x", "y"]
