"""Names of points, what they share, which run side by side, and what a search draws from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from launch.sweeps.points import Point, readable, stage_names, waves
from launch.sweeps.study import Study, distribution
from models.errors import ConfigError
from train.points import Outcome
from train.sweeps import short_names

RATE, BETA = "sft.trainer.learning_rate", "dpo.loss.beta"
CHAIN = OmegaConf.create(
    {
        "base": {"name": "${name}", "seed": "${seed}"},
        "sft": {"name": "${name}", "seed": "${seed}", "model": "${base.name}/base"},
        "reward": {"name": "${name}", "seed": "${referee_seed}", "model": "${sft.name}/sft"},
        "dpo": {"name": "${name}", "seed": "${seed}", "model": "${sft.name}/sft"},
        "evaluate": {"name": "${name}", "models": {"dpo": "${dpo.name}/dpo"}, "reward": "${reward.name}/reward"},
        "name": "s",
        "seed": 0,
        "referee_seed": 1,
    }
)


def names(**options: str) -> dict[str, str]:
    told = {key.replace("__", "."): value for key, value in options.items()}
    found = stage_names(CHAIN, told, {key: key.split(".")[-1] for key in told}, "s", "s/point")
    return {part: name.removeprefix("s").lstrip("/") for part, name in found.items()}


def test_a_stage_belongs_to_the_options_that_it_depends_on() -> None:
    assert names(dpo__loss__beta="0.1") == {"base": "", "sft": "", "reward": "", "dpo": "point", "evaluate": "point"}
    both = names(sft__trainer__learning_rate="0.1", dpo__loss__beta="0.2")
    assert both == {
        "base": "",
        "sft": "learning_rate-0.1",
        "reward": "learning_rate-0.1",
        "dpo": "point",
        "evaluate": "point",
    }


def test_an_option_of_all_stages_belongs_to_those_that_refer_to_it() -> None:
    assert set(names(seed="1").values()) == {"point"}
    assert names(referee_seed="2") == {"base": "", "sft": "", "reward": "point", "dpo": "", "evaluate": "point"}


def test_a_group_belongs_to_the_stage_of_its_package_and_one_of_no_stage_to_all() -> None:
    found = stage_names(CHAIN, {"loss@dpo.loss": "ipo"}, {"loss@dpo.loss": "loss"}, "s", "s/point")
    assert (found["sft"], found["dpo"]) == ("s", "s/point")
    assert set(stage_names(CHAIN, {"+experiment": "x"}, {"+experiment": "experiment"}, "s", "s/p").values()) == {"s/p"}


def test_one_stage_alone_shares_nothing() -> None:
    assert stage_names(OmegaConf.create({"name": "s", "data": {"path": "x"}}), {"seed": "1"}, {}, "s", "s/p") == {}


def test_options_are_called_by_the_shortest_ending_that_no_other_has() -> None:
    assert short_names([RATE, "seed"]) == {RATE: "learning_rate", "seed": "seed"}
    other = "dpo.trainer.learning_rate"
    assert short_names([RATE, other]) == {RATE: RATE, other: other}
    assert short_names(["loss@dpo.loss", "+experiment"]) == {"loss@dpo.loss": "loss", "+experiment": "experiment"}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=120), min_size=1), min_size=2, max_size=2))
def test_two_settings_never_have_one_name_and_every_name_is_part_of_a_path(settings: list[dict[str, str]]) -> None:
    found = [readable(setting, {key: key for key in "abc"}) for setting in settings]
    assert (found[0] == found[1]) == (list(settings[0].items()) == list(settings[1].items()))
    for name in found:
        assert "/" not in name and name.strip(".") and len(name.encode()) < 255
        OverridesParser.create().parse_override(f"model.path=outputs/{name}/sft")  # as it is, without quotes


def sealed(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").touch()
    return folder


def test_points_that_share_a_stage_wait_for_the_one_that_makes_it(tmp_path: Path) -> None:
    points = [Point(str(i), {}, (), (tmp_path / "sft", tmp_path / f"{i}/dpo")) for i in range(3)]
    one_by_one = waves(points)
    assert [p.name for p in next(one_by_one)] == ["0"]
    sealed(tmp_path / "sft")
    assert [p.name for p in next(one_by_one)] == ["1", "2"]
    assert list(one_by_one) == []


def test_where_the_shared_stage_failed_one_point_after_the_other_tries_it(tmp_path: Path) -> None:
    points = [Point(str(i), {}, (), (tmp_path / "sft",)) for i in range(3)]
    assert [[p.name for p in wave] for wave in waves(points)] == [["0"], ["1"], ["2"]]


def drawn_from(text: str) -> object:
    return distribution(OverridesParser.create().parse_override(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("x=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("x=range(2,9,2)", IntDistribution(2, 8, step=2)),
        ("x=choice(lora,full)", CategoricalDistribution(["lora", "full"])),
        ("x=1,null,[a,b]", CategoricalDistribution(["1", "null", "[a,b]"])),
    ],
)
def test_hydras_own_words_say_what_an_option_is_drawn_from(text: str, expected: object) -> None:
    assert drawn_from(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x=tag(lgo,interval(1,2))", "unknown tag lgo; there is log"),
        ("x=tag(log,interval(0,2))", "x=tag"),
        ("x=tag(log,choice(1,2))", "log belongs to an interval"),
        ("x=interval(2,1)", "x=interval"),
        ("x=range(3,3)", "x=range"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused_with_the_option(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^x=") as caught:
        drawn_from(text)
    assert said in str(caught.value)


SPACE = {"x": FloatDistribution(0, 1)}


def search(folder: Path, n_trials: int, **objectives: str) -> list[float]:
    """What was proposed by a search that minimises x, and fails above 0.9."""
    study, proposed = Study(folder, SPACE, objectives or {"x": "minimize"}), []
    while batch := study.proposed(1, n_trials, seed=0, n_startup_trials=4):
        x = batch[0].params["x"]
        proposed.append(x)
        study.tell(batch[0], Outcome("sealed", {"x": x, "y": -x}) if x < 0.9 else Outcome("failed", {}, "no", 3))
    return proposed


def test_a_search_that_was_cut_off_proposes_what_an_uninterrupted_one_would(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, first = search(tmp_path / "whole", 9), search(tmp_path / "cut", 5)
    left = Study(tmp_path / "cut", SPACE, {"x": "minimize"}).proposed(1, 9, seed=0, n_startup_trials=4)
    second = search(tmp_path / "cut", 9)
    assert second[0] == left[0].params["x"], "what was proposed and not ended comes first"
    failed = {x for x in first if x >= 0.9}
    assert [x for x in [*first, *second] if x not in failed] == [x for x in whole if x not in failed]


def test_what_failed_is_proposed_once_more_by_the_next_call_and_does_not_count_twice(tmp_path: Path) -> None:
    first = search(tmp_path, 12)
    failed = [x for x in first if x >= 0.9]
    assert failed, "a seed that shows nothing"
    assert search(tmp_path, 12) == failed
    assert len(search(tmp_path, 13)) == len(failed) + 1


def test_a_search_with_other_ranges_or_objectives_is_refused_once_it_has_come_anywhere(tmp_path: Path) -> None:
    Study(tmp_path, {"z": FloatDistribution(0, 2)}, {"x": "minimize"}).proposed(1, 3, seed=0, n_startup_trials=4)
    search(tmp_path, 3)  # nothing had been told of z
    with pytest.raises(ConfigError, match="differs in x"):
        Study(tmp_path, {"x": FloatDistribution(0, 2)}, {"x": "minimize"})
    with pytest.raises(ConfigError, match=r"differs in minimize=\[x\], minimize=\[y\]"):
        Study(tmp_path, SPACE, {"y": "minimize"})
