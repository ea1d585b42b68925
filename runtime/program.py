"""A loaded program: runs inputs through its host segments and the simulated device, and times it.

program = Program.load(Path("bert.fpga-u280.hp-0.75.hpcc"))
result = program.run({"input_ids": ids, "attention_mask": mask})
result.outputs["logits"], program.timing().total
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.codec import Resolved
from hw_targets.errors import InputError
from hw_targets.isa import Memory
from hw_targets.numerics import bf16
from hw_targets.target import Target
from runtime.bundle import Bundle, load_bundle, save_bundle
from runtime.host import HostSegment
from runtime.ledger import LayerCycles, Roofline, attribute, roofline
from runtime.manifest import BorderEntry, DeviceEntry, Manifest, TensorEntry
from runtime.samples import joined
from runtime.simulator.functional import DEFAULTS, Options, Simulator
from runtime.simulator.machine import DramRegion, Watch, read_bf16, write_bf16
from runtime.simulator.timing import Timing, simulate_timing

AnyArray = NDArray[Any]
Tensors = Mapping[str, AnyArray]
DEVICE_TYPES: Mapping[str, type[np.generic]] = {"i32": np.int32, "u8": np.uint8, "f32": np.float32, "bf16": np.uint16}


@dataclass(frozen=True)
class RunResult:
    """Outputs by name; `cycles` of one batch on the device; wall-clock seconds of the simulation and of host segments.

    `batches` is how often the compiled batch was executed; the seconds are of all of them together.
    """

    outputs: dict[str, AnyArray]
    cycles: int
    batches: int
    simulate_seconds: float
    host_seconds: Mapping[str, float]


class Program:
    """A checked bundle, ready to run. Building it raises InputError for a program that breaks a rule."""

    def __init__(self, bundle: Bundle, options: Options = DEFAULTS, threads: int = 0) -> None:
        bundle.check()
        self.bundle = bundle
        self.options = options
        self.threads = threads

    @classmethod
    def load(cls, path: Path | str, options: Options = DEFAULTS, threads: int = 0) -> Program:
        """The program of a bundle folder. Raises InputError naming the damaged file."""
        return cls(load_bundle(Path(path)), options, threads)

    def save(self, path: Path | str, extras: Mapping[str, str | bytes] | None = None) -> Manifest:
        """Write the bundle; see `save_bundle`."""
        return save_bundle(self.bundle, Path(path), extras)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def target(self) -> Target:
        return self.bundle.target

    # ---- time -------------------------------------------------------------------------------------------------------

    @cached_property
    def _timing(self) -> Timing:
        return simulate_timing(self.bundle.expanded, self.manifest.semaphore_table, self.target, self._decoded)

    def _decoded(self, load: Resolved) -> NDArray[np.uint8]:
        """The compute layout of a matrix, decoded once for the values and for the time."""
        try:
            return self._simulator.matrix(load).decoded
        except InputError as error:
            raise InputError(error.code, error.message, where=self._place_of(load), hint=error.hint) from error

    def timing(self) -> Timing:
        """Cycles of one batch; they depend on no input value."""
        return self._timing

    def layers(self) -> list[LayerCycles]:
        """The cycles by layer; their totals add up to the timing's."""
        return attribute(self._timing, self.manifest.layers)

    def roofline(self) -> Roofline:
        return roofline(self._timing, self.target)

    @property
    def accelerator_ms(self) -> float:
        return self._timing.total / (self.target.clock.mhz * 1e3)

    @property
    def transfer_ms(self) -> float:
        """Inputs to the board's memory and outputs back, one request each way for every part of the program."""
        link = self.target.link
        moved = sum(border.bytes for border in (*self.manifest.inputs, *self.manifest.outputs))
        return 2 * self.manifest.parts * link.latency_us / 1e3 + moved / (link.gbytes_per_s * 1e6)

    # ---- values -----------------------------------------------------------------------------------------------------

    @cached_property
    def _simulator(self) -> Simulator:
        first = self.bundle.weights_offset
        regions: list[DramRegion] = []
        for region in self.manifest.dram:
            if region.kind == "weights":
                data = self.bundle.weights[region.offset - first : region.end - first]
            else:
                data = np.zeros(region.bytes, np.uint8)
            regions.append(DramRegion(region.name, region.offset, data))
        return Simulator(self.bundle.expanded, self.manifest.sizes, regions, self.options, self._place_of)

    @cached_property
    def _host(self) -> dict[str, HostSegment]:
        segments = self.manifest.host_segments
        return {entry.file: HostSegment(entry, self.bundle.host[entry.file], self.threads) for entry in segments}

    def _place_of(self, instruction: Resolved) -> str:
        nodes = self.manifest.nodes
        node = nodes[instruction.node] if instruction.node < len(nodes) else None
        return f"{instruction.place}, node {node.onnx_node!r} ({node.op})" if node else instruction.place

    def run(self, inputs: Tensors, *, host: bool = True, watch: Watch | None = None) -> RunResult:
        """Run inputs of any number of samples, in batches of the compiled size, the last one padded with zeros.

        With `host = False` the inputs and outputs are the tensors at the device's border. `watch` sees the instructions of
        the first batch. Raises InputError for names,
        types, shapes or token ids that the program does not take.
        """
        if host:
            wanted: tuple[TensorEntry | BorderEntry, ...] = self.manifest.model_inputs
            given_back: tuple[TensorEntry | BorderEntry, ...] = self.manifest.model_outputs
        else:
            wanted, given_back = self.manifest.inputs, self.manifest.outputs
        checked = {entry.name: check_input(entry, inputs) for entry in _all_named(wanted, inputs)}
        batch, samples = _batching(wanted, checked)
        cut = samples != batch
        collected: dict[str, list[AnyArray]] = {entry.name: [] for entry in given_back}
        seconds = {"device": 0.0, **{entry.file: 0.0 for entry in self.manifest.host_segments if host}}
        for start in range(0, samples, batch):
            chunk = {name: _chunk(array, start, batch) if cut else array for name, array in checked.items()}
            values = self._run_batch(chunk, host, seconds, None if start else watch)
            for entry in given_back:
                if values[entry.name].shape != entry.shape:
                    message = f"output {entry.name!r} has shape {values[entry.name].shape}, the manifest says {entry.shape}"
                    raise InputError("HPCC1256", message)
                collected[entry.name].append(values[entry.name])
        outputs = {entry.name: joined(entry, collected[entry.name], batch, samples) for entry in given_back}
        simulated = seconds.pop("device")
        return RunResult(outputs, self._timing.total, -(-samples // batch), simulated, seconds)

    def _run_batch(self, inputs: Tensors, host: bool, seconds: dict[str, float], watch: Watch | None) -> dict[str, AnyArray]:
        values: dict[str, AnyArray] = dict(inputs)
        part = 0
        for segment in self.manifest.segments:
            if isinstance(segment, DeviceEntry):
                start = time.perf_counter()
                values.update(self._run_device(values, part, watch))
                seconds["device"] += time.perf_counter() - start
                part += 1
            elif host:
                made, taken = self._host[segment.file].run(values)
                seconds[segment.file] += taken
                values.update(made)
        return values

    def border_inputs(self, inputs: Tensors) -> dict[str, AnyArray]:
        """The tensors at the device's border for one batch of model inputs: what comes before its last part is run."""
        values: dict[str, AnyArray] = dict(inputs)
        part = 0
        for segment in self.manifest.segments:
            if isinstance(segment, DeviceEntry):
                part += 1
                if part == self.manifest.parts:
                    break
                values.update(self._run_device(values, part - 1))
            else:
                values.update(self._host[segment.file].run(values)[0])
        return {border.name: values[border.name] for border in self.manifest.inputs}

    def _run_device(self, values: Tensors, part: int, watch: Watch | None = None) -> dict[str, AnyArray]:
        for border in self.manifest.inputs:
            if border.part == part:
                self._check_ids(border, values[border.name])
                self._store_input(border, values[border.name])
        self._simulator.run(watch, part)
        return {border.name: self._read_output(border) for border in self.manifest.outputs if border.part == part}

    def _border_view(self, border: BorderEntry) -> AnyArray:
        region = next(r for r in self._simulator.memories.dram if r.offset <= border.offset < r.end)
        dtype = DEVICE_TYPES[border.device_dtype]
        return np.ndarray(border.shape, dtype, buffer=region.data.data, offset=border.offset - region.offset)

    def _store_input(self, border: BorderEntry, value: AnyArray) -> None:
        if value.shape != border.shape:
            message = f"tensor {border.name!r} has shape {value.shape}, the device takes {border.shape}"
            raise InputError("HPCC1250", message)
        if border.device_dtype in ("i32", "u8") and value.dtype.kind not in ("b", "i", "u"):
            message = f"tensor {border.name!r} is {value.dtype}, the device takes {border.device_dtype}"
            raise InputError("HPCC1250", message)
        view = self._border_view(border)
        if border.device_dtype == "u8":
            view[...] = value != 0
        elif border.device_dtype == "bf16":
            write_bf16(view, bf16(value))
        else:
            view[...] = value

    def _read_output(self, border: BorderEntry) -> AnyArray:
        view = self._border_view(border)
        value = read_bf16(view) if border.device_dtype == "bf16" else view
        return value.astype(np.dtype(border.dtype))

    @cached_property
    def id_limits(self) -> dict[str, int]:
        """Rows of the smallest table that each input is looked up in."""
        limits: dict[str, int] = {}
        copies: dict[tuple[int, int], int] = {}
        """Where (destination, size) was copied from, the latest last."""
        for instruction in self.bundle.expanded:
            if instruction.name == "load.copy" and instruction.operands["dst"].memory is Memory.ACT:
                size = instruction.integer("row_bytes") * instruction.integer("rows")
                place = instruction.operands["dst"].base, size
                copies.pop(place, None)
                copies[place] = instruction.operands["src"].base
            elif instruction.name == "load.gather":
                ids, rows = instruction.operands["ids"].base, instruction.integer("table_rows")
                recent = ((*place, copies[place]) for place in reversed(copies))
                source = next((src + ids - dst for dst, size, src in recent if dst <= ids < dst + size), -1)
                for border in self.manifest.inputs:
                    if border.offset <= source < border.offset + border.bytes:
                        limits[border.name] = min(rows, limits.get(border.name, rows))
        return limits

    def _check_ids(self, border: BorderEntry, value: AnyArray) -> None:
        limit = self.id_limits.get(border.name)
        if limit is not None and value.size and (value.min() < 0 or value.max() >= limit):
            worst = value.min() if value.min() < 0 else value.max()
            message = f"input {border.name!r} holds id {worst}, outside its table of {limit} rows"
            raise InputError("HPCC1251", message)


# ---- inputs and batches ---------------------------------------------------------------------------------------------


def _all_named(wanted: tuple[TensorEntry | BorderEntry, ...], inputs: Tensors) -> tuple[TensorEntry | BorderEntry, ...]:
    """`wanted`, if `inputs` names exactly these."""
    names = [entry.name for entry in wanted]
    for name in inputs:
        if name not in names:
            raise InputError("HPCC1252", f"the model has no input {name!r}", hint=f"it takes {', '.join(names)}")
    for name in names:
        if name not in inputs:
            raise InputError("HPCC1252", f"input {name!r} is missing")
    return wanted


def check_input(entry: TensorEntry | BorderEntry, inputs: Tensors) -> AnyArray:
    """The input as the model's type; its first axis may be any number of samples. Raises InputError."""
    array = np.asarray(inputs[entry.name])
    shape = tuple(array.shape)
    fits = shape == entry.shape or (len(shape) == len(entry.shape) > 0 and shape[1:] == entry.shape[1:] and shape[0] > 0)
    if not fits:
        expected = "x".join(map(str, ("samples", *entry.shape[1:]))) if entry.shape else "no axes"
        found = "x".join(map(str, shape)) or "no axes"
        raise InputError("HPCC1253", f"input {entry.name!r} has shape {found}, expected {expected}")
    wanted = np.dtype(entry.dtype)
    if array.dtype == wanted:
        return array
    whole = ("i", "u", "b")
    if wanted.kind in whole and array.dtype.kind in whole:
        cast = array.astype(wanted)
        if (cast == array).all():
            return cast
        raise InputError("HPCC1254", f"input {entry.name!r} ({array.dtype}) holds values that {wanted} does not")
    if wanted.kind == "f" and array.dtype.kind == "f":
        return array.astype(wanted)
    raise InputError("HPCC1254", f"input {entry.name!r} is {array.dtype}, expected {wanted}")


def _batching(wanted: tuple[TensorEntry | BorderEntry, ...], arrays: Tensors) -> tuple[int, int]:
    """(compiled batch, samples given): (1, 1) where the inputs are exactly of the compiled shapes."""
    if all(arrays[entry.name].shape == entry.shape for entry in wanted):
        return 1, 1
    batches = {entry.shape[0] if entry.shape else 0 for entry in wanted}
    samples = {len(arrays[entry.name]) if entry.shape else 0 for entry in wanted}
    if len(batches) != 1 or len(samples) != 1:
        counts = ", ".join(f"{entry.name} {arrays[entry.name].shape}" for entry in wanted)
        raise InputError("HPCC1255", f"the inputs do not have one number of samples: {counts}")
    return batches.pop(), samples.pop()


def _chunk(array: AnyArray, start: int, batch: int) -> AnyArray:
    """One batch of samples; what is missing at the end is zeros: id 0, masked."""
    part = array[start : start + batch]
    if len(part) == batch:
        return part
    return np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
