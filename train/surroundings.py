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


def git_commit() -> str | None:
    """The checkout's commit; None outside of one."""
    root = Path(__file__).parent.parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def peak_memory_mb() -> float:
    """The most memory that this process had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
