"""Claims about rows that hold more than one order: several judges, a best of n, ratings, and one response a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_reward_readers import on, only, split_of, texts

from models.errors import BadRow, ConfigError, DataError, Origin
from models.scorer import AXES
from reward.agreement import JudgesAgreement
from reward.rankings import AxisScores, Ranking, write_rankings
from reward.readers import RankingData, read_rankings
from reward.training import labels_of, pairs_of

JUDGED = {"prompt": "p", "responses": texts({"rank": [1, 1, 2]}, {"rank": [2, 3, 1]}, {"rank": [3, 2, 3]})}


def helpful(*scores: float | None) -> tuple[AxisScores, ...]:
    return on("helpful", *scores)  # type: ignore[return-value]


# --- the best of n ----------------------------------------------------------------------------------------------------


def test_the_best_of_n_beats_the_others_which_stay_without_an_order(tmp_path: Path) -> None:
    ranking = only(tmp_path, "best_of_n", {"prompt": "p", "responses": ["a", "b", "c", "d"], "best": 2})
    pairs = pairs_of(ranking, axis=0)
    assert set(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == {(2, 0), (2, 1), (2, 3)}
    assert not pairs.tied.any(), "no tie between responses that nobody compared"


def test_drawing_a_judge_leaves_the_comparisons_of_a_best_of_n_alone(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": [{"text": text, "model": text} for text in "abc"], "best": 0}
    averaged, drawn = (only(tmp_path, "best_of_n", row, annotators=how) for how in ("average", "sample"))
    assert averaged == drawn and averaged.sources == ("a", "b", "c")


# --- several judges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        JUDGED,
        {
            "prompt": "p",
            "responses": ["a", "b", "c"],
            "annotations": [{"ranks": [1, 2, 3]}, {"ranks": [1, 3, 2]}, {"ranks": [2, 1, 3]}],
        },
        {
            "prompt": "p",
            "responses": texts(*({"scores": {"helpful": s}} for s in ([-1, -1, -2], [-2, -3, -1], [-3, -2, -3]))),
        },
    ],
)
def test_lists_in_responses_and_annotations_of_the_row_say_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    ranking = only(tmp_path, "kwise", row)
    assert ranking.votes == (helpful(-1, -2, -3), helpful(-1, -3, -2), helpful(-2, -1, -3))
    assert ranking.scores == helpful(-4 / 3, -2, -8 / 3)


def test_votes_become_the_share_of_judges_that_prefer_the_better_response(tmp_path: Path) -> None:
    pairs = pairs_of(only(tmp_path, "kwise", JUDGED), axis=0)
    shares = {
        (i, j): p for i, j, p in zip(*(x.tolist() for x in (pairs.better, pairs.worse, pairs.preferred)), strict=True)
    }
    assert shares == {(0, 1): pytest.approx(2 / 3), (0, 2): 1.0, (1, 2): pytest.approx(2 / 3)}


def test_one_judge_is_drawn_for_each_row_from_the_seed(tmp_path: Path) -> None:
    rows = [JUDGED | {"prompt": f"p{i}"} for i in range(60)]
    drawn, again, other = (
        split_of(tmp_path, "kwise", *rows, annotators="sample", seed=seed).train for seed in (0, 0, 1)
    )
    assert drawn == again != other
    assert {r.scores for r in drawn} == {helpful(-1, -2, -3), helpful(-1, -3, -2), helpful(-2, -1, -3)}
    assert all(r.votes == () for r in drawn)


def test_a_judge_who_leaves_no_order_is_not_drawn(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": texts({"helpful": [0, 1, None]}, {"helpful": [0, 0, 5]})}
    drawn = split_of(tmp_path, "kwise", *([row | {"prompt": f"p{i}"} for i in range(20)]), annotators="sample").train
    assert {r.scores for r in drawn} == {helpful(1, 0)}


def test_judges_who_cancel_out_are_a_tie(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": texts({"rank": [1, 2]}, {"rank": [2, 1]})}
    assert split_of(tmp_path, "kwise", row, JUDGED).readings[0].dropped == {"all responses tie": [1]}


def test_agreement_counts_the_pairs_that_two_judges_order_alike() -> None:
    agreement = JudgesAgreement()
    # judges one and two: alike on two of three pairs; one and three too; two and three on one
    agreement.add((helpful(-1, -2, -3), helpful(-1, -3, -2), helpful(-2, -1, -3)))
    agreement.add((helpful(1, 0, None), helpful(2, 2, 0)))  # a tie and an unseen response say nothing
    found = agreement.as_dict()
    assert set(found) == {"helpful"}
    assert (found["helpful"]["pairs"], found["helpful"]["share"]) == (9, pytest.approx(5 / 9))


def test_the_ceiling_is_what_two_equally_reliable_judges_would_need_to_agree_so_often() -> None:
    agreement = JudgesAgreement()
    for i in range(50):  # 41 of 50 alike: .82 = .9² + .1²
        agreement.add((helpful(1, 0), helpful(1, 0) if i < 41 else helpful(0, 1)))
    assert agreement.as_dict()["helpful"]["ceiling"] == pytest.approx(0.9)
    agreement.add((helpful(1, 0), helpful(0, 1)))
    assert "helpful 80.4% of 51 pairs" in str(agreement)


def test_the_agreement_is_said_with_the_counts_whether_judges_are_averaged_or_drawn(tmp_path: Path) -> None:
    for how in ("average", "sample"):
        split = split_of(tmp_path, "kwise", JUDGED, annotators=how)
        assert "judges agree on helpful 55.6% of 9 pairs" in str(split)
    assert "judges" not in str(split_of(tmp_path, "best_of_n", {"prompt": "p", "responses": [*"abc"], "best": 0}))


SCORES = st.none() | st.floats(-1e6, 1e6)


@given(st.integers(2, 4), st.integers(2, 4), st.data())
def test_rankings_of_several_judges_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, n: int, n_judges: int, data: st.DataObject
) -> None:
    votes = tuple(tuple(data.draw(st.tuples(SCORES, SCORES, SCORES)) for _ in range(n)) for _ in range(n_judges))
    folder = tmp_path_factory.mktemp("judges")
    made = Ranking(only(folder, "kwise", JUDGED).prompt, tuple("abcd"[:n]), (), ("",) * n, Origin("", 1), votes)
    path = folder / "rankings.jsonl"
    write_rankings(path, [made])
    try:
        [read] = read_rankings(RankingData(path=str(path), format="kwise", eval_fraction=0.0)).train
    except DataError:  # no order in it
        return
    assert read.votes == votes


# --- ratings ----------------------------------------------------------------------------------------------------------

RATINGS = {"helpfulness": "helpful", "correctness": "honest", "truth": "honest"}


def test_ratings_stand_on_the_axes_that_the_config_names_between_0_and_1(tmp_path: Path) -> None:
    responses = texts(
        {"ratings": {"helpfulness": 5, "truth": 2, "correctness": 4, "verbosity": 3}}, {"helpfulness": 1, "truth": None}
    )
    split = split_of(tmp_path, "rated", {"prompt": "p", "responses": responses}, ratings=RATINGS)
    assert split.train[0].scores == ((1.0, 0.5, None), (0.0, None, None))
    assert split.readings[0].unread == {"responses[].ratings.verbosity": 1}
    [ranking] = split_of(
        tmp_path, "rated", {"prompt": "p", "responses": responses}, ratings=RATINGS, scale=[1, 9]
    ).train
    assert ranking.scores[0][0] == 0.5


def test_ultrafeedback_writes_ratings_as_text_and_may_have_none(tmp_path: Path) -> None:
    def completion(text: str, helpfulness: str, truth: str) -> dict[str, Any]:
        rated = {"helpfulness": {"Rating": helpfulness}, "truth": {"Rating": truth, "Rationale": "because"}}
        return {"model": f"m{text}", "response": text, "annotations": rated}

    row = {"instruction": "p", "completions": [completion("a", "4", "N/A"), completion("b", "2", "5")]}
    ranking = only(tmp_path, "ultrafeedback", row, ratings=RATINGS)
    assert ranking.scores == ((0.75, None, None), (0.25, 1.0, None)) and ranking.sources == ("ma", "mb")


def test_rows_of_one_prompt_become_one_ranking_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    rated = [("p", "a", 4), ("q", "a", 1), ("p", "b", 2), ("r", "a", 1), ("p", "c", 2), ("r", "b", 1), ("p", "a", 2)]
    rows = [{"prompt": p, "response": text, "helpfulness": h} for p, text, h in rated]
    split = split_of(tmp_path, "helpsteer", *rows)
    [ranking] = split.train
    assert (ranking.responses, ranking.scores) == (("a", "b", "c"), helpful(0.5, 0.25, 0.25))
    [reading] = split.readings
    assert reading.dropped == {"no other response to its prompt": [2], "all responses tie": [4, 6]}
    assert (reading.n_kept, reading.n_rows) == (4, 7)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no other response to its prompt"):
        split_of(tmp_path, "helpsteer", *rows, on_unusable="error")
    with pytest.raises(DataError, match="no prompt that is not held out has two responses in an order"):
        split_of(tmp_path, "helpsteer", rows[1])


def test_rows_of_one_prompt_may_have_several_judges(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": t, "helpfulness": h} for t, h in (("a", [4, 3]), ("b", [2, 4]), ("c", [1, 1]))]
    split = split_of(tmp_path, "helpsteer", *rows)
    assert split.train[0].votes == (helpful(0.75, 0.25, 0.0), helpful(0.5, 0.75, 0.0))
    assert split.agreement.as_dict()["helpful"]["share"] == pytest.approx(2 / 3)
    [drawn] = split_of(tmp_path, "helpsteer", *rows, annotators="sample").train
    assert drawn.scores in split.train[0].votes


def test_judges_of_whom_none_has_seen_two_responses_order_nothing(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": texts({"helpful": [1, None]}, {"helpful": [None, 0]})}
    reading = split_of(tmp_path, "kwise", row, JUDGED).readings[0]
    assert reading.dropped == {"no judge has seen two responses": [1]}


# --- faults -----------------------------------------------------------------------------------------------------------


def annotated(**annotation: Any) -> dict[str, Any]:
    return {"prompt": "p", "responses": ["a", "b"], "annotations": [annotation]}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("best_of_n", {"prompt": "p", "responses": ["a", "b"], "best": 2}, "best: expected the number, from 0"),
        ("best_of_n", {"prompt": "p", "responses": ["a", "b"], "best": True}, "best: expected the number, from 0"),
        ("best_of_n", {"prompt": "p", "responses": ["a"], "best": 0}, "responses: expected 2 responses or more"),
        ("best_of_n", {"prompt": "p", "responses": ["a", {}], "best": 0}, "responses: expected 2 responses or more"),
        ("kwise", {"prompt": "p", "responses": texts({"rank": [1, 2]}, {"rank": [1]})}, "responses: expected as many"),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"rank": [1]}, {"rank": 2})},
            "responses[1].rank: expected a list",
        ),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"rank": [1, 3]}, {"rank": [2, 1]})},
            "responses[].rank: expected",
        ),
        ("kwise", {"prompt": "p", "responses": texts({"helpful": [1, "2"]}, {})}, "responses[0].helpful: expected fin"),
        ("kwise", {"prompt": "p", "responses": texts({"helpful": []}, {})}, "responses[0].helpful: expected finite"),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"helpful": [1, 2], "honest": 1}, {"helpful": [1, 1]})},
            "responses[0].scores: expected as many judges on every axis",
        ),
        ("kwise", annotated(ranks=[1]), "annotations[0].ranks: expected 2 integers from 1"),
        ("kwise", annotated(ranks=[1, 3]), "annotations[].ranks: expected ranks of 2 responses without gaps"),
        ("kwise", annotated(helpful=[1, "2"]), "annotations[0].helpful: expected 2 finite numbers or nulls"),
        ("kwise", annotated(score=[1, 2]), "annotations[0].ranks: expected ranks, or scores under helpful"),
        ("rated", {"prompt": "p", "responses": texts({"ratings": {"helpfulness": 6}}, {})}, "ratings.helpfulness: exp"),
        ("rated", {"prompt": "p", "responses": texts({"ratings": {}}, {})}, "responses[0].ratings.helpfulness: expec"),
        ("rated", {"prompt": "p", "responses": texts({"helpfulness": "5"}, {})}, "responses[0].helpfulness: expected"),
        ("ultrafeedback", {"instruction": "p", "completions": []}, "completions: expected 2 completions or more"),
        ("helpsteer", {"prompt": "p", "response": "a"}, "helpfulness: expected a rating named helpfulness"),
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "margin": -1}, "margin: expected 0 or more"),
    ],
)
def test_what_is_wrong_is_named_with_row_and_field(tmp_path: Path, form: str, row: Any, message: str) -> None:
    with pytest.raises(BadRow) as caught:
        split_of(tmp_path, form, row)
    assert message in str(caught.value) and f"{tmp_path}/rows.jsonl:1:" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annotators": "mean"}, r"data\.annotators=mean: must be one of average, sample"),
        ({"format": "rated"}, r"data\.ratings is empty"),
        ({"format": "rated", "ratings": {"truth": "honesty"}}, r"data\.ratings\.truth=honesty: must be one of helpful"),
        ({"format": "rated", "ratings": {"truth": "honest"}, "scale": [5, 1]}, r"data\.scale=\[5, 1\]: expected"),
    ],
)
def test_options_of_ratings_and_judges_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankingData(**({"path": "x", "format": "kwise"} | options))


def test_labels_hold_every_judge_apart(tmp_path: Path) -> None:
    labels, labelled = labels_of(only(tmp_path, "kwise", JUDGED))
    assert labels.shape == labelled.shape == (3, 3, len(AXES))
    assert labelled[:, :, 0].all() and not labelled[:, :, 1:].any()
