"""What one run is asked to do: filled in by the command line and by `hpcc.compile`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from hw_targets.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGES = ("import", "fuse", "sparsify", "quantize", "encode", "tile", "schedule", "emit")
UPSTREAM_FORMS = ("linalg", "iree", "sparse-tensor")
"""Whole models in MLIR's own dialects; no target is needed."""
EMIT_FORMS = (*STAGES, "asm", "c", "triton", "program", *UPSTREAM_FORMS)
"""Of all kinds of targets; what a kind does not have is refused once the target is known."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
PLACES = ("recipe", "inputs", "text", "tokenizer", "length_histogram", "baseline", "output", "dump_stages")
"""Options that name a file or a folder. An empty name would be the working directory, or what an unset variable left."""


@dataclass(frozen=True)
class Options:
    """The options of `hpcc`, by the names of the command line; a combination that makes no sense is a UsageError."""

    model: str
    """An .onnx file, or with `start` a dumped .mlir file."""
    target: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    sparsity: str | None = None
    recipe: str | None = None
    """A file that says which pattern each layer gets, in the place of `sparsity`."""
    precision: str | None = None
    """None is the one of the target's kind: int8 for an FPGA, fp32 for a CPU, fp16 for a GPU."""
    storage: str = "auto"
    """The storage format of the weights that it can hold; auto takes the best of each."""
    inputs: str | Mapping[str, NDArray[Any]] | None = None
    """An .npz file, or arrays by input name; the first axis counts samples."""
    text: str | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    verify: bool = True
    length_histogram: str | None = None
    """A file that says how often inputs of each length come, for a run with several shapes."""
    rtol: float = 0.0
    atol: float | None = None
    baseline: str | None = None
    """`dense`, or the folder of a bundle of the same model."""
    pass_after: tuple[str, ...] = ()
    """`STAGE:PASS`: passes that follow those of a stage, as `hpcc-opt -p` takes them."""
    verify_each: bool = False
    check: bool = False
    list_layers: bool = False
    output: str | None = None
    emit: str | None = None
    start: str | None = None
    """The stage that a dumped file has reached (`--from`)."""
    timing_only: bool = False
    dump_stages: str | None = None
    time_passes: bool = False
    json: bool = False
    verbose: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.emit is not None and self.emit not in EMIT_FORMS:
            raise UsageError("HPCC2004", f"--emit {self.emit!r} is no form", hint=", ".join(EMIT_FORMS))
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError("HPCC2026", f"--precision {self.precision!r} is none", hint=", ".join(PRECISIONS))
        if self.start is not None and self.start not in STAGES:
            raise UsageError("HPCC2015", f"there is no stage {self.start!r}", hint=f"stages: {', '.join(STAGES)}")
        if self.recipe is not None and self.sparsity is not None:
            message = "--sparsity and --recipe exclude each other"
            raise UsageError("HPCC2270", message, hint="write the pattern into the recipe")
        if self.text is not None and self.tokenizer is None:
            raise UsageError("HPCC2005", "--text needs a tokenizer", hint="--tokenizer tokenizer.json")
        if self.text is not None and self.inputs is not None:
            raise UsageError("HPCC2006", "--text and --inputs exclude each other")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError("HPCC2012", f"--max-length {self.max_length} leaves no token", hint="lengths start at 1")
        for name, limit in (("rtol", self.rtol), ("atol", self.atol)):
            if limit is not None and not (isfinite(limit) and limit >= 0):
                raise UsageError("HPCC2018", f"--{name} {limit} is no tolerance", hint="a number of at least 0")
        for name in PLACES:
            if getattr(self, name) == "":
                raise UsageError("HPCC2028", f"--{name.replace('_', '-')} names nothing", hint="name a file or a folder")
        if self.verify_each and self.start is not None:
            raise UsageError("HPCC2013", "--verify-each needs the ONNX model to compare with", hint="leave --from out")

    @property
    def makes_program(self) -> bool:
        """Whether the run ends with a bundle, not with text."""
        return self.emit in (None, "program") and not self.check and not self.list_layers
