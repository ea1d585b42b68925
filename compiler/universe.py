"""What stock xDSL tools see of hpcc, by the entry point `xdsl.universe`: dialects and passes, imported lazily."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from xdsl.ir import Dialect
from xdsl.universe import Universe

from compiler.pipelines import all_passes

DIALECTS: dict[str, tuple[str, str]] = {
    "hpcc_nn": ("compiler.dialects.nn", "NN"),
    "hpcc_sparsity": ("compiler.dialects.sparsity", "SPARSITY"),
    "hpcc_storage": ("compiler.dialects.storage", "STORAGE"),
    "hpcc_tile": ("compiler.dialects.tile", "TILE"),
    "hpcc_isa": ("compiler.dialects.isa", "ISA"),
    "hpcc_cpu": ("compiler.dialects.cpu", "CPU"),
    "hpcc_gpu": ("compiler.dialects.gpu", "GPU"),
}


def _load(name: str) -> Dialect:
    module, attribute = DIALECTS[name]
    return getattr(import_module(module), attribute)


def all_dialects() -> dict[str, Callable[[], Dialect]]:
    """Dialects by name as lazily importing callables."""
    return {name: (lambda name=name: _load(name)) for name in DIALECTS}


HPCC_UNIVERSE = Universe(all_dialects=all_dialects(), all_passes=all_passes())
