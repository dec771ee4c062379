"""Claims about the benchmarks: that they run, refuse to time what does not agree, and compute their ratios right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import ROOT, run
from tiny_data import STEPS

from bench import decode, methods, preference
from bench.harness import Contestant, Failed, Outcome, Work, agreement, peak_memory, results
from bench.pages import put

CURVE = [2.0, 1.5, 1.0]


def contestant(name: str, role: str, seconds: list[float], memory: float, losses: list[float] = CURVE) -> Contestant:
    """One that has run."""
    made = Contestant(name, "fp32", role, "", lambda folder: [], lambda folder: Outcome(0.0, [], []))
    made.runs.extend((Outcome(s, losses, [1.0, 1.0, 1.0]), memory) for s in seconds)
    return made


def test_ratios_are_of_medians_to_the_default_and_to_the_fastest_setting() -> None:
    sides = [
        contestant("ours", "ours", [2.0, 1.0, 9.0], 500.0),
        contestant("default", "default", [8.0, 7.0, 9.0], 1000.0),
        contestant("packed", "setting", [5.0, 6.0, 4.0], 2000.0),
    ]
    found = results(sides, Work(samples=4, targets=100, flops=2e9), {"fp32": 4.0})
    assert found["ratio_to_default"] == 4.0 and found["ratio_to_best"] == 2.5
    ratios = found["by_precision"]["fp32"]
    assert (ratios["best"], ratios["memory_to_default"], ratios["memory_to_best"]) == ("packed", 0.5, 0.25)
    ours = found["rows"][0]
    assert (ours["samples_per_second"], ours["target_tokens_per_second"]) == (2.0, 50.0)
    assert ours["share_of_matrix_peak"] == 0.25
    assert [repetition["seconds"] for repetition in ours["repetitions"]] == [2.0, 1.0, 9.0]


def test_contestants_that_learn_something_else_are_not_timed() -> None:
    sides = [contestant("ours", "ours", [1.0], 1.0), contestant("other", "default", [1.0], 1.0, [2.0, 1.5, 1.001])]
    with pytest.raises(SystemExit, match="fp32 other: losses differ by"):
        agreement(sides)


def test_peak_memory_is_that_of_the_process_alone() -> None:
    measure = "peak_memory([sys.executable, '-c', f'bytearray({n} << 20)'], 1)"
    code = f"import sys; from bench.harness import peak_memory; print([{measure} for n in (1, 101)])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    small, large = json.loads(told)
    assert small < 50 and 90 < large - small < 110


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(Failed, match="no way") as caught:
        peak_memory([sys.executable, "-c", "import sys; sys.exit('no way')"], threads=1)
    assert caught.value.returncode == 1


@pytest.mark.parametrize("subject", ["sft", "reward", "dpo"])
def test_both_sides_train_alike(subject: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"bench.{subject}", "--quick", "--threads", "1", "--outputs", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "| ours, fp32 |" in ended.stdout, ended.stderr
    found = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [row["role"] for row in found["rows"]] == ["ours", "default"]
    assert found["agreement"]["fp32 TRL, default"]["loss"] < 1e-4
    assert found["ratio_to_default"] > 0


def test_decoding_gives_the_responses_of_generate(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.decode", "--quick", "--outputs", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "| 8 | uneven |" in ended.stdout, ended.stderr
    equal, uneven, grouped = json.loads((tmp_path / "decode.json").read_text())["rows"]
    assert equal["tokens"] == grouped["tokens"] == 8 * 8 and uneven["responses"] == 16 and equal["ratio"] > 0
    assert decode.until([4, 7, 5, 7], [7, 5]) == [4, 7] and decode.until([4, 4], [7]) == [4, 4]


def test_methods_fills_a_row_of_the_table(
    llama_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = (f"outputs={tmp_path}", "name=tiny", "data=world", "data.limit=20", f"model.path={llama_folder}")
    base = run("sft", *place, *STEPS).folder
    methods.main(base, ["lora"], quick=True, per_family=1, threads=1, outputs=tmp_path)
    [row] = json.loads((tmp_path / "methods.json").read_text())["rows"]
    assert 0 < row["trained"] < 1 and row["artefact_mb"] > 0 and row["target_tokens_per_second"] > 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| lora | 2e-3 |")


def test_the_table_of_preferences_has_paired_gains_and_stands_between_its_marks(tmp_path: Path) -> None:
    before = torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]])
    runs = [before, torch.tensor([[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]])]
    found = preference.row("listwise", 4.0, runs, before)
    assert found["gold"] == pytest.approx([0.75, 5.5 / 6]) and found["gain"]["mean"] == pytest.approx(0.5 / 6)
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table -->\nold\n<!-- end of table -->\nbelow\n")
    put(preference.table([found], before), page)
    above, *lines, below = page.read_text().splitlines()
    assert (above, below) == ("above", "below") and "old" not in lines
    assert "| 4 | 0.750 · 0.917 | 0.833 | +0.083 [+0.000, +0.167] | 0.750 | 0.750 | 1.000 |" in lines[-2]
