"""Claims about rewards that are Python functions: the ready ones, and how any is called and what it may answer."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_data import real

from models.chat import Message
from models.errors import ConfigError, DataError
from reward.function_source import FunctionSource
from reward.functions import exact_match, length, repetition
from reward.responses import Response

QUESTION = (Message("system", "Be brief."), Message("user", "1 + 1 ?"))


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def response(text: str, **fields: Any) -> Response:
    return Response(QUESTION, text, [5, 6, 7], fields)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FunctionSource]:
    """A source of the function `f` that these lines define, in a module of the working directory."""
    monkeypatch.chdir(tmp_path)
    name = f"rewards_{abs(hash(tmp_path))}"

    def make(lines: str, path: str = "f") -> FunctionSource:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(lines))
        return FunctionSource("reward.also.x.function", f"{name}.{path}")

    return make


# --- how a function is called -----------------------------------------------------------------------------------------


def test_a_function_gets_what_trl_gives_one(mine: Callable[..., FunctionSource], tmp_path: Path) -> None:
    source = mine(
        f"""
        import json
        def f(prompts, completions, **others):
            open({str(tmp_path / "got")!r}, "w").write(json.dumps([prompts, completions, others]))
            return [1, 0.5]
        """
    )
    assert source([response("two", answer="2", prompt="1 + 1 ?"), response("3", level=4)]) == [1.0, 0.5]
    prompts, completions, others = json.loads((tmp_path / "got").read_text())
    assert prompts == [[{"role": m.role, "content": m.content} for m in QUESTION]] * 2
    assert completions == said("two", "3")
    assert others == {"completion_ids": [[5, 6, 7]] * 2, "answer": ["2", None], "level": [None, 4]}


def test_a_function_of_trl_itself_is_one() -> None:
    pytest.importorskip("trl")
    source = FunctionSource("x", "trl.rewards.think_format_reward")
    assert source([response("<think>\na\n</think>\nb"), response("b")]) == [1.0, 0.0]


@pytest.mark.parametrize("written", ["[1, None]", "(1.0, 0)", "torch.tensor([1.0, 0.0])", "[torch.tensor(1.0), False]"])
def test_numbers_of_any_kind_are_scores_and_none_counts_nothing(
    mine: Callable[..., FunctionSource], written: str
) -> None:
    source = mine(f"import torch\ndef f(**_): return {written}")
    assert source([response("a"), response("b")]) == [1.0, 0.0]


def test_a_coroutine_function_is_awaited(mine: Callable[..., FunctionSource]) -> None:
    source = mine("import asyncio\nasync def f(completions, **_):\n    await asyncio.sleep(0)\n    return [2]")
    assert source([response("a")]) == [2.0]
    assert asyncio.run(source.function(completions=[])) == [2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("def f(**_): return [1]", "expected 2 numbers, one for each response, got 1"),
        ("def f(**_): return 1.0", "expected a list of 2 numbers, got float"),
        ("def f(**_): return ['1', 2]", "expected numbers or None, got str for response 1"),
        ("def f(**_): return [1, [2]]", "expected numbers or None, got list for response 2"),
        ("def f(**_):\n    return [1 / 0]", r"raised ZeroDivisionError: division by zero \(rewards_\d+\.py:2\)"),
        ("import json\ndef f(**_):\n    json.loads('')", r"raised JSONDecodeError: .* \(rewards_\d+\.py:3\)"),
        ("def f(prompts, completions): return [1, 2]", "raised TypeError: .*unexpected keyword argument"),
    ],
)
def test_a_function_that_gives_no_scores_is_named(
    mine: Callable[..., FunctionSource], lines: str, message: str
) -> None:
    source = mine(lines)
    with pytest.raises(DataError, match=rf"^reward\.also\.x\.function=rewards_\d+\.f: {message}"):
        source([response("a"), response("b")])


@pytest.mark.parametrize(
    ("lines", "path", "message"),
    [
        ("import nothing_there", "f", "cannot be imported .*nothing_there"),
        ("def g(): ...", "f", "cannot be imported"),
        ("def f(: ...", "f", "cannot be imported .SyntaxError"),
        ("f = 3", "f", "is no function"),
    ],
)
def test_a_function_that_is_not_there_is_told(
    mine: Callable[..., FunctionSource], lines: str, path: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        mine(lines, path)


# --- the ready ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "right", "score"),
    [
        ("So 9 * 60 = 540.", "He runs 9*60=<<9*60=540>>540\n#### 540", 1.0),
        ("#### 540, for 3 sprints", "540", 1.0),
        ("A: 1,080.0", "#### 1080", 1.0),
        ("I pay $12.50", "$12.5", 1.0),
        ("540 or 541", "540", 0.0),
        ("7-3", "3", 1.0),
        ("it is -3", "-3", 1.0),
        ("none", "540", 0.0),
        ("", "540", 0.0),
        ("The answer is Paris.", "paris", 1.0),
        ("Paris!", "Paris", 1.0),
        ("Paris, I think", "Paris", 0.0),
        ("x", None, None),
    ],
)
def test_exact_match_by_hand(text: str, right: str | None, score: float | None) -> None:
    assert exact_match(said(text), answer=[right]) == [score]


def test_exact_match_reads_the_field_that_rows_have() -> None:
    assert exact_match(said("2", "2"), reference=["2", "3"]) == [1.0, 0.0]
    assert exact_match(said("2"), solution=["2"]) == [1.0] and exact_match(said("2")) == [None]


def test_length_and_repetition_by_hand() -> None:
    assert length([[1, 2, 3], []]) == [3.0, 0.0]
    assert repetition(said("a b c d", "a b c a b c", "so", "")) == [0.0, 0.25, 0.0, 0.0]


def test_exact_match_agrees_with_the_labels_of_gsm8k() -> None:
    """The file says of 2,612 model-written solutions whether their results are right."""
    rows = [json.loads(line) for line in Path(real("kwise_gsm8k.jsonl")).read_text(encoding="utf-8").splitlines()]
    found = [
        (bool(score), answer["is_correct"])
        for row in rows
        for answer in row["responses"]
        for score in exact_match(said(answer["text"]), reference=[row["reference"]])
    ]
    assert len(found) == 2612 and all(ours == theirs for ours, theirs in found)
