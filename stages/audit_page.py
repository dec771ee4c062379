"""The audit's page: one function a section. What the data says is shown as text, never as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.histogram import histogram
from evals.markup import counts, document, empty, heading, meter, share
from evals.notation import compact, escaped, foreign
from instruct.audit.checks import Findings
from instruct.audit.kinds import KINDS
from instruct.audit.texts import excerpt
from models.scorer import AXES

N_EXAMPLES = 3
N_LISTED = 12  # languages, first words and the like
N_CLUSTERS = 20
COLOURS = ("c-sft", "c-other1", "c-other2", "c-dpo", "c-other0")


def render(found: Findings, counted: Mapping[str, Any]) -> str:
    """The whole page. counted: the findings as `instruct.audit.account` counts them."""
    rows, clusters = counted["rows"], counted["clusters"]
    facts = {
        "rows": f"{rows['usable']:,} of {rows['read']:,}",
        "instructions": f"{counted['instructions']:,}",
        "words of an answer, median": compact(counted["measures"]["answer_words"]["median"]),
        "clusters": f"{len(clusters)}, as diverse as {counted['effective_clusters']:.0f} of one size",
        "distinct word pairs in answers": f"{counted['distinct']['answer'][2]:.0%}",
    }
    sections = {
        "Marks": ("marks", marks_section(found, counted)),
        "Lengths": ("lengths", lengths_section(found)),
        "Make-up": ("make-up", make_up_section(counted)),
        "Topics": ("topics", topics_section(found)),
        "Models": ("models", models_section(found)),
        "Reading": ("reading", reading_section(counted)),
    }
    footer = (
        "A mark is a question, not a verdict: look at the rows before you drop them. Language, completeness and length "
        "are judged by rules of thumb; of text without spaces each character counts as a word."
    )
    return document(f"Data audit: {Path(counted['path']).name}", facts, answer(counted), sections, footer)


def answer(counted: Mapping[str, Any]) -> str:
    """The first screen: one sentence."""
    rows, marks = counted["rows"], counted["marks"]
    most = sorted((name for name in marks if marks[name]["rows"]), key=lambda name: -marks[name]["rows"])
    said = f"{rows['marked']:,} of {rows['usable']:,} rows are marked, {share(rows['marked'], rows['usable'])}."
    listed = ", ".join(f"{marks[name]['rows']:,} {spoken(name)}" for name in most)
    unread = rows["read"] - rows["usable"]
    left_out = f" {unread:,} more could not be used." if unread else ""
    tone = "better" if not most and not unread else "unclear"
    return (
        f'<section class="answer {tone}"><p class="question">What is wrong with these rows?</p>'
        f'<p class="says">{said}{left_out}</p><p class="lead">{listed or "Nothing that was looked for was found."}</p>'
        "</section>"
    )


def spoken(name: str) -> str:
    return name.replace("_", " ")


def marks_section(found: Findings, counted: Mapping[str, Any]) -> str:
    """A row for each kind of mark, by dimension, with its first examples."""
    named = ("", *(kind.dimension for kind in KINDS.values()))
    rows = (
        mark_row(name, kind.dimension if kind.dimension != before else "", found, counted)
        for before, (name, kind) in zip(named, KINDS.items(), strict=False)
    )
    lead = "How many rows have each mark, and three of them. All row numbers are in audit.json."
    head = "<tr><th>dimension</th><th>mark</th><th>rows</th><th>examples</th></tr>"
    table = f'<table class="marks"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return f'{heading("Marks", lead)}<div class="scroll">{table}</div>'


def mark_row(name: str, dimension: str, found: Findings, counted: Mapping[str, Any]) -> str:
    kind, marks = KINDS[name], found.marks.get(name)
    start = f'<td class="dimension">{dimension}</td><td class="name"><b>{spoken(name)}</b>'
    if not marks:
        why = "none" if marks is not None else f"not looked for; say {escaped(kind.needs)}=…"
        number = "0" if marks is not None else "–"
        return f'<tr class="none">{start}</td><td class="rows"><b>{number}</b></td><td>{why}</td></tr>'
    n, total = counted["marks"][name]["rows"], counted["rows"]["usable"]
    said = f'<td class="rows"><b>{n:,}</b><small>{share(n, total)}</small>{meter(n / total)}</td>'
    examples = "".join(example(found, i, why) for i, why in list(marks.items())[:N_EXAMPLES])
    return f"<tr>{start}<small>{escaped(kind.meaning)}</small></td>{said}<td>{examples}</td></tr>"


def example(found: Findings, i: int, why: str) -> str:
    item = found.items[i]
    asked, reply = excerpt(item.instruction), " ".join(item.answer.split())
    reply = reply if len(reply) <= 70 else f"{reply[:30]} … {reply[-38:]}"
    return (
        f'<div class="example"><span class="line">line {item.line}</span><div>'
        f'<div class="why" dir="auto">{foreign(why)}</div><div class="said" dir="auto">{foreign(asked)}'
        f' <span class="reply">→ {foreign(reply)}</span></div></div></div>'
    )


def lengths_section(found: Findings) -> str:
    """Histograms of words."""
    names = {"instruction_words": "instruction", "input_words": "input and earlier turns", "answer_words": "answer"}
    charts = histograms(found, {name: (caption, "words") for name, caption in names.items()})
    return f"{heading('Lengths', 'In words. The last bar holds all that are longer.')}{charts}"


def histograms(found: Findings, shown: Mapping[str, tuple[str, str]]) -> str:
    """Charts of measures: (caption, unit) by name. What was not measured, or is 0 throughout, is left out."""
    figures = []
    for name, (caption, unit) in shown.items():
        values = [value for value in found.measures.get(name, ()) if value is not None]
        if any(values):
            chart = histogram(f"histogram: {caption}", values, COLOURS[len(figures) % len(COLOURS)], unit)
            figures.append(f"<figure><figcaption>{escaped(caption)}</figcaption>{chart}</figure>")
    return f'<div class="curves">{"".join(figures)}</div>' if figures else ""


def make_up_section(counted: Mapping[str, Any]) -> str:
    """Languages, first words of instructions, and turns."""
    n = counted["instructions"]
    languages = [(name, found["rows"]) for name, found in counted["languages"].items()]
    turns = [(f"{number} turns", count) for number, count in counted["turns"].items()]
    lead = (
        "Languages are guessed from script and frequent words. First words are mostly verbs of what is to be done, and "
        "question words: a few of them on most rows is a narrow file."
    )
    lists = [
        counts("first word of the instruction", list(counted["openings"].items())[:N_LISTED], n),
        counts("language", languages[:N_LISTED], n),
        counts("turns of a conversation", turns[:N_LISTED], n),
    ]
    return f'{heading("Make-up", lead)}<div class="three">{"".join(lists)}</div>'


def topics_section(found: Findings) -> str:
    """The clusters, with what sets their words apart and the instruction nearest to the centre."""
    n, most = len(found.items), len(found.clusters[0].members)
    rows = "".join(
        f"<tr><td><b>{len(cluster.members):,}</b><small>{share(len(cluster.members), n)}</small></td>"
        f"<td>{meter(len(cluster.members) / most)}</td>"
        f'<td class="said" dir="auto">{foreign(" · ".join(cluster.words))}</td>'
        f'<td class="said" dir="auto">{foreign(excerpt(found.items[cluster.members[0]].instruction, 110))}</td></tr>'
        for cluster in found.clusters[:N_CLUSTERS]
    )
    more = len(found.clusters) - N_CLUSTERS
    lead = "Instructions that are alike in their words, the words that set them apart, and the most typical one." + (
        f" {more} smaller clusters are not shown." if more > 0 else ""
    )
    return f'{heading("Topics", lead)}<div class="scroll"><table class="sizes"><tbody>{rows}</tbody></table></div>'


def models_section(found: Findings) -> str:
    """What models and judge say of the answers, where any was asked."""
    shown = {"loss": ("loss of an answer", "nats a token"), "difficulty": ("difficulty (IFD)", "ratio")}
    shown |= {axis: (f"reward model: {axis}", "standard deviations") for axis in AXES}
    charts = histograms(found, shown | {"judge": ("judge", "score")})
    if not charts:
        return empty("Models", "No model was asked: say model.path=, reward.path= or judge=.")
    lead = (
        "How likely, how hard and how good the answers are to models. Difficulty is the loss of an answer after its "
        "instruction over its loss alone: at 1 the instruction does not help."
    )
    return f"{heading('Models', lead)}{charts}"


def reading_section(counted: Mapping[str, Any]) -> str:
    """What was left out and why, and what nobody read."""
    rows = counted["rows"]
    items = [(f"left out: {reason}", lines) for reason, lines in rows["dropped"].items()]
    items += [(f"noted: {note}", lines) for note, lines in rows["noted"].items()]
    listed = "".join(
        f"<dt>{escaped(name)}</dt><dd>{len(lines):,} (line {escaped(first_of(lines))})</dd>" for name, lines in items
    )
    unused = rows["unused_fields"]
    listed += f"<dt>fields not used</dt><dd>{escaped(', '.join(unused))}</dd>" if unused else ""
    listed += "".join(f"<dt>note</dt><dd>{escaped(note)}</dd>" for note in counted["notes"])
    lead = f"{rows['usable']:,} of {rows['read']:,} rows of {escaped(counted['path'])} were used."
    return f"{heading('Reading', lead)}{f'<dl>{listed}</dl>' if listed else ''}"


def first_of(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:10])) + (", …" if len(lines) > 10 else "")
