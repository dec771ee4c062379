"""What worries, and when it is told: from histories of numbers written by hand."""

from __future__ import annotations

import json

import pytest

from models.errors import ConfigError
from models.generation import Sample
from rl.alerts import AlertConfig, Alerts
from rl.repetition import distinct, most_common, repeated
from rl.watch import response_metrics

HEALTHY = {
    "objective/kl": 2.0,
    "objective/entropy": 1.0,
    "objective/score_std": 0.5,
    "response/ended": 0.95,
    "response/repeated": 0.02,
    "response/most_common": 0.1,
    "response/empty": 0.0,
    "policy/loss": 0.01,
    "value/loss": 0.5,
}


def told(history: list[dict[str, float]], looks: list[dict[str, float]] | None = None) -> list[tuple[int, str]]:
    """(rollout, name) of each alert of a run with this history, less than `HEALTHY` where nothing is said."""
    alerts = Alerts(AlertConfig(), kl_limit=10.0)
    for iteration, numbers in enumerate(history, start=1):
        alerts.after_rollout(iteration, {**HEALTHY, **numbers}, (looks or [])[:iteration])
    return [(alert.iteration, alert.name) for alert in alerts.said]


def test_a_healthy_run_worries_nobody() -> None:
    wandering = [{"value/loss": 0.5 + 0.05 * (i % 3), "objective/kl": 1.0 + 0.2 * i, "policy/loss": -0.01 * (i % 2)}
                 for i in range(20)]  # fmt: skip
    assert told(wandering) == []


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("kl", {"objective/kl": 10.1}),
        ("kl", {"objective/kl": 6.1}),  # three times the usual 2
        ("entropy", {"objective/entropy": 0.29}),
        ("unfinished", {"response/ended": 0.0}),
        ("repetition", {"response/repeated": 0.31}),
        ("one answer", {"response/most_common": 1.0}),
        ("one answer", {"response/empty": 1.0}),
        ("nothing to learn", {"objective/score_std": 0.0}),
        ("nothing to learn", {"advantage/equal_groups": 0.9}),
        ("loss", {"value/loss": 1.0}),
        ("loss", {"policy/loss": 0.2}),
    ],
)
def test_each_worry_is_told_once_when_it_begins(name: str, numbers: dict[str, float]) -> None:
    assert told([{}] * 6 + [numbers] * 8) == [(7, name)]


def test_a_worry_that_comes_back_after_a_rest_is_told_again_and_one_that_flickers_is_not() -> None:
    cut, whole = {"response/ended": 0.0}, {}
    assert told([cut, whole] * 4) == [(1, "unfinished")]
    assert told([cut] + [whole] * 5 + [cut]) == [(1, "unfinished"), (7, "unfinished")]


def test_a_loss_may_fall_as_far_as_it_likes_and_the_first_ones_are_no_spikes() -> None:
    assert told([{"value/loss": 50.0}, {"value/loss": 1.0}, {"value/loss": 30.0}] + [{"value/loss": 0.1}] * 9) == []


def look(proxy: float, gold: float, error: float = 0.01) -> dict[str, float]:
    return {"iteration": 2 * proxy, "proxy": proxy, "gold": gold, "gold_error": error}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([look(0, 0.5), look(1, 0.8), look(2, 0.7), look(3, 0.6)], [(3, "over-optimisation")]),
        ([look(0, 0.5), look(1, 0.8), look(2, 0.7, error=0.1)], []),  # two standard errors of the difference are 0.2
        ([look(0, 0.5), look(2, 0.8), look(1, 0.6)], []),  # both fell
        ([look(0, 0.5), look(1, 0.6), look(2, 0.7)], []),  # both rose
    ],
)
def test_a_learned_reward_that_rises_while_the_truth_falls_is_told(
    looks: list[dict[str, float]], expected: list[tuple[int, str]]
) -> None:
    assert told([{}] * len(looks), looks) == expected
    as_referee = [{k.replace("gold", "referee"): v for k, v in numbers.items()} for numbers in looks]
    assert told([{}] * len(looks), as_referee) == expected


def test_alerts_go_on_from_a_checkpoint_as_if_nothing_had_been() -> None:
    history = [{**HEALTHY, "response/ended": float(i % 4 > 1), "objective/kl": 0.5 * i} for i in range(30)]
    whole, cut = (Alerts(AlertConfig(), 10.0) for _ in range(2))
    for i, numbers in enumerate(history):
        whole.after_rollout(i, numbers, [])
        cut.after_rollout(i, numbers, [])
        saved = json.loads(json.dumps(cut.state_dict()))
        cut = Alerts(AlertConfig(), 10.0)
        cut.load_state_dict(saved)
    assert whole.said and cut.said == whole.said


def test_a_threshold_that_nothing_could_pass_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rl\.alerts\.entropy=0"):
        AlertConfig(entropy=0)


# --- repetition -------------------------------------------------------------------------------------------------------


def test_repeated_4_grams_are_counted_by_hand() -> None:
    assert repeated([1, 2, 3, 4, 5]) == 0
    assert repeated([7] * 8) == pytest.approx(4 / 5)  # five 4-grams, one of them new
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repeated([1, 2]) == 0


def test_distinct_2_and_the_most_common_response_are_counted_by_hand() -> None:
    responses = [[1, 2, 3], [1, 2], [1, 2], []]
    assert distinct(responses) == pytest.approx(2 / 4)
    assert most_common(responses) == 0.5
    assert distinct([[1], []]) == 0


def test_empty_identical_and_endless_responses_are_counted() -> None:
    end = 9
    empty = response_metrics([Sample([end], True)] * 4)
    assert (empty["response/empty"], empty["response/most_common"], empty["response/length"]) == (1, 1, 1)
    endless = response_metrics([Sample([1, 2, 3, 4, 5], False), Sample([1, 2, 3, 4, end], True)])
    assert endless["response/ended"] == 0.5 and endless["response/empty"] == 0
    assert endless["response/length_max"] == 5
