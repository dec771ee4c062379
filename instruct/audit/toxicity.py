"""Abuse, by a scorer that the user names or, without one, by a short list of words.

The list knows some English and Chinese words and no context: it misses most of what harms, and marks whoever
quotes or explains a word. Name a classifier of yours for more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from instruct.audit.kinds import Marks
from instruct.audit.source import Item
from models.errors import ConfigError

Scorer = Callable[[Sequence[str]], Sequence[float]]  # texts -> how toxic each is, in [0, 1]

_ENGLISH = (
    "arsehole|asshole|bastard|bitch|bitches|bullshit|cocksucker|cunt|dickhead|dipshit|dumbass|fag|faggot|fuck|fucked|"
    "fucker|fucking|jackass|kike|kill yourself|kys|moron|motherfucker|nigger|nigga|piece of shit|"
    "retarded|scumbag|shit|shithead|slut|spic|stfu|tranny|twat|wanker|whore"
)
_CHINESE = "傻逼|操你妈|他妈的|去死吧|王八蛋|混蛋|婊子|贱人|滚蛋|蠢货|白痴|狗娘养的"
_LISTED = re.compile(rf"\b(?:{_ENGLISH})\b|{_CHINESE}", re.IGNORECASE)


def listed_words(texts: Sequence[str]) -> list[float]:
    """1 - 1/2 to the number of listed words: 0 for none, 0.5 for one."""
    return [1 - 0.5 ** len(_LISTED.findall(text)) for text in texts]


def toxicity(items: Sequence[Item], scorer: Scorer) -> list[float]:
    """The scorer's value for each conversation. Raises ConfigError where it fails or answers something else."""
    texts = ["\n".join(turn.content for turn in item.messages) for item in items]
    try:
        scores = [float(score) for score in scorer(texts)]
    except Exception as error:
        raise ConfigError(f"toxicity: the scorer failed ({type(error).__name__}: {error})") from error
    if len(scores) != len(texts) or not all(math.isfinite(score) for score in scores):
        raise ConfigError(f"toxicity: expected {len(texts)} finite numbers of the scorer, one a text")
    return scores


def toxic(scores: Sequence[float], items: Sequence[Item], threshold: float) -> Marks:
    """Items that score at least the threshold, the worst first, with the listed word where the list knows one."""
    marks: Marks = {}
    for i in sorted(range(len(items)), key=lambda i: -scores[i]):
        if scores[i] >= threshold:
            word = next((m[0] for turn in items[i].messages if (m := _LISTED.search(turn.content))), None)
            marks[i] = f"{scores[i]:.2f}" + (f": {word}" if word else "")
    return marks
