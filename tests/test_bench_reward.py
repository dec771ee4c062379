"""What the benchmarks of reward models do to their material, and the figure that they draw."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.hh_reward import fold
from bench.noise import figure, table, turned
from models.chat import Message
from models.errors import Origin
from models.scorer import AXES
from reward.rankings import Ranking
from reward.readers import RankingData, read_rankings
from reward.sampling import flipped_pairs

SCORES = st.tuples(*[st.integers(0, 2).map(float)] * 3)


def ranking(*scores: tuple[float | None, ...], prompt: str = "how ?") -> Ranking:
    texts = tuple(f"answer {i}" for i in range(len(scores)))
    return Ranking((Message("user", prompt),), texts, scores, ("",) * len(scores), Origin("here", 1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SCORES, min_size=2, max_size=5))
def test_noise_turns_strict_pairs_ties_none_and_keeps_ties(scores: list[tuple[float, float, float]]) -> None:
    clean = ranking(*scores)
    assert turned(clean, 0.0, random.Random(0)) == clean
    all_turned = turned(clean, 1.0, random.Random(0))
    for axis in range(3):
        both = [(before[axis], after[axis]) for before, after in zip(clean.scores, all_turned.scores, strict=True)]
        assert all((a > b) == (c < d) for a, c in both for b, d in both)
    assert turned(all_turned, 1.0, random.Random(0)).scores == clean.scores


def test_the_share_of_turned_pairs_is_the_noise() -> None:
    clean = [ranking((0.0, 1.0, 2.0), (1.0, 0.0, 0.0)) for _ in range(2000)]
    rng = random.Random(0)
    noisy = [turned(one, 0.2, rng) for one in clean]
    assert abs(flipped_pairs(clean, noisy) - 0.2) < 4 * (0.2 * 0.8 / 6000) ** 0.5


def test_what_is_unlabelled_stays_so() -> None:
    assert turned(ranking((1.0, None, 0.0), (3.0, None, 0.0)), 1.0, random.Random(0)).scores == (
        (3.0, None, 0.0),
        (1.0, None, 0.0),
    )


def test_every_pair_is_held_out_once_and_prompts_stay_together(tmp_path: Path) -> None:
    pairs = [ranking((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), prompt=f"{i % 9} ?") for i in range(14)]
    held: list[str] = []
    for number in range(3):
        files = fold(pairs, number, argparse.Namespace(folds=3, outputs=tmp_path))
        sides = [read_rankings(RankingData(path=str(f), format="kwise", eval_fraction=0.0)).train for f in files]
        prompts = [[one.prompt[0].content for one in side] for side in sides]
        assert not set(prompts[0]) & set(prompts[1]) and len(prompts[0]) + len(prompts[1]) == 14
        held += prompts[1]
    assert sorted(held) == sorted(one.prompt[0].content for one in pairs)


def test_the_table_and_the_figure_show_every_level_and_axis() -> None:
    run = {axis: {"accuracy": 0.75, "calibration_error_before": 0.2, "calibration_error": 0.05} for axis in AXES}
    found = {0.0: [run, run], 0.3: [run, run]}
    lines = table(found).splitlines()
    assert len(lines) == 2 + 2 * 3 and lines[5] == "| 30% | held-out accuracy |" + " 0.750 · 0.750 |" * 3
    drawn = ElementTree.fromstring(figure(found))
    words = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("harmless") == 2 and "held-out accuracy" in words
