"""An environment of a peer's own: another release of TRL, read before the installed one and by that peer alone.

Everything else (torch, transformers, accelerate) is the installed one on both sides.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from bench.harness import ROOT, python

LAST_WITH_PPO = "1.12.0"


class NotInstalled(SystemExit):
    """No registry that can be reached has this release. Uncaught, it ends the benchmark with one line."""


def trl_release(version: str, outputs: Path) -> Path:
    """The folder of this release, installed there at the first call. Raises NotInstalled."""
    folder = outputs / f"env-trl-{version}"
    if folder.is_dir():
        return folder
    outputs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=outputs) as aside:  # an installation that is cut off leaves no half of it
        command = python(
            "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--target", f"{aside}/new", f"trl=={version}"
        )
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            reason = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise NotInstalled(
                f"error: {folder}: pip cannot install trl=={version} ({reason}); run where a package registry can be "
                "reached, or copy this folder from a machine that reaches one"
            )
        Path(aside, "new").rename(folder)
    return folder


def within(folder: Path, command: list[str], **variables: str) -> list[str]:
    """The command, with the packages of this folder first and with these environment variables."""
    path = os.pathsep.join(map(str, (folder.resolve(), ROOT)))
    return ["env", f"PYTHONPATH={path}", *(f"{name}={value}" for name, value in variables.items()), *command]
