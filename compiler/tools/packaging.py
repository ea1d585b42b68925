"""From an emitted module to a runtime bundle: manifest, program, weights, host segments."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp

from compiler.backends.fpga.emission import ProgramParts, Region, program_parts, weight_image
from compiler.frontend.host import HostSegment
from compiler.module import main_function, names_of
from compiler.passes.partition import AFTER, BEFORE
from compiler.tools.hpcc import installed_version
from compiler.tools.model_facts import NUMPY_DTYPES, ModelFacts
from compiler.weights import WeightStore
from hw_targets.check import Semaphore
from hw_targets.errors import InputError
from hw_targets.isa import Memory
from hw_targets.target import Target
from runtime.bundle import Bundle
from runtime.manifest import (
    BorderEntry,
    DeviceEntry,
    DramEntry,
    HostEntry,
    HostNodeEntry,
    Manifest,
    NodeEntry,
    SemaphoreEntry,
)


def build_bundle(
    module: ModuleOp, store: WeightStore | None, target: Target, facts: ModelFacts, hosts: list[HostSegment]
) -> Bundle:
    """The bundle of an emitted module. Without a store the weights are zeros: enough for timing, useless otherwise."""
    parts = program_parts(module)
    dram, image_end = _dram(parts)
    sizes = {**parts.sizes, Memory.DRAM: max((r.end for r in dram), default=0)}
    image = weight_image(module, store) if store is not None else np.zeros(image_end, np.uint8)
    inputs, outputs = _borders(module, parts.regions)
    entries_of_hosts, files = host_entries(hosts)
    manifest = Manifest(
        hpcc_version=installed_version(),
        model=facts.entry,
        target=target.snapshot(),
        nodes=tuple(NodeEntry(onnx_node=n.onnx_node, layer=n.layer, op=n.op) for n in parts.nodes),
        semaphores=tuple(
            SemaphoreEntry(name=s.name, initial=s.initial, producer=s.producer, consumer=s.consumer)
            for s in semaphore_table(parts)
        ),
        sizes=sizes,
        dram=tuple(dram),
        inputs=inputs,
        outputs=outputs,
        model_inputs=facts.inputs,
        model_outputs=facts.outputs,
        segments=tuple(_segments(entries_of_hosts)),
    )
    return Bundle(manifest, parts.instructions, image, files)


def _segments(hosts: list[tuple[HostEntry, HostSegment]]) -> Iterator[HostEntry | DeviceEntry]:
    """In order of execution: the device goes on behind whatever the host does before or between its parts."""
    if not any(segment.when == BEFORE for _, segment in hosts):
        yield DeviceEntry()
    for entry, segment in hosts:
        yield entry
        if segment.when != AFTER:
            yield DeviceEntry()


def semaphore_table(parts: ProgramParts) -> tuple[Semaphore, ...]:
    """The program's semaphores, named after the queues they connect; all begin at 0."""
    return tuple(
        Semaphore(f"{use.producer.value}_to_{use.consumer.value}", 0, use.producer, use.consumer) for use in parts.semaphores
    )


def _dram(parts: ProgramParts) -> tuple[list[DramEntry], int]:
    """One region for the whole weight image, one for each input and output; and where the image ends."""
    constant = [region for region in parts.regions if region.kind not in ("input", "output", "scratch")]
    end = max((region.offset + region.bytes for region in constant), default=0)
    entries = [DramEntry(name="weights", kind="weights", offset=0, bytes=end)] if end else []
    for region in parts.regions:
        if region.kind == "input":
            entries.append(DramEntry(name=region.name, kind="input", offset=region.offset, bytes=region.bytes))
        elif region.kind == "output":
            entries.append(DramEntry(name=region.name, kind="output", offset=region.offset, bytes=region.bytes))
        elif region.kind == "scratch":
            entries.append(DramEntry(name=region.name, kind="scratch", offset=region.offset, bytes=region.bytes))
    return entries, end


def _borders(module: ModuleOp, regions: tuple[Region, ...]) -> tuple[tuple[BorderEntry, ...], tuple[BorderEntry, ...]]:
    """The device's input and output tensors with their places in DRAM. An input that no instruction reads has none."""
    function = main_function(module)
    borders = function.attributes["borders"]
    assert isinstance(borders, ArrayAttr)
    inputs, outputs = names_of(function, "input_names"), names_of(function, "output_names")
    types = dict(zip((*inputs, *outputs), borders, strict=True))
    parts = {**_parts(function, "input_parts", inputs), **_parts(function, "output_parts", outputs)}

    def entries(kind: str) -> tuple[BorderEntry, ...]:
        result: list[BorderEntry] = []
        for region in regions:
            if region.kind == kind:
                type = types.get(region.name)
                if not isinstance(type, TensorType):
                    message = f"{kind} {region.name[:80]!r} of the device is none of @main"
                    raise InputError("HPCC1437", message, hint="use a file of --dump-stages")
                result.append(
                    BorderEntry(
                        name=region.name,
                        dtype=NUMPY_DTYPES[str(type.element_type)],
                        shape=tuple(type.get_shape()),
                        device_dtype=region.device_dtype,  # pyright: ignore[reportArgumentType]
                        offset=region.offset,
                        part=parts.get(region.name, 0),
                    )
                )
        return tuple(result)

    return entries("input"), entries("output")


def _parts(function: FuncOp, attribute: str, names: list[str]) -> dict[str, int]:
    """The device part of every border, where there are several."""
    found = function.attributes.get(attribute)
    listed = found.data if isinstance(found, ArrayAttr) else ()
    return {name: part.value.data for name, part in zip(names, listed, strict=False) if isinstance(part, IntegerAttr)}


def host_entries(hosts: list[HostSegment]) -> tuple[list[tuple[HostEntry, HostSegment]], dict[str, bytes]]:
    """The manifest's entries of host segments, and the files they name."""
    entries: list[tuple[HostEntry, HostSegment]] = []
    files: dict[str, bytes] = {}
    for number, segment in enumerate(hosts):
        file = f"host/{number}_{segment.when}.onnx"
        nodes = tuple(
            HostNodeEntry(onnx_node=node.onnx_node, op=node.op, reason=node.reason, macs=node.macs) for node in segment.nodes
        )
        entries.append((HostEntry(file=file, inputs=segment.inputs, outputs=segment.outputs, nodes=nodes), segment))
        files[file] = segment.model.SerializeToString(deterministic=True)
    return entries, files
