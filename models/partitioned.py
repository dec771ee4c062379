"""Weights that ZeRO-3 has partitioned over the processes, and how such a model is read outside a training step.

A forward under ZeRO-3 gathers the weights layer by layer, so all processes must take the same forwards at the same
time. Who only reads a model (sampling, scoring, evaluation) takes as many as its rows need: it has the weights gathered
once, and its forwards are its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

HELD = "held_whole"  # what a weight has while it is gathered here


def is_partitioned(weight: nn.Parameter) -> bool:
    return hasattr(weight, "ds_id")


@contextmanager
def whole(*models: nn.Module, writing: bool = False) -> Iterator[None]:
    """Inside, every process has all weights of the models. Every process must enter and leave, with or without work.

    writing: what the main process writes into the weights inside is theirs afterwards. May be nested. Models whose
    weights are not partitioned are left as they are.
    """
    found = [weight for model in models for weight in model.parameters() if is_partitioned(weight)]
    weights = list({id(weight): weight for weight in found if not hasattr(weight, HELD)}.values())
    if not weights:
        yield
        return
    import deepspeed  # noqa: PLC0415  seconds, and only where it is in use

    with deepspeed.zero.GatheredParameters(weights, modifier_rank=0 if writing else None), _without_hooks(models):
        for weight in weights:
            setattr(weight, HELD, True)
        try:
            yield
        finally:
            for weight in weights:
                delattr(weight, HELD)


def partition(model: nn.Module) -> nn.Module:
    """Leave each process its part of the weights of a model that no engine trains; `whole` gathers them. Quantised
    weights stay as they are."""
    if all(weight.is_floating_point() for weight in model.parameters()):
        import deepspeed  # noqa: PLC0415

        dtype = next(model.parameters()).dtype
        deepspeed.zero.Init(module=model, dtype=dtype, mem_efficient_linear=False)
    return model


@contextmanager
def _without_hooks(models: tuple[nn.Module, ...]) -> Iterator[None]:
    """DeepSpeed's hooks would give each weight back after the layer that used it, and would take these forwards for
    part of a training step, whose layers must come in the same order on every process. Torch names no public way to put
    hooks aside."""
    modules = {id(module): module for model in models for module in model.modules()}.values()
    tables = [table for module in modules for table in (module._forward_pre_hooks, module._forward_hooks)]
    aside = [{key: hook for key, hook in table.items() if _of_deepspeed(hook)} for table in tables]
    for table, hooks in zip(tables, aside, strict=True):
        for key in hooks:
            del table[key]
    try:
        yield
    finally:
        for table, hooks in zip(tables, aside, strict=True):
            table.update(hooks)  # after the model's own, as they came


def _of_deepspeed(hook: object) -> bool:
    return getattr(hook, "__module__", "").startswith("deepspeed.")
