"""Points compared: the front, the choice, the importance of options, and the page."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evals_report import HOSTILE, Page

from evals.parallel import Line, axis_of, parallel_chart
from evals.sweep import SweepPoint, SweepResult, groups, share_between
from evals.sweep_page import render_sweep

SHORT = {"trainer.learning_rate": "learning_rate", "adapter": "adapter"}


def point(name: str, rate: str, adapter: str = "lora", state: str = "sealed", **metrics: float) -> SweepPoint:
    options = {"trainer.learning_rate": rate, "adapter": adapter}
    return SweepPoint(name, options, metrics, state, "" if state == "sealed" else "the cause")


def result(
    *points: SweepPoint, maximize: tuple[str, ...] = ("gold",), minimize: tuple[str, ...] = ("kl",)
) -> SweepResult:
    return SweepResult("a sweep", points, SHORT, maximize, minimize)


FOUR = (
    point("a", "1e-5", gold=0.5, kl=0.0),
    point("b", "1e-4", gold=0.9, kl=0.4),
    point("c", "1e-3", gold=1.0, kl=2.0),
    point("d", "1e-2", gold=0.9, kl=1.0),  # beaten by b
    point("e", "1e-1", state="failed"),
    point("f", "1.0", gold=math.nan, kl=0.1),
)


def test_the_front_holds_what_no_other_point_beats() -> None:
    assert [p.name for p in result(*FOUR).front()] == ["a", "b", "c"]


def test_the_chosen_point_is_nearest_to_the_best_of_each_objective() -> None:
    # Scaled to the front, (gold short of 1.0, kl): a (1, 0), b (0.2, 0.2), c (0, 1).
    assert result(*FOUR).chosen().name == "b"
    assert result(*FOUR, minimize=()).chosen().name == "c"
    assert result(*FOUR, maximize=()).chosen().name == "a"
    assert result(point("e", "1", state="failed")).chosen() is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_every_point_off_the_front_is_beaten_by_one_on_it(values: list[tuple[int, int]]) -> None:
    found = result(*(point(str(i), "1", gold=g, kl=k) for i, (g, k) in enumerate(values)))
    front = [(p.metrics["gold"], p.metrics["kl"]) for p in found.front()]
    for gold, kl in set(values) - set(front):
        assert any(g >= gold and k <= kl for g, k in front)
    assert found.chosen() in found.front()


def test_importance_is_the_adjusted_share_of_variance_between_the_values() -> None:
    # By hand: two groups of two, means 1 and 5, within 2 · 0.5 each = 1 in all, total 17: 1 - (1 / 2) / (17 / 3).
    assert share_between([0, 0, 1, 1], [0.5, 1.5, 4.5, 5.5]) == pytest.approx(1 - (1 / 2) / (17 / 3))
    assert share_between([0, 1, 0, 1], [1.0, 1.0, 3.0, 3.0]) == 0.0
    assert share_between([0, 1, 2], [1.0, 2.0, 3.0]) is None, "no value twice"
    assert share_between([0, 0, 1], [2.0, 2.0, 2.0]) is None, "nothing varies"


def test_an_option_that_decides_is_told_from_one_that_does_not() -> None:
    points = [
        point(f"{rate} {adapter}", rate, adapter, gold=float(rate == "1e-4") + 0.01 * (adapter == "lora"), kl=0.0)
        for rate in ("1e-5", "1e-4", "1e-3")
        for adapter in ("lora", "full")
    ]
    found = result(*points)
    assert found.importance("trainer.learning_rate", "gold") > 0.99
    assert found.importance("adapter", "gold") == 0.0


def test_many_numbers_are_looked_at_in_thirds_and_few_or_words_one_by_one() -> None:
    assert groups(["6", "5", "4", "3", "2", "1e-3"]) == [2, 2, 1, 1, 0, 0]
    assert groups(["3", "1", "3"]) == [0, 1, 0]
    assert groups(list("abcdefa")) == [0, 1, 2, 3, 4, 5, 0]


def test_an_axis_of_decades_is_logarithmic_and_one_of_words_is_in_order() -> None:
    decades = axis_of("rate", ["1e-5", "1e-4", "1e-3"]).places
    assert decades["1e-4"] == pytest.approx(0.5)
    assert axis_of("x", ["0", "1", "4"]).places["1"] == pytest.approx(axis_of("x", ["0", "4", "1"]).places["1"])
    words = axis_of("adapter", ["lora", "full"]).places
    assert words["lora"] < words["full"]


def test_a_line_ends_where_its_point_has_no_value() -> None:
    lines = [Line("whole", ("1", "2"), "c-sft"), Line("failed", ("2", None), "c-base dashed")]
    paths = [
        e for e in ElementTree.fromstring(parallel_chart("t", ["x", "y"], lines)).iter() if "line" in e.get("class", "")
    ]
    assert [path.get("d").count("L") for path in paths if path.tag.endswith("path")] == [1, 0]


def test_the_page_names_the_choice_and_every_cause() -> None:
    page = Page(render_sweep(result(*FOUR)))
    words = " ".join(page.words)
    assert "Take learning_rate 1e-4" in words and "the cause" in words and "e failed" in words
    assert not page.addresses or all(address.startswith("#") for address in page.addresses)


@pytest.mark.parametrize("points", [(), FOUR[4:5], FOUR[:1], (point(HOSTILE, HOSTILE, HOSTILE, gold=1.0, kl=2.0),)])
@pytest.mark.parametrize("objectives", [((), ()), (("gold",), ()), (("gold",), ("kl",))])
def test_any_sweep_is_a_whole_page(points: tuple[SweepPoint, ...], objectives: tuple[tuple[str, ...], ...]) -> None:
    page = Page(render_sweep(result(*points, maximize=objectives[0], minimize=objectives[1])))
    assert page.open == [] and "script" not in page.tags and page.handlers == []
