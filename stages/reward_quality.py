"""What a reward model is worth: measured on held-out rankings, for its manifest and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evals.intervals import bootstrap_mean
from models.chat import ChatFormat
from models.errors import NumericsError
from models.scorer import AXES, normalised, raw_scores, without_length
from reward.assessment import (
    Scored,
    ScoredPairs,
    axes_agree,
    by_length,
    by_source,
    by_strength,
    is_own_sample,
    of_sources,
    rank_measures,
    scored_pairs,
    worst_mistakes,
)
from reward.calibration import calibrate
from reward.metrics import correlation
from reward.rankings import orders
from reward.training import RankingRows
from stages.reward_hacks import hacks
from train.run import Run

Found = dict[str, Any]


def measured(model: PreTrainedModel, rows: RankingRows, chat: ChatFormat, run: Run) -> Found:
    """Per axis what held-out rankings show, whether axes agree, and what hacks get; the worst mistakes go to a file."""
    scored = scored_rankings(model, rows, range(len(rows)))
    found: dict[str, Found] = {}
    mistakes: list[Found] = []
    for k, axis in enumerate(AXES):
        pairs = scored_pairs(scored, k)
        if len(pairs.delta):
            found[axis] = axis_found(scored, pairs, k)
            run.say(f"{axis}: {said(found[axis])}")
            mistakes += [mistake(model, scored, pairs, axis, place) for place in worst_mistakes(scored, pairs)]
    run.write("mistakes.jsonl", lambda path: write_lines(path, mistakes))
    labelled = [AXES.index(axis) for axis in found]
    agreement = axes_agree(scored, labelled) if len(labelled) > 1 else []
    return {"held_out": found, "axes_agree": agreement, "hacks": hacks(model, rows, chat)}


def scored_rankings(model: PreTrainedModel, rows: RankingRows, indices: range) -> list[Scored]:
    """Some of the rankings with scores on the head's own scale, less what length explains."""
    lengths = [torch.tensor([len(response) for response in rows.trees[i].responses]) for i in indices]
    scores = without_length(model, scores_of(model, rows, indices), torch.cat(lengths)).split([len(x) for x in lengths])
    return [Scored(rows.rankings[i], *found) for i, *found in zip(indices, scores, lengths, strict=True)]


@torch.no_grad()
def scores_of(model: PreTrainedModel, rows: RankingRows, indices: range, batch_size: int = 32) -> Tensor:
    """Raw scores of all responses of some rankings, in order, (responses, axes).

    Raises NumericsError naming the first ranking that has a score which is not a number.
    """
    model.eval()
    parts = []
    for first in range(0, len(indices), batch_size):
        batch = rows.collate(indices[first : first + batch_size])
        parts.append(raw_scores(model, {k: v.to(model.device) for k, v in batch.items()}).cpu())
        if not parts[-1].isfinite().all():
            response = int(parts[-1].isfinite().all(1).logical_not().nonzero()[0])
            ranking = rows.rankings[indices[first + int(batch["prompt"][response])]]
            raise NumericsError(
                f"{ranking.origin}: a response to this prompt has a score that is not a number; look at the model that "
                "training started from, or lower trainer.learning_rate"
            )
    return torch.cat(parts)


def axis_found(scored: Sequence[Scored], pairs: ScoredPairs, axis: int) -> Found:
    """All that is measured on one axis. Estimates count each prompt once, groups of pairs each pair."""
    own = of_sources(scored, pairs, is_own_sample)
    ranks = rank_measures(scored, axis)
    known = [one for one in scored if orders(judged[axis] for judged in one.ranking.scores)]
    scores = torch.cat([one.scores[:, axis] for one in known])
    lengths = torch.cat([one.lengths for one in known])
    judged_by_several = any(one.ranking.votes for one in scored)
    return {
        "accuracy": bootstrap_mean(pairs.by_prompt(pairs.right())).as_dict(),
        **({"own_samples": bootstrap_mean(own.by_prompt(own.right())).as_dict()} if len(own.delta) else {}),
        **({"one_judge": estimate(pairs.by_prompt(pairs.right_of_judges()))} if judged_by_several else {}),
        **{name: estimate(values) for name, values in ranks.items() if values},
        **calibration_of(pairs.delta),
        "length_correlation": correlation(scores, lengths),
        "by_length": by_length(pairs),
        "by_strength": by_strength(pairs),
        "by_source": by_source(scored, pairs),
    }


def estimate(values: Sequence[float]) -> Found:
    return dict(bootstrap_mean(values).as_dict())


def said(found: Found) -> str:
    """One line for the person who waits."""
    accuracy = found["accuracy"]
    line = f"held-out accuracy {accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
    if "own_samples" in found:
        line += f", on the policy's own samples {found['own_samples']['mean']:.3f}"
    return f"{line}; always the longer one {found['by_length']['longer_wins']['accuracy']:.3f}"


def calibration_of(deltas: Tensor) -> Found:
    """The temperature from one half of the pairs, judged on the other."""
    if len(deltas) < 4:
        return {}
    found = calibrate(deltas[::2], deltas[1::2])
    bins = [
        {"confidence": c, "accuracy": a, "count": n}
        for c, a, n in zip(*(x.tolist() for x in found.bins[1:]), strict=True)
        if n
    ]
    return {
        "temperature": found.temperature,
        "calibration_error": found.after.ece,
        "calibration_error_before": found.before.ece,
        "bins": bins,
    }


def mistake(model: PreTrainedModel, scored: Sequence[Scored], pairs: ScoredPairs, axis: str, place: int) -> Found:
    """A pair that the model has the wrong way around, with its words."""
    ranking, scores, _ = scored[int(pairs.ranking[place])]
    units = normalised(model, scores)[:, AXES.index(axis)]

    def response(k: int) -> Found:
        return {"text": ranking.responses[k], "source": ranking.sources[k], "score": float(units[k])}

    return {
        "axis": axis,
        "prompt": [{"role": m.role, "content": m.content} for m in ranking.prompt],
        "better": response(int(pairs.better[place])),
        "worse": response(int(pairs.worse[place])),
        "probability": float(torch.sigmoid(-pairs.delta[place])),
        "origin": str(ranking.origin),
    }


def write_lines(path: Path, rows: Sequence[Found]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
