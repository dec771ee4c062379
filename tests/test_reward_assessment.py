"""Claims about what is read from the scored pairs of rankings, each by hand."""

from __future__ import annotations

import pytest
import torch

from models.chat import Message
from models.errors import Origin
from reward.assessment import (
    Scored,
    axes_agree,
    by_length,
    by_source,
    by_strength,
    rank_measures,
    scored_pairs,
    worst_mistakes,
)
from reward.calibration import length_slope
from reward.rankings import AxisScores, Ranking

PROMPT = (Message("user", "why ?"),)


def scored(
    labels: list[float | None],
    scores: list[float],
    lengths: list[int] | None = None,
    sources: str = "",
    votes: tuple[tuple[AxisScores, ...], ...] = (),
) -> Scored:
    """One ranking with labels and scores on the first axis."""
    n = len(scores)
    ranking = Ranking(
        PROMPT,
        tuple("abcdefg"[:n]),
        tuple((label, None, None) for label in labels),
        tuple(sources or [""] * n),
        Origin("made", 1),
        votes,
    )
    columns = torch.tensor([scores, [0.0] * n, [0.0] * n]).T
    return Scored(ranking, columns, torch.tensor(lengths or [1] * n))


def test_lengths_part_pairs_into_three_and_give_a_baseline() -> None:
    made = [
        scored([1, 0], [1, 0], [10, 20]),  # the better is shorter, scored right
        scored([1, 0], [0, 1], [95, 100]),  # of like length, wrong
        scored([1, 0], [1, 0], [20, 10]),  # longer, right
        scored([1, 0], [0, 1], [21, 10]),  # longer, wrong
    ]
    assert by_length(scored_pairs(made, 0)) == {
        "shorter": {"accuracy": 1.0, "pairs": 1},
        "similar": {"accuracy": 0.0, "pairs": 1},
        "longer": {"accuracy": 0.5, "pairs": 2},
        "longer_wins": {"accuracy": 0.5, "pairs": 4},
    }


def test_a_model_that_only_measures_length_is_right_where_the_better_is_longer() -> None:
    made = [scored([1, 0], [10, 20], [10, 20]), scored([1, 0], [20, 10], [20, 10])]
    found = by_length(scored_pairs(made, 0))
    assert (found["shorter"]["accuracy"], found["longer"]["accuracy"]) == (0.0, 1.0)


def test_pairs_group_by_the_distance_of_their_labels_and_equal_distances_stay_together() -> None:
    made = [scored([distance, 0], [score, 0]) for distance, score in ((1, -1), (1, 1), (2, 1), (2, 1), (5, 1), (6, 1))]
    groups = by_strength(scored_pairs(made, 0))
    assert [(g["low"], g["high"], g["accuracy"], g["pairs"]) for g in groups] == [
        (1.0, 1.0, 0.5, 2),
        (2.0, 2.0, 1.0, 2),
        (5.0, 6.0, 1.0, 2),
    ]
    [only] = by_strength(scored_pairs([scored([1, 0], [1, 0])] * 5, 0))
    assert (only["low"], only["high"], only["pairs"]) == (1.0, 1.0, 5)


def test_a_source_that_the_model_prefers_more_often_than_the_labels_shows() -> None:
    made = [
        scored([1, 0], [0, 1], sources="xy"),
        scored([0, 1], [0, 1], sources="xy"),
        scored([1, 0], [1, 0], sources="xx"),
    ]
    found = by_source(made, scored_pairs(made, 0))
    assert found == {
        "x": {"pairs": 2, "accuracy": 0.5, "labelled_better": 0.5, "scored_better": 0.0},
        "y": {"pairs": 2, "accuracy": 0.5, "labelled_better": 0.5, "scored_better": 1.0},
    }


def test_whole_rankings_are_measured_where_there_is_an_order_among_what_is_labelled() -> None:
    made = [
        scored([3, 2, 1], [3, 2, 1]),
        scored([3, 2, 1], [1, 2, 3]),
        scored([1, 0, None], [2, 1, 9]),  # the unlabelled response counts for nothing
        scored([1, 0], [5, 5]),  # a constant score orders nothing, and picks the best half the time
        scored([1, None], [0, 1]),
    ]
    assert rank_measures(made, 0) == {"tau": [1.0, -1.0, 1.0, 0.0], "top1": [1.0, 0.0, 1.0, 0.5]}


def test_the_share_of_judges_counts_where_they_disagree() -> None:
    votes = tuple(tuple((x, None, None) for x in plane) for plane in ((1.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    pairs = scored_pairs([scored([2 / 3, 1 / 3], scores, votes=votes) for scores in ([1, 0], [0, 1], [1, 1])], 0)
    assert pairs.right().tolist() == [1.0, 0.0, 0.5]
    assert pairs.right_of_judges().tolist() == pytest.approx([2 / 3, 1 / 3, 0.5])


def test_axes_agree_on_predicted_winners_and_labels_are_their_measure() -> None:
    ranking = Ranking(PROMPT, ("a", "b", "c"), ((2, 1, None), (1, 2, None), (0, 0, None)), ("",) * 3, Origin("made", 1))
    scores = torch.tensor([[3.0, 3.0, 0.0], [2.0, 2.0, 1.0], [1.0, 2.5, 2.0]])
    found = axes_agree([Scored(ranking, scores, torch.ones(3))], [0, 1])
    # predicted: alike on ab and ac, not on bc; labelled: alike on ac and bc, not on ab
    assert found == [
        {
            "axes": ["helpful", "honest"],
            "pairs": 3,
            "predicted": pytest.approx(2 / 3),
            "labelled_pairs": 3,
            "predicted_there": pytest.approx(2 / 3),
            "labelled": pytest.approx(2 / 3),
        }
    ]


def test_the_worst_mistakes_come_first_and_one_of_a_prompt() -> None:
    made = [scored([2, 1, 0], [0, 5, 9]), scored([1, 0], [1, 0]), scored([1, 0], [0, 20]), scored([1, 0], [0, 1])]
    pairs = scored_pairs(made, 0)
    places = worst_mistakes(made, pairs, n=2)
    assert [(int(pairs.ranking[p]), float(pairs.delta[p])) for p in places] == [(2, -20.0), (0, -9.0)]


def test_a_taste_for_length_is_told_from_length_that_is_better() -> None:
    labels, lengths = torch.tensor([3.0, 2.0, 2.0, 0.0]), torch.tensor([40, 30, 10, 5])
    scores = (2.0 * labels + 0.3 * lengths).tolist()  # longer responses are better here, and liked beyond that
    pairs = scored_pairs([scored(labels.tolist(), scores, lengths.tolist())], 0, ties=True)
    assert len(pairs.delta) == 6
    assert length_slope(pairs.delta, pairs.longer, pairs.strength) == pytest.approx(0.3, abs=1e-5)


def test_a_slope_needs_pairs_and_differences_of_length_and_can_do_without_those_of_labels() -> None:
    empty = torch.zeros(0)
    assert length_slope(empty, empty, empty) == 0.0
    assert length_slope(torch.ones(3), torch.zeros(3), torch.ones(3)) == 0.0
    assert length_slope(torch.tensor([2.0, -4.0]), torch.tensor([1.0, -2.0]), torch.zeros(2)) == pytest.approx(2.0)
