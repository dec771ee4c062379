"""Planted faults, for tests of recovery: HHH_FAULT="sft:step:12" kills the process at that point.

"sft:step:12=SIGTERM" sends it that signal instead, "sft:step:12@1=SIGSTOP" the second of several processes alone.
Refused outside tests: it is read only where HHH_TESTS=1.
"""

from __future__ import annotations

import os
import signal

from models.errors import ConfigError
from train.processes import rank


def check_faults_allowed() -> None:
    """Raise ConfigError where a fault is planted outside a test."""
    if os.environ.get("HHH_FAULT") and os.environ.get("HHH_TESTS") != "1":
        raise ConfigError("HHH_FAULT is set outside tests; unset it")


def fault_point(place: str) -> None:
    """Die here if it is the planted place: `<stage>:step:<n>` after a step, `<stage>:save:<n>` inside a save."""
    planted, _, name = os.environ.get("HHH_FAULT", "").partition("=")
    if planted in (place, f"{place}@{rank()}"):
        os.kill(os.getpid(), signal.Signals[name or "SIGKILL"])
