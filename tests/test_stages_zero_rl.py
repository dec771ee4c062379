"""`python -m stages.ppo` under DeepSpeed ZeRO on two processes: rollouts, updates and policy of one process.

Two programs run everything: one process what all is compared with, two processes every sharded run.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from command import ENVIRONMENT, refused
from peft import PeftModel
from test_stages_processes import logged_numbers
from test_stages_zero import WHOLE_BELOW
from test_stages_zero import run as run_jobs
from tiny_data import NAMES, RANKINGS, ROLLOUTS, STEPS, written
from transformers import AutoModelForCausalLM

from models.errors import ConfigError

# One held-out prompt, so that a process has none; two micro-batches a step, and four steps on each of two rollouts.
RECIPE = (
    *(*ROLLOUTS, "rl.evaluation_prompts=1", "rl.rollouts=2", "rl.prompts=8", "rl.samples=2", "rl.epochs=2"),
    *("trainer.batch_size=8", "trainer.accumulation=2", "trainer.learning_rate=1e-3", "rl.critic_learning_rate=3e-4"),
    "trainer.epsilon=1e-3",  # or the first steps of Adam are the signs of rounding errors
    *("trainer.save_every=1", "tracking=none", "threads=1"),
)
TOGETHER = "none together"  # the name of two processes without DeepSpeed
CUT = 3  # inside the updates on the first rollout
LORA = ("adapter=lora", "adapter.rank=4")
GRPO, HEAD = ("rl.algorithm=grpo",), ("rl.critic=head",)
TEXT = ("data@ptx=text", "ptx.path=text.jsonl", "rl.ptx_coef=0.5", "rl.ptx_batch_size=4")
CHECKPOINTING, BF16 = "trainer.gradient_checkpointing=true", "trainer.bf16=true"


class Case(NamedTuple):
    """One training; those of equal `more` are the same."""

    level: str
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join((self.level, *self.more)).replace("=", " ")

    @property
    def alone(self) -> Case:
        return Case("none", self.more)


CASES = [
    Case("zero1", GRPO),
    Case("zero1", LORA),
    Case("zero2"),
    Case("zero2", (*LORA, *HEAD)),
    Case("zero3"),
    Case("zero3", GRPO),
    Case("zero3", (*LORA, CHECKPOINTING)),
    Case("zero3", TEXT),
]
RESUMED = (Case("zero2"), Case("zero3"), Case("zero3", (*LORA, CHECKPOINTING)))
ROUNDED = Case("zero3", (BF16, CHECKPOINTING))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Where all of them ran."""
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        pytest.skip(f"DeepSpeed compiles an operator and needs {' and '.join(missing)}")
    place = tmp_path_factory.mktemp("zero_rl")
    written(place / "text.jsonl", [{"text": f"the capital of {name} is lima ."} for name in NAMES])
    written(place / "kwise.jsonl", RANKINGS)
    sft = f"model.path={tiny / 'outputs/tiny/sft'}"
    adapter = ["data=kwise", "data.path=kwise.jsonl", sft, f"outputs={place}", "name=lora", *STEPS, *LORA]

    def job(case: Case, name: str | None = None, **faults: Any) -> dict[str, Any]:
        reward = place / "lora/reward" if LORA[0] in case.more else tiny / "outputs/tiny/reward"
        options = ["data=prompts", f"data.path={tiny / 'prompts.jsonl'}", sft, f"reward.path={reward}", *RECIPE]
        sharded = [] if case.level == "none" else [f"deepspeed={case.level}", WHOLE_BELOW]
        named = [f"outputs={place}", f'name="{name or case.name}"', *sharded, *case.more]
        return {"stage": "ppo", "options": [*options, *named], **faults}

    alone = {case.alone.name: job(case.alone) for case in (*CASES, ROUNDED)}
    run_jobs(place, 1, [{"stage": "reward", "options": [*adapter, "tracking=none"]}, *alone.values()])
    cut = [job(case, f"cut {case.name}", **fault) for case in RESUMED for fault in ({"cut": CUT}, {})]
    run_jobs(place, 2, [*(job(case) for case in (*CASES, ROUNDED)), job(Case("none"), TOGETHER), *cut])
    return place


def looks(artefact: Path) -> list[list[tuple[str, bool]]]:
    """What was said to the held-out prompt before, between and after."""
    read = [json.loads((artefact / f"looks/{i}.json").read_text()) for i in (0, 2)]
    return [[(answer["text"], answer["ended"]) for answer in look["answers"]] for look in read]


def logits(artefact: Path, base: Path) -> torch.Tensor:
    """As plain transformers and peft load the policy."""
    model = artefact / "model"
    if (model / "adapter_config.json").exists():
        policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), model)
    else:
        policy = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        return policy(torch.tensor([[5, 6, 7, 8]])).logits


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_roll_out_and_learn_what_one_does(folder: Path, tiny: Path, case: Case) -> None:
    ours, alone = (folder / one.name / "ppo" for one in (case, case.alone))
    found, expected = logged_numbers(ours), logged_numbers(alone)
    assert len(found) == len(expected) == 8 + 2 + 2  # updates, rollouts, looks
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
        assert one.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)
    assert looks(ours) == looks(alone)
    sft = tiny / "outputs/tiny/sft/model"
    torch.testing.assert_close(logits(ours, sft), logits(alone, sft), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", RESUMED, ids=lambda case: case.name)
def test_a_run_that_was_cut_off_inside_the_updates_ends_in_the_same_bits(folder: Path, case: Case) -> None:
    whole, cut = (folder / name / "ppo" for name in (case.name, f"cut {case.name}"))
    weights = next((whole / "model").glob("*.safetensors")).name
    assert (whole / "model" / weights).read_bytes() == (cut / "model" / weights).read_bytes()
    assert logged_numbers(whole) == logged_numbers(cut)


def test_bf16_and_gradient_checkpointing_learn_under_zero3(folder: Path) -> None:
    found, expected = (logged_numbers(folder / one.name / "ppo") for one in (ROUNDED, ROUNDED.alone))
    losses, theirs = ([line["loss"] for line in lines if "loss" in line] for lines in (found, expected))
    assert losses[:4] == pytest.approx(theirs[:4], rel=0.02)  # on the first rollout, which both sampled alike
    assert len(losses) == 8 and all(map(math.isfinite, losses))


# Bytes on one of two processes, in float32: of a weight of policy and critic, of its gradient, of Adam's moments with
# the copy that ZeRO steps on; and of each weight of the reference and the reward model.
THEORY = {"none": (4, 4, 8, 4), "zero1": (4, 4, 6, 4), "zero2": (4, 2, 6, 4), "zero3": (2, 2, 6, 2)}


@pytest.mark.parametrize("level", ["none", "zero2", "zero3"])
def test_each_process_holds_its_share_of_four_models(folder: Path, tiny: Path, level: str) -> None:
    together = TOGETHER if level == "none" else level
    sft = AutoModelForCausalLM.from_pretrained(tiny / "outputs/tiny/sft/model")
    n, head = sum(p.numel() for p in sft.parameters()), sft.get_output_embeddings().weight.numel()
    of_two = 2 * n - head  # a critic and a reward model have small heads instead
    for held in json.loads((folder / together / "ppo/held.json").read_text()):
        parts = ("weights", "gradients", "optimizer", "frozen")
        expected = {part: of_two * each for part, each in zip(parts, THEORY[level], strict=True)}
        border = expected.pop("gradients")
        assert held.pop("gradients") == pytest.approx(
            border, rel=0.08
        )  # one that both hold a part of may be held whole
        assert held == pytest.approx(expected, rel=0.03)  # what is flat is padded


def test_text_must_reach_every_micro_batch_where_weights_are_partitioned(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    needed = ("data=prompts", "data.path=absent.jsonl", "model.path=absent", "reward.path=absent", *TEXT)
    told = refused(ConfigError, "ppo", *needed, "rl.ptx_batch_size=3", "deepspeed=zero3", f"outputs={tmp_path}")
    assert "rl.ptx_batch_size=3" in told and "expected at least" in told and "deepspeed=zero2" in told
