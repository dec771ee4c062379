"""Claims about preference data: which order each form states, on which axes, and what is refused or left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from real_data import real

from models.chat import Message
from models.errors import BadRow, ConfigError, DataError, Origin
from models.scorer import AXES
from models.split import Split
from reward.rankings import Ranking, write_rankings
from reward.readers import FORMATS, RATED_FORMATS, RankingData, read_rankings

CONF = Path(__file__).parents[1] / "conf" / "data"
P = (Message("user", "p"),)


def saved(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def split_of(folder: Path, form: str, *rows: Any, **options: Any) -> Split[Ranking]:
    stated = {"ratings": {"helpfulness": "helpful"}} if form in RATED_FORMATS else {"axes": ["helpful"]}
    options = {"eval_fraction": 0.0} | stated | options
    return read_rankings(RankingData(path=saved(folder, *rows), format=form, **options))


def only(folder: Path, form: str, row: Any, **options: Any) -> Ranking:
    (ranking,) = split_of(folder, form, *(row if isinstance(row, list) else [row]), **options).train
    return ranking


def on(axis: str, *scores: float | None) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(score if name == axis else None for name in AXES) for score in scores)


def texts(*responses: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"text": "abcdefgh"[i]} | response for i, response in enumerate(responses)]


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


GOOD: dict[str, Any] = {
    "pairs": {"prompt": "p", "chosen": "a", "rejected": "b"},
    "hh": {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"},
    "sharegpt_pairs": {
        "conversations": [{"from": "human", "value": "p"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "stack_exchange": {"question": "p", "response_j": "a", "response_k": "b"},
    "llmbar": {"input": "p", "output_1": "b", "output_2": "a", "label": 2},
    "kwise": {"prompt": "p", "responses": texts({"rank": 1}, {"rank": 2})},
    "oasst": {"messages": chat("p"), "responses": texts({"rank": 0}, {"rank": 1})},
    "best_of_n": {"prompt": "p", "responses": ["b", "a"], "best": 1},
    "xstest": {"prompt": "p", "label": "safe", "responses": texts({"implied_score": 2}, {"implied_score": 0})},
    "gsm8k": {"prompt": "p", "responses": texts({"is_correct": True}, {"is_correct": False})},
    "rated": {"prompt": "p", "responses": texts({"ratings": {"helpfulness": 5}}, {"ratings": {"helpfulness": 1}})},
    "ultrafeedback": {
        "instruction": "p",
        "completions": [
            {"response": text, "annotations": {"helpfulness": {"Rating": rating}}} for text, rating in ("a5", "b1")
        ],
    },
    "helpsteer": [{"prompt": "p", "response": text, "helpfulness": rating} for text, rating in (("a", 5), ("b", 1))],
}


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", GOOD)
def test_each_form_says_that_a_is_more_helpful_than_b(tmp_path: Path, form: str) -> None:
    ranking = only(tmp_path, form, GOOD[form])
    assert ranking.prompt == P and set(ranking.responses) == {"a", "b"}
    helpful = dict(zip(ranking.responses, ranking.scores, strict=True))
    assert helpful["a"][0] > helpful["b"][0] and helpful["a"][1:] == helpful["b"][1:] == (None, None)


def test_every_form_has_an_example_here_and_a_choice_in_conf() -> None:
    assert set(GOOD) == {*FORMATS, *RATED_FORMATS}
    assert all((CONF / f"{name}.yaml").is_file() for name in (*GOOD, "truthful"))


def test_a_preference_speaks_of_the_stated_axes_alone(tmp_path: Path) -> None:
    ranking = only(tmp_path, "hh", GOOD["hh"], axes=["harmless"])
    assert ranking.scores == ((None, None, 1.0), (None, None, 0.0))
    ranking = only(tmp_path, "gsm8k", GOOD["gsm8k"], axes=["helpful", "honest"])
    assert ranking.scores == ((1.0, 1.0, None), (0.0, 0.0, None))


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "xstest"])
def test_no_axis_is_assumed(tmp_path: Path, form: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.axes is empty: state which of helpful, honest, harmless"):
        split_of(tmp_path, form, GOOD[form], axes=[])


def test_pairs_may_be_messages_or_whole_conversations(tmp_path: Path) -> None:
    prompt = tuple(Message(**turn) for turn in chat("p", "q", "r"))
    for row in (
        {"prompt": chat("p", "q", "r"), "chosen": "a", "rejected": "b"},
        {"prompt": chat("p", "q", "r"), "chosen": [chat("", "a")[1]], "rejected": [chat("", "b")[1]]},
        {"chosen": chat("p", "q", "r", "a"), "rejected": chat("p", "q", "r", "b")},
        {"prompt": chat("p", "q", "r"), "chosen": chat("p", "q", "r", "a"), "rejected": chat("p", "q", "r", "b")},
    ):
        ranking = only(tmp_path, "pairs", row)
        assert (ranking.prompt, ranking.responses) == (prompt, ("a", "b"))


def test_transcripts_part_at_the_last_reply_and_keep_their_text(tmp_path: Path) -> None:
    start = "\n\nHuman: one\n\nAssistant:  two \n\nHuman: three\nHuman: no mark\n\nAssistant:"
    ranking = only(tmp_path, "hh", {"chosen": f"{start} yes ", "rejected": f"{start} no\n\n"})
    assert ranking.prompt == (
        Message("user", "one"),
        Message("assistant", " two "),
        Message("user", "three\nHuman: no mark"),
    )
    assert ranking.responses == ("yes ", "no\n\n")


def test_turns_of_one_speaker_in_a_transcript_become_one(tmp_path: Path) -> None:
    start = "\n\nHuman: one\n\nHuman: two\n\nAssistant:"
    split = split_of(tmp_path, "hh", {"chosen": f"{start} a", "rejected": f"{start} b"})
    assert split.train[0].prompt == (Message("user", "one\n\ntwo"),)
    assert split.readings[0].notes == {"turns of one speaker joined": [1]}


def test_sharegpt_pairs_keep_system_turns(tmp_path: Path) -> None:
    row = GOOD["sharegpt_pairs"] | {
        "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "p"}],
    }
    assert only(tmp_path, "sharegpt_pairs", row).prompt == (Message("system", "S"), *P)


def test_rank_one_is_best_and_ranks_may_tie(tmp_path: Path) -> None:
    for ranks, expected in (((2, 1, 3), (-2, -1, -3)), ((1, 1, 2), (-1, -1, -2)), ((1, 1, 3), (-1, -1, -3))):
        row = {"prompt": "p", "responses": texts(*({"rank": rank} for rank in ranks))}
        assert only(tmp_path, "kwise", row).scores == on("helpful", *map(float, expected))


def test_openassistant_ranks_count_from_zero(tmp_path: Path) -> None:
    row = {"messages": chat("p"), "responses": texts({"rank": 1}, {"rank": 0}, {"rank": 2})}
    assert only(tmp_path, "oasst", row).scores == on("helpful", -1.0, 0.0, -2.0)


def test_scores_stand_on_their_axes_and_null_is_unlabelled(tmp_path: Path) -> None:
    scores = ({"helpful": 3, "honest": None}, {"helpful": 1, "harmless": 0.5}, {"honest": 2})
    row = {"prompt": "p", "responses": texts(*({"scores": score} for score in scores))}
    assert only(tmp_path, "kwise", row, axes=[]).scores == ((3.0, None, None), (1.0, None, 0.5), (None, 2.0, None))


def test_fields_named_as_axes_are_scores(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "responses": texts({"honest": 0.9, "helpful": 0}, {"honest": 0.1, "helpful": 1, "model": "m"}),
    }
    ranking = only(tmp_path, "kwise", row, axes=[])
    assert ranking.scores == ((0.0, 0.9, None), (1.0, 0.1, None)) and ranking.sources == ("", "m")


def test_xstest_orders_harm_on_unsafe_prompts_and_help_on_safe_ones(tmp_path: Path) -> None:
    responses = texts({"implied_score": 0}, {"implied_score": 2}, {"implied_score": 1})
    for label, axis in (("unsafe", "harmless"), ("safe", "helpful")):
        row = {"prompt": "p", "label": label, "responses": responses}
        assert only(tmp_path, "xstest", row, axes=[]).scores == on(axis, 0.0, 2.0, 1.0)


# --- equal responses and ties -----------------------------------------------------------------------------------------


def scored(*pairs: tuple[str, float | None]) -> dict[str, Any]:
    return {"prompt": "p", "responses": [{"text": text, "scores": {"helpful": score}} for text, score in pairs]}


def test_equal_responses_with_equal_scores_merge_exactly(tmp_path: Path) -> None:
    # Three times 0.1 sums to 0.30000000000000004: a mean would not be 0.1.
    split = split_of(tmp_path, "kwise", scored(("a", 0.1), ("b", 0.7), ("a", 0.1), ("a", 0.1)))
    assert split.train[0].responses == ("a", "b") and split.train[0].scores == on("helpful", 0.1, 0.7)
    assert split.readings[0].notes == {"equal responses merged": [1]}


def test_equal_responses_with_other_scores_are_averaged_and_counted(tmp_path: Path) -> None:
    split = split_of(tmp_path, "kwise", scored(("a", 0.25), ("b", 0.5), ("a", 0.75), ("a", None), ("c", 1)))
    assert split.train[0].scores == on("helpful", 0.5, 0.5, 1.0)
    assert split.readings[0].notes["equal responses with other scores averaged"] == [1]


def test_responses_that_differ_in_space_alone_are_two(tmp_path: Path) -> None:
    assert only(tmp_path, "kwise", scored(("a", 0), (" a", 1))).responses == ("a", " a")


UNUSABLE = {
    "all responses tie": [
        ("kwise", scored(("a", 1), ("b", 1), ("c", None))),
        ("kwise", {"prompt": "p", "responses": texts({"rank": 1}, {"rank": 1})}),
        ("kwise", {"prompt": "p", "responses": texts({"helpful": 1, "honest": None}, {"helpful": None, "honest": 2})}),
        ("gsm8k", {"prompt": "p", "responses": texts({"is_correct": True}, {"is_correct": True})}),
    ],
    "all responses are equal": [
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": "a"}),
        ("hh", {"chosen": GOOD["hh"]["chosen"], "rejected": GOOD["hh"]["chosen"]}),
        ("kwise", scored(("a", 1), ("a", 0))),
    ],
    "prompts of chosen and rejected differ": [
        ("hh", GOOD["hh"] | {"rejected": "\n\nHuman: q\n\nAssistant: b"}),
        ("pairs", {"chosen": chat("p", "a"), "rejected": chat("q", "b")}),
        ("pairs", {"prompt": "p", "chosen": chat("p", "a"), "rejected": chat("q", "b")}),
    ],
    "empty reply": [("hh", GOOD["hh"] | {"rejected": "\n\nHuman: p\n\nAssistant: "})],
    "empty turn in the prompt": [("hh", {name: f"\n\nHuman:\n\nAssistant: {name}" for name in ("chosen", "rejected")})],
    "prompt that ends with a reply": [("hh", GOOD["hh"] | {"chosen": "\n\nHuman: p\n\nAssistant: q\n\nAssistant: a"})],
    "empty rejected": [("pairs", GOOD["pairs"] | {"rejected": " \n"})],
    "empty prompt": [("pairs", GOOD["pairs"] | {"prompt": ""})],
    "empty responses[].text": [("kwise", scored(("a", 1), ("", 0)))],
}


@pytest.mark.parametrize(("reason", "form", "row"), [(why, *case) for why, cases in UNUSABLE.items() for case in cases])
def test_what_teaches_nothing_is_dropped_and_counted_or_an_error(
    tmp_path: Path, reason: str, form: str, row: Any
) -> None:
    split = split_of(tmp_path, form, row, GOOD[form])
    assert len(split.train) == 1 and split.readings[0].dropped == {reason: [1]}
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*data\.on_unusable=drop"):
        split_of(tmp_path, form, row, on_unusable="error")
    with pytest.raises(DataError, match="no usable row among 2"):
        split_of(tmp_path, form, row, row)


# --- faults -----------------------------------------------------------------------------------------------------------


def ranked(*ranks: Any) -> dict[str, Any]:
    return {"prompt": "p", "responses": texts(*({"rank": rank} for rank in ranks))}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("kwise", ranked(1), "responses: expected 2 responses or more"),
        ("kwise", {"prompt": "p", "responses": []}, "responses: expected 2 responses or more"),
        ("kwise", ranked(0, 1), "responses[0].rank: expected an integer from 1 (the best) up, got 0"),
        ("kwise", ranked(1, -1), "responses[1].rank: expected an integer from 1 (the best) up, got -1"),
        ("oasst", ranked(-1, 0), "responses[0].rank: expected an integer from 0 (the best) up, got -1"),
        ("kwise", ranked(1, 1.5), "responses[1].rank: expected an integer from 1 (the best) up, got 1.5"),
        ("kwise", ranked(1, "2"), "responses[1].rank: expected an integer from 1 (the best) up, got '2'"),
        ("kwise", ranked(1, True), "responses[1].rank: expected an integer from 1 (the best) up, got True"),
        ("kwise", ranked(1, None), "responses[1].rank: expected an integer from 1 (the best) up, got None"),
        ("kwise", ranked(1, 3), "responses[].rank: expected ranks of 2 responses without gaps, got [1, 3]"),
        ("kwise", ranked(2, 3), "responses[].rank: expected ranks of 2 responses without gaps, got [2, 3]"),
        ("kwise", ranked(1, 1, 4), "responses[].rank: expected ranks of 3 responses without gaps, got [1, 1, 4]"),
        ("oasst", ranked(1, 2), "responses[].rank: expected ranks of 2 responses without gaps, got [1, 2]"),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"rank": 1}, {})},
            "responses[1].rank: expected an integer from 1 (the best) up, got nothing",
        ),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"rank": 1}, {"rank": 2, "scores": {}})},
            "responses[1].rank: expected either a rank or scores, not both",
        ),
        ("kwise", scored(("a", math.nan), ("b", 1)), "responses[0].scores.helpful: expected a finite number, got nan"),
        ("kwise", scored(("a", 1), ("b", math.inf)), "responses[1].scores.helpful: expected a finite number, got inf"),
        ("kwise", scored(("a", 1), ("b", 10**400)), "responses[1].scores.helpful: expected a finite number"),
        ("kwise", scored(("a", "1"), ("b", 1)), "responses[0].scores.helpful: expected a finite number, got '1'"),
        ("kwise", scored(("a", True), ("b", 1)), "responses[0].scores.helpful: expected a finite number, got True"),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"scores": {"helpfull": 1}}, {"scores": {"helpful": 1}})},
            "responses[0].scores.helpfull: expected one of the axes helpful, honest, harmless, got 1",
        ),
        ("kwise", scored(("a", None), ("b", None)), "responses[].scores: expected a score on one axis at least"),
        ("kwise", {"prompt": "p", "responses": texts({}, {})}, "responses[0].scores: expected a rank, scores, or"),
        (
            "kwise",
            {"prompt": "p", "responses": texts({"scores": 3}, {"scores": 4})},
            "responses[0].scores: expected an",
        ),
        ("kwise", {"responses": texts({"rank": 1}, {"rank": 2})}, "prompt: expected a text, got nothing"),
        ("kwise", {"messages": chat("p", "q"), "responses": ranked(1, 2)["responses"]}, "messages: expected a convers"),
        ("pairs", {"prompt": "p", "chosen": "a"}, "rejected: expected a text, got nothing"),
        ("pairs", {"prompt": "p", "chosen": None, "rejected": "b"}, "chosen: expected a text, got None"),
        ("pairs", {"chosen": "a", "rejected": "b"}, "prompt: expected a text, got nothing"),
        ("pairs", GOOD["pairs"] | {"chosen": chat("p")}, "chosen: expected a text, or messages that end with the ass"),
        ("hh", GOOD["hh"] | {"chosen": "no marks"}, "chosen: expected a transcript from"),
        ("hh", GOOD["hh"] | {"rejected": "\n\nAssistant: hi"}, "rejected: expected a transcript that opens with"),
        ("hh", GOOD["hh"] | {"rejected": "\n\nHuman: hi"}, "rejected: expected a transcript from"),
        ("hh", GOOD["hh"] | {"rejected": "x\n\nHuman: p\n\nAssistant: b"}, "rejected: expected a transcript from"),
        ("sharegpt_pairs", GOOD["sharegpt_pairs"] | {"chosen": "a"}, "chosen: expected an object"),
        ("sharegpt_pairs", GOOD["sharegpt_pairs"] | {"chosen": {"from": "gpt"}}, "chosen.value: expected a text"),
        ("stack_exchange", {"question": "q", "response_j": "a", "response_k": 0}, "response_k: expected a text, got 0"),
        ("llmbar", GOOD["llmbar"] | {"label": 0}, "label: expected 1 or 2, got 0"),
        ("llmbar", GOOD["llmbar"] | {"label": "1"}, "label: expected 1 or 2, got '1'"),
        ("xstest", GOOD["xstest"] | {"label": "odd"}, "label: expected safe or unsafe, got 'odd'"),
        (
            "xstest",
            GOOD["xstest"] | {"responses": texts({"implied_score": None}, {"implied_score": 1})},
            "responses[0].implied_score: expected a finite number, got None",
        ),
        (
            "gsm8k",
            GOOD["gsm8k"] | {"responses": texts({"is_correct": 1}, {"is_correct": 0})},
            "responses[0].is_correct: expected true or false, got 1",
        ),
    ],
)
def test_a_wrong_ranking_is_named_with_row_and_field(tmp_path: Path, form: str, row: Any, message: str) -> None:
    with pytest.raises(BadRow) as caught:
        split_of(tmp_path, form, GOOD[form], row)
    assert f"{tmp_path}/rows.jsonl:2:{message}" in str(caught.value)
    split = split_of(tmp_path, form, GOOD[form], row, on_bad_row="skip")
    assert len(split.train) == 1 and split.readings[0].n_dropped == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "pair"}, r"data\.format=pair: must be one of pairs, hh"),
        ({"axes": ["helpfull"]}, r"data\.axes=helpfull: must be one of helpful, honest, harmless"),
        ({"limit": -1}, r"data\.limit=-1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankingData(**({"path": "x", "format": "pairs", "axes": ["helpful"]} | options))


def test_rankings_of_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [GOOD["pairs"] | {"prompt": f"p{i}", "rejected": str(k)} for i in range(60) for k in range(3)]
    split = split_of(tmp_path, "pairs", *rows, eval_fraction=0.3)
    assert not {r.prompt for r in split.train} & {r.prompt for r in split.eval}
    assert len(split.train) + len(split.eval) == 180 and split.eval


# --- writing ----------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)
SCORES = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    responses = draw(st.lists(TEXTS, min_size=2, max_size=5, unique=True))
    first, second, *rest = (draw(st.tuples(SCORES, SCORES, SCORES)) for _ in responses)
    scores = ((0.0, *first[1:]), (1.5, *second[1:]), *rest)
    history = draw(st.sampled_from([(), (Message("system", "S"),), (Message("user", "a"), Message("assistant", "b"))]))
    prompt = (*history, Message("user", draw(TEXTS)))
    sources = tuple(draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))) for _ in responses)
    return Ranking(prompt, tuple(responses), scores, sources, Origin("made", 1))


@given(written=st.lists(rankings(), min_size=1, max_size=4))
def test_any_rankings_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[Ranking]
) -> None:
    path = tmp_path_factory.mktemp("any") / "rankings.jsonl"
    write_rankings(path, written)
    read = read_rankings(RankingData(path=str(path), format="kwise", eval_fraction=0.0)).train
    assert [r.origin for r in read] == [Origin(str(path), line) for line in range(1, len(written) + 1)]
    for mine, theirs in zip(read, written, strict=True):
        assert (mine.prompt, mine.responses, mine.scores, mine.sources) == (
            theirs.prompt,
            theirs.responses,
            theirs.scores,
            theirs.sources,
        )


# --- configs and real files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GOOD, "truthful"])
def test_each_choice_of_data_is_a_checked_config_that_asks_for_a_path(name: str) -> None:
    choice = OmegaConf.merge(OmegaConf.structured(RankingData), OmegaConf.load(CONF / f"{name}.yaml"))
    with pytest.raises(OmegaConfBaseException, match="path"):
        OmegaConf.to_object(choice)
    given_path = OmegaConf.merge(choice, {"path": "x"}, {"axes": ["helpful"]} if name in ("pairs", "best_of_n") else {})
    data = OmegaConf.to_object(given_path)
    assert data.format == ("kwise" if name == "truthful" else name)
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


def test_plain_pairs_must_be_told_their_axes() -> None:
    choice = OmegaConf.merge(OmegaConf.structured(RankingData), OmegaConf.load(CONF / "pairs.yaml"), {"path": "x"})
    with pytest.raises(ConfigError, match=r"data\.axes is empty"):
        OmegaConf.to_object(choice)


def real_split(choice: str, name: str) -> Split[Ranking]:
    merged = OmegaConf.merge(OmegaConf.structured(RankingData), OmegaConf.load(CONF / f"{choice}.yaml"))
    return read_rankings(OmegaConf.to_object(OmegaConf.merge(merged, {"path": real(name)})))


@pytest.mark.parametrize(
    ("choice", "name", "kept", "dropped"),
    [
        # One reply is blank (row 583); two conversations part before the last turn (rows 1012 and 1055).
        (
            "hh",
            "hh_harmless_pairs.jsonl",
            1183,
            {"empty reply": [583], "prompt that ends with a reply": [1012, 1055]},
        ),
        ("sharegpt_pairs", "dpo_en_demo.json", 300, {}),
        ("stack_exchange", "stack_exchange_paired_tiny.json", 25, {}),
        ("llmbar", "llmbar_natural.json", 100, {}),
        ("oasst", "kwise_oasst.jsonl", 102, {}),
        ("truthful", "kwise_instructgpt_truthful.jsonl", 51, {}),
    ],
)
def test_real_rankings_are_kept_or_dropped_with_reasons(
    choice: str, name: str, kept: int, dropped: dict[str, list[int]]
) -> None:
    split = real_split(choice, name)
    assert len(split.train) + len(split.eval) == kept
    assert split.readings[0].dropped == dropped


@pytest.mark.parametrize(
    ("choice", "name", "label", "rows", "kept"),
    [
        ("gsm8k", "kwise_gsm8k.jsonl", "is_correct", 653, 381),
        ("xstest", "kwise_xstest.jsonl", "implied_score", 220, 152),
    ],
)
def test_real_rankings_without_any_order_are_dropped(choice: str, name: str, label: str, rows: int, kept: int) -> None:
    lines = Path(real(name)).read_bytes().splitlines()
    tied = [
        number
        for number, line in enumerate(lines, 1)
        if len({response[label] for response in json.loads(line)["responses"]}) == 1
    ]
    split = real_split(choice, name)
    assert split.readings[0].dropped == {"all responses tie": tied}
    assert len(lines) == rows and len(split.train) + len(split.eval) == rows - len(tied) == kept


def test_real_equal_responses_are_merged_and_none_is_lost() -> None:
    split = real_split("truthful", "kwise_instructgpt_truthful.jsonl")
    by_line = {ranking.origin.line: ranking for ranking in (*split.train, *split.eval)}
    for number, line in enumerate(Path(real("kwise_instructgpt_truthful.jsonl")).read_bytes().splitlines(), 1):
        responses = json.loads(line)["responses"]
        assert len(responses) == 36
        assert set(by_line[number].responses) == {response["text"] for response in responses}
        first = responses[0]
        same = [r["honest"] for r in responses if r["text"] == first["text"]]
        assert by_line[number].scores[0][1] == pytest.approx(sum(same) / len(same), abs=1e-12)
        assert {scores[2] for scores in by_line[number].scores} == {None}


def test_real_pairs_are_read_to_the_letter() -> None:
    split = real_split("sharegpt_pairs", "dpo_en_demo.json")
    rows = json.loads(Path(real("dpo_en_demo.json")).read_bytes())
    read = sorted((*split.train, *split.eval), key=lambda ranking: ranking.origin.line)
    for row, ranking in zip(rows, read, strict=True):
        assert ranking.responses == (row["chosen"]["value"], row["rejected"]["value"])
        assert [message.content for message in ranking.prompt] == [turn["value"] for turn in row["conversations"]]
