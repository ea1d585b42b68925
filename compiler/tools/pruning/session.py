"""One pruning run: trace the weights into the file, choose and reconstruct, write the same graph with other numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.dialects.nn import LinearOp, shape_of
from compiler.passes.sparsify import PRUNABLE, linear_names, reasons_to_stay_dense
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.sparsity.recipes import Choice, Linear, Recipe, load_recipe, scope_of
from compiler.sparsity.reconstruction import Curvature, Moments, corrected, reconstruct
from compiler.sparsity.saliency import activation_scores, random_scores
from compiler.tools.hpcc import installed_version
from compiler.tools.pruning.calibration import Batch, Calibration, products_of, residual_products
from compiler.tools.pruning.data import Inputs, batches_of, read_data
from compiler.tools.pruning.history import pruning_metadata
from compiler.tools.pruning.onnx_output import ModelFile, check_output
from compiler.tools.pruning.options import NEED_DATA, PruneOptions, missing_data
from compiler.tools.pruning.provenance import Source, Tracer, fused, linears_of, matrix_of, trace
from compiler.tools.summary import Progress
from hw_targets.errors import InputError, UsageError
from hw_targets.load import load_any_target

Array = NDArray[Any]

STEPS = ("import", "trace", "measure", "prune", "write")

PROJECTION = "projection"
"""How weights come to be shared: the nearest ones that are. Their accuracy needs training."""


@dataclass
class Site:
    """A matrix of the file that is pruned: the linears that read it, and the numbers that they read."""

    roles: list[str]
    ops: list[LinearOp]
    names: Linear
    pattern: Pattern
    method: str
    source: Source
    matrix: Array
    """[out, in], fp32 values."""
    zeros: int = 0
    zero_numbers: int = 0

    @property
    def role(self) -> str:
        return self.roles[0]


@dataclass(frozen=True)
class LayerResult:
    """One linear of the model, pruned or not. `zeros` are the pattern's, `zero_numbers` those found in what is written."""

    role: str
    node: str
    tensors: tuple[str, ...]
    outs: int
    ins: int
    pattern: Pattern
    method: str = ""
    zeros: int = 0
    zero_numbers: int = 0
    tied_to: str = ""
    left_dense: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "tensors": list(self.tensors), "pattern": self.pattern.spec()}


@dataclass
class Pruned:
    """The result: what was done to each linear, and the file in memory, which `save` writes."""

    layers: tuple[LayerResult, ...]
    file: ModelFile
    metadata: Mapping[str, str]
    source: str
    data: str
    tokens: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()

    @property
    def pruned(self) -> tuple[LayerResult, ...]:
        return tuple(layer for layer in self.layers if not isinstance(layer.pattern, Dense))

    @property
    def sparsity(self) -> float:
        """Share of zeros of the pruned matrices, by the patterns' closed forms; a tied matrix counts once."""
        own = [layer for layer in self.pruned if not layer.tied_to]
        count = sum(layer.outs * layer.ins for layer in own)
        return sum(layer.zeros for layer in own) / count if count else 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        self.file.save(Path(path), self.metadata)

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "hpcc_version": installed_version(),
            "model": self.source,
            "calibration": {"source": self.data, "tokens": self.tokens},
            "sparsity": self.sparsity,
            "notes": list(self.notes),
            "layers": [layer.as_dict() for layer in self.layers],
        }


class PruneSession:
    """The state of one run. What can fail early is checked before anything slow; nothing is written before the end."""

    def __init__(self, options: PruneOptions, tracer: Tracer = trace) -> None:
        self.options, self._trace = options, tracer
        self.path = Path(options.model)
        self.kind = "fpga" if options.target is None else load_any_target(options.target).kind
        self.recipe = self._recipe()
        self.progress = Progress(quiet=options.quiet, steps=STEPS)
        self.seconds: dict[str, float] = {}
        self.tokens = 0

    def _recipe(self) -> Recipe:
        options = self.options
        if options.recipe is not None:
            return load_recipe(Path(options.recipe), self.kind)
        if options.pattern is None:
            return Recipe("")
        if options.pattern == "auto":
            raise UsageError("HPCC2271", "--pattern auto names no pattern", hint="--pattern nm:2:4")
        pattern = parse_pattern(options.pattern, self.kind).canonical()
        if isinstance(pattern, Dense):
            raise UsageError("HPCC2271", f"--pattern {options.pattern} prunes nothing", hint="--pattern nm:2:4")
        if options.scope:
            return scope_of(options.scope, pattern, None)
        return Recipe("--pattern", pattern)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Pruned:
        self._check_output()
        with self._step("import"):
            inputs = Inputs(self.path)
            data = read_data(self.options, inputs)
            given = self.options.shapes
            self.shapes = inputs.shapes_without_data(given) if data is None else inputs.shapes_for(data[0], given)
            self.imported = fused(self.path, self.shapes)
            self.batches: list[Batch] = []
            if data is not None:
                self.batches = batches_of(data[0], self.imported, data[1])
            self.data = "" if data is None else data[1]
        linears = linears_of(self.imported.module)
        choices = self._choices(linears)
        if self.options.list_layers:
            return self._result([], linears, {}, ModelFile(self.path))
        reasons = reasons_to_stay_dense(
            self.imported.module, self.imported.store, {linears[role]: c.pattern for role, c in choices.items()}
        )
        left = {op.role.data: reason for op, reason in reasons.items() if reason}
        with self._step("trace"):
            sites, left = self._sites(linears, choices, left)
        if not sites:
            hint = "; ".join(f"{role}: {reason}" for role, reason in list(left.items())[:1])
            raise InputError("HPCC1864", "no layer can be pruned", where=str(self.path), hint=hint or "--list-layers")
        if self.options.allocate == "global":
            with self._step("measure"):
                from compiler.tools.pruning.sensitivity import allocate_globally

                allocate_globally(sites, self._calibration())
            sites = [site for site in sites if not isinstance(site.pattern, Dense)]
        file = ModelFile(self.path)
        with self._step("prune"):
            for site, values, mask in self._prune(sites):
                write_site(file, site, values, mask)
        return self._result(sites, linears, left, file)

    def _check_output(self) -> None:
        if self.options.output is None:
            return
        check_output(Path(self.options.output), self.path)

    def _step(self, name: str) -> Any:
        return _Step(self, name)

    def _choices(self, linears: Mapping[str, LinearOp]) -> dict[str, Choice]:
        names = [linear_names(op) for op in linears.values()]
        choices = self.recipe.choose(names, {role: PRUNABLE.fullmatch(role) is not None for role in linears})
        for role, choice in choices.items():
            asked = self.options.method or choice.method
            if choice.pattern.sharing:
                if asked or self.options.allocate != "uniform":
                    what = f"--method {asked}" if asked else f"--allocate {self.options.allocate}"
                    message = f"{choice.pattern.spec()} shares weights and makes no zeros; {what} chooses zeros"
                    raise UsageError("HPCC2272", message, hint=f"leave {what} out: the nearest shared weights are taken")
                choices[role] = Choice(choice.pattern, PROJECTION)
                continue
            method = asked or ("second-order" if self.options.has_data else "magnitude")
            if method in NEED_DATA and not self.options.has_data and not self.options.list_layers:
                raise missing_data(f"method {method!r}")
            choices[role] = Choice(choice.pattern, method)
        return choices

    def _sites(
        self, linears: Mapping[str, LinearOp], choices: Mapping[str, Choice], left: dict[str, str]
    ) -> tuple[list[Site], dict[str, str]]:
        """The matrices to prune, tied ones once, and why others stay as they are."""
        wanted = {role: shape_of(linears[role].weight) for role in choices if role not in left}
        sources = self._trace(self.path, self.shapes, wanted)
        sites: list[Site] = []
        for role in wanted:
            op, choice = linears[role], choices[role]
            if role not in sources:
                left[role] = "its weight is computed from the file's numbers, not one of them each"
                continue
            tied = next((site for site in sites if site.source.is_tied(sources[role])), None)
            if tied is not None:
                if np.array_equal(tied.source.places, sources[role].places):
                    tied.roles.append(role)
                    tied.ops.append(op)
                else:
                    left[role] = f"its weight is that of {tied.role} in another order"
                continue
            matrix = matrix_of(op, self.imported)
            assert matrix is not None
            names = linear_names(op)
            named = Linear(names.role, names.node, sources[role].names)
            site = Site([role], [op], named, choice.pattern, str(choice.method), sources[role], matrix)
            sites.append(site)
        return sites, left

    # ---- pruning ----------------------------------------------------------------------------------------------------

    def _calibration(self) -> Calibration:
        return Calibration(self.imported.module, self.imported.store, self.batches)

    def _prune(self, sites: list[Site]) -> Iterator[tuple[Site, Array, Array]]:
        """(site, new values or its own, mask) of each site; those that need data in graph order."""
        for site in sites:
            if site.method not in NEED_DATA:
                yield site, *self._plainly(site)
        if any(site.method in NEED_DATA for site in sites):
            yield from self._prune_by_data(sites)

    def _prune_by_data(self, sites: list[Site]) -> Iterator[tuple[Site, Array, Array]]:
        """In graph order: each linear's inputs come from the model as pruned so far, and what second-order pruning aims at
        from the unpruned one, which runs beside it."""
        calibration, dense = self._calibration(), self._calibration()
        pairs = zip(calibration.linears(), dense.linears(), strict=True)
        if all(site.method != "second-order" for site in sites):
            pairs = ((entry, entry) for entry in calibration.linears())
        by_op = {op: site for site in sites for op in site.ops}
        shared = self._shared_moments([site for site in sites if len(site.ops) > 1 and site.method in NEED_DATA])
        done: dict[int, Array] = {}
        seen: _Inputs | None = None
        for (op, inputs), (_, wanted) in pairs:
            site = by_op.get(op)
            if site is None:
                continue
            if id(site) in done:
                calibration.replaced[op] = done[id(site)]
                continue
            if site.method not in NEED_DATA:
                values, mask = self._plainly(site)
                calibration.replaced[op] = np.where(mask, values, np.float32(0))
                continue
            if id(site) in shared:
                seen = _Inputs(None, shared[id(site)])
            elif seen is None or seen.value is not op.x:
                seen = _Inputs(op.x, calibration.moments(op, inputs))
            self.tokens = max(self.tokens, seen.moments.tokens)
            if site.method == "activation":
                mask = _mask(site, activation_scores(site.matrix, seen.moments.energies))
                values = np.where(mask, site.matrix, np.float32(0))
            else:
                products = None
                if id(site) not in shared:
                    products = site.matrix @ seen.cross(dense, wanted, calibration, inputs)
                    products = products + residual_products(op, dense, calibration, inputs)
                values, mask = _reconstructed(site, seen.curvature, products)
            done[id(site)] = calibration.replaced[op] = values
            yield site, values, mask

    def _plainly(self, site: Site) -> tuple[Array, Array]:
        """(values, mask) by the methods that need no data."""
        if site.method == PROJECTION:
            return site.pattern.project(site.matrix), np.ones(site.matrix.shape, np.bool_)
        scores = random_scores(site.matrix.shape, self.options.seed, site.role) if site.method == "random" else None
        return site.matrix, _mask(site, scores)

    def _shared_moments(self, sites: list[Site]) -> dict[int, Moments]:
        """Moments over all uses of the matrices that several linears read, in the unpruned model."""
        found: dict[int, Moments] = {}
        if not sites:
            return found
        by_op = {op: site for site in sites for op in site.ops}
        calibration = self._calibration()
        for op, inputs in calibration.linears():
            if op in by_op:
                key, moments = id(by_op[op]), calibration.moments(op, inputs)
                known = found.get(key)
                gram = moments.gram if known is None else known.gram + moments.gram
                found[key] = Moments(gram, moments.tokens + (0 if known is None else known.tokens))
        return found

    # ---- what came out ----------------------------------------------------------------------------------------------

    def _result(
        self, sites: list[Site], linears: Mapping[str, LinearOp], left: Mapping[str, str], file: ModelFile
    ) -> Pruned:
        by_role = {role: site for site in sites for role in site.roles}
        layers = tuple(self._layer(role, op, by_role.get(role), left.get(role, "")) for role, op in linears.items())
        metadata, notes = self._metadata(layers, file), self.imported.notes
        return Pruned(layers, file, metadata, self.path.name, self.data, self.tokens, self.seconds, notes, tuple(sites))

    def _layer(self, role: str, op: LinearOp, site: Site | None, reason: str) -> LayerResult:
        outs, ins = shape_of(op.weight)
        if site is None:
            names = linear_names(op)
            return LayerResult(role, names.node, names.tensors, outs, ins, Dense(), left_dense=reason)
        tied = "" if site.role == role else site.role
        node = linear_names(op).node
        return LayerResult(
            role, node, site.source.names, outs, ins, site.pattern, site.method, site.zeros, site.zero_numbers, tied
        )

    def _metadata(self, layers: tuple[LayerResult, ...], file: ModelFile) -> dict[str, str]:
        options = self.options
        pruned = [layer for layer in layers if not isinstance(layer.pattern, Dense)]
        done = {
            "pattern": options.pattern,
            "recipe": None if options.recipe is None else Path(options.recipe).name,
            "methods": sorted({layer.method for layer in pruned}),
            "allocate": options.allocate,
            "scope": list(options.scope),
            "seed": options.seed,
            "calibration": self.data,
            "tokens": self.tokens,
            "zeros": sum(layer.zeros for layer in pruned if not layer.tied_to),
        }
        patterns = {layer.role: layer.pattern for layer in layers}
        return pruning_metadata(patterns, file.metadata, self.imported.sha256, done)


@dataclass
class _Inputs:
    """What linears that read the same value share."""

    value: object
    moments: Moments
    _cross: Array | None = None

    @cached_property
    def curvature(self) -> Curvature:
        return Curvature.of(self.moments)

    def cross(self, dense: Calibration, wanted: Sequence[Array], pruned: Calibration, inputs: Sequence[Array]) -> Array:
        """Products of the unpruned model's inputs with those of now, [in, in]."""
        if self._cross is None:
            self._cross = products_of(dense.rows(wanted), pruned.rows(inputs))
        return self._cross


class _Step:
    """Times a step, and says that it runs."""

    def __init__(self, session: PruneSession, name: str) -> None:
        self._session, self._name, self._began = session, name, 0.0

    def __enter__(self) -> None:
        self._session.progress.start(self._name)
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._session.seconds[self._name] = time.perf_counter() - self._began


def _mask(site: Site, scores: Array | None) -> Array:
    try:
        return site.pattern.mask(site.matrix, scores)
    except InputError as error:
        raise InputError(error.code, error.message, where=site.role, hint=error.hint) from error


def _reconstructed(site: Site, curvature: Curvature, products: Array | None) -> tuple[Array, Array]:
    try:
        target = site.matrix if products is None else corrected(site.matrix, curvature, products)
        values, mask = reconstruct(target, curvature, site.pattern, _rounding(site))
    except InputError as error:
        raise InputError(error.code, error.message, where=site.role, hint=error.hint) from error
    return values.astype(np.float32), mask


def _rounding(site: Site) -> Any:
    """What the file can hold, where that is coarser than fp32."""
    kinds = {tensor.dtype for tensor in site.source.tensors}
    tensor = site.source.tensors[0]
    if len(kinds) > 1 or not (tensor.is_integer or tensor.dtype.bitwidth < 32):
        return None
    scale = np.broadcast_to(site.source.scale, site.matrix.shape)
    offset = np.broadcast_to(site.source.offset, site.matrix.shape)

    def rounded(values: Array, column: int) -> Array:
        numbers = tensor.nearest((values - offset[:, column]) / scale[:, column])
        return numbers.astype(np.float64) * scale[:, column] + offset[:, column]

    return rounded


def write_site(file: ModelFile, site: Site, values: Array, mask: Array) -> None:
    """Put the values into the file's numbers: a pruned entry is 0 (the code that stands for 0), a kept one changes only if
    its value did."""
    source = site.source
    scale, offset = (np.broadcast_to(part, mask.shape) for part in (source.scale, source.offset))
    kept_changes = values is not site.matrix and not np.array_equal(values[mask], site.matrix[mask])
    site.zeros = mask.size - int(np.count_nonzero(mask))
    site.zero_numbers = 0
    for tensor, inside, places in source.parts():
        numbers = file.numbers(tensor.name)
        keep, new, own_scale, own_offset = (a if inside is None else a[inside] for a in (mask, values, scale, offset))
        zero = tensor.nearest(-own_offset / own_scale)
        wanted = numbers[places]
        if kept_changes:
            wanted = tensor.nearest((new.astype(np.float64) - own_offset) / own_scale)
        wanted = np.where(keep, wanted, zero)
        numbers[places] = wanted
        site.zero_numbers += int(np.count_nonzero(wanted == zero))
