"""From `hpcc_nn` to MLIR's own dialects: func, linalg, tensor, arith and math, for other compilers to go on with."""

from __future__ import annotations


def load_lowerings() -> None:
    """Import the files that register lowerings."""
    from compiler.backends.linalg import elementary, transformer

    del elementary, transformer
