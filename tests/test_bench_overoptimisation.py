"""The figure and table of over-optimisation, from runs written by hand."""

from __future__ import annotations

from pathlib import Path

from bench.overoptimisation import COLOURS, UNCONTAINED, Run, figure, settings, table
from rl.config import KLConfig


def look(iteration: int, kl: float, proxy: float, gold: float) -> dict[str, float]:
    return {"iteration": iteration, "kl": kl, "proxy": proxy, "gold": gold, "gold_error": 0.02}


RUN = Run([look(0, -0.01, 0.5, 0.78), look(2, 0.25, 0.8, 0.82), look(4, 1.0, 1.2, 0.7)], kept=2)


def test_a_row_tells_what_the_last_policy_and_the_kept_one_are_worth() -> None:
    [_, _, row] = table({"no brake": RUN}).splitlines()
    assert row == ("| no brake | 4 | 1.00 | 0.50 → 1.20 | 0.780 ± 0.020 | 0.700 ± 0.020 | 0.820 ± 0.020 (rollout 2) |")


def test_each_run_is_drawn_in_both_panels_with_a_dot_on_the_kept_policy() -> None:
    drawn = figure(dict.fromkeys(COLOURS, RUN))
    assert all(drawn.count(f'class="line {colour}"') == 2 for colour in COLOURS.values())
    assert drawn.count("<circle") == 2 * len(COLOURS)


def test_every_run_has_a_colour_and_no_pull_towards_the_start() -> None:
    given = settings(Path("base"), [Path("a"), Path("b"), Path("c")])
    assert given.keys() == COLOURS.keys()
    assert all(options.items() >= {"rl.kl.coef": 0.0, "rl.kl.adaptive": "false"}.items() for options in given.values())
    assert KLConfig(coef=UNCONTAINED["rl.kl.coef"], adaptive=False).controller().coef == 0
