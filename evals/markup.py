"""Pieces of HTML that several sections of the report share."""

from __future__ import annotations

from collections.abc import Iterable

from evals.notation import escaped

KNOWN_COLOURS = ("base", "sft", "ppo", "dpo")


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
