"""The stages of each target kind, as data: a stage is a name and the passes that reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from xdsl.passes import ModulePass


@dataclass(frozen=True)
class Stage:
    """`passes` are specifications with {target}, {sparsity}, {precision} and {storage} to fill in; afterwards `name`'s rule
    holds."""

    name: str
    passes: tuple[str, ...] = ()

    def pipeline(self, *, target: str, sparsity: str, precision: str = "fp32", storage: str = "auto") -> str:
        """The text `hpcc-opt -p` takes for this stage."""
        given = {"target": target, "sparsity": sparsity, "precision": precision, "storage": storage}
        return ",".join(text.format(**given) for text in self.passes)


FPGA = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", "hpcc-partition")),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}"}}',)),
    Stage("quantize", ("hpcc-quantize",)),
    Stage("encode", ('hpcc-encode-storage{{target="{target}" format="{storage}"}}',)),
    Stage("tile", ('hpcc-tile{{target="{target}"}}',)),
    Stage("schedule", ('hpcc-schedule{{target="{target}"}}',)),
    Stage("emit", ("hpcc-emit",)),
)

CPU = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", "hpcc-partition")),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}" kind="cpu"}}',)),
    Stage("tile", ('hpcc-tile-cpu{{target="{target}" precision="{precision}"}}',)),
)
"""What follows is text: the C printer and the weight packer of compiler/backends/cpu."""

GPU = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", "hpcc-partition")),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}" kind="gpu"}}',)),
    Stage("tile", ('hpcc-tile-gpu{{target="{target}" precision="{precision}"}}',)),
)
"""What follows is text: the Triton printer and the weight packer of compiler/backends/gpu."""

PIPELINES: dict[str, tuple[Stage, ...]] = {"fpga": FPGA, "cpu": CPU, "gpu": GPU}

STAGE_NAMES = tuple(stage.name for stage in FPGA)

PASSES: dict[str, tuple[str, str]] = {
    "hpcc-fuse": ("compiler.passes.fuse", "FusePass"),
    "hpcc-partition": ("compiler.passes.partition", "PartitionPass"),
    "hpcc-sparsify": ("compiler.passes.sparsify", "SparsifyPass"),
    "hpcc-quantize": ("compiler.passes.quantize", "QuantizePass"),
    "hpcc-encode-storage": ("compiler.passes.encode_storage", "EncodeStoragePass"),
    "hpcc-tile": ("compiler.passes.tile", "TilePass"),
    "hpcc-tile-cpu": ("compiler.passes.tile_cpu", "TileCpuPass"),
    "hpcc-tile-gpu": ("compiler.passes.tile_gpu", "TileGpuPass"),
    "hpcc-schedule": ("compiler.passes.schedule", "SchedulePass"),
    "hpcc-emit": ("compiler.passes.emit", "EmitPass"),
    "hpcc-verify-stage": ("compiler.passes.verify_stage", "VerifyStagePass"),
}
"""Every pass by its command-line name: module and class, imported when first asked for."""


def load_pass(name: str) -> type[ModulePass]:
    """The pass class of a command-line name, one of PASSES."""
    module, attribute = PASSES[name]
    return getattr(import_module(module), attribute)


def all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Passes by name as lazily importing callables, the form xDSL's registries take."""
    return {name: (lambda name=name: load_pass(name)) for name in PASSES}


def stages_between(kind: str, first: str | None, last: str | None) -> tuple[Stage, ...]:
    """The stages after `first` (None: from the ONNX file on) up to and including `last` (None: all)."""
    stages = PIPELINES[kind]
    start = 0 if first is None else _position(stages, first) + 1
    stop = len(stages) if last is None else _position(stages, last) + 1
    return stages[start:stop]


def _position(stages: tuple[Stage, ...], name: str) -> int:
    return [stage.name for stage in stages].index(name)
