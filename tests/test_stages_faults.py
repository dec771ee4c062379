"""What a stage does with something wrong: an exit code, and one line that says what, where and what now."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import composed, refused, run, stage
from tiny_data import INSTRUCTIONS, ROLLOUTS, STEPS, sft, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import ArtifactError, ConfigError
from models.loading import template_digest
from train.digests import folder_digests
from train.wandb_log import records


def contents(folder: Path) -> dict[str, str]:
    return {name: found for name, found in folder_digests(folder).items() if not name.endswith(".lock")}


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "nearest"),
    [
        ("sft", "trainer.learning_rte=1", "trainer.learning_rate"),
        ("sft", "trainr.learning_rate=1", "trainer"),
        ("sft", "deepspede=zero2", "deepspeed"),
        ("sft", "deepspeed=zero4", "zero3"),
        ("sft", "+trainer.momentum=0.9", "trainer."),
        ("pipeline", "sft.trainer.learning_rte=1", "sft.trainer.learning_rate"),
    ],
)
def test_a_misspelt_option_ends_with_2_and_the_nearest_one(name: str, wrong: str, nearest: str, tmp_path: Path) -> None:
    needed = () if name == "pipeline" else sft(tmp_path, "no model", "no data")
    ended = stage(name, *needed, wrong, cwd=tmp_path)
    assert ended.code == 2
    assert "unknown option" in ended.error
    assert f"did you mean {nearest}" in ended.error
    assert not (tmp_path / "out").exists()


def test_a_misspelt_choice_of_data_ends_with_2_and_the_nearest_one(tmp_path: Path) -> None:
    ended = stage("sft", "data=alpacca", "data.path=x", "model.path=y", cwd=tmp_path, fresh=True)
    assert ended.code == 2
    assert "alpacca" in ended.error and "did you mean alpaca" in ended.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["End with #### and a number", "Be kind, be brief."])
def test_a_text_that_wants_quotes_is_told_how_to_stand_in_them(tmp_path: Path, text: str) -> None:
    asked = ("data=prompts", "data.path=x", "model.path=y", "reward.path=z")
    ended = stage("ppo", *asked, f"data.system={text}", cwd=tmp_path)
    assert ended.code == 2 and f"data.system={text}: cannot be read" in ended.error and "in quotes" in ended.error
    assert composed("ppo", *asked, f'data.system="{text}"').data.system == text


def test_data_of_another_stages_kind_ends_with_2_and_says_so(tmp_path: Path) -> None:
    ended = stage("sft", "data=hh", "data.path=x", "model.path=y", cwd=tmp_path)
    assert ended.code == 2 and "the choice of data= does not fit this stage" in ended.error


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("trainer.learning_rate=fast", "Float"),
        ("trainer.bf16=perhaps", "bool"),
        ("trainer.learning_rate=-1", "above 0"),
    ],
)
def test_a_wrong_value_ends_with_2_the_option_the_value_and_what_is_allowed(
    wrong: str, expected: str, tmp_path: Path
) -> None:
    ended = stage("sft", *sft(tmp_path, "no model", "no data"), wrong, cwd=tmp_path)
    option, _, value = wrong.partition("=")
    assert ended.code == 2
    assert option in ended.error and value in ended.error and expected in ended.error


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("sft", "trainer.epochs=0", "above 0"),
        ("sft", "trainer.batch_size=0", "at least 1"),
        ("sft", "trainer.schedule=exponential", "cosine"),
        ("sft", "data.eval_fraction=1", r"[0, 1)"),
        ("sft", "deepspeed.stage=4", "1, 2, 3"),
        ("sft", "resume=never", "restart"),
        ("sft", "threads=-1", "0 or more"),
        ("sft", "engine=theirs", "trl"),
        ("sft", "model.dtype=float8", "bfloat16"),
        ("dpo", "loss.beta=0", "above 0"),
        ("dpo", "loss.label_smoothing=0.5", "[0, 0.5)"),
        ("dpo", "loss.name=dpo", "sigmoid is DPO"),
        ("reward", "loss.harmless=-1", "0 or more"),
        ("reward", "sampling.samples=1 sampling.variants=0", "at least 2"),
        ("reward", "sampling.noise=0.5", "[0, 0.5)"),
        ("ppo", "rl.clip=0", "(0, 1)"),
        ("ppo", "rl.top_p=0.9", "expected 1"),
        ("ppo", "rl.top_k=5", "0"),
        ("ppo", "rl.kl.target=0", "above 0"),
        ("ppo", "rl.lam=1.5", "[0, 1]"),
        ("chat", "temperature=-1", "0 or more"),
        ("base", "architecture.heads=3", "multiple"),
        ("evaluate", "reference=nobody models.sft=a", "named"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_range(name: str, wrong: str, allowed: str) -> None:
    needed = {
        "sft": ("data=alpaca", "data.path=x", "model.path=y"),
        "dpo": ("data=kwise", "data.path=x", "model.path=y"),
        "reward": ("data=kwise", "data.path=x", "model.path=y"),
        "ppo": ("data=prompts", "data.path=x", "model.path=y", "reward.path=z"),
        "chat": ("model.path=y",),
    }.get(name, ())
    with pytest.raises(Exception) as caught:
        composed(name, *needed, *wrong.split())
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    fault = next(error for error in chain if isinstance(error, ConfigError))
    option, _, value = wrong.split()[0].partition("=")
    assert option.rpartition(".")[2] in str(fault) and value in str(fault) and allowed in str(fault)


def test_a_changed_run_is_not_taken_for_the_one_that_was_cut_off(
    llama_folder: str, qwen2_folder: str, tiny: Path
) -> None:
    data = tiny / "moving.jsonl"
    shutil.copy(tiny / "alpaca.jsonl", data)
    options = sft(tiny, llama_folder, data, "name=changed", "trainer.save_every=1")
    assert stage("sft", *options, cwd=tiny, fault="sft:step:2").code == -9
    before = contents(tiny / "out/changed")
    assert any("checkpoint-1" in name for name in before)
    for changed, difference in (
        ("trainer.learning_rate=2e-3", "trainer.learning_rate (0.001 before, 0.002 now)"),
        ("seed=7", "seed (0 before, 7 now)"),
        (f"model.path={qwen2_folder}", "model.path"),
        (f"data.path={tiny / 'pairs.jsonl'}", "data.path"),
    ):
        assert difference in refused(ConfigError, "sft", *options, changed)
    written(data, INSTRUCTIONS[1:])
    ended = stage("sft", *options, cwd=tiny)
    assert ended.code == 4 and "data.path (its content changed" in ended.error
    assert contents(tiny / "out/changed") == before

    shutil.copy(tiny / "alpaca.jsonl", data)
    for fixed in ("seed=7", f"model.path={qwen2_folder}", "trainer.batch_size=2"):
        said = refused(ConfigError, "sft", *options, "trainer.learning_rate=2e-3", fixed, "resume=force")
        assert fixed.split("=")[0] in said and "learning_rate" not in said
    forced = stage("sft", *options, "trainer.learning_rate=2e-3", "resume=force", cwd=tiny)
    assert forced.code == 0 and "going on from step 1" in forced.stderr
    rates = [line["learning_rate"] for line in logged(tiny / "out/changed/sft") if "learning_rate" in line]
    assert rates == pytest.approx([1e-3, 2e-3 / 2])  # linear, of two steps
    restarted = stage("sft", *options, "resume=restart", cwd=tiny)
    assert restarted.code == 0 and "going on" not in restarted.stderr


# --- models and artefacts ---------------------------------------------------------------------------------------------


def test_a_model_of_the_wrong_kind_ends_with_4_and_both_kinds(tiny: Path, tmp_path: Path) -> None:
    policy, reward = tiny / "outputs/tiny/sft", tiny / "outputs/tiny/reward"
    prompts = ("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", *ROLLOUTS, f"outputs={tmp_path}")
    ended = stage("sft", *sft(tmp_path, reward, tiny / "alpaca.jsonl"), cwd=tmp_path)
    assert ended.code == 4 and "expected a policy model, found a reward model" in ended.error
    ended = stage("ppo", *prompts, f"model.path={policy}", f"reward.path={policy}", cwd=tmp_path)
    assert ended.code == 4 and "expected a reward model, found a policy model" in ended.error
    inner = refused(ArtifactError, "sft", *sft(tmp_path, reward / "model", tiny / "alpaca.jsonl"), "name=inner")
    assert "expected a language model, found a reward model" in inner


def test_an_unsealed_folder_ends_with_4(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "outputs/tiny/sft", tmp_path / "unsealed")
    (tmp_path / "unsealed/manifest.json").rename(tmp_path / "unsealed/run.json")
    ended = stage("sft", *sft(tmp_path, tmp_path / "unsealed", tiny / "alpaca.jsonl"), cwd=tmp_path)
    assert ended.code == 4 and "not sealed" in ended.error and str(tmp_path / "unsealed") in ended.error


def test_another_chat_template_than_the_parents_ends_with_4_and_both_digests(tiny: Path, tmp_path: Path) -> None:
    other = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    (tmp_path / "other.jinja").write_text(other)
    parent = AutoTokenizer.from_pretrained(tiny / "outputs/tiny/sft/model").chat_template
    options = (
        "data=kwise",
        f"data.path={tiny / 'kwise.jsonl'}",
        f"model.path={tiny / 'outputs/tiny/sft'}",
        *STEPS,
    )
    ended = stage("dpo", *options, "model.chat_template=other.jinja", cwd=tmp_path)
    assert ended.code == 4
    assert template_digest(parent) in ended.error and template_digest(other) in ended.error


class Boom:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_pickled_weights_end_with_4_are_never_run_and_load_as_tensors_where_allowed(
    llama_folder: str, tiny: Path, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(llama_folder, pickled)
    (pickled / "model.safetensors").unlink()
    model, mark = AutoModelForCausalLM.from_pretrained(llama_folder), tmp_path / "executed"
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    options = sft(tmp_path, pickled, tiny / "alpaca.jsonl")
    ended = stage("sft", *options, cwd=tmp_path)
    assert ended.code == 4 and "pytorch_model.bin" in ended.error and "model.allow_pickle=true" in ended.error
    allowed = run("sft", *options, "model.allow_pickle=true", "name=allowed")
    plain = run("sft", *sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), "name=plain")
    assert allowed.manifest["files"] == plain.manifest["files"]

    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Boom(mark)}))
    for more in ((), ("model.allow_pickle=true",)):
        assert stage("sft", *options, *more, "name=boom", "resume=restart", cwd=tmp_path).code == 4
    assert not mark.exists()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def logged(folder: Path) -> list[dict[str, float]]:
    """Every line of the log, less what the clock says."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("sft", ("sft:step:2", "sft:step:5", "sft:save:8", "sft:step:9")),
        ("reward", ("reward:step:5", "reward:step:9")),
        ("ppo", ("ppo:step:1", "ppo:step:3", "ppo:save:6", "ppo:step:10")),
        ("dpo", ("dpo:step:5", "dpo:step:9")),
    ],
)
def test_a_stage_that_is_killed_and_started_again_ends_as_if_nothing_had_been(
    name: str, faults: tuple[str, ...], tiny: Path, llama_folder: str
) -> None:
    """12 steps, of which 6 make a pass over the shuffled rows, or 4 a rollout."""
    tuned, passes = f"model.path={tiny / 'outputs/tiny/sft'}", ("trainer.max_steps=12", "data.eval_fraction=0")
    saved = (f"outputs={tiny / 'killed'}", "trainer.log_every=1", "trainer.save_every=2")
    rankings = (
        "data=kwise",
        f"data.path={tiny / 'kwise.jsonl'}",
        tuned,
        *STEPS,
        *passes,
        "trainer.accumulation=2",
    )
    options = {
        "sft": (*sft(tiny, llama_folder, tiny / "alpaca.jsonl"), *passes, "trainer.accumulation=2"),
        "reward": rankings,
        "dpo": rankings,
        "ppo": (
            *("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", tuned),
            *(f"reward.path={tiny / 'outputs/tiny/reward'}", *ROLLOUTS),
            *("rl.rollouts=3", "rl.epochs=2", "rl.evaluate_every=1"),
        ),
    }[name]
    whole = stage(name, *options, *saved, f"name={name} whole", cwd=tiny)
    assert whole.code == 0, whole.stderr
    for fault in faults:
        assert stage(name, *options, *saved, f"name={name} cut", cwd=tiny, fault=fault).code == -9, fault
    ended = stage(name, *options, *saved, f"name={name} cut", cwd=tiny)
    assert ended.code == 0 and "going on from step 8" in ended.stderr, ended.stderr
    found = [tiny / "killed" / f"{name} {how}" / name for how in ("whole", "cut")]
    assert contents(found[0] / "model") == contents(found[1] / "model")
    assert logged(found[0]) == logged(found[1])
    metrics = [json.loads((folder / "manifest.json").read_text())["metrics"] for folder in found]
    assert metrics[0] == metrics[1]
    if name == "ppo":
        for beside in ("looks", "rollouts"):
            assert contents(found[0] / beside) == contents(found[1] / beside)


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_serves(tiny: Path, llama_folder: str) -> None:
    saved = (*sft(tiny, llama_folder, tiny / "alpaca.jsonl"), "trainer.max_steps=4", "trainer.save_every=1")
    assert stage("sft", *saved, "name=damaged", cwd=tiny, fault="sft:step:3").code == -9
    folder = tiny / "out/damaged/sft/checkpoints"
    newest = max(folder.glob("checkpoint-*"))
    [state] = newest.glob("state-*.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    ended = stage("sft", *saved, "name=damaged", cwd=tiny)
    assert ended.code == 0, ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if "passed over" in line]
    assert str(newest) in line and state.name in line and "going on from step 1" in ended.stderr
    assert contents(tiny / "out/damaged/sft/model") == contents(run("sft", *saved, "name=sound").folder / "model")


# --- the outside world ------------------------------------------------------------------------------------------------


def tracked(file: Path) -> dict[str, Any]:
    """The run that an offline file of W&B holds."""
    run = next(record.run for record in records(file) if record.HasField("run"))
    config = {entry.key: json.loads(entry.value_json) for entry in run.config.update}
    return {"group": run.run_group, "job": run.job_type, "project": run.project, "config": config}


@pytest.mark.parametrize(
    "environment",
    [{}, {"WANDB_API_KEY": "0" * 40}, {"WANDB_API_KEY": "short"}],
    ids=["no key", "a key and no network", "a bad key"],
)
def test_without_a_way_to_wandb_a_run_is_kept_offline_and_one_line_says_where(
    environment: dict[str, str], tiny: Path, llama_folder: str, tmp_path: Path
) -> None:
    options = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), "tracking=wandb", "name=seen")
    nowhere = {
        "HOME": str(tmp_path),
        "WANDB_API_KEY": "",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "3",
    }
    ended = stage("sft", *options, cwd=tmp_path, environment={**nowhere, **environment}, limit=120)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == ""
    [line] = [line for line in ended.stderr.splitlines() if "W&B" in line]
    [file] = Path(line.rpartition("wandb sync ")[2]).glob("offline-run-*/*.wandb")
    assert "offline" in line
    found = tracked(file)
    assert (found["group"], found["job"], found["project"]) == ("seen", "sft", "hhh-align")
    assert found["config"]["trainer.learning_rate"] == 1e-3
