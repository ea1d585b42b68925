"""Sums over blocks of rows: the same tree of additions whatever lies below the last row."""

import numpy as np
import pytest

from compiler.sparsity.saliency import block_sums


def tree(values: np.ndarray, rows: int) -> np.ndarray:
    """Pairs of rows, pairs of pairs ..., of a column of blocks padded with zeros to a power of two."""
    outs, ins = values.shape
    blocks, size = -(-outs // rows), 1 << (rows - 1).bit_length()
    padded = np.zeros((blocks, size, ins))
    for row, line in enumerate(values):
        padded[row // rows, row % rows] = line
    while padded.shape[1] > 1:
        padded = padded[:, ::2] + padded[:, 1::2]
    return padded[:, 0]


@pytest.mark.parametrize("outs", [1, 3, 8, 37])
@pytest.mark.parametrize("rows", [1, 2, 5, 37, 64, 1 << 14])
def test_the_order_of_additions(outs: int, rows: int) -> None:
    values = np.random.default_rng(outs).random((outs, 6)).astype(np.float32) ** 2
    np.testing.assert_array_equal(block_sums(values, rows), tree(values, rows))
