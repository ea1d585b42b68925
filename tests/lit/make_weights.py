"""Write a safetensors file for a test: `make_weights.py OUT KEY=ROWSxCOLS:DTYPE...`, values fixed by key order.

DTYPE is f32 or i8. With `KEY=ROWSxCOLS:DTYPE:PATTERN` the values obey the pattern.
"""

import sys

import numpy as np
from safetensors.numpy import save_file

from compiler.sparsity.patterns import parse_pattern


def make(rng: np.random.Generator, description: str) -> np.ndarray:
    shape, dtype, *spec = description.split(":", 2)
    rows, cols = map(int, shape.split("x"))
    values = rng.integers(-127, 128, (rows, cols)).astype(np.int8 if dtype == "i8" else np.float32)
    return parse_pattern(spec[0]).project(values) if spec else values


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    entries = [argument.partition("=") for argument in sys.argv[2:]]
    save_file({key: np.ascontiguousarray(make(generator, text)) for key, _, text in entries}, sys.argv[1])
