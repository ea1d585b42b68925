"""Geometry of the drawings: figures in, places out. Knows neither HTML nor what a bundle is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from runtime.figures import count_text
from runtime.html.parts import Line, Point, Roofline, Scatter, Tick

WIDTH, HEIGHT = 680, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 34, 48


@dataclass(frozen=True)
class Load:
    """A piece of work: `macs` done in `seconds`, `bytes` moved for it."""

    label: str
    macs: float
    bytes: float
    seconds: float
    title: str
    main: bool = False


def roofline(loads: Sequence[Load], peak_macs: float, peak_bytes: float, vector_macs: float) -> Roofline:
    """Multiplications per second over multiplications per byte, both logarithmic.

    `peak_macs` and `peak_bytes` are rates per second; `vector_macs` the rate at which VECTOR alone would let this program
    pass, 0 where it has nothing to do.
    """
    shown = [load for load in loads if load.macs > 0 and load.bytes > 0 and load.seconds > 0]
    ridge = peak_macs / peak_bytes
    xs = [load.macs / load.bytes for load in shown] + [ridge / 4, ridge * 4]
    ys = [load.macs / load.seconds for load in shown] + [peak_macs * 1.2, peak_macs / 100]
    low_x, high_x = _decades(min(xs), max(xs))
    low_y, high_y = _decades(min(ys), max(ys))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(value) - low_x) / (high_x - low_x)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (log10(value) - low_y) / (high_y - low_y)

    left, right = 10.0**low_x, 10.0**high_x
    begin = max(left, 10.0**low_y / peak_bytes)
    lines = [
        Line(((x(begin), y(begin * peak_bytes)), (x(ridge), y(peak_macs)), (x(right), y(peak_macs))), "roof", "ink"),
    ]
    if 0 < vector_macs < peak_macs and vector_macs > 10.0**low_y:
        start = max(begin, vector_macs / peak_bytes)
        lines.append(Line(((x(start), y(vector_macs)), (x(right), y(vector_macs))), "VECTOR, for this program", "vector"))
    points = [
        Point(x(load.macs / load.bytes), y(load.macs / load.seconds), load.label, load.title, load.main) for load in shown
    ]
    return Roofline(
        "Roofline",
        f"The roof is {count_text(peak_macs)} multiplications and {count_text(peak_bytes)}B per second;"
        f" it bends at {ridge:.3g} multiplications per byte.",
        WIDTH,
        HEIGHT,
        lines,
        points,
        [Tick(x(10.0**power), count_text(10.0**power)) for power in range(ceil(low_x), floor(high_x) + 1)],
        [Tick(y(10.0**power), count_text(10.0**power)) for power in range(ceil(low_y), floor(high_y) + 1)],
    )


@dataclass(frozen=True)
class Dot:
    """A point of a scatter in its own units, `x` above 0."""

    x: float
    y: float
    title: str
    tone: str
    main: bool = False


def scatter(
    title: str,
    description: str,
    axes: tuple[str, str],
    dots: Sequence[Dot],
    limits: tuple[float, float],
    front: Sequence[tuple[float, float]],
    legend: Sequence[tuple[str, str]],
) -> Scatter:
    """Dots over a logarithmic `x` and a linear `y`, with a line for each of the two limits and the steps of a front, whose
    corners come with rising `x`."""
    low_x, high_x = _decades(min([*(d.x for d in dots), limits[0]]), max([*(d.x for d in dots), limits[0]]))
    ys = [*(d.y for d in dots), limits[1]]
    margin = 0.05 * ((max(ys) - min(ys)) or abs(ys[0]) or 1.0)
    low_y, high_y = min(ys) - margin, max(ys) + margin

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(value) - low_x) / (high_x - low_x)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low_y) / (high_y - low_y)

    steps: list[tuple[float, float]] = []
    for at, value in front:
        steps += [(x(at), steps[-1][1]), (x(at), y(value))] if steps else [(x(at), y(value))]
    lines = [
        Line(((x(limits[0]), y(low_y)), (x(limits[0]), y(high_y))), f"limit: {limits[0]:g}", "vector"),
        Line(((LEFT, y(limits[1])), (WIDTH - RIGHT, y(limits[1]))), f"limit: {limits[1]:g}", "vector"),
        *([Line(tuple(steps), "front", "ink")] if len(steps) > 1 else []),
    ]
    step = 10.0 ** floor(log10((high_y - low_y) / 4))
    step *= next((factor for factor in (1, 2, 5) if (high_y - low_y) / (factor * step) <= 6), 10)
    values = [step * number for number in range(ceil(low_y / step), floor(high_y / step) + 1)]
    return Scatter(
        title,
        description,
        axes,
        WIDTH,
        HEIGHT,
        lines,
        [Point(x(d.x), y(d.y), "", d.title, d.main, d.tone) for d in dots],
        [Tick(x(10.0**power), f"{10.0**power:g}") for power in range(ceil(low_x), floor(high_x) + 1)],
        [Tick(y(value), f"{value:.4g}") for value in values],
        legend,
    )


def _decades(low: float, high: float) -> tuple[int, int]:
    """Whole powers of ten around two values."""
    first, last = floor(log10(low)), ceil(log10(high))
    return first, max(last, first + 1)


def thinned(labels: Sequence[tuple[float, str]], least: float) -> list[Tick]:
    """Labels at places in 0..1, without those closer than `least` to the one before or to the end."""
    ticks: list[Tick] = []
    for at, label in labels:
        if at <= 1 - least and (not ticks or at - ticks[-1].at >= least):
            ticks.append(Tick(at, label))
    return ticks


def scale(total: float, unit: str, most: int = 6) -> list[Tick]:
    """Round values from 0 to `total` for an axis, with their places in 0..1."""
    if total <= 0:
        return []
    step = 10.0 ** floor(log10(total / most))
    while total / step > most:
        step *= 2 if str(step)[0] == "1" or f"{step:e}"[0] == "1" else 2.5
    count = int(total / step + 1e-9)
    return [Tick(number * step / total, f"{number * step:.4g} {unit}") for number in range(count + 1)]
