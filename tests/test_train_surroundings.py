"""What a manifest says of the machine."""

from __future__ import annotations

import pytest
import torch

from train.surroundings import CLEAR_REFS, forget_peak_memory, peak_memory_mb


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="only Linux can forget a process's peak memory")
def test_peak_memory_counts_from_where_it_was_told_to() -> None:
    torch.ones(64, 1024, 1024)  # 256 MiB, and gone
    high = peak_memory_mb()
    forget_peak_memory()
    low = peak_memory_mb()
    assert low < high - 200
    torch.ones(16, 1024, 1024)
    assert low + 50 < peak_memory_mb() < high
