"""A bar chart of ratios as SVG: how many times better than each peer, on a logarithmic scale, with a mark where the target stands.

It has its own ground, light or dark as the reader's system asks for, so that it can be read on any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from benchmarks.results import Document, Result, number

__all__ = ["chart"]

#: Pixels.
_WIDTH: Final = 920
_LABELS: Final = 470
_FIGURES: Final = 80
_LINE: Final = 22
_MARGIN: Final = 16
_BARS: Final = _WIDTH - _LABELS - _FIGURES - _MARGIN

_STYLE: Final = """
.ground { fill: #fcfcfd } text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.met { fill: #2f7d4f } .missed { fill: #c2571a } .plain { fill: #6b7c93 } .scale { stroke: #d0d5db } .target { stroke: #24292f; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
.ground { fill: #16191d } text { fill: #e2e6ea } .scale { stroke: #3a4148 } .target { stroke: #e2e6ea }
.met { fill: #58b780 } .missed { fill: #e8884f } .plain { fill: #8d9db3 }
}
"""


def chart(documents: Iterable[Document]) -> str:
    """Return the SVG of every row that has a ratio, grouped by benchmark."""
    groups = [(document.title, [result for result in document.results if result.ratio]) for document in documents]
    groups = [(title, results) for title, results in groups if results]
    ratios = [value for _title, results in groups for result in results for value in (result.ratio, result.at_least) if value]
    low, high = math.floor(math.log10(min(ratios, default=1.0))), math.ceil(math.log10(max(ratios, default=10.0)))
    scale = _Scale(min(low, 0), max(high, 1))
    lines: list[str] = []
    place = _MARGIN + _LINE
    for title, results in groups:
        lines.append(f'<text class="title" x="{_MARGIN}" y="{place + 15}">{escape(title)}</text>')
        place += _LINE
        for result in results:
            lines += _bar(result, place, scale)
            place += _LINE
        place += _LINE // 2
    height = place + _MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">'
    about = "<title>How many times better than each peer</title>"
    ground = f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>'
    return "\n".join([head, about, f"<style>{_STYLE}</style>", ground, *_axis(scale, height), *lines, "</svg>", ""])


class _Scale:
    """Where a ratio stands; the powers of ten from ``low`` to ``high`` fill the width."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def at(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return round(_LABELS + min(max(share, 0.0), 1.0) * _BARS, 1)


def _axis(scale: _Scale, height: int) -> Sequence[str]:
    lines = []
    for power in range(scale.low, scale.high + 1):
        x = scale.at(10.0**power)
        lines.append(f'<line class="scale" x1="{x}" x2="{x}" y1="{_MARGIN + _LINE}" y2="{height - _MARGIN}"/>')
        lines.append(f'<text x="{x}" y="{_MARGIN + 13}" text-anchor="middle">{10.0**power:g}</text>')
    return lines


def _bar(result: Result, place: int, scale: _Scale) -> Sequence[str]:
    """Return one line: what it is, a bar from 1 to the ratio (to the left where the peer is better), the ratio, and the mark of the target."""
    assert result.ratio
    one, end = scale.at(1.0), scale.at(result.ratio)
    middle = place + 15
    label = escape(f"{result.row} / {result.beside}")
    bar = f'<rect class="{result.verdict or "plain"}" x="{min(one, end)}" y="{place + 4}" width="{max(abs(end - one), 1.0):.1f}" height="14"/>'
    lines = [
        f'<text x="{_LABELS - 10}" y="{middle}" text-anchor="end">{label}</text>',
        bar,
        f'<text x="{max(one, end) + 6}" y="{middle}">{number(result.ratio)}</text>',
    ]
    if result.at_least:
        x = scale.at(result.at_least)
        lines.append(f'<line class="target" x1="{x}" x2="{x}" y1="{place + 1}" y2="{place + 21}"/>')
    return lines
