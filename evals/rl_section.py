"""The report's section of reinforcement learning: what rose, what it cost, and how the answers changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evals.course import time_split_bar
from evals.histogram import histogram
from evals.markup import empty, heading, legend
from evals.notation import compact, escaped, foreign, number, signed
from evals.plots import Frame, Series, line_chart, padded
from evals.rl_results import Look, RLCourse, Then, Told

N_SHOWN = 500  # characters of an answer
TINTS = ("c-sft", "c-ppo", "c-dpo", "c-other0", "c-other1", "c-other2", "c-other3", "c-base")
JUDGES = {
    "proxy": ("Learned reward", "what training saw"),
    "referee": ("Referee", "a reward model that training did not see"),
    "gold": ("Gold score", "the truth"),
}
CHARTS = (  # title, what it says, the curves by their names in the log
    ("KL to the start", "nats per response", {"objective/kl": "mean", "objective/kl_p95": "95th percentile"}),
    ("entropy", "nats per token", {"objective/entropy": ""}),
    ("length", "tokens", {"response/length": "mean", "response/length_max": "longest"}),
    ("no end of turn", "share of responses", {"unfinished": ""}),
    (
        "repetition",
        "shares",
        {"response/repeated": "4-grams seen before", "response/most_common": "the most common answer"},
    ),
    ("clip fraction", "share of tokens", {"policy/clip_fraction": "policy", "value/clip_fraction": "critic"}),
    ("explained variance", "of returns", {"value/explained_variance": ""}),
    ("policy loss", "", {"policy/loss": ""}),
    ("critic loss", "", {"value/loss": ""}),
    ("text loss", "nats per token, PTX", {"ptx/nll": ""}),
    ("β", "of the KL penalty", {"objective/kl_coef": ""}),
    ("equal rewards", "share of groups", {"advantage/equal_groups": ""}),
    ("cost", "held by a constraint", {"constraint/cost": "mean", "constraint/multiplier": "multiplier"}),
)


def rl_section(course: RLCourse) -> str:
    if not course.curves:
        return empty(f"Reinforcement learning: {escaped(course.stage)}", "No rollout was logged.")
    lead = "By rollout: what the policy earned on the prompts that it learnt from, and what moved with it."
    parts = (
        heading(f"Reinforcement learning: {escaped(course.stage)}", lead),
        curves_part(course),
        looks_part(course.looks),
        spread_part(course),
        time_split_bar(course.stage, course.seconds),
        samples_part(course),
    )
    return "".join(parts)


def curves_part(course: RLCourse) -> str:
    """Small charts; those of quantities that were not logged are left out."""
    rewards = {name: name.removeprefix("reward/") for name in course.curves if name.startswith("reward/")}
    charts = [chart(course, "reward", "by axis or source", rewards)]
    charts += [chart(course, title, says, names) for title, says, names in CHARTS]
    return f'<div class="curves">{"".join(charts)}</div>'


def chart(course: RLCourse, title: str, says: str, names: dict[str, str]) -> str:
    shown = {name: label for name, label in names.items() if course.curves.get(name)}
    if not shown:
        return ""
    tint = dict(zip(shown, TINTS * len(shown), strict=False))
    lines = [Series(label or title, course.curves[name], tint[name]) for name, label in shown.items()]
    key = legend({label: tint[name] for name, label in shown.items()}) if len(shown) > 1 else ""
    drawn = line_chart(f"{course.stage}: {title}", lines, x_label="rollout")
    return (
        f'<figure><figcaption>{escaped(title)}<span class="now">{escaped(says)}</span></figcaption>'
        f"{drawn}{key}</figure>"
    )


def looks_part(looks: Sequence[Look]) -> str:
    if not looks:
        return (
            f"<h3>Held-out prompts</h3>{empty('', 'No prompts were held out: nothing tells whether it generalised.')}"
        )
    judges = [judge for judge in JUDGES if judge in looks[0].scores]
    panels = "".join(
        f'<figure><figcaption>{JUDGES[judge][0]}<span class="now">{JUDGES[judge][1]}</span></figcaption>'
        f"{look_chart(looks, judge)}</figure>"
        for judge in judges
    )
    said = (
        "Each point is a look at held-out prompts, with two standard errors; a ring marks the policy that was kept. "
        "Where the learned reward goes on rising and the others turn down, training exploits the reward model."
    )
    return f'<h3>Reward against √KL</h3><p class="lead">{said}</p><div class="cols">{panels}</div>'


def look_chart(looks: Sequence[Look], judge: str) -> str:
    """What one judge says, by the square root of KL, in the order of the looks."""
    at = [(math.sqrt(max(look.kl, 0.0)), look.scores[judge], 2 * look.errors.get(judge, 0.0), look) for look in looks]
    bounds = [y + side * error for _, y, error, _ in at for side in (-1, 1)]
    frame = Frame(400, 250, (0.0, 1.05 * max(x for x, *_ in at) or 1.0), padded(bounds, 0.05), left=52.0)
    frame.y_axis()
    frame.x_axis("√KL (√nats per response)")
    for x, y, error, _ in at:
        frame.line(frame.x(x), frame.y(y - error), frame.x(x), frame.y(y + error), "whisker")
    frame.path([(x, y) for x, y, _, _ in at], "c-ppo")
    for x, y, _, look in at:
        css, radius = ("kept", 6.0) if look.kept else ("dot", 3.2)
        frame.dot(x, y, f"{css} c-ppo", radius, f"rollout {look.iteration}: {compact(y)} at {compact(look.kl)} nats")
    return frame.svg(f"{judge} by the square root of KL")


def spread_part(course: RLCourse) -> str:
    if not course.kl:
        return ""
    drawn = "".join(
        f"<figure><figcaption>rollout {iteration}</figcaption>"
        f"{histogram(f'KL of the responses of rollout {iteration}', values, 'c-ppo', 'nats per response')}</figure>"
        for iteration, values in course.kl.items()
    )
    return f'<h3>KL of single responses</h3><div class="three">{drawn}</div>'


def samples_part(course: RLCourse) -> str:
    if not course.samples:
        return ""
    first, last = course.looks[0].iteration, course.looks[-1].iteration
    heads = "".join(f"<th>{name}</th>" for name in ("prompt", f"after rollout {first}", f"after rollout {last}"))
    rows = "".join(map(sample_row, course.samples))
    said = "Held-out prompts, sampled at the first look and at the last. Shown as text, as written."
    body = f'<table class="samples"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<h3>Answers before and after</h3><p class="lead">{said}</p><div class="scroll">{body}</div>'


def sample_row(then: Then) -> str:
    prompt = f'<span class="said" dir="auto">{foreign(then.prompt, N_SHOWN)}</span>'
    return f'<tr><td class="prompt">{prompt}</td>{told(then.first, None)}{told(then.last, then.first)}</tr>'


def told(answer: Told, before: Told | None) -> str:
    """An answer with its scores, green or red where they moved from before."""
    said = foreign(answer.text, N_SHOWN) if answer.text else '<span class="nothing">(empty)</span>'
    scores = "".join(score(name, value, before) for name, value in answer.scores.items())
    return f'<td><div class="said" dir="auto">{said}</div><div class="scores">{scores}</div></td>'


def score(name: str, value: float, before: Told | None) -> str:
    moved = 0.0 if before is None else value - before.scores.get(name, value)
    css = "high" if moved > 0.005 else "low" if moved < -0.005 else ""
    change = f" ({signed(moved)})" if css else ""
    return f'<span class="score {css}">{escaped(name)} {number(value)}{change}</span>'
