"""Best-of-n in stages.evaluate, and what the report shows of it and of ensembles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command import refused, run
from test_evals_report import Page, full_report

from evals.intervals import Estimate
from evals.report import write_report
from evals.results import BestOfPoint, EnsembleAxis, Report
from models.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def evaluated(tiny: Path) -> Path:
    """The tiny chain evaluated on the world with picks, and its rankings scored by two models, in one experiment."""
    sft, reward = tiny / "outputs/tiny/sft", tiny / "outputs/tiny/reward"
    place = (f"outputs={tiny / 'picks'}", "name=x")
    picks = ("best_of.n=[1,2,4]", "best_of.samples=5", "best_of.prompts=6", f"best_of.models=[{reward},{reward}]")
    run("evaluate", *place, f"models.sft={sft}", *picks, "per_family=1", "max_new_tokens=4", "side_by_side=2")
    run("score", *place, f"models=[{reward},{reward}]", "data=kwise", f"data.path={tiny / 'kwise.jsonl'}")
    return tiny / "picks/x"


@pytest.fixture(scope="module")
def picked(evaluated: Path) -> dict[str, Any]:
    return json.loads((evaluated / "evaluate/results.json").read_text())["sft"]["best_of"]


def test_picking_among_more_raises_the_learned_reward_and_costs_the_kl_of_its_formula(picked: dict[str, Any]) -> None:
    assert set(picked) == {"1", "2", "4"}
    proxy = [picked[n]["proxy"]["mean"] for n in ("1", "2", "4")]
    assert proxy == sorted(proxy) and proxy[0] < proxy[2]
    assert [picked[n]["kl"] for n in ("1", "2", "4")] == pytest.approx([0.0, math.log(2) - 0.5, math.log(4) - 0.75])
    assert {picked[n][kind]["n"] for n in picked for kind in ("proxy", "gold")} == {6}
    assert all(0.0 <= picked[n]["gold"]["mean"] <= 1.0 for n in picked)


def test_the_report_shows_picks_and_ensembles_where_there_are_any(evaluated: Path) -> None:
    run("report", f"outputs={evaluated.parent}", "name=x")
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert 'id="best-of"' in page and "Gold score of the pick" in page
    assert 'id="ensemble"' in page and "gain over a member" in page


def with_uses(text: str) -> Report:
    """A report in whose names `text` stands."""
    e = Estimate(0.5, 0.4, 0.6, 10)
    report = full_report(text)
    name = report.models[-1].name
    points = (BestOfPoint(1, 0.0, e, None), BestOfPoint(4, 0.6, e, None))
    axis = EnsembleAxis(text, e, (e, e), Estimate(0.1, 0.05, 0.2, 10), {"spread": e})
    return Report(title=report.title, models=report.models, ensemble=(axis,), best_of={name: points})


def test_a_report_without_gold_or_with_hostile_names_is_a_whole_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", with_uses("<script>alert(1)</script>")).read_text("utf-8"))
    assert page.open == [] and "script" not in page.tags
    assert "Learned reward of the pick" in page.text and "Gold score of the pick" not in page.text
    assert "+0.100" in page.text


def test_a_report_of_neither_has_neither_section(tmp_path: Path) -> None:
    page = write_report(tmp_path / "r.html", full_report()).read_text("utf-8")
    assert 'id="best-of"' not in page and 'id="ensemble"' not in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("best_of.n=[1,2]",), "picks by a reward model"),
        (("best_of.n=[0]", "reward=r"), "1 or more"),
        (("best_of.n=[4]", "best_of.samples=2", "reward=r"), "at least 4"),
        (("best_of.n=[4]", "best_of.policy=dpo", "reward=r"), "best_of.policy=dpo"),
        (("best_of.n=[4]", "temperature=0", "reward=r"), "above 0"),
        (("best_of.n=[4]", "best_of.combine=best", "reward=r"), "mean, worst, cautious"),
    ],
)
def test_picks_that_cannot_be_are_refused(options: tuple[str, ...], said: str) -> None:
    assert said in refused(ConfigError, "evaluate", "models.sft=s", *options)


def test_a_policy_does_not_pick(tiny: Path, tmp_path: Path) -> None:
    sft = tiny / "outputs/tiny/sft"
    data = ("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", "max_new_tokens=2")
    place = (f"outputs={tmp_path}", "name=x", f"models.sft={sft}", *data)
    assert "expected a reward model" in refused(
        ArtifactError, "evaluate", *place, "best_of.n=[2]", f"best_of.models=[{sft}]"
    )
