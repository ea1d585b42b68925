"""Patterns that give every row equal work: N:M and hierarchical. The rules for tails, ties and rounding stand at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.base import (
    Dense,
    Parameters,
    Pattern,
    check_group,
    check_kind,
    impossible,
    misspelt,
    options_of,
    percent,
    ratio,
    scores_of,
    share_or_count,
    split,
    violation,
    whole_number,
)
from compiler.sparsity.recover import recover_kept
from compiler.sparsity.saliency import (
    Mask,
    Matrix,
    Scores,
    block_sums,
    group_excess,
    group_quota,
    keep_largest,
    keep_per_group,
)
from hw_targets.errors import UsageError

# ---- N:M ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NM(Pattern):
    """n of every m consecutive inputs stay in each row (of every m consecutive outputs in each column, along = out).

    A tail group of t < m keeps ceil(n t / m). Of equal weights the one with the lower index stays.
    """

    n: int
    m: int
    along: str = "in"
    name: ClassVar[str] = "nm"

    def __post_init__(self) -> None:
        check_group(self.n, self.m, "nm")
        if self.along not in ("in", "out"):
            raise misspelt(f"groups run along 'in' or 'out', not along {self.along!r}")

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> NM:
        head, *rest = split(arguments)
        options = options_of("nm", rest, ("along",))
        n, m = ratio(head, "nm:N:M, as in nm:2:4")
        check_kind(m, kind)
        return cls(n, m, options.get("along", "in"))

    def body(self) -> str:
        return f"{self.n}:{self.m}" + (", along = out" if self.along == "out" else "")

    def describe(self) -> str:
        where = " outputs" if self.along == "out" else ""
        return f"{self.n}:{self.m} (keeps {self.n} of {self.m}{where}, {percent(self.sparsity)} zeros)"

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    @property
    def group(self) -> int:
        return self.m if self.along == "in" else 1

    def kept(self, outs: int, ins: int) -> int:
        if self.along == "out":
            return ins * group_quota(outs, self.n, self.m)
        return outs * group_quota(ins, self.n, self.m)

    def row_slots(self, ins: int) -> int | None:
        return group_quota(ins, self.n, self.m) if self.along == "in" else None

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        scores = scores_of(w, saliency)
        if self.along == "out":
            return keep_per_group(np.ascontiguousarray(scores.T), self.n, self.m).T
        return keep_per_group(scores, self.n, self.m)

    def check(self, w: Matrix) -> None:
        used = (w.T if self.along == "out" else w) != 0
        excess = group_excess(used, self.n, self.m)
        if excess.size == 0 or excess.max() <= 0:
            return
        line, group = np.argwhere(excess > 0)[0]
        first, last = group * self.m, min((group + 1) * self.m, used.shape[1]) - 1
        axes = ("column", "outputs") if self.along == "out" else ("row", "inputs")
        raise violation(
            f"{axes[0]} {line}, group {group} ({axes[1]} {first} to {last}) holds {used[line, first : last + 1].sum()} "
            f"weights that are not zero; {self.spec()} keeps {group_quota(last - first + 1, self.n, self.m)}",
        )

    def canonical(self) -> Pattern:
        return Dense() if self.n == self.m else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters(self.n, self.m)


# ---- hierarchical ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """`count` neighbouring windows of `size` inputs from input `start` on, each keeping `keep` inputs."""

    start: int
    count: int
    size: int
    keep: int

    @property
    def inputs(self) -> slice:
        return slice(self.start, self.start + self.count * self.size)


@dataclass(frozen=True)
class HP(Pattern):
    """Hierarchical: tiles of `rows` x `window` share `keep` inputs; in each row, groups of m kept inputs keep n.

    Coarse: a tile keeps the inputs with the largest sum of w^2 over its rows, of equal ones the lower index. A full
    window keeps `keep`, a tail window of t inputs ceil(keep t / window) rounded up to a multiple of m, at most t. A
    tail row block keeps what a full one keeps. Fine: groups are counted over the kept inputs of one window, a tail
    group of t < m keeps ceil(n t / m). fine = dense is n = m = 1. With window = "in" a window is the whole row and
    `keep` is a fraction of it, rounded like a tail.
    """

    rows: int
    window: int | str
    keep: int | Fraction
    fine_n: int = 1
    fine_m: int = 1
    name: ClassVar[str] = "hp"

    def __post_init__(self) -> None:
        check_group(self.fine_n, self.fine_m, "the fine pattern of hp")
        if self.rows < 1:
            raise impossible(f"rows={self.rows}: a row block has at least one row")
        if isinstance(self.window, str):
            self._check_whole_row()
        else:
            object.__setattr__(self, "keep", self._checked_keep(self.window))

    def _check_whole_row(self) -> None:
        if self.window != "in":
            raise misspelt(f"window={self.window}: a window is a number of inputs, or 'in' for all of them")
        if not isinstance(self.keep, Fraction) or not 0 < self.keep <= 1:
            raise impossible(f"keep={self.keep}: with window=in, keep is a share of the row, as in keep=1/4")

    def _checked_keep(self, window: int) -> int:
        if window < 1:
            raise impossible(f"window={window}: a window has at least one input")
        if isinstance(self.keep, Fraction):
            if not 0 < self.keep <= 1:
                raise impossible(f"keep={self.keep} is no share of a window: it lies above 0 and at most at 1")
            return _round_up(-(-self.keep.numerator * window // self.keep.denominator), self.fine_m, window)
        if not 1 <= self.keep <= window:
            raise impossible(f"keep={self.keep} of a window of {window} inputs: it lies between 1 and {window}")
        if self.keep % self.fine_m and self.keep != window:
            raise impossible(
                f"keep={self.keep} does not split into groups of {self.fine_m} (fine={self.fine_n}:{self.fine_m})",
                hint=f"keep={_round_up(self.keep, self.fine_m, window)} is the next that does",
            )
        return self.keep

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> HP:
        items = split(arguments)
        if len(items) == 1 and "=" not in items[0]:
            return _closest_shape(items[0], kind)
        options = options_of("hp", items, ("rows", "window", "keep", "fine"))
        missing = [key for key in ("rows", "window", "keep", "fine") if key not in options]
        if missing:
            raise misspelt(f"hp needs {', '.join(missing)} too", hint="as in hp:rows=64,window=32,keep=16,fine=2:4")
        n, m = (1, 1) if options["fine"] == "dense" else ratio(options["fine"], "fine=N:M or fine=dense")
        check_kind(m, kind)
        window = "in" if options["window"] == "in" else whole_number("window", options["window"])
        return cls(
            whole_number("rows", options["rows"]), window, share_or_count("keep", options["keep"], window == "in"), n, m
        )

    def body(self) -> str:
        fine = "dense" if self.fine_m == 1 else f"{self.fine_n}:{self.fine_m}"
        return f"rows = {self.rows}, window = {self.window}, keep = {self.keep}, fine = {fine}"

    def describe(self) -> str:
        shared = f"{self.keep} of {self.window}" if isinstance(self.keep, int) else f"{self.keep} of all"
        fine = "all" if self.fine_m == 1 else f"{self.fine_n} of every {self.fine_m}"
        simple = self.canonical()
        same = "" if simple is self else f"; the same as {simple.spec()}"
        return (
            f"hierarchical (blocks of {self.rows} rows share {shared} inputs, each row keeps {fine} of them, "
            f"{percent(self.sparsity)} zeros{same})"
        )

    @property
    def sparsity(self) -> float:
        share = self.keep if isinstance(self.window, str) else Fraction(self.keep, self.window)
        return float(1 - share * Fraction(self.fine_n, self.fine_m))

    @property
    def group(self) -> int:
        return self.fine_m

    def window_keep(self, size: int, ins: int) -> int:
        """Inputs kept of a window of `size` <= the full one, in a matrix of `ins` inputs."""
        full = ins if isinstance(self.window, str) else self.window
        share = self.keep if isinstance(self.keep, Fraction) else Fraction(self.keep, full)
        return _round_up(-(-share.numerator * size // share.denominator), self.fine_m, size)

    def windows(self, ins: int) -> Iterator[Windows]:
        """The full windows of a row, then its tail window: at most two runs of equal windows."""
        full = ins if isinstance(self.window, str) else self.window
        count, tail = divmod(ins, full) if full else (0, 0)
        if count:
            yield Windows(0, count, full, self.window_keep(full, ins))
        if tail:
            yield Windows(count * full, 1, tail, self.window_keep(tail, ins))

    def kept(self, outs: int, ins: int) -> int:
        runs = self.windows(ins)
        return outs * sum(run.count * group_quota(run.keep, self.fine_n, self.fine_m) for run in runs)

    def row_slots(self, ins: int) -> int | None:
        return self.kept(1, ins)

    def kept_inputs(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        """The coarse choice: bool[ceil(out / rows), in], true where a row block keeps an input."""
        scores = scores_of(w, saliency)
        sums = block_sums(np.square(scores, dtype=np.float64) if saliency is None else scores, self.rows)
        return self._choose(sums, scores != 0)

    def _choose(self, sums: Scores, used: Mask) -> Mask:
        """The inputs of largest sums[block, in]; `used` is true where a weight is not zero."""
        kept = np.empty(sums.shape, np.bool_)
        for run in self.windows(sums.shape[1]):
            tiles = sums[:, run.inputs].reshape(-1, run.count, run.size)
            chosen = keep_largest(tiles, run.keep)
            unused = np.count_nonzero(tiles, axis=-1) < run.keep
            if self.fine_m > 1 and run.keep < run.size and unused.any():
                self._recover(used, run, chosen, unused)
            kept[:, run.inputs] = chosen.reshape(len(sums), -1)
        return kept

    def _recover(self, used: Mask, run: Windows, chosen: Mask, unused: Mask) -> None:
        """Correct, in place, the tiles whose choice of unused inputs cuts off weights although another would not."""
        bad = self._excess(used, run, chosen.reshape(len(chosen), -1)).max(axis=-1) > 0
        by_block = np.zeros((len(chosen) * self.rows, run.count), np.bool_)
        by_block[: len(bad)] = bad
        wrong = by_block.reshape(len(chosen), self.rows, run.count).any(axis=1)
        for block, window in np.argwhere(wrong & unused):
            start = run.start + window * run.size
            tile = used[block * self.rows : (block + 1) * self.rows, start : start + run.size]
            found = recover_kept(tile, run.keep, self.fine_n, self.fine_m)
            if found is not None:
                chosen[block, window] = found

    def _gather(self, values: Matrix, run: Windows, chosen: Mask) -> tuple[Matrix, Matrix]:
        """Values at the kept inputs, [out, windows, keep], and the inputs themselves, [out, windows * keep]."""
        columns = np.nonzero(chosen)[1].reshape(len(chosen), run.count * run.keep) + run.start
        columns = np.repeat(columns, min(self.rows, len(values)), axis=0)[: len(values)]
        gathered = np.take_along_axis(values, columns, axis=1)
        return gathered.reshape(len(values), run.count, run.keep), columns

    def _excess(self, used: Mask, run: Windows, chosen: Mask) -> Matrix:
        return group_excess(self._gather(used, run, chosen)[0], self.fine_n, self.fine_m)

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return self._fine(scores_of(w, saliency), self.kept_inputs(w, saliency))

    def _fine(self, scores: Scores, kept: Mask) -> Mask:
        mask = np.zeros(scores.shape, np.bool_)
        for run in self.windows(scores.shape[1]):
            values, columns = self._gather(scores, run, kept[:, run.inputs])
            stays = keep_per_group(values, self.fine_n, self.fine_m)
            np.put_along_axis(mask, columns, stays.reshape(columns.shape), axis=1)
        return mask

    def layout(self, w: Matrix) -> tuple[Mask, Mask]:
        """Kept inputs per row block and `slots` of a w that obeys the pattern; raises InputError like `check`."""
        used = w != 0
        kept = self._checked_inputs(used)
        return kept, self._fine(used.view(np.uint8), kept)

    def slots(self, w: Matrix) -> Mask:
        return self.layout(w)[1]

    def check(self, w: Matrix) -> None:
        self._checked_inputs(w != 0)

    def _checked_inputs(self, used: Mask) -> Mask:
        columns = np.logical_or.reduceat(used, np.arange(0, len(used), self.rows), axis=0)
        for run in self.windows(used.shape[1]):
            self._check_coarse(columns, len(used), run)
        kept = self._choose(columns.astype(np.int8), used)
        for run in self.windows(used.shape[1]):
            excess = self._excess(used, run, kept[:, run.inputs])
            if excess.size and excess.max() > 0:
                row, window, group = np.argwhere(excess > 0)[0]
                first = run.start + window * run.size
                raise violation(
                    f"row {row}, inputs {first} to {first + run.size - 1}: group {group} of {self.fine_m} kept inputs "
                    f"holds {excess[row, window, group]} weights too many for {self.spec()}",
                )
        return kept

    def _check_coarse(self, columns: Mask, outs: int, run: Windows) -> None:
        counts = np.count_nonzero(columns[:, run.inputs].reshape(-1, run.count, run.size), axis=-1)
        if counts.size == 0 or counts.max() <= run.keep:
            return
        block, window = np.argwhere(counts > run.keep)[0]
        rows = (block * self.rows, min((block + 1) * self.rows, outs) - 1)
        first = run.start + window * run.size
        raise violation(
            f"rows {rows[0]} to {rows[1]} use {counts[block, window]} of the inputs {first} to {first + run.size - 1}; "
            f"{self.spec()} keeps {run.keep}",
        )

    def canonical(self) -> Pattern:
        whole = self.keep == (1 if isinstance(self.keep, Fraction) else self.window)
        if not whole or (isinstance(self.window, int) and self.window % self.fine_m):  # groups restart at a window
            return self
        return NM(self.fine_n, self.fine_m).canonical()

    def parameters(self, ins: int) -> Parameters:
        full = ins if isinstance(self.window, str) else self.window
        return Parameters(self.fine_n, self.fine_m, self.rows, full, self.window_keep(full, ins))


def _round_up(count: int, multiple: int, limit: int) -> int:
    return min(-(-count // multiple) * multiple, limit)


# ---- hp:S -----------------------------------------------------------------------------------------------------------

FPGA_SHAPES: tuple[HP, ...] = tuple(HP(64, 32, keep, n, m) for n, m in ((2, 4), (1, 4), (1, 1)) for keep in range(m, 33, m))
"""The legal shapes behind `hp:S`, one list for all FPGAs; of equally close ones the earlier is taken."""

CPU_ROWS = 4
"""Rows that share their inputs in the `hp:S` of CPUs: four broadcast weights use every vector of inputs they load."""


TILE_ROWS = 16
"""Rows that share their inputs in the `hp:S` of CPUs with AMX, in int8: those of a tile of weights."""

GPU_ROWS = 64
"""Rows that share their inputs in the `hp:S` of GPUs: a tile of results of a thread block reads only the inputs it keeps."""


def _closest_shape(text: str, kind: str) -> HP:
    """`hp:S`: the legal shape whose sparsity is closest to S; of two equally close ones the sparser."""
    try:
        asked = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise misspelt(
            f"hp:{text} is neither a sparsity nor a full form",
            hint="as in hp:0.75 or hp:rows=64,window=32,keep=16,fine=2:4",
        ) from None
    shared = {"cpu": CPU_ROWS, "cpu-tiles": TILE_ROWS, "gpu": GPU_ROWS}
    if kind != "fpga" and kind not in shared:
        raise UsageError(
            "HPCC2204", f"hp:{text} has no list of shapes for targets of kind {kind!r}", hint="write the full form"
        )
    if not Fraction(1, 2) <= asked < 1:
        hint = "below 0.5 take nm:3:4 (25 % zeros) or dense" if asked < 1 else "it is a share of zeros, as in hp:0.75"
        raise UsageError("HPCC2204", f"hp:{text}: the sparsity of hp lies from 0.5 to below 1", hint=hint)
    if kind in shared:
        return HP(shared[kind], "in", 1 - asked)
    return min(FPGA_SHAPES, key=lambda p: (abs(Fraction(p.sparsity) - asked), -p.sparsity))
