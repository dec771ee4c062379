"""The reward stage from outside: several judges, ties, length, what it measures, what it refuses and warns of."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import refused, run, stage
from safetensors.torch import load_file, save_file
from tiny_data import NAMES, STEPS, written
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.scorer import score_trees
from reward.assessment import Scored, scored_pairs
from reward.calibration import length_slope
from reward.hacks import HACKS
from reward.readers import RankingData, read_rankings
from reward.training import ranking_tree
from train.artifact import Artifact, read_artifact

JUDGED = [
    {
        "prompt": f"what is the capital of {name} {i} ? <script>",
        "responses": [
            {"text": "the capital is lima .", "rank": [1, 1, 2], "source": "human"},
            # every other time the worst, which nobody can foresee
            {"text": "i do not know .", "rank": ([2, 3, 1], [3, 2, 3])[i % 2]},
            {"text": f"go to the library {i} . " * (1 + i % 4), "rank": ([3, 2, 3], [2, 3, 1])[i % 2]},
        ],
    }
    for i, name in enumerate(NAMES * 2)
]
HELD = "data.eval_fraction=0.4"


def options(tiny: Path, folder: Path, rows: list[dict[str, Any]], *more: str) -> tuple[str, ...]:
    data = ("data=kwise", f"data.path={written(folder / 'rows.jsonl', rows)}", "data.axes=[helpful]")
    return (*data, f"model.path={tiny / 'outputs/tiny/sft'}", f"outputs={folder / 'out'}", *STEPS, *more)


@pytest.fixture(scope="module")
def judged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    """A reward model of rows with three judges, and what its stage said."""
    folder = tmp_path_factory.mktemp("judged")
    ended = stage("reward", *options(tiny, folder, JUDGED, HELD, "name=judged"), cwd=folder)
    assert ended.code == 0, ended.stderr
    return read_artifact(folder / "out/judged/reward"), ended.stderr


def test_agreement_of_judges_is_said_and_kept(judged: tuple[Artifact, str]) -> None:
    made, said = judged
    # of each row's nine comparisons of two judges, five are alike
    assert f"judges agree on helpful 55.6% of {9 * len(JUDGED)} pairs, so at most 66.7% can be right" in said
    agreed = made.manifest["facts"]["agreement"]["helpful"]
    assert agreed == {"share": pytest.approx(5 / 9), "ceiling": pytest.approx(2 / 3), "pairs": 9 * len(JUDGED)}
    held = made.manifest["metrics"]["held_out"]["helpful"]
    assert 0 <= held["one_judge"]["mean"] <= 8 / 9, "nobody can agree with more than two of three judges on every pair"


def test_every_row_is_accounted_for(judged: tuple[Artifact, str]) -> None:
    manifest = judged[0].manifest
    [reading] = manifest["facts"]["data"]
    held = sum(1 for _ in (judged[0].folder / "held_out.jsonl").open())
    assert reading["rows"] == len(JUDGED) == manifest["metrics"]["rankings"] + held


def test_measurements_stand_in_the_manifest(judged: tuple[Artifact, str]) -> None:
    metrics = judged[0].manifest["metrics"]
    found = metrics["held_out"]["helpful"]
    n = found["accuracy"]["n"]
    assert sum(group["pairs"] for group in found["by_strength"]) == found["by_length"]["longer_wins"]["pairs"] == 3 * n
    kinds = [
        found["by_length"][kind]["pairs"] for kind in ("shorter", "similar", "longer") if kind in found["by_length"]
    ]
    assert sum(kinds) == 3 * n and found["tau"]["n"] == found["top1"]["n"] == n
    assert found["by_source"]["human"]["pairs"] == 2 * n and found["by_source"]["human"]["labelled_better"] == 1.0
    assert -1 <= found["length_correlation"] <= 1
    assert set(metrics["hacks"]) == {"helpful"} and set(metrics["hacks"]["helpful"]) == set(HACKS)
    assert all(hack["preferred"]["n"] == n for hack in metrics["hacks"]["helpful"].values())


def test_mistakes_are_kept_and_shown_as_text(judged: tuple[Artifact, str]) -> None:
    folder = judged[0].folder
    rows = [json.loads(line) for line in (folder / "mistakes.jsonl").read_text().splitlines()]
    assert rows and all(row["better"]["score"] < row["worse"]["score"] and row["probability"] > 0.5 for row in rows)
    assert stage("report", f"outputs={folder.parents[1]}", "name=judged", cwd=folder).code == 0
    page = (folder.parent / "report.html").read_text()
    assert "how good is the reward model?" in page and "two judges agree" in page and "<script" not in page
    assert "&lt;script&gt;" in page


def test_length_control_leaves_no_taste_for_length_wherever_scores_are_read(tiny: Path, tmp_path: Path) -> None:
    found = {}
    for control in ("false", "true"):
        asked = options(tiny, tmp_path, JUDGED, "data.eval_fraction=0", f"name={control}", f"length_control={control}")
        folder = run("reward", *asked).folder
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        chat = ChatFormat(AutoTokenizer.from_pretrained(folder / "model"))
        read = read_rankings(RankingData(path=str(folder / "rankings.jsonl"), format="kwise", eval_fraction=0.0))
        trees = [ranking_tree(ranking, chat) for ranking in read.train]
        lengths = [torch.tensor([len(response) for response in tree.responses]) for tree in trees]
        scores = score_trees(model, trees, LayoutConfig())
        assert scores.mean(0).abs().max() < 1e-4 and (scores.std(0) - 1).abs().max() < 1e-4
        scored = [
            Scored(*one) for one in zip(read.train, scores.split([len(x) for x in lengths]), lengths, strict=True)
        ]
        pairs = scored_pairs(scored, 0, ties=True)
        found[control] = abs(length_slope(pairs.delta, pairs.longer, pairs.strength))
    assert found["true"] < 1e-6 < 1e-3 < found["false"]


# --- refused, dropped and warned of -----------------------------------------------------------------------------------


def test_a_tie_is_no_whole_order_and_is_named_with_its_row(tiny: Path, tmp_path: Path) -> None:
    orders = ((1, 2, 3), (1, 1, 2))
    rows = [
        {"prompt": f"what is {i} ?", "responses": [{"text": f"a {k}", "rank": rank} for k, rank in enumerate(ranks)]}
        for i, ranks in enumerate(orders)
    ]
    asked = options(tiny, tmp_path, rows, "data.eval_fraction=0", "loss.name=plackett_luce")
    ended = stage("reward", *asked, cwd=tmp_path)
    assert ended.code == 3 and "rows.jsonl:2: two responses tie on helpful" in ended.error
    assert "loss.name=pairs" in ended.error


def test_responses_that_are_alike_once_cut_are_dropped_and_counted(tiny: Path, tmp_path: Path) -> None:
    long = "the key to the library " * 20
    alike = {"prompt": "how ?", "responses": [{"text": long + end, "rank": i} for i, end in ((1, "one"), (2, "two"))]}
    made = run("reward", *options(tiny, tmp_path, [*JUDGED, alike], "data.eval_fraction=0", "layout.max_length=64"))
    metrics = made.manifest["metrics"]
    assert metrics["rankings_cut_alike"] == 1 and metrics["rankings"] + metrics["rankings_dropped"] == len(JUDGED)
    asked = options(tiny, tmp_path, [alike], "data.eval_fraction=0", "layout.max_length=64", "name=none")
    ended = stage("reward", *asked, cwd=tmp_path)
    assert ended.code == 3 and "none of 1 rankings fits 64 tokens, 1 of them because cut" in ended.error


def plain_copy(tiny: Path, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The SFT model as a folder of transformers, and its weights."""
    copy = Path(shutil.copytree(tiny / "outputs/tiny/sft/model", folder / "plain"))
    return copy, load_file(copy / "model.safetensors")


def test_weights_that_are_no_numbers_end_with_5_and_their_name(tiny: Path, tmp_path: Path) -> None:
    copy, weights = plain_copy(tiny, tmp_path)
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    ended = stage("reward", *options(tiny, tmp_path, JUDGED, f"model.path={copy}"), cwd=tmp_path)
    assert ended.code == 5 and "the weights model.norm.weight are not numbers" in ended.error
    assert not (tmp_path / "out/default/reward/manifest.json").exists()
    many = options(tiny, tmp_path, JUDGED, f"model.path={copy}", "trainer.max_steps=9", "name=many")
    ended = stage("reward", *many, cwd=tmp_path)
    assert ended.code == 5 and "5 times in a row" in ended.error


def test_a_reward_that_is_constant_is_warned_of_and_stays_finite(tiny: Path, tmp_path: Path) -> None:
    copy, weights = plain_copy(tiny, tmp_path)
    weights["model.norm.weight"].zero_()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    frozen = ("adapter=freeze", "adapter.frozen=[model.*]", f"model.path={copy}")
    ended = stage("reward", *options(tiny, tmp_path, JUDGED, HELD, *frozen), cwd=tmp_path)
    assert ended.code == 0 and "helpful: all reference completions score the same" in ended.stderr
    manifest = read_artifact(tmp_path / "out/default/reward").manifest
    assert manifest["metrics"]["held_out"]["helpful"]["accuracy"]["mean"] == 0.5
    assert all(hack["shift"]["mean"] == 0 for hack in manifest["metrics"]["hacks"]["helpful"].values())
    config = json.loads((tmp_path / "out/default/reward/model/config.json").read_text())
    assert config["reward_std"] == [1.0, 1.0, 1.0]


def test_a_damaged_or_unfit_parent_ends_with_4(tiny: Path, tmp_path: Path) -> None:
    asked = options(tiny, tmp_path, JUDGED)
    ended = stage("reward", *asked, f"model.path={tiny / 'outputs/tiny/reward'}", cwd=tmp_path)
    assert ended.code == 4 and "expected a policy model, found a reward model" in ended.error
    damaged = Path(shutil.copytree(tiny / "outputs/tiny/sft", tmp_path / "damaged"))
    weights = damaged / "model/model.safetensors"
    whole = weights.read_bytes()
    for name, content in (("flipped", whole[:-1] + bytes([whole[-1] ^ 1])), ("cut", whole[: len(whole) // 2])):
        weights.write_bytes(content)
        ended = stage("reward", *asked, f"model.path={damaged}", cwd=tmp_path)
        assert ended.code == 4 and str(weights) in ended.error and "digest" in ended.error, name
    weights.unlink()
    ended = stage("reward", *asked, f"model.path={damaged}", cwd=tmp_path)
    assert ended.code == 4 and f"{weights}: missing" in ended.error
    (damaged / "manifest.json").write_text("{")
    ended = stage("reward", *asked, f"model.path={damaged}", cwd=tmp_path)
    assert ended.code == 4 and "broken manifest" in ended.error


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ("loss.name=pair", "pairs, plackett_luce, regression"),
        ("loss.ties=keep", "drop, half"),
        ("loss.margin=-1", "0 or more"),
        ("loss.label_smoothing=0.5", "[0, 0.5)"),
        ("loss.name=regression loss.margin=1", "loss.name=pairs alone"),
        ("engine=trl loss.ties=half", "use engine=ours"),
    ],
)
def test_losses_out_of_range_and_options_that_do_nothing_are_refused(
    wrong: str, allowed: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:
        run("reward", *options(tiny, tmp_path, JUDGED), *wrong.split())
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(error, ConfigError) and allowed in str(error) for error in chain)


def test_several_judges_are_too_many_for_the_other_engine(tiny: Path, tmp_path: Path) -> None:
    pairs = [{**row, "responses": row["responses"][:2]} for row in JUDGED]
    for row, ranks in ((row, ([1, 1, 2], [2, 2, 1])) for row in pairs):
        row["responses"] = [{**r, "rank": rank} for r, rank in zip(row["responses"], ranks, strict=True)]
    message = refused(ConfigError, "reward", *options(tiny, tmp_path, pairs, "engine=trl"))
    assert "several judges, of whom engine=trl wants one" in message
