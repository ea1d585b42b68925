"""Weights anywhere: a share of the whole tensor stays. The exact shares of other patterns stand here too.

The share is exact: `unstructured:0.9` keeps ceil(1/10 x count), whatever 0.1 is as a float.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.base import Dense, Parameters, Pattern, impossible, misspelt, percent, scores_of, violation
from compiler.sparsity.saliency import Mask, Matrix, Scores, fill_evenly, keep_largest_of_all


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


def parse_share(name: str, text: str, hint: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise misspelt(f"{name}: {text!r} is no number", hint=hint) from None


def parse_sparsity(name: str, text: str, hint: str) -> Fraction:
    """The density of a sparsity on the command line."""
    sparsity = parse_share(name, text, hint)
    if not 0 <= sparsity < 1:
        raise impossible(f"{name}: a sparsity of {text} is no share of zeros: it lies from 0 to below 1", hint=hint)
    return 1 - sparsity


def check_density(name: str, density: Fraction) -> None:
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
        check_density(self.name, self.density)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Unstructured:
        text = "".join(arguments.split())
        if text.startswith("density="):
            return cls(parse_share("density", text.removeprefix("density="), "as in density = 0.25"))
        return cls(parse_sparsity(cls.name, text, cls.FORM))

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
