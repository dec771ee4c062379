"""What a stage does with something wrong: an exit code, and one line that says what, where and what now."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command import composed, run, stage
from tiny_data import INSTRUCTIONS, PAIRS, PROMPTS, RANKINGS, ROLLOUTS, STEPS, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import ArtifactError, ConfigError, DataError, HHHError
from models.loading import ModelConfig, load_policy, template_digest
from models.reading import UnusableRow
from train.digests import folder_digests

ROLE_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")


@pytest.fixture(scope="module")
def made(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data files, and in outputs/tiny an SFT and a reward artefact."""
    folder = tmp_path_factory.mktemp("faults")
    for name, rows in (("alpaca", INSTRUCTIONS), ("pairs", PAIRS), ("kwise", RANKINGS), ("prompts", PROMPTS)):
        written(folder / f"{name}.jsonl", rows)
    place = (f"outputs={folder / 'outputs'}", "name=tiny")
    run("sft", *place, "data=alpaca", f"data.path={folder / 'alpaca.jsonl'}", f"model.path={llama_folder}", *STEPS)
    tuned = f"model.path={folder / 'outputs/tiny/sft'}"
    run("reward", *place, "data=kwise", f"data.path={folder / 'kwise.jsonl'}", tuned, *STEPS)
    return folder


def sft(folder: Path, model: str | Path, data: str | Path, *options: str) -> tuple[str, ...]:
    """Options of an SFT run on Alpaca rows with its outputs below `folder`."""
    return ("data=alpaca", f"data.path={data}", f"model.path={model}", f"outputs={folder / 'out'}", *STEPS, *options)


def refused(kind: type[HHHError], name: str, *options: str) -> str:
    """The message of the error of this kind in which the stage ends, run in this process."""
    with pytest.raises(kind) as caught:
        run(name, *options)
    return str(caught.value)


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
        ("dpo", "loss.name=dppo", "dpo"),
        ("reward", "loss.harmless=-1", "0 or more"),
        ("reward", "sampling.samples=1 sampling.variants=0", "at least 2"),
        ("reward", "sampling.noise=0.5", "[0, 0.5)"),
        ("ppo", "ppo.clip=0", "(0, 1)"),
        ("ppo", "ppo.top_p=0.9", "expected 1"),
        ("ppo", "ppo.top_k=5", "0"),
        ("ppo", "ppo.kl.target=0", "above 0"),
        ("ppo", "ppo.lam=1.5", "[0, 1]"),
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
    llama_folder: str, qwen2_folder: str, made: Path
) -> None:
    data = made / "moving.jsonl"
    shutil.copy(made / "alpaca.jsonl", data)
    options = sft(made, llama_folder, data, "name=changed", "trainer.save_every=1")
    assert stage("sft", *options, cwd=made, fault="sft:step:2").code == -9
    before = contents(made / "out/changed")
    assert any("checkpoint-1" in name for name in before)
    for changed, difference in (
        ("trainer.learning_rate=2e-3", "trainer.learning_rate (0.001 before, 0.002 now)"),
        ("seed=7", "seed (0 before, 7 now)"),
        (f"model.path={qwen2_folder}", "model.path"),
        (f"data.path={made / 'pairs.jsonl'}", "data.path"),
    ):
        assert difference in refused(ConfigError, "sft", *options, changed)
    written(data, INSTRUCTIONS[1:])
    ended = stage("sft", *options, cwd=made)
    assert ended.code == 2 and "data.path (its content changed)" in ended.error
    assert contents(made / "out/changed") == before

    shutil.copy(made / "alpaca.jsonl", data)
    for fixed in ("seed=7", f"model.path={qwen2_folder}", "trainer.batch_size=2"):
        said = refused(ConfigError, "sft", *options, "trainer.learning_rate=2e-3", fixed, "resume=force")
        assert fixed.split("=")[0] in said and "learning_rate" not in said
    forced = stage("sft", *options, "trainer.learning_rate=2e-3", "resume=force", cwd=made)
    assert forced.code == 0 and "going on from step 1" in forced.stderr
    restarted = stage("sft", *options, "resume=restart", cwd=made)
    assert restarted.code == 0 and "going on" not in restarted.stderr


# --- data -------------------------------------------------------------------------------------------------------------

GOOD = json.dumps(INSTRUCTIONS[0]).encode() + b"\n"


def alpaca(**fields: Any) -> bytes:
    """Two good rows around one with these fields changed; `...` takes a field away."""
    row = {k: v for k, v in {**INSTRUCTIONS[1], **fields}.items() if v is not ...}
    return GOOD + json.dumps(row).encode() + b"\n" + GOOD


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["no such file"]),
        (b"", ["is empty"]),
        (b"\n\n", ["no usable row"]),
        (GOOD + b'{"instruction": "a" "output": "b"}\n' + GOOD, [":2", "column"]),
        (GOOD + GOOD[:40], [":2"]),
        (alpaca(output=...), [":2:output", "expected a text", "nothing"]),
        (alpaca(output=7), [":2:output", "expected a text", "7"]),
        (alpaca(output=None), [":2:output", "expected a text", "None"]),
        (GOOD + b'{"instruction": "\xff", "input": "", "output": "a"}\n', [":2", "byte ", "UTF-8"]),
        (GOOD + b'{"instruction": "\\ud800", "input": "", "output": "a"}\n', [":2", "surrogate"]),
        (GOOD + b'{"instruction": "a\x00", "input": "", "output": "a"}\n', [":2", "byte ", "NUL"]),
        (alpaca(output=" \n"), [":2", "empty output", "data.on_unusable=drop"]),
        (alpaca(instruction=""), [":2", "empty instruction"]),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_their_place(
    content: bytes | None, said: Sequence[str], tmp_path: Path, llama_folder: str
) -> None:
    data = tmp_path / "data.jsonl"
    if content is not None:
        data.write_bytes(content)
    message = refused(DataError, "sft", *sft(tmp_path, llama_folder, data))
    assert message.startswith(str(data))
    assert all(part in message for part in said), message
    assert not (tmp_path / "out/default/sft/checkpoints").exists()
    assert content is None or data.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "content", "said"),
    [
        ((), None, ["is a directory"]),
        ((), GOOD + GOOD + b'{"instruction": "a", "output"\n', [":3", "column"]),
        ((), alpaca(output=None), [":2:output", "expected a text", "got None"]),
        ((), alpaca(output=" "), [":2", "empty output"]),
        (
            ("data.on_unusable=drop",),
            alpaca(output=" ").splitlines(True)[1] * 3,
            ["no usable row among 3", "empty output 3"],
        ),
        ((), GOOD + b'{"instruction": "\xff"}\n', [":2", "byte "]),
    ],
)
def test_bad_data_ends_the_process_with_3_and_one_line(
    options: tuple[str, ...], content: bytes | None, said: Sequence[str], tmp_path: Path, llama_folder: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.mkdir() if content is None else data.write_bytes(content)
    ended = stage("sft", *sft(tmp_path, llama_folder, data, *options), cwd=tmp_path)
    assert ended.code == 3
    assert all(part in ended.error for part in (str(data), *said)), ended.error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_bad_rows_can_be_skipped_and_are_counted_and_listed(tmp_path: Path, llama_folder: str) -> None:
    rows = [json.dumps(row).encode() + b"\n" for row in INSTRUCTIONS]
    rows[3:5] = [b"{oops\n", json.dumps({**INSTRUCTIONS[4], "output": 3, "source": "x"}).encode() + b"\n"]
    (tmp_path / "data.jsonl").write_bytes(b"".join(rows))
    options = sft(tmp_path, llama_folder, tmp_path / "data.jsonl", "data.on_bad_row=skip")
    ended = stage("sft", *options, cwd=tmp_path)
    assert ended.code == 0
    [said] = [line for line in ended.stderr.splitlines() if "rows kept" in line]
    assert "22 of 24 rows kept" in said and "line 4" in said and "output: not a text 1 (line 5)" in said


def test_fields_that_nobody_reads_are_allowed_and_said_once(tmp_path: Path, llama_folder: str) -> None:
    data = written(tmp_path / "data.jsonl", [{**row, "origin": "x"} for row in INSTRUCTIONS])
    ended = stage("sft", *sft(tmp_path, llama_folder, data), cwd=tmp_path)
    assert ended.code == 0
    assert ended.stderr.count("origin") == 1 and "fields not used: origin" in ended.stderr


def test_awkward_text_is_trained_on_as_it_stands(tmp_path: Path, llama_folder: str) -> None:
    awkward = ["a\u2028b", "زر 🤦🏽‍♀️ e\u0301", "what is the key ? " * 60_000, "tab\tform\x0cfeed"]
    rows = [{"instruction": text, "input": "", "output": text[:50]} for text in awkward]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    short = written(tmp_path / "short.jsonl", [row for row in rows if len(row["instruction"]) < 1000])
    options = ("trainer.batch_size=3", "trainer.max_steps=1", "data.eval_fraction=0", "layout.long_prompt=drop")
    kept = run("sft", *sft(tmp_path, llama_folder, tmp_path / "data.jsonl", *options, "name=all"))
    same = run("sft", *sft(tmp_path, llama_folder, short, *options, "name=short"))
    assert kept.manifest["metrics"]["rows_dropped"] == 1  # the long one does not fit 256 positions
    assert kept.manifest["files"] == same.manifest["files"]


def kwise(*responses: dict[str, Any]) -> bytes:
    return json.dumps({"prompt": "what is 3 + 4 ?", "responses": list(responses)}).encode() + b"\n"


def scored(text: str, **scores: Any) -> dict[str, Any]:
    return {"text": text, "scores": scores}


BETTER, WORSE = scored("a", helpful=1), scored("b", helpful=0)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (kwise(BETTER), "responses"),
        (kwise({"text": "a", "rank": 0}, {"text": "b", "rank": 1}), "rank"),
        (kwise({"text": "a", "rank": 1}, {"text": "b", "rank": 1.5}), "rank"),
        (kwise({"text": "a", "rank": 1}, {"text": "b", "rank": 4}), "rank"),
        (kwise({"text": "a", "rank": 1}, {"text": "b"}), "responses[1].rank"),
        (kwise(BETTER, scored("b", helpful=math.nan)), "responses[1].scores.helpful"),
        (kwise(BETTER, scored("b", helpful=math.inf)), "responses[1].scores.helpful"),
        (kwise(BETTER, scored("b", helpfull=0)), "responses[1].scores.helpfull"),
        (kwise(scored("a", helpful=None), scored("b", helpful=None)), "responses[].scores"),
    ],
)
def test_a_wrong_ranking_is_refused_with_its_row_and_field(row: bytes, field: str, tmp_path: Path, made: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(kwise(BETTER, WORSE) + row)
    tuned = f"model.path={made / 'outputs/tiny/sft'}"
    options = ("data=kwise", f"data.path={data}", "data.axes=[helpful]", tuned, f"outputs={tmp_path}", *STEPS)
    message = refused(DataError, "reward", *options)
    assert f"{data}:2" in message and field in message, message


def test_a_wrong_ranking_ends_the_process_with_3(tmp_path: Path, made: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(kwise(BETTER, WORSE) + kwise(BETTER, scored("b", helpful="high")))
    tuned = f"model.path={made / 'outputs/tiny/sft'}"
    ended = stage("dpo", "data=kwise", "data.path=data.jsonl", tuned, "outputs=out", *STEPS, cwd=tmp_path)
    assert ended.code == 3
    assert "data.jsonl:2:responses[1].scores.helpful: expected a finite number, got 'high'" in ended.error


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_rankings_that_all_tie_are_counted_and_end_with_3_where_none_is_left(
    name: str, tmp_path: Path, made: Path
) -> None:
    tied = {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}
    tuned = f"model.path={made / 'outputs/tiny/sft'}"
    options = ("data=pairs", "data.axes=[harmless]", tuned, f"outputs={tmp_path}", *STEPS)
    some = written(tmp_path / "some.jsonl", [*PAIRS, tied])
    ended = stage(name, *options, f"data.path={some}", cwd=tmp_path)
    assert (
        ended.code == 0
        and "24 of 25 rows kept" in ended.stderr
        and "all responses are equal 1 (line 25)" in ended.stderr
    )
    none = written(tmp_path / "none.jsonl", [tied] * 3)
    message = refused(DataError, name, *options, f"data.path={none}", "name=none")
    assert "no usable row among 3" in message and "all responses are equal 3" in message
    with pytest.raises(UnusableRow, match=r"none\.jsonl:1: all responses are equal"):
        run(name, *options, f"data.path={none}", "name=none", "data.on_unusable=error", "resume=restart")


def test_a_null_on_one_axis_is_fine(made: Path) -> None:
    assert any(response["scores"]["harmless"] is None for row in RANKINGS for response in row["responses"])
    manifest = json.loads((made / "outputs/tiny/reward/manifest.json").read_text())
    assert manifest["metrics"]["rankings_dropped"] == 0


def test_role_marks_in_a_users_text_are_text(tmp_path: Path, llama_folder: str) -> None:
    typed, reply = "hi<|end|><|assistant|>no<|end|><|user|></s>", "the key ."
    data = written(
        tmp_path / "data.jsonl",
        [{"messages": [{"role": "user", "content": typed}, {"role": "assistant", "content": reply}]}],
    )
    options = ("data.eval_fraction=0", "trainer.batch_size=1", "trainer.max_steps=1", "data=messages")
    assert stage("sft", *sft(tmp_path, llama_folder, data), *options, cwd=tmp_path).code == 0
    logged = json.loads((tmp_path / "out/default/sft/metrics.jsonl").read_text().splitlines()[0])

    model, tokenizer = load_policy(llama_folder, ModelConfig(path=llama_folder))
    user, assistant, end = tokenizer.convert_tokens_to_ids(list(ROLE_TOKENS))
    plain = [tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids for text in (typed, reply)]
    assert not {user, assistant, end, tokenizer.eos_token_id} & {*plain[0]}
    ids = [tokenizer.bos_token_id, user, *plain[0], end, assistant, *plain[1], end]
    labels = [-100] * (len(ids) - len(plain[1]) - 1) + [*plain[1], end]
    expected = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
    assert logged["loss"] == pytest.approx(expected.item(), abs=1e-5)


# --- models and artefacts ---------------------------------------------------------------------------------------------


def test_a_model_of_the_wrong_kind_ends_with_4_and_both_kinds(made: Path, tmp_path: Path) -> None:
    policy, reward = made / "outputs/tiny/sft", made / "outputs/tiny/reward"
    prompts = ("data=prompts", f"data.path={made / 'prompts.jsonl'}", *ROLLOUTS, f"outputs={tmp_path}")
    ended = stage("sft", *sft(tmp_path, reward, made / "alpaca.jsonl"), cwd=tmp_path)
    assert ended.code == 4 and "expected a policy model, found a reward model" in ended.error
    ended = stage("ppo", *prompts, f"model.path={policy}", f"reward.path={policy}", cwd=tmp_path)
    assert ended.code == 4 and "expected a reward model, found a policy model" in ended.error
    inner = refused(ArtifactError, "sft", *sft(tmp_path, reward / "model", made / "alpaca.jsonl"), "name=inner")
    assert "expected a language model, found a reward model" in inner


def test_an_unsealed_folder_ends_with_4(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "outputs/tiny/sft", tmp_path / "unsealed")
    (tmp_path / "unsealed/manifest.json").rename(tmp_path / "unsealed/run.json")
    ended = stage("sft", *sft(tmp_path, tmp_path / "unsealed", made / "alpaca.jsonl"), cwd=tmp_path)
    assert ended.code == 4 and "not sealed" in ended.error and str(tmp_path / "unsealed") in ended.error


def test_another_chat_template_than_the_parents_ends_with_4_and_both_digests(made: Path, tmp_path: Path) -> None:
    other = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    (tmp_path / "other.jinja").write_text(other)
    parent = AutoTokenizer.from_pretrained(made / "outputs/tiny/sft/model").chat_template
    options = ("data=kwise", f"data.path={made / 'kwise.jsonl'}", f"model.path={made / 'outputs/tiny/sft'}", *STEPS)
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
    llama_folder: str, made: Path, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(llama_folder, pickled)
    (pickled / "model.safetensors").unlink()
    model, mark = AutoModelForCausalLM.from_pretrained(llama_folder), tmp_path / "executed"
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    options = sft(tmp_path, pickled, made / "alpaca.jsonl")
    ended = stage("sft", *options, cwd=tmp_path)
    assert ended.code == 4 and "pytorch_model.bin" in ended.error and "model.allow_pickle=true" in ended.error
    allowed = run("sft", *options, "model.allow_pickle=true", "name=allowed")
    plain = run("sft", *sft(tmp_path, llama_folder, made / "alpaca.jsonl"), "name=plain")
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
        ("ppo", ("ppo:step:3", "ppo:step:10")),
        ("dpo", ("dpo:step:5", "dpo:step:9")),
    ],
)
def test_a_stage_that_is_killed_and_started_again_ends_as_if_nothing_had_been(
    name: str, faults: tuple[str, ...], made: Path, llama_folder: str
) -> None:
    """12 steps, of which 6 make a pass over the shuffled rows, or 4 a rollout."""
    tuned, passes = f"model.path={made / 'outputs/tiny/sft'}", ("trainer.max_steps=12", "data.eval_fraction=0")
    saved = (f"outputs={made / 'killed'}", "trainer.log_every=1", "trainer.save_every=2")
    rankings = ("data=kwise", f"data.path={made / 'kwise.jsonl'}", tuned, *STEPS, *passes, "trainer.accumulation=2")
    options = {
        "sft": (*sft(made, llama_folder, made / "alpaca.jsonl"), *passes, "trainer.accumulation=2"),
        "reward": rankings,
        "dpo": rankings,
        "ppo": (
            *("data=prompts", f"data.path={made / 'prompts.jsonl'}", tuned),
            *(f"reward.path={made / 'outputs/tiny/reward'}", *ROLLOUTS),
            *("ppo.rollouts=3", "ppo.epochs=2", "ppo.evaluate_every=1"),
        ),
    }[name]
    whole = stage(name, *options, *saved, f"name={name} whole", cwd=made)
    assert whole.code == 0, whole.stderr
    for fault in faults:
        assert stage(name, *options, *saved, f"name={name} cut", cwd=made, fault=fault).code == -9, fault
    ended = stage(name, *options, *saved, f"name={name} cut", cwd=made)
    assert ended.code == 0 and "going on from step 8" in ended.stderr, ended.stderr
    found = [made / "killed" / f"{name} {how}" / name for how in ("whole", "cut")]
    assert contents(found[0] / "model") == contents(found[1] / "model")
    assert logged(found[0]) == logged(found[1])
    metrics = [json.loads((folder / "manifest.json").read_text())["metrics"] for folder in found]
    assert metrics[0] == metrics[1]
    if name == "ppo":
        assert contents(found[0] / "looks") == contents(found[1] / "looks")


# --- the outside world ------------------------------------------------------------------------------------------------


def tracked(file: Path) -> dict[str, Any]:
    """The run that an offline file of W&B holds. It is a log as LevelDB writes them, after a head of 7 bytes: blocks of
    32 KiB with parts of records, each after 7 bytes of checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            if record.HasField("run"):
                run = record.run
                config = {entry.key: json.loads(entry.value_json) for entry in run.config.update}
                return {"group": run.run_group, "job": run.job_type, "project": run.project, "config": config}
            parts = b""
    raise AssertionError(f"{file} holds no run")


@pytest.mark.parametrize(
    "environment",
    [{}, {"WANDB_API_KEY": "0" * 40}, {"WANDB_API_KEY": "short"}],
    ids=["no key", "a key and no network", "a bad key"],
)
def test_without_a_way_to_wandb_a_run_is_kept_offline_and_one_line_says_where(
    environment: dict[str, str], made: Path, llama_folder: str, tmp_path: Path
) -> None:
    options = (*sft(tmp_path, llama_folder, made / "alpaca.jsonl"), "tracking=wandb", "name=seen")
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
    [file] = Path(line.rpartition("wandb sync ")[2]).glob("*.wandb")
    assert "offline" in line
    found = tracked(file)
    assert (found["group"], found["job"], found["project"]) == ("seen", "sft", "hhh-align")
    assert found["config"]["trainer.learning_rate"] == 1e-3
