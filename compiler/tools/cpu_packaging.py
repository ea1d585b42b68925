"""From a tiled module to the folder of a CPU bundle: C, weights, manifest, host segments, and the built library."""

from __future__ import annotations

from dataclasses import replace

import onnx

from compiler.backends.cpu.build import CCompiler, build_library
from compiler.backends.cpu.printer import CModel
from compiler.frontend.host import HostSegment
from compiler.tools.hpcc import installed_version
from compiler.tools.model_facts import ModelFacts
from compiler.tools.packaging import host_entries
from hw_targets.cpu import CpuTarget
from runtime.bundle import MANIFEST, WEIGHTS, Room, digest
from runtime.cpu.bundle import BUILD, HEADER, LIBRARY, SOURCE, Build
from runtime.cpu.manifest import CpuManifest, StepEntry
from runtime.manifest import DeviceEntry, TensorEntry


def write_bundle(
    room: Room,
    model: CModel,
    borders: dict[str, TensorEntry],
    target: CpuTarget,
    facts: ModelFacts,
    hosts: list[HostSegment],
) -> CpuManifest:
    """Write all but the library and the reports into a bundle in the making. `borders` are the library's tensors."""
    entries, files = host_entries([of_any_length(segment) for segment in hosts])
    before = [entry for entry, segment in entries if segment.when == "before"]
    after = [entry for entry, segment in entries if segment.when == "after"]
    contents: dict[str, bytes | memoryview] = {
        SOURCE: model.source.encode(),
        HEADER: model.header.encode(),
        WEIGHTS: model.weights.data,
        **files,
    }
    manifest = CpuManifest(
        hpcc_version=installed_version(),
        model=facts.entry,
        target=target.snapshot(),
        batch=model.batch,
        tokens=model.tokens,
        inputs=tuple(borders[name] for name in model.inputs),
        outputs=tuple(borders[name] for name in model.outputs),
        id_limits=dict(model.id_limits),
        steps=tuple(
            StepEntry(name=step.name, op=step.op, onnx_node=step.onnx_node, layers=model.layers_of(number))
            for number, step in enumerate(model.steps)
        ),
        model_inputs=facts.inputs,
        model_outputs=facts.outputs,
        segments=(*before, DeviceEntry(), *after),
        digests={name: digest(data) for name, data in contents.items()},
    )
    manifest = manifest.model_copy(update={"digest": manifest.own_digest()})
    for name, data in contents.items():
        room.write(name, data)
    room.write(MANIFEST, manifest.text())
    return manifest


def add_library(room: Room, compiler: CCompiler) -> None:
    """Build the library in a bundle in the making. Raises InputError if that fails."""
    build_library(room.folder / SOURCE, room.folder / LIBRARY, compiler)
    library = digest((room.folder / LIBRARY).read_bytes())
    build = Build(compiler=compiler.version, flags=tuple(compiler.flags), library_digest=library)
    room.write(BUILD, build.model_dump_json(indent=1) + "\n")


def of_any_length(segment: HostSegment) -> HostSegment:
    """The host's part without the compiled batch and length at its borders: the library takes shorter ones too."""
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    for value in (*model.graph.input, *model.graph.output):
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.Clear()
            dim.dim_param = f"{value.name}_{number}"
    return replace(segment, model=model)
