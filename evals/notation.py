"""How the report prints numbers, durations and text that a model wrote."""

from __future__ import annotations

import html
import math
import unicodedata

MINUS = "\N{MINUS SIGN}"
# Joiners belong to emoji and to several scripts; the rest of their category is invisible or turns text around.
HARMLESS = "\n\t\u200c\u200d"
N_SHOWN = 2_000  # characters of one text


def number(value: float, digits: int = 2) -> str:
    """A number with a fixed count of decimals, thousands apart and a real minus; `-0.00` is `0.00`. Millions and more
    as `7.3e9`."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6:
        return compact(value)
    text = f"{value:,.{digits}f}"
    is_zero = not text.strip("-0.,")
    return text.lstrip("-") if is_zero else text.replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """The same with its sign: `+0.05`."""
    text = number(value, digits)
    return text if text.startswith(MINUS) or not math.isfinite(value) else f"+{text}"


def compact(value: float) -> str:
    """Three significant digits in as little room as they take: `12.3k`, `0.0412`, `1.0e-5`."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", MINUS)
    if size >= 1e4:
        return number(value / 1000, 1) + "k"
    text = f"{value:.3g}" if size < 1000 else f"{value:.0f}"
    return text.replace("-", MINUS)


def duration(seconds: float) -> str:
    """`4.2 s`, `1 min 05 s`, `2 h 03 min`"""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(n_bytes: float) -> str:
    """`512 MiB`, `1.4 GiB`"""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def escaped(text: object) -> str:
    """Text that cannot become markup, for the report's own labels."""
    return html.escape(visible(str(text)))


def foreign(text: str, n_shown: int = N_SHOWN) -> str:
    """What a model or a user wrote, as HTML that shows it as text: markup inert, invisible characters named."""
    cut = len(text) - n_shown
    shown = "".join(marked(c) for c in text[:n_shown])
    return shown + (f'<span class="cut"> … {cut:,} more characters</span>' if cut > 0 else "")


def marked(character: str) -> str:
    """One character as HTML; a hidden one as its name in a box."""
    name = visible(character)
    return html.escape(character) if name == character else f'<span class="hidden">{html.escape(name)}</span>'


def visible(text: str) -> str:
    """The text with control, format, unassigned and surrogate characters replaced by their names, as in `U+202E`."""
    return "".join(f"U+{ord(c):04X}" if is_hidden(c) else c for c in text)


def is_hidden(character: str) -> bool:
    """Whether a reader could not see it, or could not trust what is seen."""
    return character not in HARMLESS and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
