"""What was found out about one model, beside the same of the reference: an entry of results.json."""

from __future__ import annotations

from dataclasses import dataclass

from evals.panel import Answers, Nested, comparison, estimates, wins
from evals.subject import Subject
from evals.tasks import Measured, estimated, gains
from models.loading import tokenizer_digest
from stages.world_panel import WorldPanel


@dataclass(frozen=True)
class Findings:
    """Of one model, by prompt or row as far as it can be compared."""

    model: Subject
    greedy: Answers
    sampled: Answers
    measured: Measured  # greedy answers against the right ones, and everything on the tasks
    sampled_measured: Measured
    harness: Nested  # metrics of lm-evaluation-harness by task
    harness_rows: Measured


def model_results(own: Findings, reference: Findings, world: WorldPanel | None) -> Nested:
    """All of one model's estimates: greedy at the top, sampled below `sampled`, paired gains below `gain`."""
    drift = None
    if tokenizer_digest(own.model.tokenizer) == tokenizer_digest(reference.model.tokenizer):
        sampled = own.sampled.responses
        drift = own.model.logprobs(sampled) - reference.model.logprobs(sampled)
    found = estimates(own.greedy, drift) | estimated(own.measured)
    found["sampled"] = estimates(own.sampled, drift) | estimated(own.sampled_measured)
    if own.harness:
        found["harness"] = own.harness
    if world:
        found |= world.extras(own.model, own.greedy)
        found["sampled"] |= world.subsets(own.sampled)
    if own is not reference:
        measured_gains = gains(own.measured | own.harness_rows, reference.measured | reference.harness_rows)
        _compare(found, own.greedy, reference.greedy, measured_gains, world)
        sampled_gains = gains(own.sampled_measured, reference.sampled_measured)
        _compare(found["sampled"], own.sampled, reference.sampled, sampled_gains, world)
    return found


def _compare(found: Nested, ours: Answers, theirs: Answers, measured: Nested, world: WorldPanel | None) -> None:
    """Add the paired differences and the win rate of one mode."""
    found["gain"] = comparison(ours, theirs) | measured
    if (rate := wins(ours, theirs)) is not None:
        found["win_rate"] = rate.as_dict()
    if world:
        found["gain"] |= world.subset_gains(ours, theirs)
