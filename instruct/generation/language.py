"""Which language a text is in, as far as its script and its most frequent words tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNKNOWN = "unknown"

# The first that makes up a quarter of the characters; kana before Han, since Japanese mixes both.
SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "ko": r"[\u1100-\u11ff\uac00-\ud7af]",
    "zh": r"[\u3400-\u9fff]",
    "ru": r"[\u0400-\u04ff]",
    "ar": r"[\u0600-\u06ff]",
    "he": r"[\u0590-\u05ff]",
    "el": r"[\u0370-\u03ff]",
    "hi": r"[\u0900-\u097f]",
    "th": r"[\u0e00-\u0e7f]",
}
FREQUENT = {
    "en": "the of and to is that it for on with as are this be by you not have or from which was an at",
    "de": "der die und den von zu das mit sich des auf für ist im dem nicht ein eine als auch es werden aus wir ich",
    "fr": "le les des et est une du dans qui par pour que sur pas au plus avec ce il sont vous nous cette ou je",
    "es": "el los las del y una por con para es lo como más su al pero sus este son está ser también hay muy",
    "it": "il di che e la per una sono con non del della gli nel alla è questo anche più dei delle ho cosa",
    "pt": "os do da em um uma para com não é no na por mais dos das ao você são seu sua também isso",
    "nl": "het een van en dat niet op te zijn voor met er ook aan wordt naar bij maar deze dit ik je",
}
LANGUAGES = (*FREQUENT, *SCRIPTS)
_WORDS_OF = {language: frozenset(listed.split()) for language, listed in FREQUENT.items()}


def language(words: Sequence[str]) -> str:
    """A code of LANGUAGES; `unknown` where the words are too few, mixed or of another language to tell."""
    letters = "".join(words)
    for code, script in SCRIPTS.items():
        if letters and len(re.findall(script, letters)) >= len(letters) / 4:
            return code
    counted = {code: sum(word in listed for word in words) for code, listed in _WORDS_OF.items()}
    first, second = sorted(counted, key=lambda code: -counted[code])[:2]
    return first if counted[first] >= 2 and counted[first] > counted[second] else UNKNOWN
