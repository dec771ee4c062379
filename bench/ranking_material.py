"""A model and rankings for the benchmarks: python -m bench.ranking_material <folder> <file> <rows> <size> <kind>

Kinds: pairs (of hh-rlhf), short (the same, of their prompts the last turn alone), kwise (rankings of which the first
four responses are taken), quick (made up). Writes model/, scorer/ (the same backbone with one output, as
RewardTrainer wants it, and the head that our reward stage starts from), rankings.jsonl, pairs.json (all pairs, for
TRL), facts.json and peak.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from bench.material import SIZES, make_model, write_peak
from models.chat import ChatFormat, Message
from models.errors import Origin
from models.layout import Tree
from models.scorer import AXES, reward_model_from
from reward.rankings import Ranking, write_rankings
from reward.readers import RankingData, read_rankings
from reward.training import ranking_tree
from train.digests import digest
from train.trl_engine import one_output

LONGEST = 512  # tokens of a prompt with one response
AXIS = AXES.index("harmless")


def main(folder: Path, source: str, n_rows: int, size: str, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = list(made_up() if kind == "quick" else read(source, kind))
    texts = ("\n".join([*(m.content for m in r.prompt), *r.responses]) for r in found)
    model, tokenizer = make_model(folder, texts, SIZES[size])
    chat = ChatFormat(tokenizer)
    trees = [(ranking, ranking_tree(ranking, chat)) for ranking in found]
    chosen = [(r, t) for r, t in trees if len(t.prompt) + max(map(len, t.responses)) <= LONGEST][:n_rows]
    write_rankings(folder / "rankings.jsonl", [ranking for ranking, _ in chosen])
    (folder / "pairs.json").write_text(json.dumps([pair for ranking, _ in chosen for pair in pairs_of(ranking, chat)]))
    generator = torch.Generator().manual_seed(int(digest([0, "head"])[:12], 16))  # as a run with seed=0 draws it
    scorer = reward_model_from(model, tokenizer, generator)
    with one_output(scorer, AXIS):
        scorer.save_pretrained(folder / "scorer")
    tokenizer.save_pretrained(folder / "scorer")
    (folder / "facts.json").write_text(json.dumps(facts(model, [tree for _, tree in chosen])))
    write_peak(folder, quick=size == "tiny")


def read(source: str, kind: str) -> Iterator[Ranking]:
    """Rankings whose order has no ties, labelled on one axis."""
    form = "oasst" if kind == "kwise" else "hh"
    data = RankingData(format=form, path=source, axes=[AXES[AXIS]], eval_fraction=0.0)
    for ranking in read_rankings(data).train:
        if kind == "kwise":
            if len(ranking.responses) < 4 or len({s[AXIS] for s in ranking.scores}) < len(ranking.scores):
                continue
            ranking = replace(
                ranking, responses=ranking.responses[:4], scores=ranking.scores[:4], sources=ranking.sources[:4]
            )
        yield replace(ranking, prompt=ranking.prompt[-1:]) if kind == "short" else ranking


def made_up() -> Iterator[Ranking]:
    """Sixteen pairs."""
    for n in range(16):
        prompt = (Message("user", f"Count to {n} , please , and mind that I asked you kindly ."),)
        scores = tuple(tuple(s if axis == AXIS else None for axis in range(3)) for s in (1.0, 0.0))
        yield Ranking(prompt, (" ".join(map(str, range(n + 1))), f"No {n} ."), scores, ("", ""), Origin("made up", n))


def pairs_of(ranking: Ranking, chat: ChatFormat) -> Iterator[dict[str, object]]:
    """Every pair of a ranking as RewardTrainer reads ids and as DPOTrainer reads conversations."""
    order = sorted(range(len(ranking.responses)), key=lambda i: -(ranking.scores[i][AXIS] or 0.0))
    prompt = chat.prompt(ranking.prompt)
    for better, worse in combinations(order, 2):
        texts = [ranking.responses[i] for i in (better, worse)]
        ids = [prompt + chat.response(text) for text in texts]
        said = [[{"role": "assistant", "content": text}] for text in texts]
        yield {
            "chosen_ids": ids[0],
            "rejected_ids": ids[1],
            "prompt": [{"role": m.role, "content": m.content} for m in ranking.prompt],
            "chosen": said[0],
            "rejected": said[1],
        }


def facts(model: torch.nn.Module, trees: list[Tree]) -> dict[str, object]:
    """Counts, and the FLOPs of one pass of training that the mathematics needs: every prompt once, the last
    feed-forward network where it is read, the output layer at targets alone. The reference's pass is a third more."""
    config = model.config
    hidden, layers = config.hidden_size, config.num_hidden_layers
    network = 3 * hidden * config.intermediate_size
    tokens = sum(tree.n_tokens for tree in trees)
    targets, responses = sum(tree.n_targets for tree in trees), sum(len(tree.responses) for tree in trees)
    squares = sum(
        len(t.prompt) ** 2 + sum(len(r) * (2 * len(t.prompt) + len(r)) for r in t.responses) for t in trees
    )  # twice the pairs of positions of which one sees the other
    body = 6 * tokens * (layers * (4 * hidden**2 + network) - network) + 6 * layers * hidden * squares
    once = sum(len(tree.prompt) for tree in trees)
    separate = sum(len(tree.prompt) * len(tree.responses) + sum(map(len, tree.responses)) for tree in trees)
    return {
        "parameters": model.num_parameters(),
        "samples": len(trees),
        "tokens": tokens,
        "targets": targets,
        "prompt_share": (once + separate - tokens) / separate,
        "flops": body + 6 * network * responses,
        "preference_flops": (body + 6 * network * targets + 6 * hidden * config.vocab_size * targets) * 4 / 3,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
