"""The directive ``{phase-diagram}``: the phases of a plugin and the steps between them, drawn from the table that the code obeys.

:func:`draw` is a pure function from a transition table to SVG; only the places of the boxes are said here. A phase without a place is an error, so
a diagram that lacks one cannot be built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from blackhole_core.lifecycle.phase import TRANSITIONS, Phase

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["draw", "setup"]

#: Centre of each box, in pixels.
_PLACES: Final[Mapping[str, tuple[float, float]]] = {
    "found": (70, 80),
    "admitted": (250, 80),
    "starting": (430, 80),
    "running": (610, 80),
    "draining": (790, 80),
    "failed": (310, 220),
    "broken": (520, 220),
    "stopped": (730, 220),
}
#: Half the width and height of a box, in pixels.
_HALF: Final = (50.0, 18.0)
#: Size of the drawing, in pixels.
_SIZE: Final = (860, 300)
#: Pixels by which an arrow bends to its left, so that the two directions between boxes lie apart.
_BEND: Final = 16.0
#: Arrows that would run through other boxes are drawn towards these points, in pixels.
_VIA: Final[Mapping[tuple[str, str], tuple[float, float]]] = {
    ("draining", "starting"): (610, -10),
    ("stopped", "found"): (90, 370),
    ("broken", "found"): (75, 330),
    ("failed", "found"): (110, 200),
    ("failed", "stopped"): (520, 320),
}
#: What comes before the arrows: the frame, a title for those who cannot see, and the tip of an arrow.
_HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="img" style="width: 100%; color: inherit" font-size="15">
<title>The phases of a plugin</title>
<defs>
<marker id="phase-tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 10 5 0 10Z" fill="currentColor"/>
</marker>
</defs>"""


def draw(transitions: Mapping[Phase, frozenset[Phase]]) -> str:
    """Return the diagram of ``transitions`` as SVG that takes its colour from the page.

    :raises KeyError: a phase has no place in the drawing.
    """
    arrows = [_arrow(begin, end) for begin, ends in transitions.items() for end in sorted(ends)]
    boxes = [_box(phase) for phase in transitions]
    return "\n".join([_HEAD, *arrows, *boxes, "</svg>"])


def _box(phase: str) -> str:
    (x, y), (width, height) = _PLACES[phase], _HALF
    return (
        f'<rect x="{x - width:g}" y="{y - height:g}" width="{2 * width:g}" height="{2 * height:g}" rx="8" fill="none" stroke="currentColor"/>'
        f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="currentColor">{phase.upper()}</text>'
    )


def _arrow(begin: str, end: str) -> str:
    a, b = _PLACES[begin], _PLACES[end]
    middle = _VIA.get((begin, end)) or _bent(a, b)
    start, stop = _edge(a, middle), _edge(b, middle)
    return (
        f'<path data-step="{begin} {end}" d="M{start[0]:.1f} {start[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {stop[0]:.1f} {stop[1]:.1f}"'
        ' fill="none" stroke="currentColor" stroke-opacity="0.6" marker-end="url(#phase-tip)"/>'
    )


def _bent(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Return the control point of a curve from ``a`` to ``b`` that bends to its left."""
    length = math.dist(a, b)
    return (
        (a[0] + b[0]) / 2 + 2 * _BEND * (b[1] - a[1]) / length,
        (a[1] + b[1]) / 2 - 2 * _BEND * (b[0] - a[0]) / length,
    )


def _edge(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Return where the line from the centre of a box to ``towards`` leaves the box."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    scale = min(half / abs(way) if way else math.inf for half, way in zip(_HALF, (across, down), strict=True))
    return centre[0] + across * scale, centre[1] + down * scale


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    from docutils import nodes  # here, so that the drawing can be tested without the documentation's tools
    from docutils.parsers.rst import Directive

    class PhaseDiagram(Directive):
        """Puts the drawing where the directive stands."""

        def run(self) -> list[nodes.Node]:
            return [nodes.raw("", draw(TRANSITIONS), format="html")]

    app.add_directive("phase-diagram", PhaseDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
