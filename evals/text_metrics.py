"""How near a text comes to a right answer: exact match, token F1, ROUGE-L and chrF.

All lie in [0, 1] and grow with agreement; of several right answers the nearest counts.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.rouge import rouge_l as subsequence_f1

N_GRAMS = 6  # chrF's longest character n-gram
BETA = 2.0  # chrF: recall counts beta times as much as precision
# Han, kana and their extensions: scripts that put no space between words.
_UNSPACED = re.compile("([\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where the text is one of the answers, up to SQuAD's normalisation (Rajpurkar et al. 2016)."""
    return _best(lambda answer: float(_normalised(text) == _normalised(answer)), answers)


def token_f1(text: str, answers: Sequence[str]) -> float:
    """F1 of the bags of tokens (Rajpurkar et al. 2016): words after SQuAD's normalisation, characters of Chinese and
    Japanese. Without a token on either side, whether both have none (SQuAD 2.0)."""
    return _best(lambda answer: _bag_f1(_squad_tokens(text), _squad_tokens(answer)), answers)


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), characters of Chinese and Japanese; case and
    punctuation do not count, words are not stemmed."""
    return _best(lambda answer: subsequence_f1(_words(text), _words(answer)), answers)


def chrf(text: str, answers: Sequence[str]) -> float:
    """chrF of one text (Popović 2015; sacrebleu's defaults, which prints 100 times as much)."""
    return float(chrf_score(chrf_counts(text, answers)))


def chrf_counts(text: str, answers: Sequence[str]) -> NDArray[np.float64]:
    """What chrF is made of, to be summed over a corpus: (3 * N_GRAMS,), of the n-grams of each length those of the
    text, of the answer and of both. Of several answers the one with the highest chrF."""
    ours = _characters(text)
    counts = [_matches(ours, _characters(answer)) for answer in answers]
    return max(counts, key=lambda found: float(chrf_score(found)))


def chrf_score(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """chrF of summed counts, (..., 3 * N_GRAMS): F_beta of the mean precision and the mean recall, over the lengths of
    which either side has n-grams."""
    by_length = counts.reshape(*counts.shape[:-1], N_GRAMS, 3)
    said, wanted, common = by_length[..., 0], by_length[..., 1], by_length[..., 2]
    counted = (said > 0) & (wanted > 0)
    n = np.maximum(counted.sum(-1), 1)
    precision = np.where(counted, common / np.maximum(said, 1), 0.0).sum(-1) / n
    recall = np.where(counted, common / np.maximum(wanted, 1), 0.0).sum(-1) / n
    below = BETA**2 * precision + recall
    return np.where(below > 0, (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0), 0.0)


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    return max(map(score, answers))


def _normalised(text: str) -> str:
    """Lower case, without punctuation (that of other scripts too, as in MLQA) and articles, single spaces."""
    kept = "".join(c for c in _composed(text) if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _squad_tokens(text: str) -> list[str]:
    return _UNSPACED.sub(r" \1 ", _normalised(text)).split()


def _words(text: str) -> list[str]:
    """Runs of letters, marks and digits in lower case."""
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in _composed(text))
    return _UNSPACED.sub(r" \1 ", kept).split()


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _bag_f1(ours: list[str], theirs: list[str]) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def _characters(text: str) -> list[Counter[str]]:
    """Counts of the character n-grams of each length; white space does not count."""
    joined = "".join(text.split())
    return [Counter(joined[i : i + n] for i in range(len(joined) - n + 1)) for n in range(1, N_GRAMS + 1)]


def _matches(ours: list[Counter[str]], theirs: list[Counter[str]]) -> NDArray[np.float64]:
    counts = [
        # As in sacrebleu, a length that the answer is too short for does not count against the text.
        (mine.total() if wanted else 0, wanted.total(), (mine & wanted).total())
        for mine, wanted in zip(ours, theirs, strict=True)
    ]
    return np.array(counts, dtype=np.float64).reshape(-1)
