"""Reference numbers, checked against other projects' code: values and gradients in float64, one file for all rooms."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

FILE = Path(__file__).parent.parent / os.environ.get("HHH_GOLDEN", "../shared/golden") / "golden.json"


def cases(function: str) -> list[Any]:
    """The parameters (inputs, expected) of all cases of one function; one skipped case where the file is absent."""
    if not FILE.exists():
        return [pytest.param({}, {}, id="absent", marks=pytest.mark.skip(reason=f"{FILE} is absent; set HHH_GOLDEN"))]
    found = [case for case in json.loads(FILE.read_text())["cases"] if case["fn"] == function]
    return [pytest.param(case["inputs"], case["expected"], id=case["id"]) for case in found]


def double(values: Any, *, grad: bool = False) -> Tensor:
    """A float64 tensor, a leaf that takes gradients if asked."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def boolean(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def assert_near(got: Tensor | float, want: Any) -> None:
    """Equal within the tolerance that the reference numbers state for float64."""
    got = torch.as_tensor(got).detach().double()
    torch.testing.assert_close(got, double(want), rtol=1e-7, atol=1e-8)
