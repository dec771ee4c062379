"""The reward of a policy's responses: one column for each axis of a reward model, and for each further source.

R = responses of all groups, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from models.chat import ChatFormat
from models.errors import ArtifactError, ConfigError, NumericsError
from models.http import shown
from models.layout import LayoutConfig, Tree
from models.loading import tokenizer_digest
from reward.ensemble import MembersConfig, Replies, combined
from reward.function_source import FunctionSource
from reward.members import Member
from reward.remote_source import RemoteSource
from reward.responses import Response
from reward.sources import LearnedReward, RewardSources, RewardTerm
from rl.rollout import Answers
from stages.reward_models import load_any_classifier


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
    members: Sequence[Member] = ()  # the reward models that it asks


class RewardTerms:
    """Scores of responses, (R, columns), larger is better; their weighted sum is the reward.

    critic_path: of a reward model, the first of the columns, that reads the policy's own tokens, so that a critic can
    start as its copy.
    """

    def __init__(self, terms: Sequence[Term], chat: ChatFormat, critic_path: str | None) -> None:
        self.terms, self.chat, self.critic_path = list(terms), chat, critic_path
        self.weights = {name: weight for term in terms for name, weight in term.columns.items()}
        self.columns = tuple(self.weights)

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        groups = Groups(
            [a.tree for a in answers],
            [Replies(a.question.prompt, self.texts(a), [s.ended for s in a.samples]) for a in answers],
            [
                Response(a.question.prompt, text, s.ids, s.ended, a.question.fields)
                for a in answers
                for text, s in zip(self.texts(a), a.samples, strict=True)
            ],
        )
        scores = []
        for term in self.terms:
            scores.append(term.score(groups))
            check_finite(term, scores[-1], answers)
        return torch.cat(scores, dim=1)

    def texts(self, answers: Answers) -> list[str]:
        return [self.chat.text(s.ids) for s in answers.samples]

    def to(self, device: torch.device) -> None:
        """Move every model there."""
        for model in (member.model.model for term in self.terms for member in term.members):
            model.to(device)


def reward_terms(
    cfg: RewardSources, tokenizer: PreTrainedTokenizerBase, layout: LayoutConfig, say: Callable[[str], object]
) -> RewardTerms:
    """Every source that a configuration names, for a policy with this tokenizer. What needs no model comes first, so
    that its faults are told before models are loaded."""
    chat, digest = ChatFormat(tokenizer), tokenizer_digest(tokenizer)

    def load(path: str, own: LearnedReward, option: str) -> Member:
        member = Member(load_any_classifier(path, own, layout, own.reads), own.label, digest, option)
        say(f"{option}: {path} {member.manner}")
        return member

    plain = {name: plain_term(f"reward.also.{name}", name, term) for name, term in cfg.also.items() if not term.path}
    terms = [main_term([load(path, cfg, "reward") for path in cfg.paths], cfg)] if cfg.paths else []
    terms += [plain.get(name) or model_term(name, term, load) for name, term in cfg.also.items()]
    from_start = zip(cfg.paths, terms[0].members, strict=False)
    critic_path = next((path for path, m in from_start if m.shares_ids and m.label is None), None)
    return RewardTerms(terms, chat, critic_path)


Load = Callable[[str, LearnedReward, str], Member]


def main_term(members: Sequence[Member], cfg: MembersConfig) -> Term:
    """The reward model or models: helpful, honest and harmless, or one score."""
    axes = members[0].axes
    if any(member.axes != axes for member in members):
        raise ArtifactError(f"reward.models={cfg.models}: some score helpful, honest and harmless, others one thing")
    return Term("reward", dict.fromkeys(axes, 1.0), by_members(members, cfg), members)


def model_term(name: str, cfg: RewardTerm, load: Load) -> Term:
    """A further reward model or classifier, read as one score."""
    option = f"reward.also.{name}"
    member = load(cfg.path or "", cfg, option)
    if len(member.axes) > 1:
        raise ConfigError(f"{option}: scores {', '.join(member.axes)}; say which of them with {option}.label=...")
    return Term(option, {name: cfg.weight}, by_members([member], MembersConfig()), [member])


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
