"""Every stage on model folders as people have them, with tokenizers and templates of their own, and on real data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command import run, stage
from real_data import FOLDER, real
from tiny_data import INSTRUCTIONS, PAIRS, PROMPTS, RANKINGS, ROLLOUTS, STEPS, written
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from train.artifact import read_artifact

STORIES = FOLDER.parent / "models/stories260k"


def chain(folder: Path, model: str, data: dict[str, tuple[str, ...]]) -> dict[str, Path]:
    """sft → reward → ppo and dpo, two steps each; the folder of each stage. data: the options of each stage."""
    place = (f"outputs={folder}", "name=chain")
    tuned, scorer = f"model.path={folder / 'chain/sft'}", f"reward.path={folder / 'chain/reward'}"
    made = {
        "sft": run("sft", *place, f"model.path={model}", *STEPS, *data["sft"]),
        "reward": run("reward", *place, tuned, *STEPS, *data["reward"]),
        "ppo": run("ppo", *place, tuned, scorer, *ROLLOUTS, *data["ppo"], "rl.evaluation_prompts=0"),
        "dpo": run("dpo", *place, tuned, *STEPS, *data["dpo"]),
    }
    return {name: artifact.folder for name, artifact in made.items()}


def check(made: dict[str, Path], start: str, n_steps: int = 2) -> None:
    """Sealed, loadable by plain transformers, of finite losses, and each stage's weights other than its parent's."""
    assert [read_artifact(folder).manifest["kind"] for folder in made.values()] == [
        "policy",
        "reward",
        "policy",
        "policy",
    ]
    for name, folder in made.items():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == n_steps and all(map(math.isfinite, losses)), (name, losses)
        kind = AutoModelForSequenceClassification if name == "reward" else AutoModelForCausalLM
        model, tokenizer = kind.from_pretrained(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")
        assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
        parent = AutoModelForCausalLM.from_pretrained(start if name == "sft" else made["sft"] / "model")
        ours, theirs = (m.get_input_embeddings().weight for m in (model, parent))
        assert not ours[: len(theirs)].equal(theirs[: len(ours)]), name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("files")
    of = {
        "sft": ("alpaca", INSTRUCTIONS),
        "reward": ("kwise", RANKINGS),
        "ppo": ("prompts", PROMPTS),
        "dpo": ("pairs", PAIRS),
    }
    options = {
        name: (f"data={data}", f"data.path={written(folder / f'{name}.jsonl', rows)}")
        for name, (data, rows) in of.items()
    }
    return {**options, "dpo": (*options["dpo"], "data.axes=[helpful]")}


@pytest.fixture(scope="module")
def made(
    any_folder: str, files: dict[str, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return chain(tmp_path_factory.mktemp("chain"), any_folder, files)


def test_llama_gpt2_and_qwen2_folders_go_through_every_stage(made: dict[str, Path], any_folder: str) -> None:
    check(made, any_folder)


def test_a_chat_template_is_kept_byte_for_byte_through_every_stage(made: dict[str, Path], any_folder: str) -> None:
    before = AutoTokenizer.from_pretrained(any_folder).chat_template
    after = {name: AutoTokenizer.from_pretrained(folder / "model").chat_template for name, folder in made.items()}
    assert len(set(after.values())) == 1 and after["sft"]
    assert before is None or after["sft"] == before
    digests = {read_artifact(folder, verify=False).manifest["template_digest"] for folder in made.values()}
    assert len(digests) == 1


def test_a_tuned_models_own_generate_knows_where_a_turn_ends(made: dict[str, Path], any_folder: str) -> None:
    for name in ("sft", "ppo", "dpo"):
        model = AutoModelForCausalLM.from_pretrained(made[name] / "model")
        tokenizer = AutoTokenizer.from_pretrained(made[name] / "model")
        turn_end = "<|im_end|>" if "qwen2" in any_folder else "<|end|>"
        assert tokenizer.convert_tokens_to_ids(turn_end) in model.generation_config.eos_token_id


def test_chat_answers_every_line_of_its_input(made: dict[str, Path], tmp_path: Path) -> None:
    typed = "what is the capital of peru ?\n\n/new\nplease\n"
    options = (f"model.path={made['dpo']}", "max_new_tokens=4", "system=i do not know")
    ended = stage("chat", *options, cwd=tmp_path, stdin=typed)
    assert ended.code == 0 and ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 2


def limited(data: str, name: str, *options: str) -> tuple[str, ...]:
    return (f"data={data}", f"data.path={real(name)}", "data.limit=40", *options)


@pytest.mark.parametrize(
    ("form", "name", "records"),
    [
        ("alpaca", "alpaca_en_demo.json", 999),
        ("alpaca", "alpaca_zh_demo.json", 1000),
        ("alpaca", "identity.json", 91),
        ("self_instruct", "self_instruct_seed_tasks.jsonl", 175),
    ],
)
def test_every_real_instruction_file_is_trained_on_and_every_row_accounted_for(
    form: str, name: str, records: int, tmp_path: Path, llama_folder: str
) -> None:
    options = (f"data={form}", f"data.path={real(name)}", f"model.path={llama_folder}", f"outputs={tmp_path}", *STEPS)
    made = run("sft", *options, "data.eval_fraction=0.0").manifest
    [reading] = made["facts"]["data"]
    assert reading["records"] == records == made["metrics"]["rows"] + made["metrics"]["rows_dropped"]
    assert reading["rows"] == reading["kept"] + sum(listed["rows"] for listed in reading["dropped"].values())


@pytest.mark.parametrize(
    ("form", "name", "rows", "axes"),
    [
        ("oasst", "kwise_oasst.jsonl", 102, {"helpful"}),
        ("xstest", "kwise_xstest.jsonl", 220, {"helpful", "harmless"}),
        ("gsm8k", "kwise_gsm8k.jsonl", 653, {"helpful", "honest"}),
        ("truthful", "kwise_instructgpt_truthful.jsonl", 51, {"helpful", "honest"}),
        ("hh", "hh_harmless_pairs.jsonl", 1186, {"harmless"}),
        ("sharegpt_pairs", "dpo_en_demo.json", 300, {"helpful"}),
        ("llmbar", "llmbar_natural.json", 100, {"helpful"}),
        ("stack_exchange", "stack_exchange_paired_tiny.json", 25, {"helpful"}),
    ],
)
def test_every_real_file_of_rankings_is_trained_on_and_every_row_accounted_for(
    form: str, name: str, rows: int, axes: set[str], tmp_path: Path, llama_folder: str
) -> None:
    options = (f"data={form}", f"data.path={real(name)}", f"model.path={llama_folder}", f"outputs={tmp_path}", *STEPS)
    held_out = f"data.eval_fraction={min(0.4, 12 / rows)}"
    made = run("reward", *options, "layout.max_length=64", "trainer.batch_size=2", held_out)
    [reading], metrics = made.manifest["facts"]["data"], made.manifest["metrics"]
    assert reading["rows"] == rows == reading["kept"] + sum(listed["rows"] for listed in reading["dropped"].values())
    held = sum(1 for _ in (made.folder / "held_out.jsonl").open())
    used = metrics["rankings"] + metrics["rankings_dropped"] + metrics["rankings_cut_alike"]
    assert reading["kept"] == used + held
    assert set(metrics["held_out"]) == axes and set(metrics["hacks"]) <= axes
    assert all(0 <= found["accuracy"]["mean"] <= 1 for found in metrics["held_out"].values())


def test_a_real_pretrained_llama_goes_through_every_stage_on_real_data(tmp_path: Path) -> None:
    if not (STORIES / "model.safetensors").is_file():
        pytest.skip(f"no model in {STORIES}; set HHH_REAL_DATA to the folder of data beside models/")
    pairs = limited("hh", "hh_harmless_pairs.jsonl")
    prompts = limited("prompts", "hh_harmless_pairs.jsonl", "rl.rollouts=2", "trainer.batch_size=4")
    data: dict[str, Any] = {
        "sft": limited("alpaca", "alpaca_en_demo.json"),
        "reward": pairs,
        "ppo": prompts,
        "dpo": pairs,
    }
    made = chain(tmp_path, str(STORIES), data)
    check(made, str(STORIES))
    held = read_artifact(made["reward"]).manifest["metrics"]["held_out"]
    assert set(held) == {"harmless"}  # hh's harmless-base speaks of this axis alone
    ended = stage("chat", f"model.path={made['ppo']}", "max_new_tokens=5", cwd=tmp_path, stdin="Once upon a time\n")
    assert ended.code == 0 and len(ended.stdout.splitlines()) == 1
