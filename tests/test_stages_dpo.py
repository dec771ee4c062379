"""Preference optimisation from outside: every loss trains, and the reference is asked once."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, composed, refused, run, stage
from safetensors.torch import load_file
from tiny_data import RANKINGS, STEPS, written

from models.errors import ConfigError, DataError, NumericsError
from rl.pairs import check_start

LOSSES = sorted(path.stem for path in (ROOT / "conf/loss").glob("*.yaml"))
UNPAIRED = [
    {"prompt": f"what is {i} + 4 ?", "completion": f"{i} + 4 = {i + 4} ." if i % 3 else "no .", "label": bool(i % 3)}
    for i in range(24)
]


@pytest.fixture(scope="module")
def place(tiny: Path) -> tuple[str, ...]:
    """Options of a small run on rankings of three responses without ties."""
    tuned = f"model.path={tiny / 'outputs/tiny/sft'}"
    return ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}", "data.eval_fraction=0.2", tuned, *STEPS)


@pytest.fixture(scope="module")
def unpaired(tiny: Path) -> tuple[str, ...]:
    """Options of a small run on responses with a label, a third of them undesirable."""
    path = written(tiny / "unpaired.jsonl", UNPAIRED)
    tuned = f"model.path={tiny / 'outputs/tiny/sft'}"
    return ("data=unpaired", f"data.path={path}", "data.eval_fraction=0.2", "loss=kto", tuned, *STEPS)


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


AT_THE_REFERENCE = {
    **dict.fromkeys(("sigmoid", "cdpo", "robust", "sigmoid_norm"), math.log(2)),
    **dict.fromkeys(("hinge", "apo_zero", "apo_down"), 1.0),
    "ipo": 1 / (4 * 0.1**2),
    "bco": 2 * math.log(2),
    "listwise": math.log(6),
    "kto": 0.5,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_starts_at_its_value_at_the_reference_trains_and_seals_a_policy(
    loss: str, place: tuple[str, ...], tmp_path: Path
) -> None:
    ended = stage("dpo", *place, f"loss={loss}", f"outputs={tmp_path}", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    folder = tmp_path / "default/dpo"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "policy" and manifest["metrics"]["rankings_dropped"] == 0
    first, second = logged(folder)
    assert first["loss"] != second["loss"] and first["grad_norm"] > 0
    assert {"logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected"} <= first.keys()
    if loss != "kto":
        assert {"rewards/margins", "rewards/accuracies", "rewards/ties"} <= first.keys()
    if loss in AT_THE_REFERENCE:
        assert first["loss"] == pytest.approx(AT_THE_REFERENCE[loss], rel=1e-5)
    free = loss in ("simpo", "cpo", "orpo")
    assert ("reference log-probs" in ended.stderr) == (tmp_path / "reference_logprobs").exists() == (not free)


def test_a_policy_that_is_not_its_reference_before_the_first_step_is_noticed() -> None:
    policy, lengths = torch.tensor([-4.0, -6.0]), torch.tensor([2.0, 2.0])
    check_start(policy, policy + 1e-3, lengths, 1e-3)
    with pytest.raises(NumericsError, match="off its reference by 1 nats a token"):
        check_start(policy, torch.tensor([-4.0, -4.0]), lengths, 1e-3)


# --- the reference, asked once ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(place: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that had to ask the reference, the cache beside it in `kept`."""
    folder = tmp_path_factory.mktemp("first")
    ended = stage("dpo", *place, f"outputs={folder}", f"reference_cache={folder / 'kept'}", cwd=folder)
    assert ended.stderr.count("reference log-probs: of") == 2, ended.stderr  # training and held-out rows
    return folder


@pytest.fixture
def kept(first: Path, tmp_path: Path) -> Path:
    """A copy of the first run's cache."""
    return Path(shutil.copytree(first / "kept", tmp_path / "kept"))


def again(place: tuple[str, ...], kept: Path, capfd: pytest.CaptureFixture[str], *more: str) -> tuple[Path, str]:
    """The folder of another run with that cache, and what it said."""
    run("dpo", *place, f"outputs={kept.parent}", f"reference_cache={kept}", *more)
    return kept.parent / "default/dpo", capfd.readouterr().err


def largest(kept: Path) -> Path:
    return max(kept.iterdir(), key=lambda path: path.stat().st_size)


def test_another_run_on_the_same_rows_reads_what_the_reference_said(
    first: Path, kept: Path, place: tuple[str, ...]
) -> None:
    cache = (f"reference_cache={kept}", f"outputs={kept.parent}")
    ended = stage("dpo", *place, *cache, cwd=kept.parent)
    assert ended.stderr.count("reference log-probs: read from") == 2, ended.stderr
    assert weights(kept.parent / "default/dpo") == weights(first / "default/dpo")
    assert logged(kept.parent / "default/dpo") == logged(first / "default/dpo")


def test_another_beta_and_another_loss_read_it_too(
    kept: Path, place: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    _, said = again(place, kept, capfd, "loss=ipo", "loss.beta=0.3")
    assert said.count("reference log-probs: read from") == 2 and len(list(kept.iterdir())) == 2


def test_with_an_adapter_the_reference_is_the_model_without_it(
    first: Path, place: tuple[str, ...], tmp_path: Path
) -> None:
    run("dpo", *place, f"outputs={tmp_path}", "adapter=lora")
    ours, theirs = (load_file(largest(f)) for f in (tmp_path / "reference_logprobs", first / "kept"))
    assert ours["logprobs"].equal(theirs["logprobs"])


@pytest.mark.parametrize("damage", ["flipped byte", "cut off", "of other rows", "no such file"])
def test_a_damaged_or_foreign_cache_is_not_used(
    damage: str, first: Path, kept: Path, place: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    file = largest(kept)
    content = file.read_bytes()
    if damage == "flipped byte":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut off":
        file.write_bytes(content[:-4])
    elif damage == "of other rows":
        [other] = [path for path in kept.iterdir() if path != file]
        shutil.copy(other, file)
    else:
        file.unlink()
    folder, said = again(place, kept, capfd)
    assert ("damaged or of something else, computed anew" in said) == (damage != "no such file")
    assert said.count("reference log-probs: read from") == 1
    assert load_file(file)["logprobs"].equal(load_file(largest(first / "kept"))["logprobs"])
    assert logged(folder) == logged(first / "default/dpo")


@pytest.mark.parametrize(
    "other", ["model.dtype=bfloat16", "layout.max_length=40", "layout.bin_tokens=64", "data.limit=20"]
)
def test_what_the_log_probabilities_depend_on_is_part_of_their_name(
    other: str, kept: Path, place: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    _, said = again(place, kept, capfd, other, "data.eval_fraction=0")
    assert "read from" not in said and len(list(kept.iterdir())) == 3


# --- beta -------------------------------------------------------------------------------------------------------------


def test_a_beta_that_moves_goes_on_where_a_killed_run_was(place: tuple[str, ...], tmp_path: Path) -> None:
    moving = ("loss.beta_schedule=cosine", "loss.beta_end=0.5", "trainer.max_steps=4", "trainer.save_every=2")
    options = (*place, f"outputs={tmp_path}", *moving, "trainer.accumulation=2")
    assert stage("dpo", *options, "name=whole", cwd=tmp_path).code == 0
    assert stage("dpo", *options, "name=cut", cwd=tmp_path, fault="dpo:step:3").code == -9
    ended = stage("dpo", *options, "name=cut", cwd=tmp_path)
    assert "going on from step 2" in ended.stderr
    whole, cut = (tmp_path / name / "dpo" for name in ("whole", "cut"))
    assert weights(whole) == weights(cut)
    betas = [line["beta"] for line in logged(whole)]
    assert betas == pytest.approx([0.1 + 0.4 * (1 - math.cos(math.pi * i / 4)) / 2 for i in range(4)])
    assert betas == [line["beta"] for line in logged(cut)]


# --- kto --------------------------------------------------------------------------------------------------------------


def test_kto_learns_from_responses_that_are_not_paired(unpaired: tuple[str, ...], tmp_path: Path) -> None:
    ended = stage("dpo", *unpaired, f"outputs={tmp_path}", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "note: desirable responses weigh" in ended.stderr and "1 to 4/3 is advised" in ended.stderr
    first, second = logged(tmp_path / "default/dpo")
    assert first["kl"] == pytest.approx(0, abs=1e-5) and first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert second["loss"] != first["loss"]


def test_a_balanced_kto_says_nothing(
    unpaired: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("dpo", *unpaired, f"outputs={tmp_path}", "loss.weight_undesirable=2.4")
    assert "note:" not in capfd.readouterr().err


@pytest.mark.parametrize("data", ["unpaired", "place"])
def test_accumulated_micro_batches_of_kto_share_one_baseline(
    data: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Steps of 8 rows in one batch and in 4, the second with a baseline that has moved."""
    options = (*request.getfixturevalue(data), "loss=kto", f"outputs={tmp_path}", "trainer.batch_size=8")
    options += ("trainer.learning_rate=1e-2",)
    for parts in (1, 4):
        run("dpo", *options, f"name=in_{parts}", f"trainer.accumulation={parts}")
    whole, split = (logged(tmp_path / f"in_{parts}/dpo") for parts in (1, 4))
    assert whole[-1]["kl"] > 0
    for one, other in zip(whole, split, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in one.items()}


def test_two_processes_of_kto_share_one_baseline(unpaired: tuple[str, ...], tmp_path: Path) -> None:
    options = (*unpaired, f"outputs={tmp_path}", "trainer.batch_size=8", "trainer.learning_rate=1e-2")
    for n in (1, 2):
        ended = stage("dpo", *options, f"name=of_{n}", cwd=tmp_path, processes=n)
        assert ended.code == 0, ended.stderr
    one, two = (logged(tmp_path / f"of_{n}/dpo")[-1] for n in (1, 2))
    assert two == {name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in one.items()}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("trainer.batch_size=1", "at least 2 with loss=kto"),
        ("loss=sigmoid", "compares no responses, loss=sigmoid needs that; use loss=kto"),
        ("data.axes=[helpful]", "labels speak of no axis"),
    ],
)
def test_what_kto_cannot_do_is_refused(wrong: str, words: str, unpaired: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        composed("dpo", *unpaired, wrong)
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(error, ConfigError) and words in str(error) for error in chain)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a ?", "completion": "b", "label": 1}, "rows.jsonl:1:label: expected true (desirable) or false"),
        ({"prompt": "a ?", "completion": 3, "label": True}, "rows.jsonl:1:completion: expected a text"),
        ({"prompt": "a ?", "completion": " ", "label": True}, "empty completion"),
    ],
)
def test_a_wrong_unpaired_row_is_named(
    row: dict[str, Any], words: str, unpaired: tuple[str, ...], tmp_path: Path
) -> None:
    path = written(tmp_path / "rows.jsonl", [row])
    assert words in refused(DataError, "dpo", *unpaired, f"data.path={path}", f"outputs={tmp_path / 'out'}")


def test_rows_of_a_single_prompt_are_refused_by_kto(unpaired: tuple[str, ...], tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{**row, "prompt": "the same ?"} for row in UNPAIRED])
    options = (f"data.path={path}", f"outputs={tmp_path / 'out'}", "data.eval_fraction=0")
    assert "at least 2 prompts" in refused(DataError, "dpo", *unpaired, *options)


# --- rankings ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tied(tmp_path: Path) -> str:
    """The rankings, the fourth with two responses of one score."""
    rows = [dict(row) for row in RANKINGS]
    scores = ({"helpful": 1.0}, {"helpful": 0.5}, {"helpful": 0.5})
    rows[3]["responses"] = [{"text": t, "scores": s} for t, s in zip(("yes .", "no .", "lima ."), scores, strict=True)]
    return f"data.path={written(tmp_path / 'tied.jsonl', rows)}"


def test_a_listwise_loss_names_the_ranking_that_ties(tied: str, place: tuple[str, ...], tmp_path: Path) -> None:
    line = refused(
        DataError, "dpo", *place, tied, "loss=listwise", f"outputs={tmp_path / 'out'}", "data.eval_fraction=0"
    )
    assert "tied.jsonl:4: two of its 3 responses tie" in line and "loss.ties=drop" in line


@pytest.mark.parametrize(("ties", "dropped"), [("drop", 1), ("strict", 0)])
def test_rankings_that_tie_are_dropped_and_counted_or_ranked_without_the_tie(
    ties: str, dropped: int, tied: str, place: tuple[str, ...], tmp_path: Path
) -> None:
    options = (*place, tied, "loss=listwise", f"loss.ties={ties}", "data.eval_fraction=0")
    found = run("dpo", *options, f"outputs={tmp_path / 'out'}").manifest["metrics"]
    assert (found["rankings"], found["rankings_dropped"]) == (24 - dropped, dropped)


# --- online -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounds(tiny: Path, place: tuple[str, ...]) -> tuple[str, ...]:
    """Options of two rounds of four steps."""
    sampling = ("online.rounds=2", "online.prompts=8", "online.samples=3", "online.max_new_tokens=6", "online.epochs=2")
    steps = ("trainer.max_steps=null", "trainer.batch_size=4")
    return (*place, *sampling, *steps, f"reward={tiny / 'outputs/tiny/reward'}")


def test_a_killed_online_run_goes_on_at_its_round(rounds: tuple[str, ...], tmp_path: Path) -> None:
    options = (*rounds, "loss=ipo", "online.reference=previous", f"outputs={tmp_path}")
    whole = stage("dpo", *options, "name=whole", cwd=tmp_path)
    assert whole.code == 0, whole.stderr
    assert stage("dpo", *options, "name=cut", cwd=tmp_path, fault="dpo:step:6").code == -9
    ended = stage("dpo", *options, "name=cut", cwd=tmp_path)
    assert "going on from step 4" in ended.stderr and "round 1:" not in ended.stderr, ended.stderr
    ours, theirs = (tmp_path / name / "dpo" for name in ("whole", "cut"))
    assert weights(ours) == weights(theirs) and logged(ours) == logged(theirs)
    for number in (1, 2):
        assert (ours / f"round-{number}.jsonl").read_bytes() == (theirs / f"round-{number}.jsonl").read_bytes()
    told = [json.loads((folder / "manifest.json").read_text())["metrics"]["rounds"] for folder in (ours, theirs)]
    assert told[0] == told[1] and told[0].keys() == {"1", "2"}


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "simpo"])
def test_every_kind_of_loss_learns_online(loss: str, rounds: tuple[str, ...], tmp_path: Path) -> None:
    found = run("dpo", *rounds, f"loss={loss}", f"outputs={tmp_path}").manifest
    assert found["metrics"]["rounds"].keys() == {1, 2} and "reward" in found["inputs"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("reward=null", "needs a reward model"),
        ("online.rounds=0", "not read without rounds"),
        ("engine=trl", "does not learn online"),
        ("trainer.max_steps=3", "not read with online.rounds"),
        ("online.prompts=3", "at least trainer.batch_size=4"),
        ("online.samples=1", "at least 2"),
        ("online.reference=now", "start or previous"),
    ],
)
def test_what_online_rounds_cannot_do_is_refused(
    wrong: str, words: str, rounds: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:
        composed("dpo", *rounds, wrong)
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(error, ConfigError) and words in str(error) for error in chain)
