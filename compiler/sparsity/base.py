"""What every sparsity pattern can do, the trivial one, and how parameters are spelled.

The other patterns stand in patterns.py (balanced: every row has equal work) and unbalanced.py.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.saliency import Mask, Matrix, Scores, magnitudes
from hw_targets.errors import InputError, UsageError

FPGA_MAX_GROUP = 16
"""The compute layout selects inside a group with 4 bits."""

METADATA_KEY = "hpcc.sparsity"
"""Key of an ONNX file's metadata that names the pattern its weights were pruned to, as the command line spells it."""


METADATA_LAYERS_KEY = "hpcc.sparsity.layers"
"""The same layer by layer, as JSON: {role: pattern}. What stands there is asked first."""


def violation(message: str) -> InputError:
    """Weights that a pattern has not."""
    return InputError("HPCC1804", message)


def misspelt(message: str, hint: str = "") -> UsageError:
    """Text that no pattern reads."""
    return UsageError("HPCC2202", message, hint=hint)


def impossible(message: str, hint: str = "") -> UsageError:
    """Text that reads well and says nothing that can be."""
    return UsageError("HPCC2203", message, hint=hint)


@dataclass(frozen=True)
class Parameters:
    """A pattern as the machine's instructions take it, for a matrix of a given number of inputs.

    n = m = 1 is a dense fine pattern; block_rows = window = keep = 0 means that there is no coarse one.
    """

    n: int = 1
    m: int = 1
    block_rows: int = 0
    window: int = 0
    keep: int = 0


class Pattern(ABC):
    """Which entries of W[out, in] are zero. `mask`, `project` and `check` take W as out x in, in any memory layout.

    A pattern of weight sharing (sharing.py) has no zeros: it says which entries are tied, and only projects and checks.
    """

    name: ClassVar[str]
    sharing: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Pattern:
        """The pattern spelled after its name, as on the command line or in an attribute. Raises UsageError."""

    @abstractmethod
    def body(self) -> str:
        """The parameters as an attribute prints them; `parse` reads them back."""

    def spec(self) -> str:
        """The full command-line form; `parse_pattern` reads it back."""
        arguments = self.body().replace(" ", "")
        return f"{self.name}:{arguments}" if arguments else self.name

    @abstractmethod
    def describe(self) -> str:
        """The pattern in words, with its share of zeros."""

    @property
    @abstractmethod
    def sparsity(self) -> float:
        """The share of zeros where no tails are."""

    @property
    def group(self) -> int:
        """Size of the fine groups along the reduction."""
        return 1

    @abstractmethod
    def kept(self, outs: int, ins: int) -> int:
        """Entries that stay in an outs x ins matrix, tails included."""

    def free(self, outs: int, ins: int) -> int:
        """Values of an outs x ins matrix that can be chosen: what stays, but for weight sharing fewer."""
        return self.kept(outs, ins)

    @property
    def tied_rows(self) -> int:
        """Consecutive rows that share values, and so need one scale when they are quantised."""
        return 1

    def row_slots(self, ins: int) -> int | None:
        """Entries that stay in every row of `ins` inputs, if they are equally many in all rows."""
        return None

    def blocks_of(self, outs: int, ins: int) -> tuple[int, int] | None:
        """Rows x inputs of the blocks that stay or go as a whole, if the pattern has such."""
        return None

    def block_slots(self, w: Matrix) -> Mask:
        """The entries of the blocks that stay, of a w that obeys the pattern. Raises InputError like `check`."""
        return self.slots(w)

    @abstractmethod
    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        """bool[out, in], true where a weight stays; exactly `kept` of them.

        By magnitude (w^2), or by a given saliency >= 0 of the same shape. If w obeys the pattern already, all its
        weights that are not zero stay. Raises InputError for NaN and infinity.
        """

    @abstractmethod
    def check(self, w: Matrix) -> None:
        """Raise InputError naming the first place where w has weights that the pattern has not."""

    def slots(self, w: Matrix) -> Mask:
        """A mask that covers every weight of a w that obeys the pattern; raises InputError like `check`."""
        self.check(w)
        return self.mask(w != 0)

    def project(self, w: Matrix) -> Matrix:
        """w with zeros where the mask has them; same shape and dtype."""
        return np.where(self.mask(w), w, w.dtype.type(0))

    def canonical(self) -> Pattern:
        """The simplest pattern with the same masks."""
        return self

    @abstractmethod
    def parameters(self, ins: int) -> Parameters:
        """The pattern as instructions carry it."""


def scores_of(w: Matrix, saliency: Scores | None) -> Scores:
    if saliency is None:
        return magnitudes(w)
    if saliency.shape != w.shape:
        raise InputError("HPCC1803", f"a saliency of shape {saliency.shape} does not fit weights of shape {w.shape}")
    return np.ascontiguousarray(saliency)


def percent(share: float) -> str:
    return f"{100 * share:.5g} %"


# ---- dense ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dense(Pattern):
    """Every entry stays."""

    name: ClassVar[str] = "dense"

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Dense:
        if arguments.strip():
            raise misspelt(f"the pattern 'dense' takes no arguments, not {arguments.strip()!r}")
        return cls()

    def body(self) -> str:
        return ""

    def describe(self) -> str:
        return "dense (keeps all, 0 % zeros)"

    @property
    def sparsity(self) -> float:
        return 0.0

    def kept(self, outs: int, ins: int) -> int:
        return outs * ins

    def row_slots(self, ins: int) -> int | None:
        return ins

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return np.ones(w.shape, np.bool_)

    def check(self, w: Matrix) -> None:
        return None

    def parameters(self, ins: int) -> Parameters:
        return Parameters()


# ---- spelling -------------------------------------------------------------------------------------------------------


def split(arguments: str) -> list[str]:
    return ["".join(item.split()) for item in arguments.split(",")]


def options_of(name: str, items: list[str], known: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in items:
        key, equal, value = item.partition("=")
        if not equal or not value:
            raise misspelt(f"{name}: {item!r} is not of the form key=value")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(known)}"
            raise misspelt(f"{name} has no parameter {key!r}", hint=hint)
        if key in options:
            raise misspelt(f"{name}: {key} is given twice")
        options[key] = value
    return options


def whole_number(key: str, text: str) -> int:
    if not text.isdecimal():
        raise misspelt(f"{key}={text} is not a whole number")
    return int(text)


def share_or_count(key: str, text: str, whole_row: bool) -> int | Fraction:
    """A count of inputs, or an exact fraction of them (1/4, 0.25)."""
    if text.isdecimal() and not whole_row:
        return int(text)
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise misspelt(f"{key}={text} is neither a number of inputs nor a fraction like 1/4") from None


def ratio(text: str, form: str) -> tuple[int, int]:
    n, colon, m = text.partition(":")
    if not colon or not n.isdecimal() or not m.isdecimal():
        raise misspelt(f"{text!r} does not read as N:M", hint=f"the form is {form}")
    return int(n), int(m)


def check_group(n: int, m: int, what: str) -> None:
    if n < 1 or m < 1:
        raise impossible(f"{what}: {n}:{m} needs whole numbers of at least 1")
    if n > m:
        raise impossible(f"{what}: {n}:{m} would keep {n} of every {m}", hint=f"n:m keeps n of m; did you mean {m}:{n}?")


def check_kind(m: int, kind: str) -> None:
    if kind == "fpga" and m > FPGA_MAX_GROUP:
        raise UsageError(
            "HPCC2205",
            f"groups of {m} do not fit the accelerator, which selects inside a group with 4 bits",
            hint=f"take groups of at most {FPGA_MAX_GROUP}",
        )
