"""Base, SFT, reward and DPO under DeepSpeed ZeRO on two processes: the run of one process, sharded.

Three programs run everything: one process what all is compared with, two processes every sharded run, and one process
again what two began. `bench.zero` has the whole table of stages, levels and methods.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from command import ENVIRONMENT, Ended, composed, program, refused, stage
from peft import PeftModel
from tiny_data import INSTRUCTIONS, RANKINGS, written
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from models.errors import ConfigError, ResourceError
from train.run import Run
from train.sharding import Sharding
from train.training import complete

TEXT = [{"text": f"the capital of {name} {i} is lima ."} for i, name in enumerate(("peru", "chad", "fiji", "mali") * 6)]
# A schedule, clipping and decay that bite, two micro-batches a step, and an epsilon above the noise of rounding.
RECIPE = (
    *("batch_size=4", "accumulation=2", "learning_rate=1e-3", "warmup_steps=2", "schedule=cosine", "final_rate=0.1"),
    *("epsilon=1e-6", "max_grad_norm=0.5", "weight_decay=0.1", "log_every=1", "eval_every=7", "max_steps=20"),
)
METRIC = {"reward": "eval_loss/helpful", "dpo": "eval_preference_loss"}  # that is watched, where it is not eval_nll
WHOLE_BELOW = "deepspeed.whole_below=0"  # of a tiny model all weights would stay whole
CHECKPOINTING, BF16 = "trainer.gradient_checkpointing=true", "trainer.bf16=true"


class Case(NamedTuple):
    """One training; those of one `alone` are the same training."""

    stage: str
    level: str
    more: tuple[str, ...] = ()

    @property
    def alone(self) -> str:
        return " ".join(("alone", *self.more))

    @property
    def name(self) -> str:
        return " ".join((self.level, *self.more))


LORA = ("adapter=lora",)
CASES = [
    Case("base", "zero1"),
    Case("base", "zero3"),
    Case("sft", "zero1", LORA),
    Case("sft", "zero2"),
    Case("sft", "zero3", LORA),
    Case("sft", "zero3_offload"),
    Case("reward", "zero2", LORA),
    Case("reward", "zero3", (CHECKPOINTING,)),
    Case("dpo", "zero2", LORA),
    Case("dpo", "zero3"),
]
ROUNDED = Case("sft", "zero2", (BF16,))
RESUMED = ("zero2", "zero3")  # levels at which a run is cut off and goes on
SPOILT = ("none", "zero1", "zero2", "zero3")


class Ran(NamedTuple):
    """What the three programs left, and what the last one said."""

    folder: Path
    last: Ended

    def artefact(self, name: str, stage: str = "sft") -> Path:
        return self.folder / name / stage

    def losses(self, name: str, stage: str = "sft") -> list[float]:
        lines = map(json.loads, (self.artefact(name, stage) / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    def manifest(self, name: str, stage: str = "sft") -> dict[str, Any]:
        return json.loads((self.artefact(name, stage) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, llama_folder: str) -> Ran:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        pytest.skip(f"DeepSpeed compiles an operator and needs {' and '.join(missing)}")
    folder = tmp_path_factory.mktemp("zero")
    for name, rows in (("text", TEXT), ("alpaca", INSTRUCTIONS), ("kwise", RANKINGS)):
        written(folder / f"{name}.jsonl", rows)

    def job(case: Case, name: str, *more: str, **faults: Any) -> dict[str, Any]:
        return {"stage": case.stage, "options": options(case, name, folder, llama_folder, *more), **faults}

    sft, saved = Case("sft", "none"), "trainer.save_every=6"
    alone = {(case.stage, case.alone): job(case._replace(level="none"), case.alone) for case in (*CASES, ROUNDED)}
    run(folder, 1, [*alone.values(), job(sft, "grows", saved, cut=8)])
    run(
        folder,
        2,
        [
            *(
                job(case, case.name)
                for case in (*CASES, Case("sft", "none"), Case("sft", "zero1"), Case("sft", "zero3"))
            ),
            *(job(Case("sft", x), f"cut {x}", saved, cut=8) for x in RESUMED),
            *(job(Case("sft", x), f"cut {x}", saved) for x in RESUMED),
            *(job(Case("sft", x), f"spoilt {x}", "trainer.max_steps=6", spoil=[1, 2]) for x in SPOILT),
            job(Case("sft", "zero1"), "turns", saved, cut=8),
            job(Case("sft", "zero3"), "turns", saved),
            job(Case("sft", "zero2"), "grows", saved),
            job(Case("sft", "zero3"), "shrinks", saved, cut=8),
            job(ROUNDED, ROUNDED.name),
        ],
    )
    return Ran(folder, run(folder, 1, [job(Case("sft", "zero3"), "shrinks", saved)]))


def options(case: Case, name: str, folder: Path, model: str, *more: str) -> list[str]:
    """As a person types them."""
    data = {
        "base": ("data=text", f"data.path={folder / 'text.jsonl'}", "architecture.hidden=32", "architecture.layers=2"),
        "sft": ("data=alpaca", f"data.path={folder / 'alpaca.jsonl'}", f"model.path={model}"),
    }.get(case.stage, ("data=kwise", f"data.path={folder / 'kwise.jsonl'}", f"model.path={model}"))
    if case.stage == "base":
        data += ("architecture.heads=2", "architecture.feed_forward=64", "architecture.vocabulary=300")
    place = (f"outputs={folder}", f'name="{name}"', "tracking=none", "data.eval_fraction=0.2")
    sharded = (f"deepspeed={case.level}", WHOLE_BELOW)
    recipe = (*RECIPE, f"metric={METRIC.get(case.stage, 'eval_nll')}")
    return [*place, *data, *sharded, *case.more, *(f"trainer.{option}" for option in recipe), *more]


def run(folder: Path, processes: int, jobs: list[dict[str, Any]]) -> Ended:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    place = {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{Path(__file__).parent}"}
    ended = program(
        "zero_jobs", str(folder / "jobs.json"), cwd=folder, processes=processes, environment=place, limit=900
    )
    assert ended.code == 0, ended.stderr[-3000:]
    return ended


def weights(artefact: Path) -> dict[str, torch.Tensor]:
    """As plain transformers and peft load them."""
    read = AutoModelForSequenceClassification if artefact.name == "reward" else AutoModelForCausalLM
    if (record := artefact / "model/adapter_config.json").exists():
        base = read.from_pretrained(json.loads(record.read_text())["base_model_name_or_path"], num_labels=3)
        base.resize_token_embeddings(json.loads((artefact / "model/config.json").read_text())["vocab_size"])
        return PeftModel.from_pretrained(base, artefact / "model").state_dict()
    return read.from_pretrained(artefact / "model").state_dict()


def assert_same_weights(one: Path, other: Path, atol: float) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if "lora_" in name or "adapter_config.json" not in {p.name for p in (one / "model").iterdir()}:
            torch.testing.assert_close(value, theirs[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stage} {case.name}")
def test_two_processes_take_the_steps_of_one_and_seal_its_model(ran: Ran, case: Case) -> None:
    ours, theirs = (ran.losses(name, case.stage) for name in (case.name, case.alone))
    assert len(ours) == 20
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert_same_weights(ran.artefact(case.name, case.stage), ran.artefact(case.alone, case.stage), atol=5e-5)
    found, expected = (ran.manifest(name, case.stage) for name in (case.name, case.alone))
    assert found["hardware"]["processes"] == 2
    measured = {k: v for k, v in expected["metrics"].items() if isinstance(v, int | float)}
    assert {k: found["metrics"][k] for k in measured} == pytest.approx(measured, abs=1e-4)


def test_bf16_is_the_same_autocast_with_gradients_that_travel_rounded(ran: Ran) -> None:
    assert ran.losses(ROUNDED.name) == pytest.approx(ran.losses(ROUNDED.alone), abs=2e-3)
    assert all(w.dtype == torch.float32 for w in weights(ran.artefact(ROUNDED.name)).values())


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", RESUMED)
def test_a_run_that_was_cut_off_ends_in_the_same_bits(ran: Ran, level: str) -> None:
    whole, cut = ran.artefact(level), ran.artefact(f"cut {level}")
    assert (whole / "model/model.safetensors").read_bytes() == (cut / "model/model.safetensors").read_bytes()
    assert ran.losses(level) == ran.losses(f"cut {level}")


@pytest.mark.parametrize("name", ["grows", "shrinks", "turns"])
def test_another_number_of_processes_or_another_level_goes_on_with_the_same_steps(ran: Ran, name: str) -> None:
    """From one process to two under ZeRO 2, from two under ZeRO 3 to one, and from ZeRO 1 to 3."""
    assert len(ran.losses(name)) == 20
    assert ran.losses(name) == pytest.approx(ran.losses("alone"), abs=1e-5)
    assert_same_weights(ran.artefact(name), ran.artefact("alone"), atol=5e-5)


def test_what_changed_is_said_and_so_is_what_one_process_cannot_share(ran: Ran) -> None:
    said = ran.last.stderr
    assert "going on from step 6" in said
    assert "made by 2 processes, deepspeed=zero3, this is 1 process, deepspeed=none" in said
    assert "deepspeed=zero3: one process has nobody to share with" in said


# --- numbers and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", SPOILT[1:])
def test_a_gradient_that_is_no_number_on_one_process_skips_the_step_on_all(ran: Ran, level: str) -> None:
    """The schedule goes on as without DeepSpeed, so the steps after it are the same, too."""
    assert ran.manifest(f"spoilt {level}")["steps_skipped"] == ran.manifest("spoilt none")["steps_skipped"] == 1
    assert ran.losses(f"spoilt {level}") == pytest.approx(ran.losses("spoilt none"), abs=1e-5)
    assert_same_weights(ran.artefact(f"spoilt {level}"), ran.artefact("spoilt none"), atol=5e-5)


# Bytes of a trained weight in float32, on one of two processes: the weight, its gradient, and Adam's two moments, to
# which ZeRO adds the copy that it steps on.
THEORY = {"none": (4, 4, 8), "zero1": (4, 4, 12 / 2), "zero2": (4, 4 / 2, 12 / 2), "zero3": (4 / 2, 4 / 2, 12 / 2)}


@pytest.mark.parametrize("level", THEORY)
def test_each_process_holds_what_theory_says(ran: Ran, level: str) -> None:
    artefact = ran.artefact(level)
    n = sum(value.numel() for value in AutoModelForCausalLM.from_pretrained(artefact / "model").parameters())
    for held in json.loads((artefact / "held.json").read_text()):
        expected = dict(zip(("weights", "gradients", "optimizer"), (n * each for each in THEORY[level]), strict=True))
        assert held == pytest.approx({**expected, "frozen": 0}, rel=0.01)  # what is flat is padded


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"stage": 2, "weights_on": "cpu"}, "zero3_offload"),
        ({"stage": 1, "optimizer_on": "nvme", "nvme_path": "/disk"}, "zero_infinity"),
        ({"stage": 3, "optimizer_on": "nvme"}, "nvme_path"),
        ({"stage": 3, "nvme_path": "/disk"}, "nvme_path"),
        ({"optimizer_on": "cpu"}, "stage"),
        ({"stage": 3, "weights_on": "tape"}, "device, cpu or nvme"),
        ({"stage": 3, "bucket": 0}, "above 0"),
    ],
)
def test_what_no_level_can_do_is_refused(options: dict[str, Any], instead: str) -> None:
    with pytest.raises(ConfigError, match=instead):
        Sharding(**options)


def test_four_bits_and_partitioned_weights_are_refused_at_the_start(llama_folder: str, tmp_path: Path) -> None:
    needed = ("data=alpaca", "data.path=absent.jsonl", f"model.path={llama_folder}", f"outputs={tmp_path}")
    ended = stage("sft", *needed, "adapter=qlora", "deepspeed=zero3", cwd=tmp_path)
    assert ended.code == 2 and "use deepspeed=zero2, or adapter=lora" in ended.error


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DeepSpeed under transformers, without a word of the CPU, makes each take itself for the only one."""
    run = Run(composed("sft", "data=alpaca", "data.path=x", "model.path=y", f"outputs={tmp_path}"), stage="sft")
    monkeypatch.setenv("WORLD_SIZE", "2")
    blind = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))
    with pytest.raises(ConfigError, match="2 processes were launched, the trainer sees 1"):
        complete(run, blind)


def test_a_machine_without_libaio_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    infinity = Sharding(stage=3, weights_on="nvme", optimizer_on="nvme", nvme_path="/disk")
    with pytest.raises(ResourceError, match=r"libaio-dev.*zero3_offload"):
        infinity.here()


def test_the_disk_must_be_named(llama_folder: str, tmp_path: Path) -> None:
    needed = ("data=alpaca", "data.path=absent.jsonl", f"model.path={llama_folder}", f"outputs={tmp_path}")
    assert "deepspeed.nvme_path" in refused(ConfigError, "sft", *needed, "deepspeed=zero_infinity")
