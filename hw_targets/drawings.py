"""Drawings of the accelerator with the sizes of a target: `python -m hw_targets.drawings TARGET FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from hw_targets import resources
from hw_targets.errors import HpccError
from hw_targets.isa import SEMAPHORES
from hw_targets.load import load_target
from hw_targets.steps import sub_windows
from hw_targets.svg import BLUE, GREEN, GREY, ORANGE, VIOLET, WHITE, Drawing
from hw_targets.target import Target

MEMORIES = {"weights": "weight", "act": "activation", "acc": "accumulator", "param": "parameter"}
"""The memories on chip from left to right, and their names."""


def _bytes(count: float) -> str:
    if count < 1 << 20:
        return f"{count / 1024:,.0f} KiB"
    return f"{count / (1 << 20):,.2f} MiB"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


# ---- the machine ----------------------------------------------------------------------------------------------------


def machine(target: Target) -> Drawing:
    """Units, memories and what flows between them."""
    a = target.accelerator
    d = Drawing(980, 720, f"{target.name}: the accelerator")
    d.text(24, 32, f"{target.name}: {target.device.part}", "title")
    d.text(
        956, 32, f"{a.macs_per_cycle:,} MAC and {a.lanes} lanes a cycle at {target.clock.mhz:g} MHz", "name", anchor="end"
    )
    _off_chip(d, target)
    _load_and_store(d, target)
    _on_chip(d, target)
    _matrix(d, target)
    _vector(d, target)
    _control(d, target)
    _wires(d)
    return d


def _off_chip(d: Drawing, target: Target) -> None:
    m = target.memory
    d.box(24, 50, 932, 48, BLUE)
    d.text(40, 72, f"DRAM: {m.kind}, {m.capacity_bytes / (1 << 30):g} GiB", "name")
    channels = _plural(m.channels, "channel")
    facts = (
        f"{channels}, {m.gbytes_per_s:g} GB/s peak x {m.efficiency:g} = {target.dram_bytes_per_cycle:,.0f} bytes a cycle;"
        f" bursts of {m.burst_bytes} bytes; {target.dram_latency_cycles} cycles of latency"
    )
    d.text(40, 89, facts, "small")


def _load_and_store(d: Drawing, target: Target) -> None:
    d.box(24, 136, 486, 112, VIOLET)
    d.text(40, 158, "LOAD", "name")
    d.text(96, 158, "copies rows, gathers them by id, decodes weights; values a cycle:", "small")
    for number, decoder in enumerate(target.decoders[:12]):
        x, y = 40 + 115 * (number % 4), 168 + 25 * (number // 4)
        d.box(x, y, 109, 20, WHITE, 3)
        d.text(x + 8, y + 14, decoder.format, "small")
        d.text(x + 101, y + 14, f"{decoder.values_per_cycle:,}", "small", anchor="end")
    d.box(560, 136, 180, 112, VIOLET)
    d.text(576, 158, "STORE", "name")
    d.lines(576, 178, ["copies rows of the", "activation memory to DRAM"])


def _on_chip(d: Drawing, target: Target) -> None:
    a = target.accelerator
    for number, (memory, name) in enumerate(MEMORIES.items()):
        x = 24 + 238 * number
        size = int(getattr(a, resources.FIELD_OF[memory]))
        d.box(x, 288, 218, 70, BLUE)
        d.text(x + 14, 309, f"{name} memory", "name")
        width = resources.memory_width(memory, a)
        d.lines(x + 14, 327, [f"{_bytes(size)}, {_blocks(target, memory)}", f"{width:,} bytes a cycle"])


def _blocks(target: Target, memory: str) -> str:
    """Blocks of a memory, as the resource bill has them."""
    part = next(part for part in resources.bill(target) if part.name.startswith(f"{memory} memory"))
    return f"{part.takes.uram or part.takes.bram:,} {'URAM' if part.takes.uram else 'BRAM'}"


def _matrix(d: Drawing, target: Target) -> None:
    a = target.accelerator
    d.box(24, 420, 486, 172, GREEN)
    d.text(40, 442, "MATRIX", "name")
    dsps = resources.matrix_takes(a, target.device.dsp_kind).dsp
    packed = resources.TOKENS_PER_DSP[target.device.dsp_kind]
    kind = target.device.dsp_kind.upper()
    d.text(116, 442, f"{_plural(a.cores, 'core')}, {dsps:,} {kind}, {_plural(packed, 'product')} in each", "small")
    gap, shown = 10, min(a.cores, 4)
    width = (454 - gap * (shown - 1)) / shown
    for core in range(shown):
        x = 40 + core * (width + gap)
        d.box(x, 454, width, 88, WHITE)
        d.text(x + 10, 473, f"core {core}" + (f", SLR {core}" if target.device.slrs > 1 else ""), "small")
        d.lines(x + 10, 491, [f"T = {a.tokens} tokens", f"x O = {a.outputs} outputs", f"x L = {a.multipliers} multipliers"])
    reach, share = sub_windows(a)
    more = [
        f"window of W = {a.window} activations a token, crossbar {a.window}:{a.window}, selectors {a.selector}:1",
        f"unstructured: sub-windows of {reach} inputs, {_plural(share, 'multiplier')} of a row for each",
    ]
    d.lines(40, 562, more)


def _vector(d: Drawing, target: Target) -> None:
    a = target.accelerator
    d.box(560, 420, 396, 172, ORANGE)
    d.text(576, 442, "VECTOR", "name")
    d.text(652, 442, f"{a.lanes} fp32 lanes, {_plural(max(a.lanes // 16, 1), 'divider')}", "small")
    chains = (
        ("finish", "int32 -> scale, bias, residual, norm, activation -> int8"),
        ("softmax", "scores -> maximum, exponentials, sum -> u8"),
        ("context", "int32 -> 1 / sum -> bf16"),
        ("quantize", "bf16 -> absmax, codes -> int8"),
        ("embed, pool, heads", "sums of rows; norm and rotation of heads"),
    )
    for number, (name, does) in enumerate(chains):
        y = 454 + 25 * number
        d.box(576, y, 364, 21, WHITE, 3)
        d.text(582, y + 14.5, name, "small")
        d.text(934, y + 14.5, does, "small", anchor="end")


def _control(d: Drawing, target: Target) -> None:
    d.box(24, 650, 932, 48, GREY)
    d.text(40, 670, "CONTROL", "name")
    facts = (
        f"dispatches one instruction a cycle to queues of {target.accelerator.queue_depth}; units meet through at most"
        f" {SEMAPHORES} counting semaphores; loops with address strides"
    )
    d.text(40, 687, facts, "small")


def _wires(d: Drawing) -> None:
    d.arrow((133, 98), (133, 136))
    d.text(141, 121, "encoded weights, inputs", "small")
    d.arrow((650, 136), (650, 98))
    d.arrow((133, 248), (133, 288))
    d.text(141, 272, "compute layout", "small")
    d.arrow((330, 248), (330, 288))
    d.arrow((430, 288), (430, 263), (590, 263), (590, 248))
    d.arrow((510, 200), (535, 200), (535, 274), (848, 274), (848, 288))
    d.arrow((133, 358), (133, 420))
    d.text(141, 384, "values, selects", "small")
    d.arrow((330, 358), (330, 420))
    d.text(338, 404, "windows", "small")
    d.arrow((440, 358), (440, 378), (600, 378), (600, 420), both=True)
    d.arrow((490, 420), (490, 398), (540, 398), (540, 358))
    d.text(611, 404, "bf16, int8", "small")
    d.arrow((700, 358), (700, 420))
    d.text(708, 384, "int32", "small")
    d.arrow((848, 358), (848, 420))
    d.text(856, 384, "scale, bias, norm", "small")
    d.arrow((620, 592), (620, 624), (10, 624), (10, 322), (24, 322))
    d.box(330, 609, 120, 30, ORANGE)
    d.text(390, 628.5, "transposer (V)", "small", anchor="middle")
    d.text(140, 619, "codes of K and of V transposed", "small", anchor="start")


# ---- one group ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where the multipliers of a group are drawn: `shown` of them, `pitch` apart, `pair` tokens in each."""

    left: float
    top: float
    width: float
    shown: int
    pair: int

    @property
    def pitch(self) -> float:
        return self.width / self.shown

    @property
    def box(self) -> float:
        return min(self.pitch - 12, 92)

    def middle(self, number: int) -> float:
        return self.left + (number + 0.5) * self.pitch

    def lane(self, number: int, token: int) -> float:
        """Where the activation of a token comes down to a multiplier."""
        return self.middle(number) + self.box / 4 * (2 * token - 1)


def group(target: Target) -> Drawing:
    """The L multipliers of one output and a pair of tokens, from the window to the accumulators."""
    a = target.accelerator
    pair = resources.TOKENS_PER_DSP[target.device.dsp_kind]
    d = Drawing(980, 534 + 18 * pair, f"{target.name}: one group of multipliers")
    d.text(24, 32, f"One of {a.cores} x {-(-a.tokens // pair)} x {a.outputs} groups", "title")
    what = f"{_plural(pair, 'token')}, one output, L = {_plural(a.multipliers, 'multiplier')}"
    d.text(956, 32, what, "name", anchor="end")
    place = _Place(190, 152 + 18 * pair, 766, min(a.multipliers, 16), pair)
    _window(d, a.window, place)
    _selectors(d, target, place)
    _multipliers(d, target, place)
    _sums(d, place)
    return d


def _window(d: Drawing, window: int, place: _Place) -> None:
    """The register of a window and the crossbar."""
    left, width, pair = place.left, place.width, place.pair
    d.lines(24, 74, [f"W = {window} activations of", f"{_plural(pair, 'token')} a cycle"])
    for token in range(pair):
        _cells(d, window, left, 60 + 18 * token, width, f"x{token}" if pair > 1 else "x")
    top = 90 + 18 * pair
    d.arrow((left + width / 2, top - 32), (left + width / 2, top))
    d.box(left, top, width, 42, GREEN)
    d.text(left + width / 2, top + 26, f"crossbar {window}:{window} for each token and core", "name", "middle")
    d.lines(24, top + 14, ["hp: gathers the inputs", "that a row block keeps;", "else straight through"])
    d.arrow((left + width / 2, top + 42), (left + width / 2, place.top))
    _cells(d, window, left, place.top, width, "")
    d.lines(24, place.top + 16, ["after the crossbar"])


def _cells(d: Drawing, count: int, left: float, top: float, width: float, name: str) -> None:
    size = width / count
    for number in range(count):
        d.box(left + number * size, top, size, 16, BLUE, 0)
    if name:
        d.text(left - 8, top + 12, name, "small", "end")


def _selectors(d: Drawing, target: Target, place: _Place) -> None:
    a, top = target.accelerator, place.top
    reach, share = sub_windows(a)
    cell = place.width / a.window
    for start in range(0, a.window, reach):
        x = place.left + start * cell
        right = x + reach * cell - 2
        d.line([(x + 2, top + 20), (x + 2, top + 26), (right, top + 26), (right, top + 20)])
    d.lines(24, top + 66, [f"selectors {a.selector}:1, steered", "by the 4-bit selects;", f"sub-windows of {reach} inputs,"])
    d.text(24, top + 111, f"{_plural(share, 'multiplier')} for each", "small")
    for number in range(place.shown):
        first = place.left + (number * a.window // place.shown) // reach * reach * cell
        half = place.box / 4 - 4
        for token in range(place.pair):
            x = place.lane(number, token)
            d.line([(first + reach * cell / 2, top + 26), (x, top + 66)])
            d.line([(place.middle(number), top + 132), (place.middle(number), top + 76), (x, top + 76)], "dash")
            d.arrow((x, top + 86), (x, top + 200))
            d.shape([(x - half, top + 66), (x + half, top + 66), (x + half / 2, top + 86), (x - half / 2, top + 86)], GREEN)


def _multipliers(d: Drawing, target: Target, place: _Place) -> None:
    """Weights, and the DSPs with their cascade."""
    top, box = place.top, place.box
    kind = target.device.dsp_kind.upper()
    d.lines(24, top + 148, ["weights of one output with", f"selects, for all {target.accelerator.tokens} tokens"])
    d.lines(24, top + 214, [kind, "(x1 2^18 + x0) w" if place.pair > 1 else "x w"])
    for number in range(place.shown):
        middle, width = place.middle(number), max(box / 2 - 8, 16)
        d.arrow((middle, top + 172), (middle, top + 200))
        d.box(middle - width / 2, top + 132, width, 40, WHITE, 3)
        d.text(middle, top + 149, f"w{number}", "small", "middle")
        d.text(middle, top + 163, f"s{number}", "small", "middle")
        d.box(middle - box / 2, top + 200, box, 34, GREEN)
        d.text(middle, top + 221, "x" if box < 40 else "DSP", "small", "middle")
        if number + 1 < place.shown:
            d.arrow((middle + box / 2, top + 217), (middle + place.pitch - box / 2, top + 217))


def _sums(d: Drawing, place: _Place) -> None:
    """From the cascade to the accumulators."""
    top, left, width = place.top, place.left, place.width
    last = place.middle(place.shown - 1)
    if place.pair > 1:
        d.lines(24, top + 272, ["a field of 18 bits holds", "8 products of codes, or", "4 with a probability"])
        if place.shown >= 8:
            tap = place.middle(3)
            d.arrow((tap, top + 234), (tap, top + 268))
            d.text(tap + 8, top + 258, "after 4: probabilities", "small")
        d.text(last - 8, top + 258, f"after {min(place.shown, 8)}: codes", "small", "end")
    d.arrow((last, top + 234), (last, top + 268))
    d.box(left, top + 268, width, 30, GREEN)
    words = "split the two 18-bit fields, give the borrow back, add the cascades" if place.pair > 1 else "add"
    d.text(left + width / 2, top + 287, words, "", "middle")
    d.lines(24, top + 344, ["accumulator memory"])
    for token in range(place.pair):
        x = left + width * (token + 1) / (place.pair + 1)
        d.arrow((x, top + 298), (x, top + 322))
        d.box(x - 110, top + 322, 220, 34, BLUE)
        d.text(x, top + 343, f"acc[token {token}, output]: int32 +=", "", "middle")


# ---- memories -------------------------------------------------------------------------------------------------------

USERS = {
    "weights": ("MATRIX: values and selects", "LOAD: decoded weights, pieces of K, V; VECTOR: codes of K, V"),
    "act": ("MATRIX: windows; VECTOR; STORE", "LOAD: inputs, gathered rows; VECTOR: bf16, codes, scales"),
    "acc": ("VECTOR: sums, scores", "MATRIX: int32 sums"),
    "param": ("VECTOR: columns", "LOAD: scale, bias, gamma, beta"),
}
"""Who reads a memory and who writes it."""


def memories(target: Target) -> Drawing:
    """The memories to scale: bytes a cycle across, words down, so that an area is a number of bytes."""
    a = target.accelerator
    widths = {name: resources.memory_width(name, a) for name in MEMORIES}
    sizes = {name: int(getattr(a, resources.FIELD_OF[name])) for name in MEMORIES}
    depths = {name: -(-sizes[name] // widths[name]) for name in MEMORIES}
    column = (932 - 24 * (len(MEMORIES) - 1)) / len(MEMORIES)
    across, down = column / max(widths.values()), 230 / max(depths.values())
    d = Drawing(980, 470, f"{target.name}: memories on chip")
    d.text(24, 32, f"Memories of {target.name}, {_bytes(sum(sizes.values()))} on chip", "title")
    d.text(956, 32, "across: bytes a cycle; down: words; an area is bytes", "small", "end")
    for number, name in enumerate(MEMORIES):
        x = 24 + number * (column + 24)
        d.text(x, 68, f"{MEMORIES[name]} memory", "name")
        d.lines(
            x,
            86,
            [
                f"{_bytes(sizes[name])} = {widths[name]:,} B x {depths[name]:,} words",
                _organisation(target, name, widths[name]),
            ],
        )
        _to_scale(d, x, 116, widths[name] * across, depths[name] * down, _rows(target, name, depths[name]))
        reads, writes = USERS[name]
        d.lines(x, 372, ["read by", *wrap(reads, 34)], step=14)
        d.lines(x, 418, ["written by", *wrap(writes, 34)], step=14)
    return d


def _kind(target: Target, name: str) -> str:
    return "URAM" if "URAM" in _blocks(target, name) else "BRAM"


def _words(target: Target, name: str) -> int:
    return resources.URAM_WORDS if _kind(target, name) == "URAM" else resources.BRAM_WORDS


def _rows(target: Target, name: str, depth: int) -> int:
    return -(-depth // _words(target, name))


def _organisation(target: Target, name: str, width: int) -> str:
    across = -(-width // resources.PORT_BYTES)
    depth = -(-int(getattr(target.accelerator, resources.FIELD_OF[name])) // width)
    return f"{across} x {_rows(target, name, depth)} {_kind(target, name)}: {_blocks(target, name)}"


def _to_scale(d: Drawing, x: float, y: float, width: float, height: float, rows: int) -> None:
    d.box(x, y, width, max(height, 3), BLUE, 0)
    for row in range(1, rows):
        d.line([(x, y + height * row / rows), (x + width, y + height * row / rows)])


DRAWINGS: dict[str, Callable[[Target], Drawing]] = {"machine": machine, "group": group, "memories": memories}
DRAWN = "fpga-u280"
"""The target of the drawings in docs/."""


def write(target: Target, folder: Path) -> None:
    """All drawings of a target as FOLDER/NAME.svg. Raises OSError where they cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(draw(target).svg(), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m hw_targets.drawings TARGET FOLDER", file=sys.stderr)
        return 2
    try:
        write(load_target(arguments[0]), Path(arguments[1]))
    except (HpccError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, HpccError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
