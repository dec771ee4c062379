"""The reference's log-probabilities, asked once and kept: a later run on the same rows reads them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.layout import Tree
from rl.reference import response_logprobs
from train.digests import code_digest, digest
from train.processes import from_main, gathered, rank, world_size
from train.run import Run

NAME = "logprobs"


@dataclass(frozen=True)
class ReferenceLogprobs:
    """A cache of one reference model. `about`: what its log-probabilities depend on beside the rows."""

    folder: Path
    about: dict[str, Any]
    bin_tokens: int
    bf16: bool
    run: Run
    model: Callable[[], nn.Module]  # called only where something is not known yet

    def of(self, trees: Sequence[Tree]) -> list[Tensor]:
        """Summed log-probabilities of the responses, (K,) of each tree: read, or computed and kept."""
        key = {**self.about, "code": code_digest(), "bin_tokens": self.bin_tokens, "bf16": self.bf16}
        key |= {"rows": digest([[tree.prompt, tree.responses] for tree in trees])}
        path = self.folder / f"{digest(key)[:16]}.safetensors"
        sizes = [len(tree.responses) for tree in trees]
        found = from_main(read(path, key, sum(sizes)) if rank() == 0 and path.exists() else None)
        if found is not None:
            self.run.say(f"reference log-probs: read from {path}")
            return list(found.split(sizes))
        if rank() == 0 and path.exists():
            self.run.say(f"reference log-probs: {path} is damaged or of something else, computed anew")
        start = time.perf_counter()
        computed = self._computed(trees)
        spent = self.run.training.get("reference_seconds", 0.0) + time.perf_counter() - start
        self.run.training["reference_seconds"] = round(spent, 3)
        if rank() == 0:
            write(path, key, torch.cat(computed))
            self.run.say(f"reference log-probs: of {sum(sizes)} responses, kept in {path}")
        return computed

    def _computed(self, trees: Sequence[Tree], batch_size: int = 16) -> list[Tensor]:
        """Each process asks about its share of the batches."""
        batches = [trees[first : first + batch_size] for first in range(0, len(trees), batch_size)]
        model, own = self.model(), batches[rank() :: world_size()]
        shares = gathered([response_logprobs(model, batch, self.bin_tokens, bf16=self.bf16) for batch in own])
        return [sums for i in range(len(batches)) for sums in shares[i % world_size()][i // world_size()]]


def write(path: Path, key: dict[str, Any], logprobs: Tensor) -> None:
    """The file, whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({NAME: logprobs}, aside, metadata={"key": json.dumps(key, sort_keys=True), "digest": _digest(logprobs)})
    aside.replace(path)


def read(path: Path, key: dict[str, Any], n: int) -> Tensor | None:
    """The `n` log-probabilities of the file; None where it is damaged, or made of anything else than `key` says."""
    try:
        with safe_open(path, "pt") as file:
            told, logprobs = file.metadata() or {}, file.get_tensor(NAME)
    except (SafetensorError, OSError):
        return None
    whole = logprobs.shape == (n,) and told.get("digest") == _digest(logprobs)
    return logprobs if whole and told.get("key") == json.dumps(key, sort_keys=True) else None


def _digest(logprobs: Tensor) -> str:
    return hashlib.sha256(logprobs.float().numpy().tobytes()).hexdigest()
