"""The processor's own measure: GFLOP/s of large matrix products."""

from __future__ import annotations

import time

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matrix_peak(dtype: torch.dtype, *, size: int = 2048, seconds: float = 2.0) -> float:
    """The fastest of the products of two square matrices that fit in so many seconds."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest / 1e9
