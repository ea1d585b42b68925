"""What one pruning run is asked to do: filled in by `hpcc-prune` and by `hpcc.prune`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hw_targets.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("magnitude", "activation", "second-order", "random")
NEED_DATA = ("activation", "second-order")
ALLOCATIONS = ("uniform", "global")


@dataclass(frozen=True)
class PruneOptions:
    """By the names of the command line; a combination that makes no sense is a UsageError."""

    model: str
    output: str | None = None
    """None: nothing is written (--list-layers, or the caller saves)."""
    pattern: str | None = None
    recipe: str | None = None
    target: str | None = None
    method: str | None = None
    calibrate: str | Mapping[str, NDArray[Any]] | None = None
    text: str | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    allocate: str = "uniform"
    scope: tuple[str, ...] = ()
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    list_layers: bool = False
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise UsageError("HPCC2260", f"there is no method {self.method!r}", hint=f"methods: {', '.join(METHODS)}")
        if self.allocate not in ALLOCATIONS:
            raise UsageError("HPCC2260", f"--allocate {self.allocate!r} is none", hint=", ".join(ALLOCATIONS))
        if self.text is not None and self.tokenizer is None:
            raise UsageError("HPCC2266", "--text needs a tokenizer", hint="--tokenizer tokenizer.json")
        if self.text is not None and self.calibrate is not None:
            raise UsageError("HPCC2261", "--text and --calibrate exclude each other")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError("HPCC2267", f"--max-length {self.max_length} leaves no token", hint="lengths start at 1")
        if self.seed < 0:
            raise UsageError("HPCC2260", f"--seed {self.seed} is none", hint="a whole number from 0 on")
        if self.list_layers:
            return
        if self.output is None and not self.in_memory:
            raise no_output()
        if self.pattern is None and self.recipe is None:
            raise UsageError("HPCC2263", "no pattern given", hint="--pattern nm:2:4, or --recipe FILE.toml")
        if self.pattern is not None and self.recipe is not None:
            raise UsageError(
                "HPCC2264", "--pattern and --recipe exclude each other", hint="write the pattern into the recipe"
            )
        if self.scope and self.recipe is not None:
            raise UsageError("HPCC2264", "--scope and --recipe exclude each other", hint="the recipe's rules name layers")
        if self.allocate == "global" and self.recipe is not None:
            raise UsageError("HPCC2264", "--allocate global and --recipe exclude each other", hint="the recipe says it all")
        if not self.has_data:
            wanting = "--allocate global" if self.allocate == "global" else f"--method {self.method}"
            if self.allocate == "global" or self.method in NEED_DATA:
                raise missing_data(wanting)

    in_memory: bool = False
    """The caller takes the result as an object; no output is needed."""

    @property
    def has_data(self) -> bool:
        return self.calibrate is not None or self.text is not None


def no_output() -> UsageError:
    return UsageError("HPCC2262", "no output given", hint="-o OUT.onnx")


def missing_data(wanting: str) -> UsageError:
    return UsageError(
        "HPCC2265", f"{wanting} needs calibration data", hint="--calibrate X.npz, or --text FILE --tokenizer tokenizer.json"
    )
