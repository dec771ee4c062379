"""Faults of the machine, known by what the libraries say: memory, disk, and other processes that have gone."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import torch
import torch.distributed as dist

from models.errors import HHHError, LostProcess, ResourceError
from train.processes import world_size

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not grow so big",
}
CUT_OFF = ("PytorchStreamWriter failed writing", "unexpected pos")  # torch.save says no more than that
LOST = ("closed by peer", "reset by peer", "Broken pipe", "Application timeout caused pair closure", "Socket closed")
LATE = ("Timed out waiting", "wait timeout", "Timed out after", "timed out")


def machine_fault(error: BaseException, folder: Path | None = None) -> HHHError | None:
    """What an error says of the machine, with what to do about it; None where it says nothing.

    folder: where it was being written.
    """
    for cause in chain(error):
        if isinstance(cause, HHHError):
            return None
        if is_out_of_memory(cause):
            return ResourceError("out of memory; lower the sizes of batches, or the models' precision with model.dtype")
        if found := full(cause):
            place = folder or getattr(cause, "filename", None) or "the output"
            return ResourceError(f"{place}: {found}{_room(folder)}; make room, or choose outputs=")
        if world_size() > 1 and isinstance(cause, RuntimeError) and (lost := _lost(cause)):
            return LostProcess(lost)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left, of the machine or of its GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def full(error: BaseException) -> str | None:
    """Why no more could be written, where that is what went wrong. Torch and safetensors do not raise an OSError."""
    if isinstance(error, OSError) and error.errno in FULL:
        return FULL[error.errno]
    if any(mark in str(error) for mark in CUT_OFF):
        return FULL[errno.ENOSPC]
    return next((why for number, why in FULL.items() if f"(os error {number})" in str(error)), None)


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came of."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _room(folder: Path | None) -> str:
    """Bytes that are left, and bytes of the largest checkpoint there is."""
    if folder is None or not folder.is_dir():
        return ""
    saved = folder.glob("checkpoints/checkpoint-*")
    sizes = [sum(file.stat().st_size for file in checkpoint.rglob("*")) for checkpoint in saved]
    needed = f", a checkpoint takes {max(sizes)}" if sizes else ""
    return f", {shutil.disk_usage(folder).free} bytes are left{needed}"


def _lost(error: RuntimeError) -> str | None:
    said = str(error)
    if any(mark in said for mark in LATE):
        return "another process of this run did not answer in time (process_timeout=): it hangs, or never started"
    if isinstance(error, dist.DistError) or any(mark in said for mark in LOST):
        return "another process of this run has gone; its own last line, or its launcher, says why"
    return None
