"""Claims about reading raw rows: every byte that is right is kept, every byte that is wrong is named."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import saved

from models.errors import BadRow, DataError, Origin
from models.lines import MalformedRow
from models.reading import Reading, Row, UnusableRow, read_records
from models.rows import read_rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))

ODD_BUT_VALID = {
    "line_separators": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "emoji": "family 👨‍👩‍👧‍👦 and flag 🇨🇭",
    "right_to_left": "שלום \u202eعربي\u202c",
    "combining": unicodedata.normalize("NFD", "é ü ạ̈"),
    "byte_order_mark_inside": "a\ufeffb",
    "line_ends": "a\r\nb\rc\n",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f",
    "backslash_u": "not an escape: \\ud800 \\u0000",
    "noncharacters": "\uffff\U0010ffff",
    "spaces": "  \u3000x\u00a0 ",
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [fields for _, fields in read_rows(str(path), raise_it)]


def lines_of(path: Path) -> list[int]:
    return [origin.line for origin, _ in read_rows(str(path), raise_it)]


def raise_it(fault: MalformedRow) -> None:
    raise fault


def fault_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("name", ODD_BUT_VALID)
def test_odd_but_valid_text_is_read_exactly(tmp_path: Path, name: str, escaped: bool) -> None:
    row = {"text": ODD_BUT_VALID[name], "more": 1}
    line = json.dumps(row, ensure_ascii=escaped)
    assert rows_of(saved(tmp_path, "a.jsonl", line + "\n" + line)) == [row, row]
    assert rows_of(saved(tmp_path, "a.json", f"[{line},\n{line}]")) == [row, row]


@given(rows=st.lists(st.dictionaries(TEXTS, TEXTS | st.none() | st.integers() | st.lists(TEXTS)), max_size=5))
def test_any_rows_survive_json_lines_and_json_arrays(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for escaped in (True, False):
        written = [json.dumps(row, ensure_ascii=escaped) for row in rows]
        if rows:
            assert rows_of(saved(folder, "a.jsonl", "\n".join(written))) == rows
        assert rows_of(saved(folder, "a.json", "[" + ",".join(written) + "]")) == rows


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_any_texts_survive_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    assert rows_of(path) == [{"a": first, "b": second} for first, second in rows]


def test_byte_order_mark_at_the_start_is_no_text(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": '{"a": "b"}', "a.json": '[{"a": "b"}]', "a.csv": "a\nb\n"}.items():
        assert rows_of(saved(tmp_path, name, b"\xef\xbb\xbf" + content.encode())) == [{"a": "b"}]


def test_byte_offsets_count_the_byte_order_mark(tmp_path: Path) -> None:
    assert ":1, byte 10: " in fault_of(saved(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": "\xff"}'))


def test_crlf_ends_a_line_and_is_no_text(tmp_path: Path) -> None:
    assert rows_of(saved(tmp_path, "a.jsonl", '{"a": "b"}\r\n\r\n{"a": "c"}\r\n')) == [{"a": "b"}, {"a": "c"}]
    assert rows_of(saved(tmp_path, "a.csv", "a\r\nb\r\nc\r\n")) == [{"a": "b"}, {"a": "c"}]


def test_a_line_of_a_megabyte_is_read_whole(tmp_path: Path) -> None:
    text = "é" * 500_000 + "end"
    assert rows_of(saved(tmp_path, "a.jsonl", json.dumps({"a": text}, ensure_ascii=False))) == [{"a": text}]
    assert rows_of(saved(tmp_path, "a.csv", f"a\n{text}\n")) == [{"a": text}]


def test_json_files_may_hold_one_object_a_line(tmp_path: Path) -> None:
    assert rows_of(saved(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n')) == [{"a": 1}, {"a": 2}]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert rows_of(saved(tmp_path, "a.tsv", "a\tb\n1,2\t3\n")) == [{"a": "1,2", "b": "3"}]


def test_parquet_and_saved_datasets_give_their_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": text, "turns": [text, "x"], "n": 1} for text in ODD_BUT_VALID.values()]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.save_to_disk(str(tmp_path / "folder"))
    assert rows_of(tmp_path / "a.parquet") == rows
    assert rows_of(tmp_path / "folder") == rows
    assert lines_of(tmp_path / "folder") == list(range(1, len(rows) + 1))


def test_a_folder_of_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"a": 1}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    assert "train, test" in fault_of(tmp_path / "both")
    assert rows_of(tmp_path / "both" / "test") == [{"a": 1}]


# --- origins ----------------------------------------------------------------------------------------------------------


def test_origins_are_the_lines_on_which_rows_start(tmp_path: Path) -> None:
    assert lines_of(saved(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')) == [1, 3]
    assert lines_of(saved(tmp_path, "a.json", '[\n {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]\n')) == [2, 5, 5]
    assert lines_of(saved(tmp_path, "a.csv", 'a,b\n1,"x\ny"\n\n2,z\n')) == [2, 5]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    assert "no such file" in fault_of(tmp_path / "none.jsonl")
    assert "directory" in fault_of(tmp_path)
    assert "empty" in fault_of(saved(tmp_path, "a.jsonl", b""))
    assert "must end in one of .json, .jsonl" in fault_of(saved(tmp_path, "a.xlsx", b"x"))


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        ('{"a": 1,}', "column 9", "property name"),
        ('{"a": "x', "column 7", "Unterminated string"),
        ('{"a": 1} {"a": 2}', "column 9", "more text after the object"),
        ("{'a': 1}", "column 2", "property name"),
        ('{"a": "tab\there"}', "column 11", "control character"),
        ("[1, 2]", "column 1", "expected an object with named fields, got list"),
        ("null", "column 1", "got null"),
        ('{"a": 1, "a": 2}', "column 1", "'a' stands twice"),
        ("[" * 100_000, "column 1", "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "column 1", "limit"),
    ],
)
def test_a_malformed_json_line_is_named_with_line_and_column(tmp_path: Path, line: str, where: str, what: str) -> None:
    message = fault_of(saved(tmp_path, "a.jsonl", f'{{"a": 0}}\n{line}\n{{"a": 0}}\n'))
    assert message.startswith(f":2, {where}: ") and what in message


def test_a_cut_last_line_is_said_to_be_cut(tmp_path: Path) -> None:
    message = fault_of(saved(tmp_path, "a.jsonl", '{"a": 0}\n{"a": "some te'))
    assert message.startswith(":2, column 7: ") and "cut off" in message


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ('[\n{"a": 1},\n{"a": 2}', ":3, column 9", "cut off"),
        ('[\n{"a": 1},\n{"a": }\n]', ":3, column 7", "Expecting value"),
        ('[\n{"a": 1}\n{"a": 2}]', ":3, column 1", "expected ','"),
        ('[{"a": 1},\n]', ":2, column 1", "Expecting value"),
        ("[] x", ":1, column 4", "more text after the array"),
        ('"text"', ":1, column 1", "expected an array of objects, or one object a line"),
    ],
)
def test_a_malformed_json_array_is_named_with_line_and_column(
    tmp_path: Path, content: str, where: str, what: str
) -> None:
    message = fault_of(saved(tmp_path, "a.json", content))
    assert message.startswith(f"{where}: ") and what in message and "mend the file" in message


@pytest.mark.parametrize(("name", "head", "tail"), [("a.jsonl", "", ""), ("a.json", "[", "]"), ("a.csv", "t\n", "")])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"])
def test_invalid_utf8_is_named_with_line_and_byte(tmp_path: Path, bad: bytes, name: str, head: str, tail: str) -> None:
    good = "é\n" if name == "a.csv" else '{"t": "é"}' + ("," if head else "") + "\n"
    before = f"\ufeff{head}{good}".encode() + (b"x" if name == "a.csv" else b'{"t": "x')
    message = fault_of(saved(tmp_path, name, before + bad + b'"}' + tail.encode()))
    line = before.count(b"\n") + 1
    assert message.startswith(f":{line}, byte {len(before)}: invalid UTF-8")


@pytest.mark.parametrize(
    ("escapes", "at"),
    [
        (r"\ud800", 0),
        (r"\uDFFF", 0),
        (r"\ud83d\ude00 \ud83d", 13),
        (r"\ud83d\ud83d\ude00", 0),
        (r"\ud83dx\ude00", 0),
        (r"\\\udc00", 2),
        (r"\u0000", 0),
        (r"é\u0000", 2),
    ],
)
def test_a_lone_surrogate_or_nul_escape_is_named_with_line_and_byte(tmp_path: Path, escapes: str, at: int) -> None:
    reason = "NUL" if "0000" in escapes else "lone surrogate"
    before = '{"é": 0}\n{"a": "'
    for name, head, comma, tail in (("a.jsonl", "", "", ""), ("a.json", "[", ",", "]")):
        lead = head + before.replace("\n", comma + "\n")
        message = fault_of(saved(tmp_path, name, f'{lead}{escapes}"}}{tail}'))
        assert message.startswith(f":2, byte {len(lead.encode()) + at}: ") and reason in message


PIECES = ["\\\\", "ud83d", r"\ud83d", r"\uDBFF", r"\ude00", r"\uDC00", r"\u0000", "u0000", r"\u00e9", r"\"", "x"]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_escapes_are_refused_if_and_only_if_their_text_is_no_text(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    line = '{"a": "' + "".join(pieces) + '"}'
    text = json.loads(line)["a"]
    path = saved(tmp_path_factory.mktemp("any"), "a.jsonl", line)
    if any(character == "\0" or unicodedata.category(character) == "Cs" for character in text):
        assert ":1, byte " in fault_of(path)
    else:
        assert rows_of(path) == [{"a": text}]


def test_paired_surrogate_escapes_are_one_character(tmp_path: Path) -> None:
    assert rows_of(saved(tmp_path, "a.jsonl", r'{"a": "\ud83d\ude00\\ud800"}')) == [{"a": "😀\\ud800"}]


def test_a_nul_byte_is_named_and_utf16_recognised(tmp_path: Path) -> None:
    assert fault_of(saved(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": "\0"}')).startswith(":2, byte 16: a NUL byte")
    assert "looks like UTF-16" in fault_of(saved(tmp_path, "a.jsonl", '{"a": 1}'.encode("utf-16")))


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ('a,b\n1,2\n3,"x\n', ":3", "malformed CSV"),
        ('a,b\n1,"x"y\n', ":2", "malformed CSV"),
        ("a,b\n1\n", ":2", "expected 2 values, as in the header, got 1"),
        ("a,b\n1,2\n1,2,3\n", ":3", "expected 2 values, as in the header, got 3"),
        ("a,a\n1,2\n", ":1", "distinct column names"),
        ("a,\n1,2\n", ":1", "distinct column names"),
    ],
)
def test_a_malformed_csv_row_is_named_with_its_line(tmp_path: Path, content: str, where: str, what: str) -> None:
    message = fault_of(saved(tmp_path, "a.csv", content))
    assert message.startswith(where) and what in message


def test_broken_parquet_and_folders_are_named(tmp_path: Path) -> None:
    assert "not a readable Parquet file" in fault_of(saved(tmp_path, "a.parquet", b"PAR1 no table PAR1"))
    (tmp_path / "folder").mkdir()
    saved(tmp_path, "folder/state.json", "{}")
    assert "not a readable folder of save_to_disk" in fault_of(tmp_path / "folder")


def test_nul_in_a_parquet_cell_is_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list([{"a": ["x"]}, {"a": ["x\0"]}]).to_parquet(str(path))
    assert fault_of(path).startswith(":2, a NUL character")


def test_a_hub_name_without_network_names_the_local_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"no-such-owner/no-such-set: no such file, nor a hub data set.*name a local file"
    ):
        list(read_rows("no-such-owner/no-such-set", raise_it))


# --- policies ---------------------------------------------------------------------------------------------------------


def text_of(row: Row) -> list[str]:
    return [row.filled("text")]


MIXED = '{"text": "a", "id": 1}\n{"text": \n{"text": null}\n{"text": " "}\n{"texts": "b"}\n{"text": "c", "id": 2}\n'


def test_errors_say_how_to_leave_rows_out(tmp_path: Path) -> None:
    for line, option in {
        '{"text"': "on_bad_row=skip",
        '{"text": 1}': "on_bad_row=skip",
        '{"text": ""}': "drop",
    }.items():
        path = saved(tmp_path, "a.jsonl", line + "\n")
        with pytest.raises(DataError, match=rf"a\.jsonl:1.*mend the row.*{option}"):
            list(read_records(Reading(str(path)), text_of))


def test_skip_keeps_the_good_rows_and_counts_the_others_by_reason(tmp_path: Path) -> None:
    reading = Reading(str(saved(tmp_path, "a.jsonl", MIXED)), on_bad_row="skip")
    assert list(read_records(reading, text_of)) == ["a", "c"]
    assert reading.dropped == {"malformed JSON": [2], "text: not a text": [3, 5], "empty text": [4]}
    assert (reading.n_rows, reading.n_kept, reading.n_dropped) == (6, 2, 4)
    assert reading.unread == {"id": 2}


def test_drop_leaves_out_what_teaches_nothing_but_no_wrong_row(tmp_path: Path) -> None:
    reading = Reading(str(saved(tmp_path, "a.jsonl", '{"text": ""}\n{"text": "a"}\n')), on_unusable="drop")
    assert list(read_records(reading, text_of)) == ["a"]
    reading = Reading(str(saved(tmp_path, "a.jsonl", MIXED)), on_unusable="drop")
    with pytest.raises(MalformedRow):
        list(read_records(reading, text_of))


def test_a_reading_says_all_of_it_in_one_line(tmp_path: Path) -> None:
    reading = Reading(str(saved(tmp_path, "a.jsonl", MIXED)), on_bad_row="skip")
    list(read_records(reading, text_of))
    assert str(reading) == (
        f"{tmp_path}/a.jsonl: 2 of 6 rows kept; dropped: malformed JSON 1 (line 2), text: not a text 2 (line 3, 5), "
        "empty text 1 (line 4); fields not used: id"
    )


def test_a_manifest_counts_all_rows_and_lists_the_first_hundred(tmp_path: Path) -> None:
    reading = Reading(str(saved(tmp_path, "a.jsonl", '{"text": 1}\n' * 150)), on_bad_row="skip")
    list(read_records(reading, text_of))
    counts = json.loads(json.dumps(reading.counts()))
    assert counts["dropped"] == {"text: not a text": {"rows": 150, "lines": list(range(1, 101))}}
    assert (counts["rows"], counts["kept"], counts["records"]) == (150, 0, 0)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_skip_leaves_out_faulty_characters_and_goes_on(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "a"}', r'{"text": "\ud800"}', r'{"text": "\u0000"}', "3", '{"text": "b"}']
    content = "\n".join(rows) if name == "a.jsonl" else "[" + ",\n".join(rows) + "]"
    reading = Reading(str(saved(tmp_path, name, content)), on_bad_row="skip")
    assert list(read_records(reading, text_of)) == ["a", "b"]
    assert reading.dropped == {"lone surrogate": [2], "NUL": [3], "not an object": [4]}


def test_an_unreadable_middle_of_an_array_is_never_skipped(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.json", '[{"text": "a"}, {"text": }, {"text": "b"}]')
    with pytest.raises(MalformedRow, match="mend the file"):
        list(read_records(Reading(str(path), on_bad_row="skip"), text_of))


# --- fields -----------------------------------------------------------------------------------------------------------


def test_nested_fields_are_named_by_their_path() -> None:
    row = Row(Origin("f.jsonl", 7), {"turns": [{"say": "a"}, {"say": 3}, "x"], "one": {"say": None}})
    with pytest.raises(BadRow, match=r"^f\.jsonl:7:turns\[2\]: expected an object with named fields, got 'x'$"):
        row.rows("turns")
    with pytest.raises(BadRow, match=r"^f\.jsonl:7:one\.say: expected a text, got None$"):
        row.row("one").text("say")
    with pytest.raises(BadRow, match=r"^f\.jsonl:7:missing: expected a text, got nothing$"):
        row.text("missing")
    with pytest.raises(BadRow, match=r"^f\.jsonl:7:one: expected a list, got {'say': None}$"):
        row.values("one")


def test_what_nobody_read_is_told_with_nested_fields_as_one() -> None:
    row = Row(Origin("f", 1), {"turns": [{"say": "a", "id": 1}, {"say": "b", "id": 2}], "lang": "en"})
    assert [turn.text("say") for turn in row.rows("turns")] == ["a", "b"]
    assert row.unread() == {"turns[].id", "lang"}


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000\u00a0"])
def test_blank_text_is_unusable(blank: str) -> None:
    with pytest.raises(UnusableRow, match="f:1: empty a"):
        Row(Origin("f", 1), {"a": blank}).filled("a")
