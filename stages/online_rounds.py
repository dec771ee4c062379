"""Online preference optimisation: rounds of sampling from the policy, ranking by a reward model, and learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.errors import Origin
from models.generation import end_tokens
from models.layout import Batch, LayoutConfig
from models.partitioned import whole
from models.scorer import score_trees
from reward.rankings import Ranking, write_rankings
from reward.sampling import SAMPLED
from rl.kto import KTORows
from rl.kto import labels_of as kto_labels
from rl.online import OnlineConfig, Ranked, ranked_samples
from rl.pairs import PreferenceRows
from rl.preference_loss import KTO, PreferenceLoss
from rl.reference import response_logprobs
from train.batches import Share, ShuffledBatches, in_sequence
from train.run import Run


@dataclass
class OnlineRounds:
    """Micro-batches that refill themselves: each round ranks the policy's own samples and passes over them.

    A round is a function of its number, the seed and the policy as the round begins, so a run that goes on from the
    checkpoint at a round's start makes the same one again. reference: the policy before the first round; None where
    the loss has none, or where it is the policy of the round's start.
    """

    run: Run
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scorer: PreTrainedModel
    reference: nn.Module | None
    prompts: Sequence[Prompt]  # the pool
    loss: PreferenceLoss
    cfg: OnlineConfig
    layout: LayoutConfig
    max_length: int
    share: Share
    seed: int
    bf16: bool  # the precision of the training
    start_step: int = 0
    told: dict[int, dict[str, float]] = field(default_factory=dict)  # of each round, from 1

    def __post_init__(self) -> None:
        self.chat = ChatFormat(self.tokenizer)
        for model in filter(None, (self.scorer, self.reference)):
            model.eval().requires_grad_(False)
        self.ends = end_tokens(self.policy, self.tokenizer, self.chat)
        self.order = in_sequence([len(self.prompts)], 0, self.cfg.rounds * self.cfg.prompts, self.seed, True)
        self.told |= {int(number): told for number, told in self.run.restored_state().get("rounds", {}).items()}
        self.run.state["rounds"] = lambda: self.told

    @property
    def steps(self) -> int:
        """Optimizer steps of a round."""
        return self.cfg.epochs * (self.cfg.prompts // self.share.batch_size)

    def __len__(self) -> int:
        return self.cfg.rounds * self.steps * self.share.accumulation

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.start_step // self.steps + 1, self.cfg.rounds + 1):
            rows = self.collect(number)
            yield from ShuffledBatches(rows, self.share, steps=self.steps, seed=self.seed * 1009 + number)

    def collect(self, number: int) -> PreferenceRows | KTORows:
        """The rows of a round; its rankings are kept in round-<number>.jsonl."""
        for model in filter(None, (self.scorer, self.reference)):
            model.to(self.policy.device)  # which the trainer moved to where it trains
        n = self.cfg.prompts
        asked = [self.prompts[i] for i in self.order[(number - 1) * n : number * n]]
        with whole(self.policy):
            ranked = ranked_samples(
                self.policy,
                [self.chat.prompt(prompt) for prompt in asked],
                lambda trees: score_trees(self.scorer, trees, self.layout),
                self.cfg,
                self.ends,
                self.run.generator(f"samples of round {number}"),
            )
        self.tell(number, asked, ranked)
        rows = self.rows(ranked)
        if self.loss.has_reference:
            model = self.reference or self.policy
            rows.refer(response_logprobs(model, rows.referred, self.layout.bin_tokens, bf16=self.bf16))
        return rows

    def rows(self, ranked: Sequence[Ranked]) -> PreferenceRows | KTORows:
        trees, preferences = [r.tree for r in ranked], [r.preference for r in ranked]
        if self.loss.name == KTO:
            labels = [kto_labels(preference) for preference in preferences]
            return KTORows(trees, labels, self.layout, self.max_length, self.policy, bf16=self.bf16)
        return PreferenceRows(trees, preferences, self.layout, self.max_length, pairs=self.loss.pairs)

    def tell(self, number: int, asked: Sequence[Prompt], ranked: Sequence[Ranked]) -> None:
        """A round in a file, in the log, and in one line."""
        rankings = [self._ranking(r, asked[r.prompt], number) for r in ranked]
        self.run.write(f"round-{number}.jsonl", lambda path: write_rankings(path, rankings))
        worth = [float(r.preference.mean()) for r in ranked]
        ended = [end for r in ranked for end in r.ended]
        told = {"rankings": len(ranked), "score": _mean(worth), "ended": _mean(ended)}
        self.told[number] = told
        self.run.log({f"online/{name}": value for name, value in told.items()}, (number - 1) * self.steps + 1)
        self.run.say(
            f"round {number}: {len(ranked)} of {len(asked)} prompts have responses that differ in worth, "
            f"mean score {told['score']:.3f}, ended {told['ended']:.0%}"
        )

    def _ranking(self, ranked: Ranked, prompt: Prompt, number: int) -> Ranking:
        texts = tuple(self.chat.text(ids) for ids in ranked.tree.responses)
        scores: Any = tuple(map(tuple, ranked.scores.tolist()))
        origin = Origin(f"round-{number}.jsonl", ranked.prompt + 1)
        return Ranking(tuple(prompt), texts, scores, (SAMPLED,) * len(texts), origin)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
