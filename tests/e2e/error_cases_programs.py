"""What triggers the errors of programs, bundles and targets: one function a golden line of tests/golden/errors.txt."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_targets import check
from hw_targets.asm import assemble
from hw_targets.check import Semaphore, check_program
from hw_targets.codec import HEADER, build, decode, encode, expand
from hw_targets.cpu import CpuTarget
from hw_targets.gpu import GpuTarget
from hw_targets.isa import Address, Instruction, MatrixMode, Queue
from hw_targets.layout import Layout
from hw_targets.load import load_any_target, load_target
from hw_targets.target import Target
from runtime import decoders
from runtime.bundle import Bundle, Room, save_bundle
from runtime.cpu.library import Library
from runtime.cpu.program import CpuProgram
from runtime.host import HostSegment
from runtime.manifest import BorderEntry, DramEntry, HostEntry, TensorEntry
from runtime.program import Program
from runtime.sections import cpu_sections
from runtime.simulator.functional import Simulator
from runtime.simulator.loaded_weights import LoadedWeights
from runtime.simulator.machine import DramRegion
from tests.fuzz.cases import resign_cpu
from tests.unit.hand_programs import LINEAR_SEMAPHORES, SIZES, LinearData, linear, linear_bundle, linear_manifest

HALT = build("control.halt")
Case = Callable[[Path, pytest.MonkeyPatch], object]
"""Takes a folder of its own, in which a bundle for a CPU may be asked for as cpu.hpcc."""


def spoilt(word: int, value: int, program: list[Instruction] | None = None) -> bytes:
    """An encoded program with one 32-bit word of its first instruction replaced."""
    data = bytearray(encode(program or linear()))
    struct.pack_into("<I", data, HEADER.size + 4 * word, value)
    return bytes(data)


def checked(program: list[Instruction], semaphores: tuple[Semaphore, ...] = LINEAR_SEMAPHORES) -> None:
    check_program(program, semaphores, SIZES)


def edited(position: int, **changes: Any) -> list[Instruction]:
    program = linear()
    program[position] = replace(program[position], **changes)
    return program


def moved(position: int, operand: str, address: Address) -> list[Instruction]:
    operands = linear()[position].operands
    return edited(position, operands=tuple((name, address if name == operand else old) for name, old in operands))


def loop(count: int) -> Instruction:
    return build("control.loop", {}, {"count": count})


def endless_check(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(check, "PAIRS_LIMIT", 1000)
    patch.setattr(check, "PAIRS_PER_INSTRUCTION", 1)
    body = "store.copy src=0x0(+1) dst=0x0(+1) rows=1 row_bytes=4096"
    checked(assemble(f"control.loop count=300\n{body}\ncontrol.end\ncontrol.halt"), ())


FULL = Semaphore("full", 0, Queue.LOAD, Queue.VECTOR)
RUNAWAY = """
control.loop count=17
  load.copy src=0x0 dst=0x0(+0x10) rows=1 row_bytes=4 signal=0
  vector.quantize x=0x0(+0x10) codes=0x200 scale=0x300 rows=1 cols=2 group=2 wait=0
control.end
control.halt
"""

PROGRAMS: dict[str, Case] = {
    "node beyond the field": lambda *_: encode([replace(HALT, node=1 << 24)]),
    "semaphore beyond the machine": lambda *_: encode([replace(HALT, waits=(40,))]),
    "immediate beyond its field": lambda *_: encode([replace(loop(1), immediates=(("count", 1 << 40),)), HALT]),
    "address beyond 32 bits": lambda *_: encode(moved(0, "src", Address(1 << 40))),
    "program without header": lambda *_: decode(b""),
    "program of another version": lambda *_: decode(HEADER.pack(b"HPCC", 99, 0, 0)),
    "unknown opcode": lambda *_: decode(spoilt(0, 0xEE)),
    "reserved bits set": lambda *_: decode(spoilt(1, 1 << 26)),
    "operand that is not there": lambda *_: decode(spoilt(1, 1 << 18, [loop(1)])),
    "loop of nothing": lambda *_: expand([loop(0), build("control.end"), HALT]),
    "end without loop": lambda *_: expand([build("control.end"), HALT]),
    "halt in the middle": lambda *_: expand([HALT, HALT]),
    "text that is no instruction": lambda *_: assemble("load.copy src=0x0\nnonsense\n", "program.asm"),
    "too many semaphores": lambda *_: checked(linear(), LINEAR_SEMAPHORES * 7),
    "semaphore of nobody": lambda *_: checked(edited(0, signals=(9,))),
    "semaphore of another queue": lambda *_: checked(edited(0, signals=(2,))),
    "semaphore runs over": lambda *_: checked(assemble(RUNAWAY), (FULL,)),
    "address out of memory": lambda *_: checked(moved(0, "dst", Address((1 << 14) - 48, 48))),
    "race": lambda *_: checked(edited(3, waits=())),
    "check without end": endless_check,
}


# ---- the simulator and bundles --------------------------------------------------------------------------------------

INPUTS = {"x": LinearData().x}


def run(**changes: Any) -> None:
    Program(linear_bundle(LinearData(), **changes)).run(INPUTS)


def run_edited(program: list[Instruction], **changes: Any) -> None:
    """Run a program that no check has seen."""
    bundle = Bundle(linear_manifest(**changes), tuple(program), LinearData().weights_bin(), {})
    Program(bundle).run(INPUTS)


def dram(**changes: int) -> tuple[DramEntry, ...]:
    """The memory map of the hand-written program with other sizes."""
    return tuple(replace_model(entry, bytes=changes.get(entry.name, entry.bytes)) for entry in linear_manifest().dram)


def replace_model(entry: Any, **changes: Any) -> Any:
    return entry.model_copy(update=changes)


def simulate(text: str) -> None:
    """Run a program on 16 KB of DRAM that hold the numbers 0, 1, 2, 9 and must not change, without any check."""
    data = np.zeros(1 << 14, np.uint8)
    data[:16] = np.array([0, 1, 2, 9], np.int32).view(np.uint8)
    data.flags.writeable = False
    Simulator(expand(assemble(f"{text}\ncontrol.halt")), SIZES, [DramRegion("all", 0, data)]).run()


GATHER = """
load.copy src=0x0 dst=0x0 rows=1 row_bytes=16
load.gather ids=0x0 table=0x100 dst=0x100 rows=4 row_bytes=8 table_rows=4
"""


def host(model: bytes) -> HostSegment:
    return HostSegment(HostEntry(file="host/before.onnx", inputs=("x",), outputs=("y",)), model)


def relu(output: str = "y", kind: str = "Relu") -> bytes:
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info
    out = (
        helper.make_tensor_sequence_value_info(output, TensorProto.FLOAT, None)
        if kind == "SplitToSequence"
        else info(output, TensorProto.FLOAT, None)
    )
    node = helper.make_node(kind, ["x"], [output])
    graph = helper.make_graph([node], "g", [info("x", TensorProto.FLOAT, [2, 2])], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def write_full(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The disk is full as the bundle is written."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(Path, "write_bytes", full)
    save_bundle(linear_bundle(LinearData()), folder / "full.hpcc")


def occupied(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.png").touch()
    with Room(folder / "photos"):
        pass


def other_border(**changes: Any) -> tuple[BorderEntry, ...]:
    return tuple(replace_model(entry, **changes) for entry in linear_manifest().inputs)


BUNDLES: dict[str, Case] = {
    "bytes of no region": lambda *_: simulate("store.copy src=0x0 dst=0x8000 rows=1 row_bytes=4"),
    "weights of another size": lambda *_: decoders.decode(0, np.zeros(5, np.uint8), 4, 4),
    "gather beyond the table": lambda *_: simulate(GATHER),
    "store into weights": lambda *_: simulate("store.copy src=0x0 dst=0x0 rows=1 row_bytes=4"),
    "bundle that contradicts itself": lambda *_: run_edited(moved(6, "dst", Address(0, 64))),
    "host model that does not load": lambda *_: host(b"nonsense"),
    "host model that fails": lambda *_: host(relu()).run({"x": np.zeros((3, 3), np.float32)}),
    "host model that makes no tensor": lambda *_: host(relu(kind="SplitToSequence")).run(
        {"x": np.zeros((2, 2), np.float32)}
    ),
    "border of another shape": lambda *_: run(
        inputs=other_border(shape=(4, 12)), model_inputs=(TensorEntry(name="x", dtype="float32", shape=(4, 24)),)
    ),
    "full disk": write_full,
    "something in the bundle's place": occupied,
}


def no_onnxruntime(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "onnxruntime", None)
    host(relu())


def another_pair(*_: Any) -> None:
    """Two inputs that disagree on the number of samples."""
    program = Program(
        linear_bundle(LinearData(), model_inputs=tuple(TensorEntry(name=n, dtype="float32", shape=(4, 24)) for n in "xz"))
    )
    program.run({"x": np.zeros((8, 24), np.float32), "z": np.zeros((4, 24), np.float32)})


def no_samples_axis(*_: Any) -> None:
    outputs = tuple(replace_model(entry, shape=(2, 32)) for entry in linear_manifest().outputs)
    entry = TensorEntry(name="y", dtype="float32", shape=(2, 32))
    Program(linear_bundle(LinearData(), outputs=outputs, model_outputs=(entry,))).run({"x": np.zeros((8, 24), np.float32)})


def no_decoder(*_: Any) -> None:
    target = replace(load_target("fpga-u280"), decoders=()).snapshot()
    program = [i if i.name != "load.weights" else _with(i, format=1, n=2, m=4) for i in linear()]
    Program(Bundle(linear_manifest(target=target), tuple(program), LinearData().weights_bin(), {})).timing()


def unknown_steps(*_: Any) -> None:
    program = [i if i.name != "matrix.multiply" else _with(i, mode=3, kept=4) for i in linear()]
    Program(Bundle(linear_manifest(), tuple(program), LinearData().weights_bin(), {})).timing()


def _with(instruction: Instruction, **changes: int) -> Instruction:
    return replace(instruction, immediates=tuple((name, changes.get(name, old)) for name, old in instruction.immediates))


BUNDLES |= {
    "onnxruntime missing for the host's part": no_onnxruntime,
    "samples that differ": another_pair,
    "output without samples": no_samples_axis,
    "format that the target does not decode": no_decoder,
    "unstructured matrix from nowhere": unknown_steps,
    "decoded to another size": lambda *_: (
        LoadedWeights(
            np.zeros(384, np.uint8), 0, Layout(MatrixMode.NM, 16, 24, 2, 4), "instruction 1 (load.weights)"
        ).decoded
    ),
}


# ---- CPU bundles ----------------------------------------------------------------------------------------------------


def cpu(folder: Path) -> Path:
    return folder / "cpu.hpcc"


def feeds(**changes: Any) -> dict[str, Any]:
    """Inputs of the small encoder, some replaced."""
    ids = np.ones((2, 7), np.int64)
    return {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids, **changes}


def cpu_run(**changes: Any) -> Case:
    return lambda folder, _: CpuProgram.load(cpu(folder)).run({k: v for k, v in feeds(**changes).items() if v is not None})


def run_cpu(bundle: Path) -> None:
    CpuProgram.load(bundle).run(feeds())


def rewritten(name: str, change: Callable[[dict[str, Any]], object], use: Callable[[Path], object] = run_cpu) -> Case:
    """The bundle with a JSON file changed by somebody who can make digests, then used."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> None:
        document = json.loads((cpu(folder) / name).read_text(encoding="utf-8"))
        change(document)
        (cpu(folder) / name).write_text(json.dumps(document), encoding="utf-8")
        resign_cpu(cpu(folder))
        use(cpu(folder))

    return case


def damaged(name: str, data: bytes | None, *, signed: bool = False) -> Case:
    """The bundle with a file replaced or, for None, taken away."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> None:
        file = cpu(folder) / name
        file.write_bytes(data) if data is not None else file.unlink()
        if signed:
            resign_cpu(cpu(folder))
        run_cpu(cpu(folder))

    return case


def other_machine(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CpuTarget, "runs_here", lambda _: False)
    run_cpu(cpu(folder))


def unknown_machine(_: Path, patch: pytest.MonkeyPatch) -> None:
    from hw_targets import cpu as machine

    patch.setattr(machine, "_isas_here", lambda: [])
    load_any_target("cpu-host")


LIBRARIES: dict[str, Case] = {
    "cpu: library that does not load": lambda folder, _: Library(folder, np.zeros(64, np.uint8), 1),
    "cpu: weights of another model": lambda folder, _: Library(cpu(folder) / "libmodel.so", np.zeros(64, np.uint8), 1),
    "cpu: edited weights": damaged("weights.bin", bytes(64)),
    "cpu: missing weights": damaged("weights.bin", None),
    "cpu: edited manifest": damaged("manifest.json", b"{"),
    "cpu: manifest without a digest": rewritten("manifest.json", lambda m: m["digests"].pop("weights.bin")),
    "cpu: input that nothing makes": rewritten("manifest.json", lambda m: m["model_inputs"][2].update(name="x")),
    "cpu: output that nothing makes": rewritten("manifest.json", lambda m: m["model_outputs"][0].update(name="x")),
    "cpu: manifest of a newer release": rewritten("manifest.json", lambda m: m.update(schema_version=99)),
    "cpu: machine that says little": rewritten("manifest.json", lambda m: m["target"].pop("isa"), cpu_sections),
    "cpu: record of another build": rewritten("build.json", lambda b: b.clear()),
    "cpu: input of another shape": cpu_run(input_ids=np.ones((2, 9), np.int64)),
    "cpu: input of another name": cpu_run(ids=np.ones((2, 7), np.int64)),
    "cpu: samples that differ": cpu_run(input_ids=np.ones((3, 7), np.int64)),
    "cpu: input of another type": cpu_run(input_ids=np.ones((2, 7), np.float32)),
    "cpu: token beyond the vocabulary": cpu_run(input_ids=np.full((2, 7), 50)),
    "cpu: too many threads": lambda folder, _: CpuProgram.load(cpu(folder), threads=1 << 20),
    "cpu: other machine": other_machine,
    "cpu: unknown machine": unknown_machine,
    "cpu: bundle without library": damaged("build.json", None),
}

TARGETS: dict[str, Case] = {
    "snapshot of another version": lambda *_: Target.from_snapshot({}, where="manifest.json"),
    "cpu snapshot of another version": lambda *_: CpuTarget.from_snapshot({}, where="manifest.json"),
    "damaged cpu snapshot": lambda *_: CpuTarget.from_snapshot(
        {**load_any_target("cpu-avx2").snapshot(), "sources": 3}, where="manifest.json"
    ),
    "cpu snapshot of a cache of no size": lambda *_: CpuTarget.from_snapshot(
        {**load_any_target("cpu-avx2").snapshot(), "l2_bytes": "large"}, where="manifest.json"
    ),
    "gpu snapshot of a capability in words": lambda *_: GpuTarget.from_snapshot(
        {**load_any_target("gpu-sm80").snapshot(), "capability": "8.0"}, where="manifest.json"
    ),
    "a CPU where an accelerator is needed": lambda *_: load_target("cpu-avx2"),
}

CASES = {**PROGRAMS, **BUNDLES, **LIBRARIES, **TARGETS}
