"""`python -m stages.data VERB`: what is marked stands in audit.json, what is kept is verbatim, the counts add up."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from audited import asked, audited, source
from command import refused, run, stage
from hypothesis import given
from hypothesis import strategies as st
from real_data import real
from test_instruct_audit_checks import LONG, QUESTION, SOUND
from tiny_data import INSTRUCTIONS, sft, written

from instruct.audit.kinds import KINDS
from instruct.audit.policy import Policy, counts, dropped_rows
from instruct.audit.sides import SIDES, side, split_key
from models.errors import ConfigError, DataError

PLUGIN = """
def scorer(texts):
    return [float("Blue" in text) for text in texts]

def judge(prompt, answer):
    return 0.1 if "sea" in answer else None
"""


def audit(folder: Path, data: str, *options: str, form: str = "alpaca") -> dict[str, Any]:
    made = run("audit", f"data={form}", f"data.path={data}", f"outputs={folder}", *options)
    return json.loads((made.folder / "audit.json").read_text())


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_verb_that_is_unknown_or_absent_ends_with_2_and_the_nearest(tmp_path: Path) -> None:
    ended = stage("data", "fitler", "data=alpaca", cwd=tmp_path)
    assert ended.code == 2 and "unknown verb fitler; did you mean filter?" in ended.error
    assert stage("data", cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    ("verb", "option", "said"),
    [
        ("filter", "drop=[duplicat]", "did you mean duplicate?"),
        ("filter", "drop=[language:xx]", "did you mean language:"),
        ("filter", "drop=[contaminated]", "say against=..."),
        ("filter", "max_loss=2", "say model.path=..."),
        ("filter", "max_words=0", "max_words=0"),
        ("audit", "limits.toxic=0", "limits.toxic=0"),
        ("audit", "data.eval_fraction=0.1", "data.eval_fraction"),
        ("audit", "judge=nowhere:judge", "judge=nowhere:judge: cannot be imported"),
        ("audit", "judge=json:JSONDecodeErr", "cannot be imported"),
        ("audit", "data=text", "holds documents"),
        ("split", "test=0.99", "validation=0.05 test=0.99"),
        ("split", "data.eval_path=x", "use validation= and test="),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_read(
    verb: str, option: str, said: str, tmp_path: Path
) -> None:
    data = () if option.startswith("data=") else ("data=alpaca",)
    assert said in refused(ConfigError, verb, *data, "data.path=x", f"outputs={tmp_path}", option)


def test_help_lists_the_verbs_and_each_verb_its_options(tmp_path: Path) -> None:
    top = stage("data", "--help", cwd=tmp_path)
    assert top.code == 0 and all(f"\n  {verb} " in top.stdout for verb in ("audit", "filter", "split"))
    options = {"audit": "limits.near_duplicate=0.8", "filter": "min_difficulty=null", "split": "validation=0.05"}
    for verb, option in options.items():
        shown = stage("data", verb, "--help", cwd=tmp_path)
        assert shown.code == 0 and shown.stdout.startswith(f"python -m stages.data {verb} ")
        assert f"\n  {option} " in shown.stdout and f"conf/{verb}.yaml" in shown.stdout


def test_an_audit_lists_the_lines_of_every_planted_fault(tmp_path: Path) -> None:
    rows = [
        *SOUND,  # lines 1 to 8
        asked("Name a colour.", "Blue", id="x"),  # 9
        asked("Name a colour.", "Red", id="x"),  # 10
        asked("Tell me about rivers.", LONG),  # 11
        asked("Insult me.", "You moron."),  # 12
        asked("Sum up.", "Done.", given=QUESTION),  # 13
        asked("Hello", "I am {{name}}."),  # 14
        asked("Nothing?", ""),  # 15
    ]
    data = written(tmp_path / "rows.jsonl", rows)
    Path(data).open("a").write("{oops\n")  # 16
    written(tmp_path / "questions.jsonl", [{"prompt": QUESTION}])
    options = ("data=alpaca", "data.path=rows.jsonl", "against=[questions.jsonl]", "outputs=out", "name=x")
    ended = stage("data", "audit", *options, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    found = json.loads((tmp_path / "out/x/audit/audit.json").read_text())
    assert {name: mark["lines"] for name, mark in found["marks"].items() if mark["lines"]} == {
        "duplicate": [9],
        "duplicate_id": [10],
        "inconsistent": [1, 9, 10],
        "incomplete": [11],
        "toxic": [12],
        "contaminated": [13],
        "placeholder": [14],
    }
    assert found["rows"]["dropped"] == {"empty output": [15], "malformed JSON": [16]}
    assert (found["rows"]["read"], found["rows"]["usable"], found["rows"]["marked"]) == (16, 14, 7)
    assert found["languages"]["zh"] == {"rows": 1, "lines": [8]}
    assert found["not_looked_for"]["high_loss"] == "model.path"
    measures = rows_in(tmp_path / "out/x/audit/measures.jsonl")
    assert [row["line"] for row in measures] == list(range(1, 15))
    manifest = json.loads((tmp_path / "out/x/audit/manifest.json").read_text())
    assert manifest["kind"] == "audit" and manifest["metrics"]["marked"]["inconsistent"] == 3
    again = stage("data", "audit", *options, cwd=tmp_path)
    assert again.code == 0 and "done already" in again.stderr


class Elements(HTMLParser):
    """Names of all elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_what_rows_say_as_text_and_loads_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=http://x/y onerror=z>"
    rows = [asked(f"{evil} {i}?", f"{{{{name}}}} {evil}\u202e {i}") for i in range(3)]
    rows += [asked(evil, f"moron {evil}"), asked(evil, "You moron")]
    audit(tmp_path, written(tmp_path / "rows.jsonl", rows))
    page = (tmp_path / "default/audit/audit.html").read_text()
    elements = Elements(page)
    assert not elements.names & {"script", "img", "src", "onerror", "link"}
    assert "<script>alert(1)</script>" in elements.text and "U+202E" in page and "\u202e" not in page
    assert re.findall(r"https?://", re.sub("http://x/y", "", page)) == []


def test_a_judge_and_a_scorer_of_ones_own_mark_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    data = written(tmp_path / "rows.jsonl", SOUND)
    marks = audit(tmp_path, data, "toxicity=mine:scorer", "judge=mine:judge")["marks"]
    assert marks["toxic"]["lines"] == [1] and marks["doubtful"]["lines"] == [2]
    assert marks["doubtful"]["why"] == ["the judge gives 0.10"]


def test_a_filter_keeps_rows_verbatim_and_accounts_for_every_other(tmp_path: Path) -> None:
    rows = [
        *SOUND,
        {**SOUND[1], "extra": [1.5, None, "ä\u2028"]},  # 9, a duplicate
        asked("Where?", "Here, you moron."),  # 10
        asked("Where?", "Nowhere."),  # 11
        asked("Name a colour.", "Blue", note={"deep": True}),  # 12, a duplicate
        asked("Nothing?", " "),  # 13
    ]
    data = written(tmp_path / "rows.jsonl", rows)
    options = ("data=alpaca", f"data.path={data}", "drop=[toxic,duplicate,language:zh]", "outputs=out")
    ended = stage("data", "filter", *options, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    folder = tmp_path / "out/default/filter"
    assert rows_in(folder / "rows.jsonl") == [*SOUND[:7], rows[10]]
    dropped = rows_in(folder / "dropped.jsonl")
    assert [(row["line"], row["reason"]) for row in dropped] == [
        (8, "language:zh"),
        (9, "duplicate"),
        (10, "toxic"),
        (12, "duplicate"),
        (13, "empty output"),
    ]
    assert "13 rows in, 8 kept, 5 dropped" in ended.stderr
    counted = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert counted["rows"] == counted["kept"] + sum(counted["dropped"].values()) == 13
    again = audit(tmp_path / "again", str(folder / "rows.jsonl"))
    assert again["rows"]["usable"] == 8 and again["rows"]["dropped"] == {}


WORDS = st.sampled_from(["Blue", "You moron", "Blue and red and", "N/A", "水是生命之源"])
ROWS = st.lists(
    st.builds(asked, st.sampled_from(["Name a colour.", "Say it.", "说吧。"]), WORDS), min_size=1, max_size=12
)
NAMES = st.lists(st.sampled_from([n for n, kind in KINDS.items() if not kind.needs] + ["language:zh"]), max_size=5)


@given(rows=ROWS, drop=NAMES)
def test_every_row_is_kept_or_has_one_reason_of_the_policy(rows: list[dict[str, Any]], drop: list[str]) -> None:
    found = audited(rows)
    policy = Policy(drop, max_words=None, max_loss=None, min_difficulty=None, near_duplicate=0.8)
    gone = dropped_rows(found, policy)
    assert {reason.name for reason in gone.values()} <= set(drop)
    assert sum(counts(found, gone).values()) == len(gone)
    kept = [row for i, row in enumerate(rows) if i not in gone]
    if kept:
        assert all(not again for name, again in audited(kept).marks.items() if name in drop)


def test_of_equal_rows_the_first_that_is_otherwise_good_stays(tmp_path: Path) -> None:
    rows = [asked("Who?", f"{LONG} them, you moron."), asked("Who?", f"{LONG} them."), asked("Who?", f"{LONG} them.")]
    data = written(tmp_path / "rows.jsonl", rows)
    options = ("drop=[toxic,duplicate,near_duplicate]", "limits.near_duplicate=0.5", f"outputs={tmp_path}")
    made = run("filter", "data=alpaca", f"data.path={data}", *options)
    assert rows_in(made.folder / "rows.jsonl") == rows[1:2]


def test_a_policy_that_leaves_nothing_ends_with_3_and_the_counts(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", SOUND[1:])  # the first answers with one word
    options = ("data=alpaca", f"data.path={data}", "drop=[language:zh]", "max_words=1")
    ended = stage("data", "filter", *options, "name=none", cwd=tmp_path)
    assert ended.code == 3 and "leaves none of 7 rows (max_words 6, language:zh 1)" in ended.error
    assert len(rows_in(tmp_path / "outputs/none/filter/dropped.jsonl")) == 7


def keys(rows: Iterable[dict[str, Any]], group: str | None = None) -> list[str]:
    return [split_key(row, group) for row in source(rows).rows]


PROMPTS = st.lists(st.sampled_from([f"What is {i}?" for i in range(40)]), min_size=1, max_size=30)


@given(prompts=PROMPTS, more=PROMPTS, seed=st.integers(0, 9))
def test_added_rows_move_none_and_one_prompt_has_one_side(prompts: list[str], more: list[str], seed: int) -> None:
    rows = [asked(prompt, f"answer {i}") for i, prompt in enumerate(prompts)]
    added = [asked(prompt.upper(), "another") for prompt in more]
    alone = [side(key, 0.2, 0.3, seed) for key in keys(rows)]
    together = [side(key, 0.2, 0.3, seed) for key in keys([*added, *rows, *added])]
    assert together[len(added) : len(added) + len(rows)] == alone
    sides: dict[str, set[str]] = {}
    for row, where in zip([*added, *rows, *added], together, strict=True):
        sides.setdefault(row["instruction"].lower(), set()).add(where)
    assert all(len(found) == 1 for found in sides.values())


def test_sides_have_about_their_shares() -> None:
    where = [side(str(i), 0.1, 0.2, 0) for i in range(10_000)]
    assert abs(where.count("test") - 2000) < 200 and abs(where.count("validation") - 1000) < 150


def test_a_split_parts_the_rows_verbatim(tmp_path: Path) -> None:
    rows = [asked(f"What is {i // 2}?", f"{i}", source=f"s{i % 3}") for i in range(80)]
    data = written(tmp_path / "rows.jsonl", rows)
    ended = stage(
        "data", "split", "data=alpaca", f"data.path={data}", "validation=0.2", "test=0.2", "outputs=o", cwd=tmp_path
    )
    assert ended.code == 0, ended.stderr
    parts = {name: rows_in(tmp_path / f"o/default/split/{name}.jsonl") for name in SIDES}
    assert sorted(itertools.chain(*parts.values()), key=lambda row: int(row["output"])) == rows
    assert all(parts.values())
    prompts = [{row["instruction"] for row in part} for part in parts.values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])


def test_a_group_stays_together_and_a_row_without_it_is_refused(tmp_path: Path) -> None:
    rows = [asked(f"What is {i}?", "x", source=f"s{i % 20}") for i in range(60)]
    data = written(tmp_path / "rows.jsonl", rows)
    options = ("data=alpaca", f"data.path={data}", "group=source", "validation=0.3", "test=0.3", f"outputs={tmp_path}")
    made = run("split", *options)
    groups = [{row["source"] for row in rows_in(made.folder / f"{name}.jsonl")} for name in SIDES]
    assert sum(map(len, groups)) == 20
    written(tmp_path / "rows.jsonl", [*rows, asked("And?", "x")])
    assert "rows.jsonl:61:source" in refused(DataError, "split", *options, "name=other")


def test_instances_of_one_instruction_stay_together() -> None:
    row = {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "2 2", "output": "4"}]}
    other = {"instruction": "add.", "instances": [{"input": "2 2", "output": "4"}]}
    first, second = (split_key(found, None) for found in source([row, other], "self_instruct").rows)
    assert first == second


def test_rows_of_an_array_on_one_line_are_numbered_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*SOUND, SOUND[0]]))
    assert audit(tmp_path, str(path))["marks"]["duplicate"]["lines"] == [9]


def test_the_content_of_evaluation_files_counts_not_their_names(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", SOUND)
    first, second = (written(tmp_path / name, [{"prompt": QUESTION}]) for name in ("a.jsonl", "b.jsonl"))
    options = ("data=alpaca", f"data.path={data}", f"outputs={tmp_path}")
    made = run("audit", *options, f"against=[{first}]")
    assert run("audit", *options, f"against=[{second}]").identity == made.identity
    written(tmp_path / "b.jsonl", [{"prompt": "Who?"}])
    assert "against" in refused(ConfigError, "audit", *options, f"against=[{second}]")


def test_an_evaluation_file_without_prompts_is_refused(tmp_path: Path) -> None:
    data, other = written(tmp_path / "rows.jsonl", SOUND), written(tmp_path / "other.jsonl", [{"text": "x"}])
    options = ("data=alpaca", f"data.path={data}", f"outputs={tmp_path}")
    assert "other.jsonl: no prompt among 1 rows" in refused(DataError, "audit", *options, f"against=[{other}]")
    assert "check against" in refused(DataError, "audit", *options, "against=[gone.jsonl]")


@pytest.fixture(scope="module")
def taught(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that has learnt INSTRUCTIONS."""
    folder = tmp_path_factory.mktemp("taught")
    options = sft(folder, llama_folder, written(folder / "rows.jsonl", INSTRUCTIONS), "data.eval_fraction=0")
    return str(
        run("sft", *options, "trainer.max_steps=60", "trainer.batch_size=12", "trainer.learning_rate=3e-3").folder
    )


def test_wrong_answers_stand_out_by_their_loss_and_go_by_a_bound(taught: str, tmp_path: Path) -> None:
    wrong = {4: "what is 3 + 4 ?", 17: "i do not know ."}
    rows = [{**row, "output": wrong.get(i, row["output"])} for i, row in enumerate(INSTRUCTIONS)]
    data = written(tmp_path / "rows.jsonl", rows)
    options = (f"model.path={taught}", f"outputs={tmp_path}")
    found = audit(tmp_path, data, *options)
    assert found["marks"]["high_loss"]["lines"] == [5, 18]
    assert found["measures"]["difficulty"]["n"] == 24
    bound = found["measures"]["loss"]["p90"] + 1e-6
    made = run("filter", "data=alpaca", f"data.path={data}", *options, "drop=[]", f"max_loss={bound}")
    assert {row["line"] for row in rows_in(made.folder / "dropped.jsonl")} == {5, 18}


def test_a_reward_model_marks_the_lowest_on_each_axis(tiny: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", INSTRUCTIONS)
    found = audit(tmp_path, data, f"reward.path={tiny / 'outputs/tiny/reward'}", "limits.lowest=0.1")
    measures = rows_in(tmp_path / "default/audit/measures.jsonl")
    for axis in ("helpful", "honest", "harmless"):
        low = sorted(measures, key=lambda row: row[axis])[:2]  # a tenth of 24, rounded down
        assert found["marks"][f"low_{axis}"]["lines"] == sorted(row["line"] for row in low)


@pytest.mark.parametrize(
    ("form", "name", "n", "sure"),
    [
        ("alpaca", "alpaca_en_demo.json", 999, {"incomplete": [1727, 2317]}),
        ("alpaca", "alpaca_zh_demo.json", 1000, {"incomplete": [217, 4732]}),
        ("alpaca", "identity.json", 91, {"inconsistent": [82, 87], "placeholder": [2, 7, 12]}),
        ("self_instruct", "self_instruct_seed_tasks.jsonl", 175, {"toxic": [68], "placeholder": [19]}),
        ("sharegpt", "dpo_en_demo.json", 300, {"incomplete": [138]}),
    ],
)
def test_real_files_are_audited_whole(form: str, name: str, n: int, sure: dict[str, list[int]], tmp_path: Path) -> None:
    """sure: lines whose fault a person has seen."""
    found = audit(tmp_path, real(name), form=form)
    assert found["rows"]["usable"] == found["instructions"] == n
    for mark, lines in sure.items():
        assert set(lines) <= set(found["marks"][mark]["lines"])
    assert found["rows"]["marked"] < 0.1 * n or name == "identity.json"


def test_exact_duplicates_of_a_real_file_are_those_that_plain_python_finds(tmp_path: Path) -> None:
    rows = json.loads(Path(real("alpaca_en_demo.json")).read_text(encoding="utf-8"))
    seen = [(row["instruction"], row["input"], row["output"]) for row in rows]
    repeated = [i for i, row in enumerate(seen) if row in seen[:i]]
    marked = audit(tmp_path, real("alpaca_en_demo.json"))["marks"]["duplicate"]["lines"]
    assert {5 * i + 2 for i in repeated} <= set(marked) and len(marked) < len(repeated) + 5
