"""The algorithm side of candidates: prune as asked, run the integers that every accelerator computes, score on dev."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.explore.fidelity import RULED_OUT_Z, is_hopeless
from compiler.explore.selection import Fidelity
from compiler.explore.space import DENSE, Algorithm
from compiler.explore.statistics import Score
from compiler.passes.sparsify import AUTO, PRUNABLE
from compiler.sparsity.base import Dense
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.exploring.bench import Bench, Opened, float_reference, opened, reduced, save_rows
from compiler.tools.exploring.models import CALIBRATION, Shapes, lower, pruned_file
from compiler.tools.exploring.samples import Split
from compiler.tools.inputs import read_npz
from compiler.tools.pruning.calibration import Calibration
from compiler.tools.pruning.data import batches_of
from compiler.tools.pruning.provenance import fused, linears_of, matrix_of

Array = NDArray[Any]
ESTIMATE_SAMPLES = 16
"""Samples whose activations weigh the estimate."""
CANDIDATE = "candidate-"
"""How the folders of pruned files begin, for as long as they are judged."""


@dataclass(frozen=True)
class Judged:
    """The accuracy of an algorithm as far as it was looked at."""

    fidelity: Fidelity
    score: Score | None

    def as_dict(self) -> dict[str, Any]:
        return {"fidelity": self.fidelity.value, "score": None if self.score is None else asdict(self.score)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Judged:
        return cls(Fidelity(data["fidelity"]), None if data["score"] is None else Score(**data["score"]))


@dataclass(frozen=True)
class Begun:
    """A file that the subset has not ruled out: `rows` of the subset are known, the rest of the dev set is to be run."""

    file: Path
    spec: str
    precision: str
    rows: Array | None

    def rest(self, known: Opened) -> int:
        """Samples still to be run."""
        return known.dev.count - (0 if self.rows is None else known.subset)

    def batch(self, known: Opened) -> int:
        """How many of them are run together."""
        return known.float_batch if self.precision == "fp32" else known.bench.batch


def judge(bench: Bench, algorithm: Algorithm, limit: float | None) -> Judged:
    """One-shot pruning, then the subset, then, unless that rules it out under `limit`, the rest of the dev set."""
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix=CANDIDATE) as name:
        return _judged(bench, look(bench, algorithm, limit, Path(name)), kept_rows(bench, algorithm))


def judge_file(bench: Bench, file: Path, spec: str, precision: str, limit: float | None, kept: Path) -> Judged:
    """The same for a file that is there; the rows of the whole dev set are `kept`."""
    return _judged(bench, look_at(bench, file, spec, precision, limit), kept)


def _judged(bench: Bench, begun: Judged | Begun, kept: Path) -> Judged:
    if isinstance(begun, Judged):
        return begun
    left = begun.rest(opened(bench))
    return finished(bench, begun, rest_of(bench, begun, 0, left) if left else None, kept)


def kept_rows(bench: Bench, algorithm: Algorithm) -> Path:
    return bench.rows_of(json.dumps(asdict(algorithm)))


def look(bench: Bench, algorithm: Algorithm, limit: float | None, folder: Path) -> Judged | Begun:
    """The first step of `judge`, which prunes into `folder`: a judgement if it takes no more than the subset."""
    kept = kept_rows(bench, algorithm)
    if kept.is_file():
        return _scored(opened(bench), np.load(kept))
    out = folder / "pruned.onnx"
    file = pruned_file(bench.model, algorithm, bench.data, bench.method, bench.compiled_shapes, out)
    return look_at(bench, file, DENSE if algorithm.is_dense else AUTO, algorithm.precision, limit)


def look_at(bench: Bench, file: Path, spec: str, precision: str, limit: float | None) -> Judged | Begun:
    """The same for a file that is there. Subset and rest are run once each."""
    known = opened(bench)
    if not known.subset or limit is None:
        return Begun(file, spec, precision, None)
    chosen = known.order[: known.subset]
    first = rows_by(known, file, spec, precision, known.dev, chosen)
    score = known.meter.score(first, known.dev.take(chosen), known.dense[chosen], RULED_OUT_Z)
    return Judged(Fidelity.SUBSET, score) if is_hopeless(score, limit) else Begun(file, spec, precision, first)


def rest_of(bench: Bench, begun: Begun, first: int, last: int) -> Array:
    """The second step: rows of some of the samples that are still to be run."""
    known = opened(bench)
    chosen = known.order[known.dev.count - begun.rest(known) :][first:last]
    return rows_by(known, begun.file, begun.spec, begun.precision, known.dev, chosen)


def finished(bench: Bench, begun: Begun, rest: Array | None, kept: Path) -> Judged:
    """The last step: the rows of the whole dev set are `kept` and scored."""
    known = opened(bench)
    found = np.concatenate([part for part in (begun.rows, rest) if part is not None])
    ordered = np.empty_like(found)
    ordered[known.order] = found
    save_rows(kept, ordered)
    return _scored(known, ordered)


def _scored(known: Opened, rows: Array) -> Judged:
    return Judged(Fidelity.DEV, known.meter.score(rows, known.dev, known.dense, known.bench.z))


def rows_by(known: Opened, file: Path, spec: str, precision: str, split: Split, chosen: Array) -> Array:
    """The meter's rows of the chosen samples by a file: by the integers that every accelerator computes, in the shapes that
    are compiled (exporters' graphs of other batches may be fused, and rounded, otherwise); or in fp32, as CPUs compute."""
    status = file.stat()
    run, size = _runner(known.bench, file, (status.st_ino, status.st_mtime_ns), spec, precision)
    return reduced(known.meter, run, split, chosen, size)


@lru_cache(maxsize=1)
def _runner(
    bench: Bench, file: Path, version: tuple[int, int], spec: str, precision: str
) -> tuple[Callable[[Mapping[str, Array]], Any], int]:
    """What computes a batch, and its size. The last one is remembered: the steps of a judgement, and parts of one step, come
    one after the other. `version` tells files of one name apart."""
    del version
    known = opened(bench)
    if precision == "fp32":
        return float_reference(file, known.float_shapes).run, known.float_batch
    lowered = lower(file, bench.compiled_shapes, spec)
    return lowered.run, lowered.facts.inputs[0].shape[0]


class Sensitivity:
    """What pruning takes from the results of the layers, without running a pruned model: for each layer the share of
    sum_j w_ij^2 |x_j|^2 that the mask removes (x: inputs of the dense model on a few samples), averaged over layers."""

    def __init__(self, bench: Bench, shapes: Shapes) -> None:
        imported = fused(bench.model, dict(shapes))
        self._linears = {role: op for role, op in linears_of(imported.module).items() if PRUNABLE.fullmatch(role)}
        self._matrices = {role: matrix_of(op, imported) for role, op in self._linears.items()}
        self._energies: dict[str, Array] = {}
        data = bench.data / CALIBRATION
        if data.is_file():
            arrays = {name: array[:ESTIMATE_SAMPLES] for name, array in read_npz(data).items()}
            calibration = Calibration(imported.module, imported.store, batches_of(arrays, imported, str(data)))
            for op, inputs in calibration.linears():
                if op.role.data in self._linears:
                    self._energies[op.role.data] = calibration.energies(op, inputs)
        self._known: dict[tuple[str, str], float] = {}

    def of(self, algorithm: Algorithm) -> float:
        """0 for the dense model, 1 where nothing is left."""
        if algorithm.control:
            return 1.0
        lost = [
            self._lost(role, algorithm.attention if ".attn." in role else algorithm.feed_forward) for role in self._linears
        ]
        return float(np.mean(lost)) if lost else 0.0

    def _lost(self, role: str, spec: str) -> float:
        if (role, spec) not in self._known:
            self._known[role, spec] = self._share(role, spec)
        return self._known[role, spec]

    def _share(self, role: str, spec: str) -> float:
        pattern, matrix = parse_pattern(spec, "fpga"), self._matrices[role]
        if isinstance(pattern, Dense) or pattern.sharing or matrix is None or matrix.shape[1] < 4 * pattern.group:
            return 0.0
        scores = np.square(matrix, dtype=np.float64) * self._energies.get(role, 1.0)
        total = float(scores.sum())
        return float(scores[~pattern.mask(matrix, scores.astype(np.float32))].sum()) / total if total > 0 else 0.0


def by_estimate(estimates: Mapping[Algorithm, float], algorithms: Sequence[Algorithm]) -> list[Algorithm]:
    """The least damaged first, ties by name."""
    return sorted(algorithms, key=lambda algorithm: (estimates[algorithm], algorithm.label))
