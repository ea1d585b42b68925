"""Patterns whose rows differ in work: blocks anywhere, weights anywhere. A share of the whole tensor stays.

The share is exact: `unstructured:0.9` keeps ceil(1/10 x count), whatever 0.1 is as a float.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.base import Dense, Parameters, Pattern, impossible, misspelt, percent, scores_of, split, violation
from compiler.sparsity.saliency import Mask, Matrix, Scores, block_sums, fill_evenly, keep_largest_of_all

SHAPE = re.compile(r"([0-9]+)x([0-9]+)")


def share_of(count: int, share: Fraction) -> int:
    """ceil(share x count), exactly."""
    return -(-share.numerator * count // share.denominator)


def density_of(kept: int, count: int) -> Fraction:
    """The shortest decimal whose share of `count` is `kept` (1 <= kept <= count)."""
    scale = 1
    while True:
        density = Fraction(kept * scale // count, scale)
        if density and share_of(count, density) == kept:
            return density
        scale *= 10


def decimal_text(value: Fraction) -> str:
    """0.25 for 1/4; 1/3 where no decimal is exact. `Fraction` reads both back."""
    rest = value.denominator
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    fives = 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest > 1:
        return str(value)
    places = max(twos, fives)
    digits = f"{value.numerator * 10**places // value.denominator:0{places + 1}d}"
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def _parse_share(name: str, text: str, hint: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise misspelt(f"{name}: {text!r} is no number", hint=hint) from None


def _parse_sparsity(name: str, text: str, hint: str) -> Fraction:
    """The density of a sparsity on the command line."""
    sparsity = _parse_share(name, text, hint)
    if not 0 <= sparsity < 1:
        raise impossible(f"{name}: a sparsity of {text} is no share of zeros: it lies from 0 to below 1", hint=hint)
    return 1 - sparsity


def _check_density(name: str, density: Fraction) -> None:
    if not 0 < density <= 1:
        raise impossible(f"{name}: a share of {density} that stays does not lie above 0 and at most at 1")


# ---- unstructured ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unstructured(Pattern):
    """ceil(density x count) weights of the tensor stay, wherever they are; of equal ones the lower index, row by row.

    Of a matrix with fewer weights that are not zero, `slots` covers some of its zeros too, spread evenly.
    """

    density: Fraction
    name: ClassVar[str] = "unstructured"
    FORM: ClassVar[str] = "as in unstructured:0.75, which makes 75 % of the weights zero"

    def __post_init__(self) -> None:
        _check_density(self.name, self.density)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Unstructured:
        text = "".join(arguments.split())
        if text.startswith("density="):
            return cls(_parse_share("density", text.removeprefix("density="), "as in density = 0.25"))
        return cls(_parse_sparsity(cls.name, text, cls.FORM))

    def spec(self) -> str:
        return f"{self.name}:{decimal_text(1 - self.density)}"

    def body(self) -> str:
        return f"density = {decimal_text(self.density)}"

    def describe(self) -> str:
        return (
            f"unstructured (keeps {percent(float(self.density))} of each matrix, anywhere, {percent(self.sparsity)} zeros)"
        )

    @property
    def sparsity(self) -> float:
        return float(1 - self.density)

    def kept(self, outs: int, ins: int) -> int:
        return share_of(outs * ins, self.density)

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return keep_largest_of_all(scores_of(w, saliency), self.kept(*w.shape))

    def check(self, w: Matrix) -> None:
        used, kept = int(np.count_nonzero(w)), self.kept(*w.shape)
        if used > kept:
            raise violation(f"{used:,} of {w.size:,} weights are not zero; {self.spec()} keeps {kept:,} of them")

    def slots(self, w: Matrix) -> Mask:
        self.check(w)
        return fill_evenly(w != 0, self.kept(*w.shape))

    def canonical(self) -> Pattern:
        return Dense() if self.density == 1 else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters()


# ---- blocks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of `rows` x `cols` (out x in) stay or go as a whole: ceil(keep x number of blocks) of them stay.

    Ranked by the sum of w^2, of equal ones the lower index, row of blocks by row. A block at the edge of the matrix is a
    block like the others, however small: where there are any, `kept` is the most entries that the kept blocks can have.
    """

    rows: int
    cols: int
    keep: Fraction
    name: ClassVar[str] = "block"
    FORM: ClassVar[str] = "as in block:4x1:0.75: blocks of 4 outputs x 1 input, 75 % of them zero"

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise impossible(f"block: {self.rows}x{self.cols} needs whole numbers of at least 1", hint=self.FORM)
        _check_density(self.name, self.keep)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Block:
        head, *rest = split(arguments)
        if rest and rest[0].startswith("keep=") and len(rest) == 1:
            return cls(*cls._shape(head), _parse_share("keep", rest[0].removeprefix("keep="), "as in keep = 1/4"))
        shape, colon, sparsity = head.partition(":")
        if rest or not colon:
            raise misspelt(f"block:{arguments.strip()} does not read as block:RxC:S", hint=cls.FORM)
        return cls(*cls._shape(shape), _parse_sparsity(cls.name, sparsity, cls.FORM))

    @classmethod
    def _shape(cls, text: str) -> tuple[int, int]:
        found = SHAPE.fullmatch(text)
        if found is None:
            raise misspelt(f"block: {text!r} does not read as RxC, out x in", hint=cls.FORM)
        return int(found[1]), int(found[2])

    def spec(self) -> str:
        return f"{self.name}:{self.rows}x{self.cols}:{decimal_text(1 - self.keep)}"

    def body(self) -> str:
        return f"{self.rows}x{self.cols}, keep = {self.keep}"

    def describe(self) -> str:
        outputs, inputs = f"{self.rows} output{'s'[: self.rows > 1]}", f"{self.cols} input{'s'[: self.cols > 1]}"
        return (
            f"blocks of {outputs} x {inputs} (keeps {percent(float(self.keep))} of them, anywhere,"
            f" {percent(self.sparsity)} zeros)"
        )

    @property
    def sparsity(self) -> float:
        return float(1 - self.keep)

    @property
    def group(self) -> int:
        return self.cols

    def blocks(self, outs: int, ins: int) -> int:
        """How many blocks stay."""
        return share_of(-(-outs // self.rows) * -(-ins // self.cols), self.keep)

    def kept(self, outs: int, ins: int) -> int:
        return min(self.blocks(outs, ins) * self.rows * self.cols, outs * ins)

    def _sums(self, squares: Scores) -> Scores:
        """Sums over each block, in an order that no memory layout changes."""
        return block_sums(block_sums(squares, self.rows).T, self.cols).T

    def _spread(self, chosen: Mask, outs: int, ins: int) -> Mask:
        """The entries of the chosen blocks."""
        return np.repeat(np.repeat(chosen, self.rows, axis=0)[:outs], self.cols, axis=1)[:, :ins]

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        scores = scores_of(w, saliency)
        sums = self._sums(np.square(scores, dtype=np.float64) if saliency is None else scores)
        return self._spread(keep_largest_of_all(sums, self.blocks(*w.shape)), *w.shape)

    def used_blocks(self, w: Matrix) -> Mask:
        """bool[ceil(out / rows), ceil(in / cols)], true where a block has a weight that is not zero."""
        rows, cols = range(0, w.shape[0], self.rows), range(0, w.shape[1], self.cols)
        return np.logical_or.reduceat(np.logical_or.reduceat(w != 0, rows, axis=0), cols, axis=1)

    def check(self, w: Matrix) -> None:
        used, kept = self.used_blocks(w), self.blocks(*w.shape)
        if np.count_nonzero(used) > kept:
            raise violation(
                f"{np.count_nonzero(used):,} of {used.size:,} blocks of {self.rows}x{self.cols} have weights that are not"
                f" zero; {self.spec()} keeps {kept:,} of them",
            )

    def slots(self, w: Matrix) -> Mask:
        self.check(w)
        chosen = fill_evenly(self.used_blocks(w), self.blocks(*w.shape))
        return fill_evenly(self._spread(chosen, *w.shape), self.kept(*w.shape))

    def canonical(self) -> Pattern:
        if self.rows == self.cols == 1:
            return Unstructured(self.keep).canonical()
        return Dense() if self.keep == 1 else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters()
