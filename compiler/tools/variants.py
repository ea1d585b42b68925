"""One model on many targets, cycles only: what no target changes is done once, the rest is compiled and timed for each.

    prepared = prepare("model.onnx", {"input_ids": (1, 128)}, "hp:0.75")
    for target in targets:
        print(target.name, prepared.on(target).timing.total)

Nothing is computed and no weight is read, except those of unstructured matrices, whose indices decide their cycles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from compiler.backends.fpga.emission import ProgramParts, program_parts, weight_image
from compiler.backends.fpga.machine import machine_of
from compiler.frontend.importer import import_onnx
from compiler.passes.emit import EmitPass
from compiler.passes.encode_storage import choose_formats
from compiler.passes.schedule import schedule_module
from compiler.passes.sparsify import AUTO
from compiler.passes.tile import tile_module
from compiler.pipelines import stages_between
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.packaging import semaphore_table
from compiler.tools.stages import StageRunner, new_context
from compiler.weights import WeightStore
from hw_targets.codec import Resolved, expand
from hw_targets.collection import seldom_collecting
from hw_targets.extents import layout_of
from hw_targets.load import load_target
from hw_targets.target import Target
from runtime.ledger import LayerCycles, Roofline, attribute, roofline
from runtime.simulator.loaded_weights import LoadedWeights
from runtime.simulator.timing import Timing, simulate_timing


@dataclass(frozen=True)
class Variant:
    """A program for one target and its time."""

    target: Target
    parts: ProgramParts
    expanded: tuple[Resolved, ...]
    timing: Timing

    @property
    def milliseconds(self) -> float:
        return self.timing.total / (self.target.clock.mhz * 1e3)

    @property
    def layers(self) -> list[LayerCycles]:
        """Cycles by layer; they add up to the timing's total."""
        return attribute(self.timing, [node.layer for node in self.parts.nodes])

    @property
    def roofline(self) -> Roofline:
        return roofline(self.timing, self.target)


@seldom_collecting()
def compile_encoded(encoded: ModuleOp, store: WeightStore, target: Target, *, listed: bool = True) -> Variant:
    """Tile, schedule, emit and time a module after `encode`, which is not changed.

    Without the codes of its weights in the `store` a module with unstructured ones cannot be timed. Raises
    InfeasibleError where it does not fit the target.
    """
    module = encoded.clone()
    unrolled = tile_module(module, target, store)
    schedule_module(module, target, listed=listed, unrolled=unrolled)
    EmitPass().apply(Context(), module)
    parts = program_parts(module)
    expanded = expand(parts.instructions)
    images: list[NDArray[np.uint8]] = []

    def decoded(load: Resolved) -> NDArray[np.uint8]:
        if not images:
            images.append(weight_image(module, store))
        first = load.operands["src"].base
        stored = images[0][first : first + load.integer("stored_bytes")]
        return LoadedWeights(stored, load.integer("format"), layout_of(load), load.place).decoded

    timing = simulate_timing(expanded, semaphore_table(parts), target, decoded)
    return Variant(target, parts, tuple(expanded), timing)


@dataclass(frozen=True)
class Prepared:
    """A model after `quantize`, pruned as asked; `on` takes it to a target, any number of times."""

    module: ModuleOp
    store: WeightStore

    def encoded(self, target: Target, format: str = "auto") -> ModuleOp:
        """The module with the storage formats that suit the target; `format` overrules them where it can."""
        module = self.module.clone()
        choose_formats(module, dict[str, float](target.decode), target.dram_bytes_per_cycle, format)
        return module

    def machine(self, name: str) -> Target:
        """The accelerator that `hpcc --target NAME` compiles this model for: what is `auto` there may be sized for the
        pattern."""
        return machine_of(self.encoded(load_target(name)), name)

    def on(self, target: Target, format: str = "auto", *, listed: bool = True) -> Variant:
        """Compile and time for a target; see `compile_encoded`. Without `listed` the order is that of the tiles, layer by
        layer."""
        return compile_encoded(self.encoded(target, format), self.store, target, listed=listed)


def prepare(
    model: str | PathLike[str],
    shapes: Mapping[str, Sequence[int]] | None = None,
    sparsity: str | None = None,
    streaming: int | None = None,
) -> Prepared:
    """Import, fuse, prune and quantise a model for the accelerators; `streaming` is the shift of a streaming softmax.

    Raises as `hpcc.compile` does.
    """
    bound = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    spec = AUTO if sparsity in (None, AUTO) else parse_pattern(sparsity, "fpga").spec()
    imported = import_onnx(Path(model), bound)
    runner = StageRunner(new_context(imported.store), "", spec, streaming=streaming)
    runner.run(imported.module, stages_between("fpga", "import", "quantize"))
    return Prepared(imported.module, imported.store)
