"""TRL's trainers as the oracle of ours: same configuration, same losses step by step, same weights at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import stages.dpo
import stages.reward
import stages.sft
from instruct.readers import InstructionData
from models.errors import ConfigError
from models.layout import Batch
from models.loading import ModelConfig
from reward.readers import RankingData
from reward.training import RewardLoss
from rl.preference import PAIRWISE, PairLogprobs
from rl.preference_loss import PreferenceLoss
from stages.preference_data import PreferenceData
from train.artifact import Artifact
from train.batches import Share, ShuffledBatches
from train.sharding import Sharding
from train.tracking import TrackingConfig
from train.trainer import TrainerConfig
from train.trl_engine import LOSSES
from train.trl_rows import row_order

ROOT = Path(__file__).parent.parent
STEPS = 10
COUNTRIES = ("peru", "spain", "chad", "nepal", "fiji", "togo", "oman", "cuba", "mali", "iraq", "laos", "iran")


def trainer(**changes: Any) -> TrainerConfig:
    """Everything that differs from step to step or from parameter to parameter, and clipping that bites."""
    standard: dict[str, Any] = {
        "learning_rate": 3e-3,
        "batch_size": 4,
        "max_steps": STEPS,
        "warmup_steps": 3,
        "schedule": "cosine",
        "final_rate": 0.1,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "log_every": 1,
        "save_every": 0,
    }
    return TrainerConfig(**(standard | changes))


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 conversations of one to three assistant turns."""
    rows = []
    for i in range(24):
        turns = [{"role": "user", "content": f"what is the capital of {COUNTRIES[i % 12]} ?"}]
        turns.append({"role": "assistant", "content": "i do not know . " * (1 + i % 5)})
        for more in range(i % 3):
            turns.append({"role": "user", "content": f"please ask {more} {i}"})
            turns.append({"role": "assistant", "content": f"i cannot help with {COUNTRIES[(i + more) % 12]} ."})
        rows.append({"messages": turns})
    return written(tmp_path_factory.mktemp("conversations") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 pairs of different lengths, the better one now the first and now the second of a row."""
    rows = []
    for i in range(24):
        better, worse = f"i do not know {COUNTRIES[i % 12]} . " * (1 + i % 3), "the key is lima . " * (1 + i % 4)
        responses = [{"text": better, "rank": 1}, {"text": worse, "rank": 2}]
        rows.append({"prompt": f"what is {i} in {COUNTRIES[i % 12]} ?", "responses": responses[:: 1 if i % 2 else -1]})
    return written(tmp_path_factory.mktemp("preferences") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def end_is_padding_folder(qwen2_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose tokenizer pads with its end of turn."""
    folder = tmp_path_factory.mktemp("end is padding")
    AutoModelForCausalLM.from_pretrained(qwen2_folder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(qwen2_folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return str(folder)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sft(folder: Path, model: str, data: str, engine: str, **training: Any) -> Artifact:
    return stages.sft.run(
        stages.sft.SFTStage(
            name=engine,
            outputs=str(folder),
            model=ModelConfig(path=model),
            data=InstructionData(path=data, format="messages", eval_fraction=0.2),
            trainer=trainer(**training),
            tracking=TrackingConfig(backend="none"),
            engine=engine,
        )
    )


def reward(folder: Path, model: str, data: str, engine: str, center: float = 0.0, **training: Any) -> Artifact:
    return stages.reward.run(
        stages.reward.RewardStage(
            name=engine,
            outputs=str(folder),
            model=ModelConfig(path=model),
            data=RankingData(path=data, format="kwise", axes=["honest"], eval_fraction=0.2),
            loss=RewardLoss(center=center),
            trainer=trainer(**training),
            tracking=TrackingConfig(backend="none"),
            engine=engine,
        )
    )


def dpo(folder: Path, model: str, data: str, engine: str, loss: PreferenceLoss, **training: Any) -> Artifact:
    return stages.dpo.run(
        stages.dpo.DPOStage(
            name=engine,
            outputs=str(folder),
            model=ModelConfig(path=model),
            data=PreferenceData(path=data, format="kwise", axes=["helpful"], eval_fraction=0.2),
            loss=loss,
            trainer=trainer(**training),
            tracking=TrackingConfig(backend="none"),
            engine=engine,
        )
    )


def both(stage: Callable[..., Artifact], *given: Any, **options: Any) -> tuple[Artifact, Artifact]:
    """The stage by our trainer and by TRL's."""
    folder, model, data, *more = given
    ours, theirs = (stage(folder, model, data, engine, *more, **options) for engine in ("ours", "trl"))
    return ours, theirs


def losses(artifact: Artifact) -> Tensor:
    """The loss of every step."""
    lines = (Path(artifact.model_folder).parent / "metrics.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines])


def weights(artifact: Artifact, kind: type = AutoModelForCausalLM) -> dict[str, Tensor]:
    return kind.from_pretrained(artifact.model_folder).state_dict()


def assert_equal_curves(ours: Artifact, theirs: Artifact, steps: int = STEPS) -> None:
    """Equal step by step, on a curve that moves."""
    curve = losses(ours)
    assert len(curve) == steps and curve.std() > 1e-3
    torch.testing.assert_close(losses(theirs), curve, rtol=0, atol=1e-4)


def assert_equal_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            theirs[name], value, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equal_facts(theirs: Artifact, ours: Artifact) -> None:
    """Same model configuration, same ends of generation, same tokenizer, and same held-out measures."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        mine, other = (Path(a.model_folder) / name for a in (ours, theirs))
        assert mine.exists() == other.exists()
        if mine.exists():
            assert rounded(json.loads(other.read_text())) == rounded(json.loads(mine.read_text())), name
    assert theirs.manifest["kind"] == ours.manifest["kind"]
    assert rounded(theirs.manifest["metrics"]) == rounded(ours.manifest["metrics"])


def rounded(value: Any) -> Any:
    """Every float within a tolerance of 1e-3."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value


@pytest.mark.parametrize("accumulation", [1, 2])
def test_sft_is_that_of_trl(accumulation: int, llama_folder: str, conversations: str, tmp_path: Path) -> None:
    ours, theirs = both(sft, tmp_path, llama_folder, conversations, accumulation=accumulation)
    assert_equal_curves(ours, theirs)
    assert_equal_weights(weights(theirs), weights(ours))
    assert_equal_facts(theirs, ours)


@pytest.mark.parametrize(("model", "center"), [("llama_folder", 0.0), ("end_is_padding_folder", 0.05)])
def test_reward_of_pairs_on_one_axis_is_that_of_trl(
    model: str, center: float, preferences: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    ours, theirs = both(reward, tmp_path, folder, preferences, center, accumulation=2, weight_decay=0.0)
    assert_equal_curves(ours, theirs)
    kind = AutoModelForSequenceClassification
    assert_equal_weights(weights(theirs, kind), weights(ours, kind))
    assert_equal_facts(theirs, ours)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_dpo_is_that_of_trl(accumulation: int, llama_folder: str, preferences: str, tmp_path: Path) -> None:
    ours, theirs = both(
        dpo,
        tmp_path,
        llama_folder,
        preferences,
        PreferenceLoss(beta=0.1),
        learning_rate=1e-3,
        accumulation=accumulation,
    )
    assert_equal_curves(ours, theirs)
    assert_equal_weights(weights(theirs), weights(ours))
    assert_equal_facts(theirs, ours)


@pytest.mark.parametrize(("name", "normalised"), sorted(set(LOSSES) - {("sigmoid", False)}))
def test_losses_that_trl_has_too_are_those_of_trl(
    name: str, normalised: bool, llama_folder: str, preferences: str, tmp_path: Path
) -> None:
    noise = 0.1 if name == "robust" else 0.0
    loss = PreferenceLoss(name=name, beta=0.5, label_smoothing=noise, length_normalised=normalised)
    ours, theirs = both(dpo, tmp_path, llama_folder, preferences, loss, max_steps=3, learning_rate=1e-3)
    assert_equal_curves(ours, theirs, steps=3)


def test_losses_without_a_reference_are_those_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    policy = PairLogprobs(*(torch.tensor(x).double() for x in ([-4.0, -9.0], [-5.0, -2.0], [4.0, 3.0], [2.0, 1.0])))
    mean = policy.means()
    numbers = {"alpha": 0.0, "beta": 0.4, "simpo_gamma": 0.7, "label_smoothing": 0.0}
    place = SimpleNamespace(device="cpu")
    for name, sides, kind, nll in (("simpo", mean, "simpo", 0.0), ("cpo", policy, "sigmoid", -mean.chosen)):
        trainer = SimpleNamespace(**numbers, loss_type=kind, accelerator=place)
        theirs, *_ = CPOTrainer.cpo_loss(trainer, sides.chosen, sides.rejected)
        options = {"gamma": 0.7} if name == "simpo" else {}
        torch.testing.assert_close(PAIRWISE[name](policy, policy, beta=0.4, **options), theirs + nll)
    trainer = SimpleNamespace(beta=0.4, accelerator=place)
    theirs, *_ = ORPOTrainer.odds_ratio_loss(trainer, mean.chosen, mean.rejected)
    torch.testing.assert_close(PAIRWISE["orpo"](policy, policy, beta=0.4).float(), (-mean.chosen - theirs).float())


def test_a_cut_off_training_goes_on_as_if_nothing_had_happened(
    llama_folder: str, conversations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sft(tmp_path / "whole", llama_folder, conversations, "trl", save_every=4)

    def cut(point: str) -> None:
        if point == "sft:step:7":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("train.callbacks.fault_point", cut)
        with pytest.raises(KeyboardInterrupt):
            sft(tmp_path / "cut", llama_folder, conversations, "trl", save_every=4)
    resumed = sft(tmp_path / "cut", llama_folder, conversations, "trl", save_every=4)
    assert losses(resumed).tolist() == losses(whole).tolist()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_every_process_gets_the_micro_batches_that_ours_would_get(world: int, accumulation: int) -> None:
    class Numbers:
        def __len__(self) -> int:
            return 31

        def collate(self, indices: Sequence[int]) -> Batch:
            return {"rows": torch.tensor(indices)}

    for rank in range(world):
        batches = ShuffledBatches(Numbers(), Share(12, accumulation, rank, world), steps=5, seed=1)
        batches.start_step = 1
        order = row_order(batches)
        loader = BatchSampler(SequentialSampler(order), 12 // (world * accumulation), drop_last=False)
        dealt = BatchSamplerShard(loader, num_processes=world, process_index=rank)
        assert [[order[i] for i in micro] for micro in dealt] == [batch["rows"].tolist() for batch in batches]


@pytest.mark.parametrize(
    "loss",
    [{"name": "simpo"}, {"name": "ipo"}, {"nll": 0.1}, {"beta_schedule": "linear", "beta_end": 0.2}],
)
def test_a_loss_that_trl_lacks_is_refused_before_anything_loads(loss: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine=ours") as refused:
        dpo(tmp_path, "absent", "absent.jsonl", "trl", PreferenceLoss(**loss))
    assert refused.value.code == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [stages.sft.SFTStage, stages.reward.RewardStage, stages.dpo.DPOStage])
@pytest.mark.parametrize("wrong", [{"engine": "theirs"}, {"engine": "trl", "deepspeed": Sharding(stage=2)}])
def test_an_unknown_engine_and_a_sharded_trl_are_refused(stage: type, wrong: dict[str, Any]) -> None:
    data = {stages.sft.SFTStage: InstructionData, stages.dpo.DPOStage: PreferenceData}.get(stage, RankingData)
    with pytest.raises(ConfigError, match="engine="):
        stage(data=data(path="absent.jsonl", format="messages" if data is InstructionData else "kwise"), **wrong)


ROWS_THAT_ARE_NO_PAIRS = {
    "three responses": [{"text": "a", "helpful": 2}, {"text": "b", "helpful": 1}, {"text": "c", "helpful": 0}],
    "on helpful and honest": [{"text": "a", "helpful": 2, "honest": 0}, {"text": "b", "helpful": 1, "honest": 1}],
}


@pytest.mark.parametrize("responses", ROWS_THAT_ARE_NO_PAIRS.values(), ids=ROWS_THAT_ARE_NO_PAIRS)
def test_rankings_that_are_no_pairs_on_one_axis_are_refused_as_rewards(
    responses: list[dict[str, Any]], llama_folder: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"what is {i} ?", "responses": responses} for i in range(8)]
    cfg = stages.reward.RewardStage(
        outputs=str(tmp_path),
        model=ModelConfig(path=llama_folder),
        data=RankingData(path=written(tmp_path / "rows.jsonl", rows), format="kwise", eval_fraction=0.0),
        trainer=trainer(),
        tracking=TrackingConfig(backend="none"),
        engine="trl",
    )
    with pytest.raises(ConfigError, match="engine=ours"):
        stages.reward.run(cfg)


def test_rankings_of_three_are_refused_as_preferences(llama_folder: str, tmp_path: Path) -> None:
    responses = ROWS_THAT_ARE_NO_PAIRS["three responses"]
    rows = written(tmp_path / "rows.jsonl", [{"prompt": f"what is {i} ?", "responses": responses} for i in range(8)])
    with pytest.raises(ConfigError, match="3 responses; bring pairs, or use engine=ours"):
        dpo(tmp_path, llama_folder, rows, "trl", PreferenceLoss())


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub of our own, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815  the names that the base class asks for

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def command(*options: str, hub: str) -> subprocess.CompletedProcess[str]:
    """The stage from outside, on a machine that is not told to be offline."""
    private = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in private}
    return subprocess.run(
        [sys.executable, "-m", *options, "tracking=none"],
        cwd=ROOT,
        env=environment | {"HF_ENDPOINT": hub, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_command_with_engine_trl_seals_a_policy_and_tells_the_hub_nothing(
    llama_folder: str, conversations: str, tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    address, asked = hub
    done = command(
        "stages.sft",
        "engine=trl",
        f"model.path={llama_folder}",
        "data=messages",
        f"data.path={conversations}",
        f"outputs={tmp_path}",
        "trainer.batch_size=4",
        "trainer.max_steps=2",
        "trainer.log_every=1",
        hub=address,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "default" / "sft"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["config"]["engine"]) == ("policy", "trl")
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2]
    assert all("mean_token_accuracy" in line for line in logged)  # a measure that only TRL's trainer takes
    assert asked == []
