"""The stages of each target kind, as data: a stage is a name and the passes that reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from xdsl.passes import ModulePass

from hw_targets.errors import InputError


@dataclass(frozen=True)
class Stage:
    """`passes` are specifications with {target}, {sparsity}, {precision}, {storage}, {kind} and {softmax} to fill in;
    afterwards `name`'s rule holds."""

    name: str
    passes: tuple[str, ...] = ()

    def pipeline(
        self,
        *,
        target: str,
        sparsity: str,
        precision: str = "fp32",
        storage: str = "auto",
        kind: str = "fpga",
        streaming: int | None = None,
    ) -> str:
        """The text `hpcc-opt -p` takes for this stage; `streaming` is the shift of a streaming softmax."""
        softmax = "" if streaming is None else f"{{streaming={streaming}}}"
        given = {"target": target, "sparsity": sparsity, "precision": precision, "storage": storage, "kind": kind}
        given["softmax"] = softmax
        return ",".join(text.format(**given) for text in self.passes)


FPGA = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", "hpcc-partition")),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}"}}',)),
    Stage("quantize", ("hpcc-factor", "hpcc-quantize{softmax}")),
    Stage("encode", ('hpcc-encode-storage{{target="{target}" format="{storage}"}}',)),
    Stage("tile", ('hpcc-tile{{target="{target}"}}',)),
    Stage("schedule", ('hpcc-schedule{{target="{target}"}}',)),
    Stage("emit", ("hpcc-emit",)),
)

CPU = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", 'hpcc-partition{{kind="cpu"}}')),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}" kind="{kind}"}}',)),
    Stage("tile", ("hpcc-factor", 'hpcc-tile-cpu{{target="{target}" precision="{precision}"}}')),
)
"""What follows is text: the C printer and the weight packer of compiler/backends/cpu."""

GPU = (
    Stage("import"),
    Stage("fuse", ("hpcc-fuse", 'hpcc-partition{{kind="gpu"}}')),
    Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}" kind="gpu"}}',)),
    Stage("tile", ("hpcc-factor", 'hpcc-tile-gpu{{target="{target}" precision="{precision}"}}')),
)
"""What follows is text: the Triton printer and the weight packer of compiler/backends/gpu."""

PIPELINES: dict[str, tuple[Stage, ...]] = {"fpga": FPGA, "cpu": CPU, "gpu": GPU}

UPSTREAM: dict[str, str] = {
    "linalg": "hpcc-lower-linalg",
    "iree": 'hpcc-lower-linalg{weights="parameters"}',
    "sparse-tensor": "hpcc-lower-linalg{sparse=true}",
}
"""Forms in upstream dialects, for other compilers, by the pass that reaches them from a module in fp32."""


def upstream(form: str) -> tuple[Stage, ...]:
    """The stages up to a form of UPSTREAM. Nothing is cut off for the host: a whole model or none."""
    return (
        Stage("import"),
        Stage("fuse", ("hpcc-fuse",)),
        Stage("sparsify", ('hpcc-sparsify{{spec="{sparsity}" kind="{kind}"}}',)),
        Stage(form, ("hpcc-factor", UPSTREAM[form].replace("{", "{{").replace("}", "}}"))),
    )


STAGE_NAMES = tuple(stage.name for stage in FPGA)

PASSES: dict[str, tuple[str, str]] = {
    "hpcc-fuse": ("compiler.passes.fuse", "FusePass"),
    "hpcc-partition": ("compiler.passes.partition", "PartitionPass"),
    "hpcc-sparsify": ("compiler.passes.sparsify", "SparsifyPass"),
    "hpcc-factor": ("compiler.passes.factor", "FactorPass"),
    "hpcc-quantize": ("compiler.passes.quantize", "QuantizePass"),
    "hpcc-encode-storage": ("compiler.passes.encode_storage", "EncodeStoragePass"),
    "hpcc-tile": ("compiler.passes.tile", "TilePass"),
    "hpcc-tile-cpu": ("compiler.passes.tile_cpu", "TileCpuPass"),
    "hpcc-tile-gpu": ("compiler.passes.tile_gpu", "TileGpuPass"),
    "hpcc-schedule": ("compiler.passes.schedule", "SchedulePass"),
    "hpcc-emit": ("compiler.passes.emit", "EmitPass"),
    "hpcc-lower-linalg": ("compiler.passes.lower_linalg", "LowerLinalgPass"),
    "hpcc-verify-stage": ("compiler.passes.verify_stage", "VerifyStagePass"),
}
"""Every pass by its command-line name: module and class, imported when first asked for."""


ENTRY_POINTS = "hpcc.passes"
"""The entry points that name passes of other packages: subclasses of ModulePass, by their command-line names."""


def load_pass(name: str) -> type[ModulePass]:
    """The pass class of a command-line name, one of PASSES."""
    module, attribute = PASSES[name]
    return getattr(import_module(module), attribute)


def all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Passes by name as lazily importing callables, the form xDSL's registries take; those of other packages last.

    Raises InputError for a pass that takes the name of another.
    """
    found: dict[str, Callable[[], type[ModulePass]]] = {name: (lambda name=name: load_pass(name)) for name in PASSES}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        if point.name in found:
            raise InputError("HPCC1847", f"the pass {point.name!r} of {point.value} has the name of another")
        found[point.name] = point.load
    return found


def stages_between(kind: str, first: str | None, last: str | None) -> tuple[Stage, ...]:
    """The stages after `first` (None: from the ONNX file on) up to and including `last` (None: all)."""
    stages = PIPELINES[kind]
    start = 0 if first is None else _position(stages, first) + 1
    stop = len(stages) if last is None else _position(stages, last) + 1
    return stages[start:stop]


def _position(stages: tuple[Stage, ...], name: str) -> int:
    return [stage.name for stage in stages].index(name)
