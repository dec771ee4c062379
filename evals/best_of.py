"""The report's section of best-of-n: proxy and gold of the pick, against how far picking goes."""

from __future__ import annotations

import math

from evals.frontier import frontier_chart
from evals.intervals import Estimate
from evals.markup import colours, heading, legend
from evals.notation import escaped, number
from evals.results import BestOfPoint, Frontier, FrontierPoint, Report


def best_of_section(report: Report) -> str:
    """A curve of proxy, one of gold where there is a gold judge, and the numbers behind them."""
    tint = colours(model.name for model in report.models)
    has_gold = all(point.gold is not None for points in report.best_of.values() for point in points)
    charts = [("proxy", "Learned reward of the pick")] + ([("gold", "Gold score of the pick (the truth)")] * has_gold)
    frontiers = [frontier(name, points) for name, points in report.best_of.items()]
    panels = "".join(
        f"<figure><figcaption>{caption}</figcaption>{frontier_chart(frontiers, tint, which)}</figure>"
        for which, caption in charts
    )
    lead = (
        "Of n samples the one that the reward model likes best. Where its score goes on rising and the gold score does "
        "not, the reward model is exploited before anything is trained. KL: ln n &minus; (n &minus; 1)/n nats."
    )
    shown = {name: tint[name] for name in report.best_of}
    tables = "".join(table(name, points) for name, points in report.best_of.items())
    return f'{heading("Best of n", lead)}{legend(shown)}<div class="cols">{panels}</div>{tables}'


def frontier(name: str, points: tuple[BestOfPoint, ...]) -> Frontier:
    """The picks as points of reward and KL; without gold the proxy stands for it, and is not drawn."""
    return Frontier(name, tuple(FrontierPoint(p.kl, p.proxy.mean, (p.gold or p.proxy).mean) for p in points))


def table(name: str, points: tuple[BestOfPoint, ...]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{point.n}</th><td>{number(math.sqrt(point.kl))}</td>'
        f"{cell(point.proxy)}{cell(point.gold)}</tr>"
        for point in points
    )
    head = f"<tr><th>{escaped(name)}: n</th><th>√KL</th><th>learned reward</th><th>gold</th></tr>"
    return f'<div class="scroll"><table class="numbers"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def cell(value: Estimate | None) -> str:
    """A mean with its interval."""
    if value is None:
        return "<td>&ndash;</td>"
    mean, low, high = (number(x, 3) for x in (value.mean, value.low, value.high))
    return f'<td title="n = {value.n}"><b>{mean}</b><small>[{low}, {high}]</small></td>'
