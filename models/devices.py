"""Where models work."""

from __future__ import annotations

import os

import torch


def working_device() -> torch.device:
    """This process's GPU; the CPU of a machine without one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
