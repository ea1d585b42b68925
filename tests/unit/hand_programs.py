"""Small programs written by hand for the tests of assembler, checker, simulators and bundles: without a compiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hw_targets import numerics
from hw_targets.asm import assemble
from hw_targets.check import Semaphore
from hw_targets.isa import Instruction, Memory, Queue
from hw_targets.load import load_target
from runtime.bundle import Bundle
from runtime.manifest import (
    BorderEntry,
    DeviceEntry,
    DramEntry,
    Manifest,
    ModelEntry,
    NodeEntry,
    SemaphoreEntry,
    TensorEntry,
)

SIZES: Mapping[Memory, int] = {
    Memory.DRAM: 1 << 16,
    Memory.ACT: 1 << 14,
    Memory.WEIGHTS: 1 << 13,
    Memory.ACC: 1 << 13,
    Memory.PARAM: 1 << 12,
}
ROWS, INS, OUTS = 4, 24, 16
WEIGHT_BASE, COLUMN_BASE, INPUT_BASE, OUTPUT_BASE = 0, 0x1000, 0x2000, 0x3000

LINEAR_SEMAPHORES = (
    Semaphore("input", 0, Queue.LOAD, Queue.VECTOR),
    Semaphore("weights", 0, Queue.LOAD, Queue.MATRIX),
    Semaphore("codes", 0, Queue.VECTOR, Queue.MATRIX),
    Semaphore("acc", 0, Queue.MATRIX, Queue.VECTOR),
    Semaphore("output", 0, Queue.VECTOR, Queue.STORE),
)

LINEAR = """
load.copy src=0x2000:48 dst=0x0:48 rows=4 row_bytes=48 signal=0            ; node 0
load.weights src=0x0 dst=0x40 outs=16 ins=24 stored_bytes={stored} {pattern} signal=1 ; node 1
load.copy src=0x1000 dst=0x0 rows=2 row_bytes=64 to_param=1 signal=0       ; node 1
vector.quantize x=0x0:48 codes=0x400:24 scale=0x500:4 rows=4 cols=24 group=24 wait=0 signal=2 ; node 1
matrix.multiply x=0x400:24 w=0x40 acc=0x0:64 rows=4 outs=16 ins=24 {mode} wait=1,2 signal=3 ; node 1
vector.finish acc=0x0:64 row_scale=0x500:4 columns=0x0:64 out=0x600:64 rows=4 cols=16 out_f32=1 \
wait=3,0 signal=4 ; node 1
store.copy src=0x600:64 dst=0x3000:64 rows=4 row_bytes=64 wait=4           ; node 1
control.halt
"""
"""y = quantised(x) W^T * scales + bias: 4 x 24 bf16 in, 4 x 16 fp32 out."""


def linear(pattern: str = "n=1 m=1", mode: str = "n=1 m=1", stored: int = OUTS * INS) -> list[Instruction]:
    return assemble(LINEAR.format(pattern=pattern, mode=mode, stored=stored))


class LinearData:
    """Operands of the hand-written linear, and what it computes."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.codes = random.integers(-127, 128, (OUTS, INS)).astype(np.int8)
        self.scale = random.uniform(0.001, 0.01, OUTS).astype(np.float32)
        self.bias = random.standard_normal(OUTS).astype(np.float32)
        self.x = numerics.bf16(random.standard_normal((ROWS, INS)).astype(np.float32))

    def expected(self, x: np.ndarray[Any, Any] | None = None, codes: np.ndarray[Any, Any] | None = None) -> Any:
        x = self.x if x is None else x
        quantised, row_scale = numerics.quantize_rows(x, INS)
        acc = numerics.matmul_i32(quantised, self.codes if codes is None else codes)
        return numerics.finish(acc, row_scale[:, 0], self.scale, self.bias, None)

    def weights_bin(self, stored: np.ndarray[Any, Any] | None = None) -> Any:
        image = np.zeros(COLUMN_BASE + 128, np.uint8)
        data = self.codes.view(np.uint8).reshape(-1) if stored is None else stored
        image[: data.size] = data
        image[COLUMN_BASE:] = np.stack([self.scale, self.bias]).view(np.uint8).reshape(-1)
        return image


def linear_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "hpcc_version": "0",
        "model": ModelEntry(name="linear", sha256="00"),
        "target": load_target("fpga-u280").snapshot(),
        "nodes": (
            NodeEntry(onnx_node="input", layer="in", op="Input"),
            NodeEntry(onnx_node="/fc/MatMul", layer="head.0", op="MatMul"),
        ),
        "semaphores": tuple(
            SemaphoreEntry(name=s.name, initial=s.initial, producer=s.producer, consumer=s.consumer)
            for s in LINEAR_SEMAPHORES
        ),
        "sizes": dict(SIZES),
        "dram": (
            DramEntry(name="weights", kind="weights", offset=WEIGHT_BASE, bytes=0x1000),
            DramEntry(name="columns", kind="weights", offset=COLUMN_BASE, bytes=128),
            DramEntry(name="in", kind="input", offset=INPUT_BASE, bytes=192),
            DramEntry(name="out", kind="output", offset=OUTPUT_BASE, bytes=256),
        ),
        "inputs": (BorderEntry(name="x", dtype="float32", shape=(4, 24), device_dtype="bf16", offset=INPUT_BASE),),
        "outputs": (BorderEntry(name="y", dtype="float32", shape=(4, 16), device_dtype="f32", offset=OUTPUT_BASE),),
        "model_inputs": (TensorEntry(name="x", dtype="float32", shape=(4, 24)),),
        "model_outputs": (TensorEntry(name="y", dtype="float32", shape=(4, 16)),),
        "segments": (DeviceEntry(),),
    }
    return Manifest(**{**fields, **changes})


def linear_bundle(data: LinearData, **changes: Any) -> Bundle:
    return Bundle(linear_manifest(**changes), tuple(linear()), data.weights_bin(), {})
