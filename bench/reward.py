"""The reward model against TRL's RewardTrainer: python -m bench.reward

Both train a Llama of 10 M parameters with one output on the same rankings in the same optimizer steps. Ours is
`python -m stages.reward`, with and without the prompt tree. Of TRL there is the default, with only what must be equal
set, and settings that its documentation offers for speed. K = 4 rankings reach TRL as their six pairs.
"""

from __future__ import annotations

from pathlib import Path

from bench.harness import Contestant
from bench.ranking_race import ALL, arguments, ours, peer, run
from bench.sides import Settings

FOR_SPEED: dict[str, Settings] = {
    "no checkpointing": {"gradient_checkpointing": False},
    "pair by pair": {"gradient_checkpointing": False, "gradient_accumulation_steps": ALL},
}


def contestants(material: Path, precision: str, kind: str) -> list[Contestant]:
    mine = [ours("reward", material, precision, kind, "ours", "stages.reward", "loss.center=0")]
    if kind != "quick":
        alone = ("loss.center=0", "layout.tree=false")
        mine.append(ours("reward", material, precision, kind, "ours, no tree", "stages.reward", *alone))
    settings = {"default": {}} if kind == "quick" else {"default": {}, **FOR_SPEED}
    return mine + [peer("reward", material, precision, kind, name, given) for name, given in settings.items()]


if __name__ == "__main__":
    run("reward", "flops", contestants, arguments(__doc__ or "", ("pairs", "short", "kwise")))
