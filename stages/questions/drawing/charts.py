"""Charts as inline SVG: dots with intervals, and lines; plain functions from numbers to markup.

A chart has no view box: horizontal positions are per cent of the width and vertical ones are pixels, so it fills any
column while its dots stay round and its letters keep their size. Colours are classes (`tap-…`, `v-…`) that the
page's style sheet defines for light and dark. Equal numbers give equal bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """An axis from `start` to `stop` with labelled `ticks`. Of a `logarithmic` one the two ends alone are log10."""

    start: float
    stop: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def fraction(self, value: float) -> float:
        """Where a value stands, as a fraction of the axis, held inside it."""
        if self.logarithmic:
            value = math.log10(value) if value > 0 else self.start
        return min(1.0, max(0.0, (value - self.start) / (self.stop - self.start)))


@dataclass(frozen=True)
class Mark:
    """A value with its interval (NaN where there is none), drawn as `shape` in the colour of the class `style`."""

    value: float
    low: float
    high: float
    style: str
    shape: str
    label: str


@dataclass(frozen=True)
class Line:
    """A named curve. `bounds`: the lower and upper end of the interval at each point."""

    label: str
    points: tuple[Point, ...]
    style: str
    shape: str = ""
    bounds: tuple[Point, ...] = ()


def unit_axis(start: float = 0.0) -> Axis:
    """0 to 1, where kept, probe and reader live, with room for dots; from `start` where that is lower, to -0.5."""
    return Axis(max(-0.5, start) - 0.06, 1.06, tuple((tick, f"{tick:g}") for tick in (0.0, 0.5, 1.0)))


def nice_axis(values: Iterable[float], count: int = 4, zero: bool = True) -> Axis:
    """An axis around the values with about `count` round ticks."""
    finite = [value for value in values if math.isfinite(value)]
    low = min([*finite, 0.0] if zero or not finite else finite)
    high = max([*finite, low])
    # Below this the ticks would differ in no digit that is written.
    span = high - low if high - low > 1e-9 * max(abs(low), abs(high)) + 1e-200 else 1.0
    raw = span / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(
        (index * step, f"{index * step:.6g}".replace("-", "−")) for index in range(first, max(last, first + 1) + 1)
    )
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """Decades around positive values."""
    logs = [math.log10(value) for value in values if value > 0 and math.isfinite(value)] or [0.0, 1.0]
    first, last = math.floor(min(logs) + 1e-9), math.ceil(max(logs) - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((10.0**power, f"{10.0**power:g}") for power in range(first, last + 1))
    return Axis(float(first), float(last), ticks, logarithmic=True)


def dots(
    lanes: Sequence[Sequence[Mark]], axis: Axis, height: int = 22, ticks: Sequence[tuple[float, str, str]] = ()
) -> Markup:
    """Dots with their intervals, lane under lane; `ticks` are references as (value, class, label)."""
    parts = [_rule(axis.fraction(value), 0, height, "grid") for value, _ in axis.ticks]
    if len(lanes) == 1:
        ends = axis.fraction(axis.ticks[0][0]), axis.fraction(axis.ticks[-1][0])
        parts.append(
            Markup('<line class="track" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                *map(_per_cent, ends), _px(height / 2), _px(height / 2)
            )
        )
    parts += [
        _tick(axis.fraction(value), height, style, label) for value, style, label in ticks if math.isfinite(value)
    ]
    for index, lane in enumerate(lanes):
        y = height / len(lanes) * (index + 0.5)
        parts += [_mark(mark, axis, y) for mark in lane if math.isfinite(mark.value)]
    return _svg(parts, height, "dots", ", ".join(mark.label for lane in lanes for mark in lane))


def scale(axis: Axis) -> Markup:
    """The labels of a horizontal axis."""
    parts = [
        Markup('<text x="{}" y="12" text-anchor="middle">{}</text>').format(_per_cent(axis.fraction(value)), label)
        for value, label in axis.ticks
    ]
    return _svg(parts, 18, "scale", "")


def lines(curves: Sequence[Line], across: Axis, up: Axis, height: int, name: str) -> Markup:
    """Curves over a common grid; the labels of the upward axis stand on its lines, those of the other below."""
    foot, head = 20, 8
    inner = height - foot - head
    parts = []
    for value, label in up.ticks:
        y = head + inner * (1 - up.fraction(value))
        parts.append(Markup('<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(_px(y)))
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(_px(y - 3), label))
    for value, label in across.ticks:
        fraction = across.fraction(value)
        anchor = "start" if fraction < 0.04 else "end" if fraction > 0.96 else "middle"
        parts.append(_rule(fraction, height - foot, height - foot + 4, "grid"))
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                _per_cent(fraction), _px(height - 4), anchor, label
            )
        )
    curves = [_finite(curve) for curve in curves]
    shapes = [_path(curve, across, up) for curve in curves]
    parts.append(
        Markup(
            '<svg x="0" y="{}" width="100%" height="{}" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>'
        ).format(_px(head), _px(inner), Markup("").join(shapes))
    )
    for curve in curves:
        if curve.shape:
            for index, (x, y) in enumerate(curve.points):
                label = f"{curve.label}: {y:.3g}"
                if curve.bounds:
                    label += f" [{curve.bounds[index][0]:.3g}, {curve.bounds[index][1]:.3g}]"
                from_top = head + inner * (1 - up.fraction(y))
                parts.append(_symbol(across.fraction(x), from_top, curve.style, curve.shape, label))
    return _svg(parts, height, "lines", name)


def symbol(style: str, shape: str) -> Markup:
    """A tap's mark for legends and headings, 14 px wide."""
    return Markup('<svg class="key" width="14" height="14" aria-hidden="true">{}</svg>').format(
        _symbol(0.5, 7.0, style, shape, "")
    )


def stroke(style: str) -> Markup:
    """A reference's stroke for legends."""
    return Markup(
        '<svg width="10" height="14" aria-hidden="true"><line class="ref {}" x1="5" x2="5" y1="0" y2="14"/></svg>'
    ).format(style)


def _finite(curve: Line) -> Line:
    kept = [index for index, (_, y) in enumerate(curve.points) if math.isfinite(y)]
    bounds = tuple(curve.bounds[index] for index in kept) if curve.bounds else ()
    return Line(curve.label, tuple(curve.points[index] for index in kept), curve.style, curve.shape, bounds)


def _path(curve: Line, across: Axis, up: Axis) -> Markup:
    def corner(x: float, y: float) -> str:
        return f"{100 * across.fraction(x):.2f},{100 * (1 - up.fraction(y)):.2f}"

    band = Markup("")
    if curve.bounds:
        upper = [corner(x, high) for (x, _), (_, high) in zip(curve.points, curve.bounds, strict=True)]
        lower = [corner(x, low) for (x, _), (low, _) in zip(curve.points, curve.bounds, strict=True)]
        band = Markup('<polygon class="band {}" points="{}"/>').format(
            curve.style, " ".join([*upper, *reversed(lower)])
        )
    corners = " ".join(corner(x, y) for x, y in curve.points)
    return band + Markup('<polyline class="line {}" points="{}"/>').format(curve.style, corners)


def _mark(mark: Mark, axis: Axis, y: float) -> Markup:
    whisker = Markup("")
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        whisker = Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            mark.style, _per_cent(axis.fraction(mark.low)), _per_cent(axis.fraction(mark.high)), _px(y), _px(y)
        )
    return whisker + _symbol(axis.fraction(mark.value), y, mark.style, mark.shape, mark.label)


def _symbol(x: float, y: float, style: str, shape: str, label: str) -> Markup:
    """A small mark. Shapes: circle, square, triangle, diamond; `-open` is hollow, `-dot` hollow with a dot."""
    kind, _, inside = shape.partition("-")
    paths = {
        "square": "M-4-4H4V4H-4Z",
        "triangle": "M0-5L5 4H-5Z",
        "diamond": "M0-5.4L5.4 0 0 5.4-5.4 0Z",
    }
    body = Markup('<circle r="4.3"/>') if kind == "circle" else Markup('<path d="{}"/>').format(paths[kind])
    if inside == "dot":
        body += Markup('<circle class="dot" r="1.6"/>')
    title = Markup("<title>{}</title>").format(label) if label else Markup("")
    classes = f"mark {style} {'hollow' if inside else 'solid'}"
    # A nested svg carries the per cent; a transform could not.
    return Markup('<svg class="{}" x="{}" y="{}" overflow="visible">{}{}</svg>').format(
        classes, _per_cent(x), _px(y), title, body
    )


def _tick(x: float, height: int, style: str, label: str) -> Markup:
    return Markup('<line class="ref {}" x1="{}" x2="{}" y1="2" y2="{}"><title>{}</title></line>').format(
        style, _per_cent(x), _per_cent(x), _px(height - 2), label
    )


def _rule(x: float, top: float, bottom: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        style, _per_cent(x), _per_cent(x), _px(top), _px(bottom)
    )


def _svg(parts: Sequence[Markup], height: int, style: str, label: str) -> Markup:
    role = Markup('role="img" aria-label="{}"').format(escape(label)) if label else Markup('aria-hidden="true"')
    return Markup('<svg class="chart {}" width="100%" height="{}" {}>{}</svg>').format(
        style, height, role, Markup("").join(parts)
    )


def _per_cent(fraction: float) -> str:
    return f"{100 * fraction:.2f}%"


def _px(value: float) -> str:
    return f"{value:.1f}"


def around(axis: Axis) -> Axis:
    """The axis with a little room on both sides, so that marks at its ends are whole."""
    room = 0.03 * (axis.stop - axis.start)
    return replace(axis, start=axis.start - room, stop=axis.stop + room)
