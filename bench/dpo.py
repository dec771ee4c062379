"""DPO against TRL's DPOTrainer: python -m bench.dpo

Both train a Llama of 10 M parameters on the same pairs in the same optimizer steps; what the reference policy costs
is in the seconds of both. Ours is `python -m stages.dpo`, with and without the prompt tree, and with logits of all
positions. Of TRL there is the default, with only what must be equal set, and settings that its documentation offers
for speed.
"""

from __future__ import annotations

from pathlib import Path

from bench.harness import Contestant
from bench.ranking_race import ALL, arguments, ours, peer, run
from bench.sides import Settings

FOR_SPEED: dict[str, Settings] = {
    "no checkpointing": {"gradient_checkpointing": False},
    "reference first": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    "pair by pair": {
        "gradient_checkpointing": False,
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": 8,
        "gradient_accumulation_steps": ALL,
    },
}


def contestants(material: Path, precision: str, kind: str) -> list[Contestant]:
    mine = [ours("dpo", material, precision, kind, "ours", "stages.dpo")]
    if kind != "quick":
        mine.append(ours("dpo", material, precision, kind, "ours, no tree", "stages.dpo", "layout.tree=false"))
        mine.append(ours("dpo", material, precision, kind, "ours, all logits", "bench.all_logits"))
    settings = {"default": {}} if kind == "quick" else {"default": {}, **FOR_SPEED}
    return mine + [peer("dpo", material, precision, kind, name, given) for name, given in settings.items()]


if __name__ == "__main__":
    run("dpo", "preference_flops", contestants, arguments(__doc__ or "", ("pairs", "short")))
