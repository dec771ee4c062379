"""What keeps a generated text out of the data. Every check has a reason of its own, to count by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from instruct.language import LANGUAGES, UNKNOWN, language
from models.errors import ConfigError
from models.rouge import closest, words

# What text alone cannot serve (the list of Wang et al. 2023).
KEYWORDS = (*"image images picture pictures graph graphs plot draw map maps file files".split(), "go to")

RUN, ENOUGH = 4, 8  # words of a run whose repetition counts; words of a text below which nothing is said of it

_CANNOT = r"i(\ cannot|\ can['’]?t|\ can\ not|\ won['’]t|\ will\ not|(\ am|['’]m)\ (unable|not\ able)\ to)"
_REFUSAL = re.compile(
    rf"""
    ((i['’]?m|i\ am)\ )?((very|so|truly)\ )?(sorry|afraid)[,.]?\ (but\ )?(as\ an?\ [^,]*,\ )?{_CANNOT}
    | (unfortunately,?\ )?{_CANNOT}\ (help|assist|do|provide|answer|comply|fulfil|complete|create|write|generate)
    | as\ an?\ (ai|(large\ )?language)(\ language)?\ (model|assistant)
    | es\ tut\ mir\ leid | je\ suis\ désolée? | lo\ siento | 抱歉 | 对不起
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Dropped(Exception):
    """A candidate that becomes no row, and why."""


@dataclass
class FilterConfig:
    """What is kept of what a teacher writes."""

    min_words: int = 4  # of an instruction
    max_words: int = 150  # of an instruction
    max_reply_words: int = 1000  # of a reply; of a text that is to be back-translated too
    max_repetition: float = 0.5  # share of a text's runs of four words that stood in it before; 1: any
    max_similarity: float = 0.7  # ROUGE-L of an instruction to seeds (its own apart) and to others made; 1: any
    keywords: list[str] | None = None  # that no new instruction holds; null: image, draw … for self_instruct alone
    languages: list[str] = field(default_factory=list)  # of instructions and replies, as [en, de]; empty: any
    refusals: str = "drop"  # replies that refuse the task: drop, or keep

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.max_words or self.max_reply_words < 1:
            raise ConfigError("filter: expected 1 <= min_words <= max_words, and max_reply_words of at least 1")
        for name in ("max_repetition", "max_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"filter.{name}={getattr(self, name)}: expected a share in (0, 1]")
        if unknown := sorted(set(self.languages) - set(LANGUAGES)):
            raise ConfigError(f"filter.languages: {unknown[0]} is not known; there are {', '.join(LANGUAGES)}")
        if self.refusals not in ("drop", "keep"):
            raise ConfigError(f"filter.refusals={self.refusals}: expected drop or keep")


class Screen:
    """The checks, and the instructions that new ones must differ from: the seeds, and those that passed before."""

    def __init__(self, cfg: FilterConfig, seeds: Iterable[str], keywords: Sequence[str] = ()) -> None:
        self.cfg = cfg
        self.seeds = {seed: words(seed) for seed in seeds}
        self.passed: dict[str, list[str]] = {}
        listed = "|".join(re.escape(word) for word in (keywords if cfg.keywords is None else cfg.keywords))
        self._keywords = re.compile(rf"\b({listed})\b", re.IGNORECASE) if listed else None

    def instruction(self, text: str, own_seed: str | None = None) -> None:
        """Raise Dropped unless this may be an instruction; later ones must differ from it, whatever becomes of it, so
        that nothing is paid for two that are alike. own_seed: what it was made from, and may resemble."""
        said = words(text)
        if len(said) < self.cfg.min_words:
            raise Dropped("instruction: too short")
        if len(said) > self.cfg.max_words:
            raise Dropped("instruction: too long")
        if self._keywords is not None and self._keywords.search(text):
            raise Dropped("instruction: holds a keyword")
        self._text("instruction", said)
        for what, others in (("a seed", self.seeds), ("another", self.passed)):
            compared = (other for name, other in others.items() if name != own_seed)
            if closest(said, compared, self.cfg.max_similarity):
                raise Dropped(f"instruction: near-duplicate of {what}")
        self.passed[text] = said

    def reply(self, text: str) -> None:
        """Raise Dropped unless this may be an answer."""
        said = words(text)
        if not said:
            raise Dropped("reply: no words")
        if len(said) > self.cfg.max_reply_words:
            raise Dropped("reply: too long")
        if self.cfg.refusals == "drop" and refuses(text):
            raise Dropped("reply: refuses")
        self._text("reply", said)

    def _text(self, what: str, said: Sequence[str]) -> None:
        if len(said) >= ENOUGH and repetition(said) > self.cfg.max_repetition:
            raise Dropped(f"{what}: repeats itself")
        if self.cfg.languages and language(said) not in (UNKNOWN, *self.cfg.languages):
            raise Dropped(f"{what}: in another language")


def repetition(said: Sequence[str]) -> float:
    """Share of the runs of RUN words that stood in the text before."""
    runs = list(zip(*(said[i:] for i in range(RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def refuses(text: str) -> bool:
    """Whether a reply opens as refusals do."""
    return _REFUSAL.match(text.strip().lstrip("\"'“*#")) is not None
