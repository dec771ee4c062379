import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.frontier import frontier_chart
from evals.lineage import depths, direct_parents, lineage_chart
from evals.plots import (
    N_DRAWN,
    Frame,
    Interval,
    Series,
    interval_bars,
    line_chart,
    padded,
    reliability_chart,
    share_bar,
    smoothed,
    thinned,
    ticks,
)
from evals.results import Frontier, FrontierPoint, StageRecord


def shapes(svg, tag, css=""):
    return [e for e in ElementTree.fromstring(svg).iter(tag) if css in e.get("class", "").split() or not css]


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 10.0, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (-3.1, 3.1, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]),
        (0.7, 0.9, [0.7, 0.75, 0.8, 0.85, 0.9]),
    ],
)
def test_ticks_are_round_numbers(low, high, want):
    assert ticks(low, high) == want


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_lie_inside_and_are_few(low, width, n):
    high = low + width
    got = ticks(low, high, n)
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in got) and len(got) <= 2 * n + 1


@given(st.lists(st.floats(-1e12, 1e12)))
def test_a_padded_range_is_wide_enough_to_divide_by(values):
    low, high = padded(values)
    assert low < high and all(low <= v <= high for v in values)


def test_a_frame_maps_corners_to_corners():
    frame = Frame(200, 100, (0.0, 10.0), (-1.0, 1.0), left=20, right=10, top=5, bottom=15)
    assert (frame.x(0), frame.x(10), frame.y(-1), frame.y(1)) == (20, 190, 85, 5)


def test_a_line_breaks_where_a_value_is_no_number():
    frame = Frame(100, 100, (0.0, 3.0), (0.0, 1.0))
    frame.path([(0, 0.1), (1, math.nan), (2, 0.2), (3, 0.3)], "c")
    assert frame.parts[0].count("M") == 2 and frame.parts[0].count("L") == 1


def test_long_lines_are_thinned_by_means_and_keep_their_ends_near():
    points = [(float(i), 2.0 * i) for i in range(10_000)]
    got = thinned(points)
    assert len(got) <= N_DRAWN and all(y == pytest.approx(2 * x) for x, y in got)


def test_smoothing_keeps_a_straight_line():
    points = [(float(i), 3.0 * i) for i in range(100)]
    middle = smoothed(points)[10:90]
    assert all(y == pytest.approx(3 * x) for x, y in middle)


def test_noisy_lines_are_drawn_faint_under_their_mean():
    short, long = ([(float(i), 1.0 + i % 2) for i in range(n)] for n in (10, 100))
    svg = line_chart("t", [Series("a", short, "c-sft"), Series("b", long, "c-ppo")], x_label="step")
    assert len(shapes(svg, "path", "c-sft")) == 1
    assert len(shapes(svg, "path", "c-ppo")) == 2 and len(shapes(svg, "path", "faint")) == 1


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, math.nan)], [(1.0, 5.0), (2.0, 5.0)], [(0.0, 0.0)]])
def test_lines_of_little_data_are_still_charts(points):
    svg = line_chart("t", [Series("a", points, "c")], x_label="step")
    assert "nan" not in svg and "inf" not in svg
    ElementTree.fromstring(svg)


def test_a_bar_reaches_from_zero_to_its_value():
    svg = interval_bars("t", ["g"], [("m", "c", [Interval(0.5, 0.4, 0.6)])], y_range=(0.0, 1.0), size=(400, 248))
    (bar,) = shapes(svg, "rect", "bar")
    # 248 less the margins of 20 and 28 is 200 for a range of 1
    assert float(bar.get("height")) == pytest.approx(100.0)
    assert len(shapes(svg, "line", "whisker")) == 3 and "0.50" in texts(svg) and "g" in texts(svg)


def test_a_missing_bar_is_a_gap_and_a_negative_one_hangs_from_zero():
    svg = interval_bars("t", ["g", "h"], [("m", "c", [None, Interval(-2.0, -3.0, -1.0)])])
    assert len(shapes(svg, "rect", "bar")) == 1


def test_reliability_draws_only_bins_with_pairs():
    svg = reliability_chart("t", [(0.55, 0.5, 10), (0.65, 0.0, 0), (0.95, 0.9, 90)], "c")
    few, many = shapes(svg, "circle", "dot")
    assert float(few.get("r")) < float(many.get("r")) and len(shapes(svg, "line", "diagonal")) == 1


def test_shares_are_as_wide_as_their_part():
    svg = share_bar("t", [("rollout", 75.0), ("update", 25.0)])
    first, second = (float(r.get("width")) + 1.5 for r in shapes(svg, "rect"))
    assert first == pytest.approx(3 * second, rel=1e-3) and "rollout 75%" in texts(svg)


def test_the_frontier_is_drawn_against_the_root_of_kl():
    points = tuple(FrontierPoint(kl, kl, -kl, kept=kl == 4.0) for kl in (0.0, 1.0, 4.0))
    svg = frontier_chart([Frontier("ppo", points)], {"ppo": "c-ppo"}, "gold")
    zero, one, four = (float(c.get("cx")) for c in shapes(svg, "circle"))
    assert four - zero == pytest.approx(2 * (one - zero), abs=0.2) and len(shapes(svg, "circle", "kept")) == 1


def test_a_kl_below_zero_by_chance_is_drawn_at_zero():
    svg = frontier_chart([Frontier("ppo", (FrontierPoint(-0.1, 0.0, 0.5),))], {"ppo": "c"}, "proxy")
    assert "nan" not in svg


def stage(name, *parents):
    return StageRecord(name, 1.0, 2**20, "0123456789abcdef", parents)


CHAIN = [
    stage("base"),
    stage("sft", "base"),
    stage("reward", "sft"),
    stage("ppo", "sft", "reward"),
    stage("dpo", "sft"),
]


def test_a_stage_stands_after_all_that_it_was_made_of():
    assert depths(CHAIN) == {"base": 0, "sft": 1, "reward": 2, "ppo": 3, "dpo": 2}


def test_arrows_that_others_imply_are_left_out():
    got = direct_parents(CHAIN)
    assert got["ppo"] == ["reward"] and got["dpo"] == ["sft"] and got["base"] == []


def test_the_lineage_has_a_box_a_stage_and_an_arrow_a_direct_parent():
    svg = lineage_chart(CHAIN)
    assert len(shapes(svg, "rect", "box")) == 5 and len(shapes(svg, "path", "arrow")) == 4
    assert {"base", "sft", "reward", "ppo", "dpo"} <= set(texts(svg))


@pytest.mark.parametrize("stages", [[stage("a", "a")], [stage("a", "b"), stage("b", "a")], [stage("a", "elsewhere")]])
def test_a_lineage_that_cannot_be_is_drawn_all_the_same(stages):
    assert len(shapes(lineage_chart(stages), "rect", "box")) == len(stages)
