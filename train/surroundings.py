"""What a run ran on: code, packages, machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from train.processes import world_size

PACKAGES = ("torch", "transformers", "trl", "peft", "deepspeed", "datasets", "accelerate", "wandb", "hydra-core")

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def surroundings() -> dict[str, Any]:
    """Commit, package versions and hardware, for the manifest."""
    return {
        "git_commit": git_commit(),
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": {
            "host_cpus": os.cpu_count(),
            "machine": platform.machine(),
            "processes": world_size(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
    }


def fall_back() -> str | None:
    """What this process does without, though the environment names it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "-1")
    if named in ("", "-1") or torch.cuda.is_available():
        return None
    return f"CUDA_VISIBLE_DEVICES={named} names no GPU that torch can use; the CPU does the work"


def git_commit() -> str | None:
    """The checkout's commit; None outside of one."""
    root = Path(__file__).parent.parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` count from here on, where the system can: in a pipeline a stage is one of several."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float:
    """The most memory that this process had since `forget_peak_memory`, or ever where the system cannot forget."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
