"""Pieces of HTML that several sections and pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evals.notation import escaped, foreign

STYLE = Path(__file__).with_name("report.css")
# Nothing may be fetched or run, whatever slipped through the escaping.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
KNOWN_COLOURS = ("base", "sft", "ppo", "dpo")


def document(
    title: str, facts: Mapping[str, object], opening: str, sections: Mapping[str, tuple[str, str]], footer: str
) -> str:
    """A page that stands alone. opening: what comes before the sections, which are (anchor, content) by their name."""
    said = "".join(f"<span>{escaped(name)} <b>{escaped(value)}</b></span>" for name, value in facts.items())
    links = "".join(f'<a href="#{anchor}">{name}</a>' for name, (anchor, _) in sections.items())
    body = "".join(f'<section id="{anchor}">{content}</section>' for anchor, content in sections.values())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f'<header><h1>{escaped(title)}</h1><div class="facts">{said}</div><nav>{links}</nav></header>'
        f"{opening}{body}<footer>{escaped(footer)}</footer></main></body></html>\n"
    )


def colours(names: Iterable[str]) -> dict[str, str]:
    """A CSS class for each model: its own for the usual four, and others in turn."""
    given: dict[str, str] = {}
    for name in names:
        others = sum(colour.startswith("c-other") for colour in given.values())
        given.setdefault(name, f"c-{name}" if name in KNOWN_COLOURS else f"c-other{others % 4}")
    return given


def legend(tint: dict[str, str]) -> str:
    items = (f'<span><span class="{c}"><span class="swatch"></span></span>{escaped(n)}</span>' for n, c in tint.items())
    return f'<div class="legend">{"".join(items)}</div>'


def heading(title: str, lead: str) -> str:
    return f'<h2>{title}</h2><p class="lead">{lead}</p>'


def empty(title: str, lead: str) -> str:
    return f'<h2>{title}</h2><p class="empty">{lead}</p>'


def counts(title: str, counted: Sequence[tuple[str, int]], total: int) -> str:
    """Names with their counts and shares of the total, each with a bar. The names may be anyone's text."""
    most = max((n for _, n in counted), default=1)
    rows = "".join(
        f'<li><span class="said" dir="auto">{foreign(name)}</span>{meter(n / most)}<b>{n:,}</b>'
        f"<small>{share(n, total)}</small></li>"
        for name, n in counted
    )
    return f'<figure><figcaption>{escaped(title)}</figcaption><ol class="counts">{rows}</ol></figure>'


def meter(filled: float) -> str:
    """A bar that is filled by a share."""
    return f'<span class="meter"><i style="width:{100 * filled:.1f}%"></i></span>'


def share(n: int, total: int) -> str:
    """A count as percents; a small one never reads as none, nor a large one as all."""
    percents = 100 * n / total if total else 0.0
    if 0 < percents < 0.1:
        return "&lt;0.1 %"
    return f"{percents:.1f} %" if percents < 99.95 or n == total else "&gt;99.9 %"
