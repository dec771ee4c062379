"""A sweep over the whole chain makes once what its points have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Ended, stage
from test_stages_pipeline import OPTIONS

BETAS = ("0.05", "0.1", "0.2")
SHARED = ("base", "sft", "reward", "referee", "ppo")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("betas")
    place = (f"outputs={folder}", "name=s")
    return folder / "s", stage("pipeline", *OPTIONS, *place, "experiment=dpo_beta", cwd=folder, limit=300.0)


def test_stages_before_the_one_that_varies_are_trained_once(swept: tuple[Path, Ended]) -> None:
    folder, ended = swept
    assert ended.code == 0, ended.stderr
    trained = {name: len(list(folder.rglob(f"{name}/manifest.json"))) for name in (*SHARED, "dpo", "evaluate")}
    assert trained == {**dict.fromkeys(SHARED, 1), "dpo": 3, "evaluate": 3}
    for name in SHARED:
        assert ended.stderr.count(f"[{name}] done already, unchanged") == 2, name
    assert "[dpo] done already" not in ended.stderr


def test_manifests_and_the_report_of_a_point_lead_to_what_it_shares(swept: tuple[Path, Ended]) -> None:
    folder, _ = swept
    for beta in BETAS:
        here = folder / f"beta-{beta}"
        manifest = json.loads((here / "dpo/manifest.json").read_text())
        assert manifest["config"]["loss.beta"] == float(beta)
        assert manifest["parents"]["model.path"] == str(folder / "sft")
        evaluated = json.loads((here / "evaluate/manifest.json").read_text())["parents"]
        assert {evaluated["models.sft"], evaluated["models.dpo"]} == {str(folder / "sft"), str(here / "dpo")}
        page = (here / "report.html").read_text(encoding="utf-8")
        assert all(f">{name}</text>" in page for name in (*SHARED, "dpo")), "the lineage"


def test_a_points_cost_holds_what_it_shares(swept: tuple[Path, Ended]) -> None:
    folder, _ = swept
    made = [json.loads(p.read_text())["wall_seconds"] for p in folder.glob("*/manifest.json")]
    own = [json.loads(p.read_text())["wall_seconds"] for p in (folder / "beta-0.1").glob("*/manifest.json")]
    found = json.loads((folder / "beta-0.1/point.json").read_text())
    assert found["metrics"]["seconds"] == pytest.approx(sum(made) + sum(own))
