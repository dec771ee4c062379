"""The configuration files: each composes and converts, each option is read, experiments override stages."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ROOT, composed, schema
from hydra import compose, initialize_config_module

from instruct.prompts import PromptData
from instruct.readers import InstructionData
from reward.readers import RankingData
from rl.preference import PAIRWISE, options_of
from stages.preference_data import PreferenceData
from train.entry import checked

CONF = ROOT / "conf"
STAGES = sorted(path.stem for path in CONF.glob("*.yaml"))
NEEDED = {  # what a person must say, because there is no good default
    "sft": ("data=alpaca", "data.path=x", "model.path=y"),
    "reward": ("data=hh", "data.path=x", "model.path=y"),
    "dpo": ("data=pairs", "data.path=x", "data.axes=[helpful]", "model.path=y"),
    "ppo": ("data=prompts", "data.path=x", "model.path=y", "reward.path=z"),
    "evaluate": ("models.sft=x",),
    "chat": ("model.path=y",),
    "export": ("model.path=y",),
    "generate": ("data=alpaca", "data.path=x", "method=evolve", "teacher.path=y"),
    "audit": ("data=alpaca", "data.path=x"),
    "filter": ("data=alpaca", "data.path=x"),
    "split": ("data=alpaca", "data.path=x"),
    "score": ("data=alpaca", "data.path=x", "models=[y]"),
}
READERS = {"sft": InstructionData, "reward": RankingData, "ppo": PromptData, "dpo": PreferenceData}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_composes_and_converts_to_its_dataclass(name: str) -> None:
    found = composed(name, *NEEDED.get(name, ()))
    assert type(found) is schema(name)


@pytest.mark.parametrize("group", ["adapter", "deepspeed", "tracking"])
def test_every_choice_of_a_group_composes(group: str) -> None:
    for choice in sorted(path.stem for path in (CONF / group).glob("*.yaml")):
        more = ("deepspeed.nvme_path=/disk",) if choice == "zero_infinity" else ()
        found = getattr(composed("sft", *NEEDED["sft"], f"{group}={choice}", *more), group)
        assert choice in (getattr(found, "name", ""), getattr(found, "backend", ""), getattr(found, "method", ""))


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_every_choice_of_data_composes_for_a_stage_that_reads_it(choice: str) -> None:
    more = {
        **dict.fromkeys(("pairs", "best_of_n"), ("data.axes=[helpful]",)),
        "task": ("data.template=sentiment",),
        "unpaired": ("loss=kto",),
    }.get(choice, ())
    read = [name for name in READERS if _reads(name, choice, more)]
    assert read, f"no stage takes data={choice}"


def _reads(name: str, choice: str, more: tuple[str, ...]) -> bool:
    needed = [option for option in NEEDED[name] if not option.startswith("data")]
    path = () if choice.startswith("world") else ("data.path=x",)
    try:
        return isinstance(composed(name, f"data={choice}", *path, *more, *needed).data, READERS[name])
    except Exception:
        return False


def test_every_choice_says_what_it_is() -> None:
    for path in CONF.rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path


def fields_of(kind: type, seen: set[type]) -> Iterator[tuple[str, str]]:
    """(class, field) of a dataclass and of those below it."""
    if kind in seen:
        return
    seen.add(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = [a for a in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(a)]
        yield from ((kind.__name__, field.name) for _ in range(not inner))
        for part in inner:
            yield from fields_of(part, seen)


def test_every_option_is_read_somewhere() -> None:
    """An option that only its own range check looks at would be accepted and do nothing."""
    rooms = ("models", "instruct", "reward", "rl", "evals", "train", "stages")
    code = "\n".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    code = re.sub(r"    def __post_init__\(self\) -> None:\n(?:(?:        .*)?\n)+", "", code)
    files = "\n".join(path.read_text() for path in CONF.glob("*.yaml"))
    seen: set[type] = set()
    options = [option for name in STAGES for option in fields_of(schema(name), seen)]
    assert len(options) > 80
    by_name = {option for loss in PAIRWISE for option in options_of(loss)}  # given to a loss as keywords
    by_name |= {"helpful", "honest", "harmless"}  # read in a loop over all of them
    by_name |= {"debug"}  # looked for among the arguments, before there is a configuration
    by_name |= {"top_p", "top_k"}  # stand there to be refused with the reason
    unread = [
        f"{kind}.{name}"
        for kind, name in options
        if not (re.search(rf"\.{name}\b", code) or f"${{{name}}}" in files or name in by_name)
    ]
    assert unread == []


def test_an_experiment_beats_the_stage_and_the_command_line_beats_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    lines = ["# @package _global_", "trainer:", "  learning_rate: 0.5", "  batch_size: 7", "seed: 3"]
    (tmp_path / "experiment/hot.yaml").write_text("\n".join(lines))
    composed("sft", *NEEDED["sft"])  # registers the schema
    options = [*NEEDED["sft"], f"hydra.searchpath=[file://{tmp_path}]", "experiment=hot", "trainer.batch_size=9"]
    with initialize_config_module("conf", version_base="1.3"):
        found = checked(compose(config_name="sft", overrides=options))
    assert (found.trainer.learning_rate, found.trainer.batch_size, found.seed) == (0.5, 9, 3)


def test_the_seed_of_a_pipeline_reaches_its_stages_and_name_and_folder_too() -> None:
    found = composed("pipeline", "seed=5", "name=mine", "outputs=here", "sft.trainer.learning_rate=0.25")
    parts = (found.base, found.sft, found.reward, found.referee, found.ppo, found.dpo, found.evaluate)
    assert {(part.name, part.outputs, part.tracking.backend) for part in parts} == {("mine", "here", "none")}
    assert {part.seed for part in parts if part is not found.referee} == {5}
    assert found.referee.seed not in (found.reward.seed, 5)
    assert found.sft.trainer.learning_rate == 0.25 != found.ppo.trainer.learning_rate
    assert found.ppo.model.path == found.dpo.model.path == "here/mine/sft"
