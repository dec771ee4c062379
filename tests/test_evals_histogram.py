"""Claims about histograms and lists of counts: every value is in a bar, and what is named is text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from evals.histogram import bin_edges, histogram
from evals.markup import counts, share

VALUES = st.lists(st.floats(-1e6, 1e6, allow_nan=False) | st.integers(0, 5000), min_size=1, max_size=200)


@given(VALUES)
def test_the_bars_hold_all_values(values: list[float]) -> None:
    chart = histogram("title", values, "c-sft", "words")
    assert sum(int(n.replace(",", "")) for n in re.findall(r": ([\d,]+)</title>", chart)) == len(values)
    assert "nan" not in chart and "inf" not in chart


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_bins_of_whole_numbers_start_at_whole_numbers(values: list[int]) -> None:
    edges = bin_edges(values)
    assert edges[0] == min(values) and all(edge.is_integer() for edge in map(float, edges))


def test_a_long_tail_does_not_flatten_the_rest() -> None:
    assert bin_edges([*range(200), 10**6])[-1] < 250


def test_names_that_are_counted_are_text() -> None:
    assert "<b>x" not in counts("words", [("<b>x", 3)], 4) and "75.0 %" in counts("words", [("a", 3)], 4)


def test_a_share_is_never_rounded_to_none_or_all() -> None:
    assert (share(0, 10), share(1, 100_000), share(99_999, 100_000), share(10, 10)) == (
        "0.0 %",
        "&lt;0.1 %",
        "&gt;99.9 %",
        "100.0 %",
    )
