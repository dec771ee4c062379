"""The reward of a policy's responses: one column for each axis of a reward model, and for each further source.

R = responses of all groups, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat
from models.errors import ArtifactError, ConfigError, NumericsError
from models.http import shown
from models.layout import LayoutConfig, Tree
from models.loading import load_scorer, tokenizer_digest
from models.partitioned import whole
from models.sharing import SharedScorer
from models.voices import Voices
from reward.ensemble import MembersConfig, Replies, combined
from reward.function_source import FunctionSource
from reward.members import Member
from reward.remote_source import RemoteSource
from reward.responses import Response
from reward.sources import LearnedReward, RewardSources, RewardTerm
from rl.rollout import Answers, freeze
from stages.reward_models import load_any_classifier, load_on_policy
from train.artifact import model_folder


class Groups(NamedTuple):
    """The responses, in each form that a source reads."""

    trees: list[Tree]  # in the policy's ids
    texts: list[Replies]
    responses: list[Response]


@dataclass(frozen=True)
class Term:
    """One source. `option` names it; `columns` with the weight of each."""

    option: str
    columns: Mapping[str, float]
    score: Callable[[Groups], Tensor]  # (R, its columns)
    models: Sequence[nn.Module] = ()  # whose weights that takes


class RewardTerms:
    """Scores of responses, (R, columns), larger is better; their weighted sum is the reward.

    to_value: gives what a critic can start as, a reward model of the first columns that reads the policy's own tokens;
    None where there is none.
    """

    def __init__(
        self, terms: Sequence[Term], chat: ChatFormat, to_value: Callable[[], PreTrainedModel | SharedScorer] | None
    ) -> None:
        self.terms, self.chat, self.to_value = list(terms), chat, to_value
        self.weights = {name: weight for term in terms for name, weight in term.columns.items()}
        self.columns = tuple(self.weights)

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        # All weights at once: between two terms a fault of this process alone would leave the others waiting.
        with whole(*(model for term in self.terms for model in term.models)):
            return self._scores(answers) if answers else torch.zeros(0, len(self.columns))

    def _scores(self, answers: Sequence[Answers]) -> Tensor:
        groups, scores = self._groups(answers), []
        for term in self.terms:
            scores.append(term.score(groups))
            check_finite(term, scores[-1], answers)
        return torch.cat(scores, dim=1)

    def _groups(self, answers: Sequence[Answers]) -> Groups:
        texts = [
            Replies(a.question.prompt, [self.chat.text(s.ids) for s in a.samples], [s.ended for s in a.samples])
            for a in answers
        ]
        responses = [
            Response(a.question.prompt, text, s.ids, a.question.fields)
            for a, replies in zip(answers, texts, strict=True)
            for text, s in zip(replies.texts, a.samples, strict=True)
        ]
        return Groups([a.tree for a in answers], texts, responses)


def reward_terms(
    cfg: RewardSources,
    tokenizer: PreTrainedTokenizerBase,
    layout: LayoutConfig,
    say: Callable[[str], object],
    voices: Voices | None = None,
    frozen: Callable[[nn.Module], nn.Module] = freeze,
) -> RewardTerms:
    """Every source that a configuration names, for a policy with this tokenizer. What needs no model comes first, so
    that its faults are told before models are loaded.

    voices: the policy's, whose weights reward models may share. frozen: how the others keep theirs.
    """
    chat, digest = ChatFormat(tokenizer), tokenizer_digest(tokenizer)

    def load(path: str, own: LearnedReward, option: str) -> Member:
        shared = load_on_policy(path, own, layout, voices, say) if voices is not None else None
        model = shared or load_any_classifier(path, own, layout, own.reads)
        member = Member(model, own.label, digest, option)
        if shared is None:
            frozen(model.model)
        say(f"{option}: {path} {member.manner}")
        return member

    plain = {name: plain_term(f"reward.also.{name}", name, term) for name, term in cfg.also.items() if not term.path}
    members = [load(path, cfg, "reward") for path in cfg.paths]
    terms = [main_term(members, cfg)] if members else []
    terms += [plain.get(name) or model_term(name, term, load) for name, term in cfg.also.items()]
    return RewardTerms(terms, chat, to_value(members, cfg, voices))


def to_value(
    members: Sequence[Member], cfg: RewardSources, voices: Voices | None
) -> Callable[[], PreTrainedModel | SharedScorer] | None:
    """What gives a critic its start: a reward model on the policy's weights, or a copy of one beside a policy that
    shares nothing."""
    for path, member in zip(cfg.paths, members, strict=True):
        if member.shares_ids and member.label is None and voices is None:
            return lambda path=path: load_scorer(model_folder(path, "reward"), cfg)[0]
        if member.label is None and isinstance(member.model.model, SharedScorer):
            return lambda model=member.model.model: model
    return None


Load = Callable[[str, LearnedReward, str], Member]


def main_term(members: Sequence[Member], cfg: MembersConfig) -> Term:
    """The reward model or models: helpful, honest and harmless, or one score."""
    axes = members[0].axes
    if any(member.axes != axes for member in members):
        raise ArtifactError(f"reward.models={cfg.models}: some score helpful, honest and harmless, others one thing")
    return Term("reward", dict.fromkeys(axes, 1.0), by_members(members, cfg), read_by(members))


def model_term(name: str, cfg: RewardTerm, load: Load) -> Term:
    """A further reward model or classifier, read as one score."""
    option = f"reward.also.{name}"
    member = load(cfg.path or "", cfg, option)
    if len(member.axes) > 1:
        raise ConfigError(f"{option}: scores {', '.join(member.axes)}; say which of them with {option}.label=...")
    return Term(option, {name: cfg.weight}, by_members([member], MembersConfig()), read_by([member]))


def plain_term(option: str, name: str, cfg: RewardTerm) -> Term:
    """A function, or a remote scorer."""
    source: Callable[[Sequence[Response]], list[float]]
    if cfg.function is not None:
        source = FunctionSource(f"{option}.function", cfg.function)
    else:
        source = RemoteSource(
            option,
            cfg.url or "",
            key_env=cfg.key_env,
            batch_size=cfg.batch_size,
            concurrency=cfg.concurrency,
            limits=cfg.limits,
        )
    return Term(option, {name: cfg.weight}, lambda groups: torch.tensor(source(groups.responses)).view(-1, 1))


def by_members(members: Sequence[Member], cfg: MembersConfig) -> Callable[[Groups], Tensor]:
    return lambda groups: combined(torch.stack([member(groups.trees, groups.texts) for member in members]), cfg)


def read_by(members: Sequence[Member]) -> list[nn.Module]:
    """The models whose weights members take: the policy's where they share them."""
    models = [member.model.model for member in members]
    return [model.voices.model if isinstance(model, SharedScorer) else model for model in models]


def check_finite(term: Term, scores: Tensor, answers: Sequence[Answers]) -> None:
    """Raise NumericsError that names the first prompt with a score that is no number."""
    bad = scores.isfinite().logical_not().nonzero().tolist()
    if not bad:
        return
    row, column = bad[0]
    question = [a.question for a in answers for _ in a.samples][row]
    number, text = question.fields.get("id", question.number), shown(question.prompt[-1].content, 60)
    value, n_bad = float(scores[row, column]), len({i for i, _ in bad})
    raise NumericsError(
        f"{term.option}: {list(term.columns)[column]} is {value} for a response to prompt {number} ({text}); "
        f"{n_bad} of {len(scores)} responses have no number; check what scores them"
    )
