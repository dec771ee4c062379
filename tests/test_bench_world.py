"""Claims about the races on the embedded world: what is compared with what, and what the tables and figures show."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import algorithms, learning
from bench.world_runs import Look, averaged, smoothed


def test_learning_is_compared_where_trl_ends() -> None:
    ours = [Look(i, float(i), gold, 0.1, 0.0) for i, gold in enumerate([0.3, 0.9, 0.6, 0.6, 0.9])]
    theirs = [Look(i, 5.0 * i, gold) for i, gold in enumerate([0.3, 0.6, 0.8])]
    assert [look.gold for look in smoothed(ours)] == pytest.approx([0.6, 0.6, 0.7, 0.7, 0.75])
    found = {"ours": [ours, ours], "TRL": [theirs, theirs]}
    reached = learning.finish(ours, theirs)
    assert (reached.gold, reached.theirs, reached.ours) == (pytest.approx(0.7), 10.0, 2.0)
    assert learning.finish(theirs, ours).ours is None
    assert learning.table(found).splitlines()[-1] == "| mean | 0.300 | 0.700 | 10.0 | 2.0 | 0.20 | 0.900 | 4.0 |"
    words = [
        node.text for node in ElementTree.fromstring(learning.figure(found)).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "ours" in words and "TRL" in words


def test_curves_of_algorithms_are_means_over_seeds() -> None:
    runs = [[Look(0, 0.0, 0.5, 1.0, 0.0), Look(1, 2.0, 0.7, 3.0, 1.0)], [Look(0, 0.0, 0.7, 2.0, 0.0)]]
    assert averaged(runs) == [Look(0, 0.0, pytest.approx(0.6), 1.5, 0.0)]
    found = {"ppo": runs, "grpo": runs}
    assert algorithms.table(found).splitlines()[2] == "| `ppo` | 0.600 | 0.700 · 0.700 | 0.700 | 2.50 | 0.50 | 1 |"
    ElementTree.fromstring(algorithms.figure(found))
    assert algorithms.options("rloo", quick=True)["rl.prompts"] == 2
