"""Which language a text is in: a guess from its script and, in Latin script, from frequent words."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

UNKNOWN = "unknown"

_SCRIPTS = (  # the first that a word's first letter fits
    ("kana", re.compile("[\u3040-\u30ff\u31f0-\u31ff]")),
    ("zh", re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")),
    ("ko", re.compile("[\u1100-\u11ff\uac00-\ud7af]")),
    ("cyrillic", re.compile("[\u0400-\u052f]")),
    ("arabic", re.compile("[\u0600-\u06ff\u0750-\u077f]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
    ("latin", re.compile("[a-z\u00df-\u024f\u1e00-\u1eff]")),
)
_WITHIN = {  # script -> letters that only one of its languages has
    "cyrillic": (("uk", re.compile("[іїєґ]")), ("ru", re.compile("."))),
    "arabic": (("fa", re.compile("[پچژگ]")), ("ar", re.compile("."))),
}
_FREQUENT = {  # words that are frequent in one of these languages and no frequent word of another is spelt like
    "en": "the of and to is are was that it for with as on this be by not you your what how from or which my we i",
    "de": "der die das und ist nicht ein eine zu den mit von auf für im sich des dem auch wie ich sie es wird sind",
    "fr": "le la les et des est une un du que qui dans pour pas sur au avec ce il elle vous nous sont ou cette aux",
    "es": "el la los las y de que en es un una por con para del se no su al como más está son lo este sobre",
    "it": "il lo la gli le di che è un una per con del della non si sono dei nel alla come più questo anche",
    "pt": "o os as de e que em é um uma para com do da não se dos das ao como mais são na no seu isso você",
    "nl": "de het een van en niet dat die voor met zijn aan er ook als om wordt naar deze wat hoe bij",
    "sv": "och att det som en är av för på den med inte ett till har jag om kan från var hur vad eller",
    "pl": "się nie jest że jak po od dla są przez czy oraz który ale tym jego można jako tylko był",
    "tr": "ve bir bu için ile ne olarak daha çok gibi olan var nasıl değil ya kadar her sonra ama",
    "ro": "și în pe este cu la din că nu sunt pentru mai care sau fi într fost această prin",
    "fi": "ja on ei se että hän oli joka myös kun mutta ovat niin olla tai kuin voi sen",
}
FREQUENT_WORDS = {name: frozenset(listed.split()) for name, listed in _FREQUENT.items()}
_LANGUAGES_OF = {
    word: tuple(name for name, frequent in FREQUENT_WORDS.items() if word in frequent)
    for word in frozenset[str]().union(*FREQUENT_WORDS.values())
}
LANGUAGES = (*FREQUENT_WORDS, "zh", "ja", "ko", "ru", "uk", "ar", "fa", "he", "el", "hi", "th", UNKNOWN)
FEW = 5  # words, of which one frequent one may be chance
ENOUGH_SHARE = 0.1  # of a text's words that must be frequent ones of its language


def language(parts: Sequence[str]) -> str:
    """The likeliest language of a text given as words, an ISO 639-1 code; `unknown` where nothing speaks for any."""
    scripts = Counter(script for part in parts if (script := _script(part)))
    if scripts["kana"] >= 0.1 * (scripts["kana"] + scripts["zh"]) > 0:
        scripts["ja"] = scripts.pop("kana") + scripts.pop("zh", 0)
    del scripts["kana"]
    if not scripts:
        return UNKNOWN
    script = scripts.most_common(1)[0][0]
    if script == "latin":
        return _latin(parts)
    within = _WITHIN.get(script)
    return next(code for code, letter in within if letter.search("".join(parts))) if within else script


def _script(word: str) -> str | None:
    return _script_of_letter(word[0])


@functools.cache
def _script_of_letter(letter: str) -> str | None:
    return next((name for name, letters in _SCRIPTS if letters.match(letter)), None)


def _latin(parts: Sequence[str]) -> str:
    hits = Counter(name for part in parts for name in _LANGUAGES_OF.get(part, ()))
    needed = max(ENOUGH_SHARE * len(parts), 2 if len(parts) >= FEW else 1)
    return next((name for name, n in hits.most_common(1) if n >= needed), UNKNOWN)
