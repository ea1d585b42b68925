"""A model as files and modules: pruned as an algorithm says, lowered to integers, run on batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from compiler.explore.space import DENSE, RANDOM, ZEROED, Algorithm
from compiler.frontend.host import host_segments
from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.probe import id_limits
from compiler.module import main_function, names_of
from compiler.passes.sparsify import AUTO, RECIPE
from compiler.pipelines import stages_between
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.inputs import InputSpec
from compiler.tools.model_facts import ModelFacts, read_facts, record_facts
from compiler.tools.packaging import host_entries
from compiler.tools.pruning.options import PruneOptions
from compiler.tools.pruning.provenance import Source, trace
from compiler.tools.pruning.session import Pruned, PruneSession, write_site
from compiler.tools.stages import StageRunner, new_context
from compiler.weights import WeightStore
from runtime.host import HostSegment

Array = NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]
Named = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes that can be looked up."""

ATTENTION, FEED_FORWARD = "layer.*.attn.*", "layer.*.ffn.*"
CALIBRATION = "calibration.npz"


def recipe_text(algorithm: Algorithm) -> str:
    """An algorithm of two patterns as a recipe (docs/RECIPES.md)."""
    rules = ((ATTENTION, algorithm.attention), (FEED_FORWARD, algorithm.feed_forward))
    return "".join(f'[[rule]]\nmatch = "{match}"\npattern = "{pattern}"\n' for match, pattern in rules)


def recipe_name(algorithm: Algorithm) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{algorithm.attention}+{algorithm.feed_forward}") + ".toml"


def prune_options(model: Path, algorithm: Algorithm, folder: Path, method: str | None, shapes: Shapes) -> PruneOptions:
    """What hpcc-prune is asked for; a recipe is written into `folder`, whose calibration data is used if there is any.
    Without data the `shapes` bind the model's inputs."""
    data = folder / CALIBRATION
    what: dict[str, Any] = {"pattern": algorithm.attention}
    if not algorithm.is_uniform:
        path = folder / "recipes" / recipe_name(algorithm)
        path.parent.mkdir(exist_ok=True)
        path.write_text(recipe_text(algorithm), encoding="utf-8")
        what = {"recipe": str(path)}
    calibrate = str(data) if data.is_file() and method not in ("magnitude", RANDOM) else None
    bound = dict(shapes) if calibrate is None else {}
    return PruneOptions(str(model), method=method, calibrate=calibrate, shapes=bound, quiet=True, in_memory=True, **what)


@lru_cache(maxsize=1)
def _traced(path: Path, shapes: Named, wanted: Named) -> Mapping[str, Source]:
    return trace(path, dict(shapes), dict(wanted))


def remembered_trace(path: Path, shapes: Shapes, wanted: Shapes) -> Mapping[str, Source]:
    """`trace`, whose last answer is kept: a search prunes one file, which stays as it is, again and again."""
    return _traced(path, tuple(sorted(shapes.items())), tuple(wanted.items()))


def pruned_file(model: Path, algorithm: Algorithm, folder: Path, method: str | None, shapes: Shapes, out: Path) -> Path:
    """The model with the algorithm's weights, written to `out`; a dense one is the model itself."""
    if algorithm.is_dense:
        return model
    if algorithm.control == ZEROED:
        return zeroed_file(model, shapes, out)
    asked = RANDOM if algorithm.control == RANDOM else method
    pruned = PruneSession(prune_options(model, algorithm, folder, asked, shapes), remembered_trace).run()
    pruned.save(out)
    return out


def zeroed_file(model: Path, shapes: Shapes, out: Path) -> Path:
    """Every matrix inside the blocks set to zero."""
    pruned: Pruned = PruneSession(
        PruneOptions(
            str(model), pattern="unstructured:0.999", method=RANDOM, shapes=dict(shapes), quiet=True, in_memory=True
        ),
        remembered_trace,
    ).run()
    for site in pruned.sites:
        write_site(pruned.file, site, site.matrix, np.zeros(site.matrix.shape, np.bool_))
    pruned.save(out)
    return out


@dataclass(frozen=True)
class Lowered:
    """A model after `quantize`, with its host parts: what every accelerator computes, and what each is compiled from."""

    module: ModuleOp
    store: WeightStore
    facts: ModelFacts
    hosts: tuple[HostSegment, ...]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs for one batch of the bound shape, host parts included."""
        values, _ = self.run_timed(inputs)
        return values

    def run_timed(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """The outputs, and the seconds that the host parts took."""
        values: dict[str, Array] = dict(inputs)
        seconds = 0.0
        for segment in self._before:
            made, taken = segment.run(values)
            values.update(made)
            seconds += taken
        values.update(evaluate(self.module, self.store, values))
        for segment in self._after:
            made, taken = segment.run(values)
            values.update(made)
            seconds += taken
        return {entry.name: values[entry.name].reshape(entry.shape) for entry in self.facts.outputs}, seconds

    @cached_property
    def _before(self) -> tuple[HostSegment, ...]:
        made = set(names_of(main_function(self.module), "output_names"))
        return tuple(host for host in self.hosts if not made & set(host.entry.inputs) and self._feeds(host))

    @cached_property
    def _after(self) -> tuple[HostSegment, ...]:
        return tuple(host for host in self.hosts if host not in self._before)

    def _feeds(self, host: HostSegment) -> bool:
        """Whether the device reads what a host part makes."""
        return bool(set(names_of(main_function(self.module), "input_names")) & set(host.entry.outputs))


def lower(model: Path, shapes: Shapes, spec: str = AUTO, *, run: bool = True) -> Lowered:
    """Import, fuse, prune by magnitude if asked (`auto`: take the weights as they are) and quantise."""
    imported = import_onnx(model, dict(shapes))
    record_facts(imported.module, imported)
    runner = StageRunner(new_context(imported.store), "", spec, precision="int8")
    runner.run(imported.module, stages_between("fpga", "import", "fuse"))
    segments = host_segments(imported.module, imported.model)
    runner.run(imported.module, stages_between("fpga", "fuse", "quantize"))
    entries, files = host_entries(segments)
    hosts = tuple(HostSegment(entry, files[entry.file], threads=1) for entry, _ in entries) if run else ()
    return Lowered(imported.module, imported.store, read_facts(imported.module, spec, str(model)), hosts)


def timing_spec(algorithm: Algorithm, folder: Path) -> str:
    """The algorithm for the `sparsify` stage: which weights are zero does not matter to the cycles of balanced patterns."""
    if algorithm.is_uniform:
        return parse_pattern(algorithm.attention, "fpga").spec()
    path = folder / "recipes" / recipe_name(algorithm)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(recipe_text(algorithm), encoding="utf-8")
    return f"{RECIPE}{path}"


def input_specs(model: Path, shapes: Shapes) -> list[InputSpec]:
    """The model's inputs with the bound shapes and the ranges of their ids."""
    imported = import_onnx(model, dict(shapes))
    record_facts(imported.module, imported)
    limits = id_limits(imported.module)
    facts = read_facts(imported.module, DENSE, str(model))
    return [InputSpec(entry.name, entry.dtype, entry.shape, limits.get(entry.name)) for entry in facts.inputs]
