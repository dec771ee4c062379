"""The bytes that collectives move, counted by listening to torch.distributed.

A payload is the whole tensor that all processes end up with, or put in. What a process sends of it in a ring of N is
(N - 1) / N of it, twice that for an all-reduce (Thakur et al. 2005; the terms of ZeRO's section 7).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

REDUCES, GATHERS, SCATTERS, OTHERS = "all_reduce", "all_gather", "reduce_scatter", "broadcast"
HEARD: Counter[str] = Counter()  # bytes of payload by kind since they were last asked for
RINGS = {REDUCES: 2, GATHERS: 1, SCATTERS: 1, OTHERS: 1}  # times that a payload goes round


def _first(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(options.values()))


def _second(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else list(options.values())[1 - len(args)]


WATCHED: dict[str, tuple[str, Callable[..., Any]]] = {  # name: its kind, and which argument is the payload
    "all_reduce": (REDUCES, _first),
    "all_reduce_coalesced": (REDUCES, _first),
    "all_gather_into_tensor": (GATHERS, _first),
    "_all_gather_base": (GATHERS, _first),
    "all_gather": (GATHERS, _first),
    "reduce_scatter_tensor": (SCATTERS, _second),
    "_reduce_scatter_base": (SCATTERS, _second),
    "reduce_scatter": (SCATTERS, _second),
    "broadcast": (OTHERS, _first),
    "reduce": (OTHERS, _first),
}


def listen() -> None:
    """Count from now on. Whoever imports the collectives before, unheard."""
    for name, (kind, payload) in WATCHED.items():
        if hasattr(dist, name):
            setattr(dist, name, _counted(getattr(dist, name), kind, payload))


def _counted(collective: Callable[..., Any], kind: str, payload: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective)
    def counted(*args: Any, **options: Any) -> Any:
        if not INSIDE:
            HEARD[kind] += _bytes(payload(args, options))
        INSIDE.append(kind)  # one collective may be made of another
        try:
            return collective(*args, **options)
        finally:
            INSIDE.pop()

    return counted


INSIDE: list[str] = []


def _bytes(tensors: Tensor | list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in ([tensors] if isinstance(tensors, Tensor) else tensors))


def heard() -> dict[str, int]:
    """Bytes of payload by kind since this was last called."""
    found = dict(HEARD)
    HEARD.clear()
    return found


def sent(payloads: dict[str, float], world: int) -> float:
    """Bytes that each process sends in rings."""
    return sum(RINGS[kind] * size for kind, size in payloads.items()) * (world - 1) / world
