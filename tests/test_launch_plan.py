"""Plans: what they say a training needs is what it keeps, and the command that they recommend is one that runs."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, ROOT
from tiny_data import written
from transformers import AutoModelForCausalLM, LlamaConfig

from bench import observed
from launch import plan
from launch.planning import depth
from launch.planning.blueprint import Weight
from launch.planning.composing import composed
from launch.planning.fitting import Machine, Planner
from launch.planning.memory import CacheSize, Zero, cache_bytes, states
from launch.planning.rows import RowShape
from models import generation
from models.chat import ChatFormat, Message
from models.loading import ModelConfig, load_policy
from train import training


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, llama_folder: str) -> tuple[Path, RowShape]:
    """Data whose rows all have one shape, and that shape."""
    folder = tmp_path_factory.mktemp("rows")
    words = "the key of the library is in the library".split()
    texts = [" ".join(["what", *words[i:], *words[:i]]) for i in range(8)]  # of one length, in any tokenizer
    answers = [{"prompt": text, "completion": f"{texts[0]} {texts[1]}"} for text in texts]
    written(folder / "answers.jsonl", answers)
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": f"{texts[0]} {texts[2]}"} for r in answers]
    written(folder / "pairs.jsonl", pairs)
    chat = ChatFormat(load_policy(llama_folder, ModelConfig(path=llama_folder))[1])
    prompt, response = chat.prompt((Message("user", texts[0]),)), chat.response(answers[0]["completion"])
    return folder, RowShape(len(prompt), len(response))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the next training in this process keeps."""
    monkeypatch.setattr(training, "StageTrainer", observed.Observed)
    monkeypatch.setattr(observed.Observed, "found", {})
    yield observed.Observed.found


def options(stage: str, folder: Path, model: str, *more: str) -> list[str]:
    data = {"sft": ("data=prompt_completion", f"data.path={folder / 'answers.jsonl'}")}.get(
        stage, ("data=pairs", "data.axes=[harmless]", f"data.path={folder / 'pairs.jsonl'}")
    )
    steps = ("trainer.max_steps=2", "trainer.batch_size=4", "trainer.accumulation=2", "trainer.learning_rate=1e-5")
    return [f"model.path={model}", *data, *steps, "data.eval_fraction=0", "tracking=none", *more]


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_plan_is_what_training_keeps(
    stage: str,
    checkpointing: str,
    adapter: str,
    rows: tuple[Path, RowShape],
    llama_folder: str,
    seen: dict[str, Any],
    tmp_path: Path,
) -> None:
    folder, shape = rows
    more = (f"adapter={adapter}", f"trainer.gradient_checkpointing={checkpointing}")
    asked = options(stage, folder, llama_folder, *more)
    observed.trained(stage, [*asked, f"outputs={tmp_path}"])
    planner = Planner(stage, asked, shape if stage == "sft" else shape.of(2), Machine(1, 1e12, device="cpu"))
    fit = planner.fit("none", checkpointing == "true", 2)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(fit.states, part) == seen[part], part
    assert fit.micro.activations == pytest.approx(seen["activations"], rel=0.02)
    assert fit.micro.transient == pytest.approx(seen["transient"], rel=0.1)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_plan_of_ppo_knows_all_its_models(
    adapter: str, rows: tuple[Path, RowShape], llama_folder: str, seen: dict[str, Any], tmp_path: Path
) -> None:
    folder, shape = rows
    method = f"adapter={adapter}"
    place = [f"outputs={tmp_path}", "name=x"]
    observed.trained("reward", [*options("reward", folder, llama_folder, method, "trainer.max_steps=1"), *place])
    rl = (
        f"rl.max_new_tokens={shape.response}",
        "rl.prompts=4",
        "rl.rollouts=1",
        "rl.epochs=1",
        "rl.evaluation_prompts=0",
    )
    data = ("data=prompts", f"data.path={folder / 'answers.jsonl'}", "data.eval_fraction=0", "tracking=none")
    asked = [f"model.path={llama_folder}", f"reward.path={tmp_path / 'x/reward'}", *data, *rl, method]
    asked += ["trainer.batch_size=4", "trainer.accumulation=2", "trainer.learning_rate=1e-6"]
    observed.trained("ppo", [*asked, *place])
    planner = Planner("ppo", asked, shape, Machine(1, 1e12, device="cpu"))
    fit, weights = planner.fit("none", False, 2), planner.blueprint_of(False).weights
    assert fit.states.weights == seen["weights"] and fit.states.optimizer == seen["optimizer"]
    assert fit.micro.activations == pytest.approx(seen["activations"], rel=0.05)
    roles = {weight.role for weight in weights}
    assert roles == {"policy", "critic", "reward"} | ({"reference"} if adapter == "full" else set())


@pytest.mark.parametrize("recompute", [False, True])
def test_a_deep_model_is_planned_as_if_all_its_layers_were_traced(
    recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    LlamaConfig(num_hidden_layers=9, **sizes).save_pretrained(tmp_path)
    asked = [f"model.path={tmp_path}", "data=alpaca", "data.path=x.json", "trainer.batch_size=4"]
    found = []
    for most in (depth.MORE, 9):  # layers that are traced
        monkeypatch.setattr(depth, "MORE", most)
        planner = Planner("sft", asked, RowShape(500, 1500), Machine(1, 1e12))
        found.append(planner.micro_of(recompute, 4, False))
    assert found[0].activations == pytest.approx(found[1].activations, rel=1e-3)
    assert found[0].transient == pytest.approx(found[1].transient, rel=0.02)


def test_micro_batches_grow_to_what_keeps_a_gpu_busy(llama_folder: str) -> None:
    asked = [f"model.path={llama_folder}", "data=alpaca", "data.path=x.json", "trainer.batch_size=64"]
    for tokens, most in ((2000, 8), (20_000, 1), (20, 64)):
        assert Planner("sft", asked, RowShape(tokens // 2, tokens // 2), Machine(1, 1e12)).micro_batches()[-1] == most


def test_sharding_divides_what_its_stage_names() -> None:
    """Rajbhandari et al. 2020, figure 1, with weights and gradients in float32: 4, 4 and 12 bytes a number."""
    weights = [Weight("policy", 1_000_000, 4_000_000, True, True)]
    found = {stage: states(weights, Zero(stage=stage, bucket=10, persistent=0, live=0), 4) for stage in (1, 2, 3)}
    assert [found[stage][:3] for stage in (1, 2, 3)] == [
        (4_000_000, 4_000_000, 3_000_000),
        (4_000_000, 1_000_000, 3_000_000),
        (1_000_000, 1_000_000, 3_000_000),
    ]
    assert found[1].buffers == found[3].buffers == 40
    away = states(weights, Zero(stage=3, optimizer_on_host=True, weights_on_host=True, persistent=0), 4)
    assert away[:3] == (0, 0, 0) and away.host == 1_000_000 + 4_000_000


def test_the_cache_is_as_large_as_that_of_sampling(llama_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    made = []
    monkeypatch.setattr(generation, "empty_cache", lambda *a: made.append(EMPTY(*a)) or made[-1])
    prompts, length = [[5] * 6 for _ in range(3)], 12
    generation.sample(model, prompts, n=2, max_new_tokens=length, ends=[], temperature=1.0)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in made[0].layers)
    layers, heads, width, columns = 2, 2, 16, 6
    prefilled = 2 * layers * heads * width * 4 * 6 * columns
    assert cache_bytes(CacheSize(layers, heads, width, 6, columns, length, 4)) == kept + prefilled


EMPTY = generation.empty_cache


@pytest.fixture
def config_alone(tmp_path: Path) -> Path:
    """A folder with nothing but the configuration of a Llama of 8 B parameters."""
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    config.save_pretrained(tmp_path / "8b")
    return tmp_path / "8b"


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = plan.main(["json=true", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_a_plan_needs_no_weights_and_its_command_runs(config_alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = ["-m", "stages.sft", f"model.path={config_alone}", "data=alpaca", "data.path=a b.json"]
    code, found = planned(
        capsys, "gpus=8", "memory=80", "tokens=256", *stage, "trainer.batch_size=64", "trainer.bf16=true"
    )
    assert code == 0 and found["fits"]
    assert found["weights"]["policy"] == 4 * 8_030_261_248  # Llama 3.1 8B, as its model card counts
    start, _, typed = found["command"].partition(" -m stages.sft ")
    assert start == "python -m launch.local n=8"
    cfg = composed("sft", shlex.split(typed))
    best = found["best"]
    assert (cfg.data.path, cfg.trainer.accumulation) == ("a b.json", best["accumulation"])
    assert best["rows"] * best["accumulation"] * 8 == 64
    assert best["total"] <= 0.9 * 80 * 2**30
    # 16 bytes a number do not fit, whatever the rows: the states must be shared.
    assert next(level for level in found["levels"] if level["level"] == "none")["total"] > 16 * 8e9
    assert best["level"] != "none"


def test_low_rank_updates_leave_room_for_all_models_of_ppo(
    config_alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = ["-m", "stages.ppo", f"model.path={config_alone}", f"reward.path={config_alone}-reward", "data=prompts"]
    stage += ["data.path=x", "trainer.batch_size=64", "rl.prompts=64", "trainer.accumulation=8", "deepspeed=none"]
    _, full = planned(capsys, "gpus=8", *stage)
    _, lora = planned(capsys, "gpus=8", *stage, "adapter=lora")
    assert set(full["weights"]) == {"policy", "critic", "reward", "reference"} and full["shared_backbone_saves"] == 0
    assert sum(full["weights"].values()) > 3.8 * sum(
        lora["weights"].values()
    )  # critic and reward model have no output layer
    assert lora["shared_backbone_saves"] == pytest.approx(3 * 4 * 8.03e9, rel=0.01)


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        (["gpu=8", "-m", "stages.sft"], 2, "unknown option gpu; did you mean gpus?"),
        (["gpus=eight", "-m", "stages.sft"], 2, "gpus: "),
        (["gpus=0", "-m", "stages.sft"], 2, "gpus=0: expected above 0"),
        (["gpus=8"], 2, "no -m stages.<name>"),
        (["-m", "stages.stf"], 2, "-m stages.stf: expected a stage that trains; did you mean sft?"),
        (["-m", "stages.sft", "trainer.batchsize=3"], 2, "did you mean trainer.batch_size?"),
        (["-m", "stages.sft", "model.path=/no/where"], 4, "/no/where: no such model folder"),
        (
            ["gpus=3", "-m", "stages.sft", "trainer.batch_size=64"],
            2,
            "expected a multiple of 3, 3 GPUs; the nearest is 63",
        ),
        (["memory=1", "-m", "stages.sft"], 6, "nothing fits"),
    ],
)
def test_what_is_wrong_gets_one_line(
    typed: list[str], code: int, told: str, llama_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if typed[0] == "memory=1":
        typed = ["memory=0.001", *typed[1:]]
    if "stages.sft" in typed and not any("model.path" in option for option in typed):
        typed = [*typed, f"model.path={llama_folder}"]
    assert plan.main([*typed, *(["data=alpaca", "data.path=x"] if "-m" in typed else [])]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error


def test_a_person_sees_a_table_and_a_command(llama_folder: str) -> None:
    typed = [
        "gpus=2",
        "memory=1",
        "tokens=64",
        "-m",
        "stages.sft",
        f"model.path={llama_folder}",
        "data=alpaca",
        "data.path=x",
    ]
    command = [sys.executable, "-m", "launch.plan", *typed]
    environment = {**ENVIRONMENT, "HOME": "/root"}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    *_, last = ended.stdout.splitlines()
    assert last.startswith("python -m launch.local n=2 -m stages.sft ") and "→ none, 16 × 1" in ended.stdout


def test_each_rank_holds_what_the_plan_says(rows: tuple[Path, RowShape], llama_folder: str, tmp_path: Path) -> None:
    """Two processes under ZeRO-2, their states tensor by tensor."""
    if shutil.which("ninja") is None:
        pytest.skip("DeepSpeed needs ninja on the PATH")
    folder, shape = rows
    asked = options("sft", folder, llama_folder, "deepspeed=zero2")
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "bench.observed"]
    command = [*together, str(tmp_path / "seen"), "stages.sft", *asked, f"outputs={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    fit = Planner("sft", asked, shape, Machine(2, 1e12, device="cpu")).fit("zero2", False, 1)
    for rank in range(2):
        seen = json.loads((tmp_path / f"seen/rank-{rank}.json").read_text())
        for part in ("weights", "gradients", "optimizer"):
            assert getattr(fit.states, part) == pytest.approx(seen[part], rel=0.05), part
        assert fit.micro.activations == pytest.approx(seen["activations"], rel=0.02)
