"""The decoder of the format `diagonal`; like those of hpcc it shares nothing with the encoder."""

from __future__ import annotations

import numpy as np

from hw_targets.isa import MatrixMode
from hw_targets.storage import StorageFormat
from runtime.decoders import Bytes, Stored
from runtime.decoding.fields import expect_kept, expect_length
from runtime.decoding.layouts import unstructured_layout


class DiagonalDecoder:
    """`block_rows` is the distance of the diagonals."""

    storage = StorageFormat("diagonal", 12, MatrixMode.UNSTRUCTURED, MatrixMode.UNSTRUCTURED, "slots on every m-th diagonal")

    def decode(self, stored: Stored) -> Bytes:
        kept = expect_kept("diagonal", stored.outs, stored.ins, stored.kept)
        expect_length("diagonal", stored.data, stored.value_bytes(kept))
        row, column = np.indices((stored.outs, stored.ins))
        rows, columns = np.nonzero((row - column) % stored.block_rows == 0)
        values = stored.values("diagonal", 0, kept)
        return unstructured_layout(values, kept, rows, columns, stored.outs, stored.ins)


DECODER = DiagonalDecoder()
