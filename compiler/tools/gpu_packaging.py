"""From a tiled module to the folder of a GPU bundle: the Triton module, weights, manifest and host segments."""

from __future__ import annotations

from compiler.backends.gpu.printer import TritonModel
from compiler.frontend.host import HostSegment
from compiler.tools.cpu_packaging import of_any_length
from compiler.tools.hpcc import installed_version
from compiler.tools.model_facts import ModelFacts
from compiler.tools.packaging import host_entries
from hw_targets.gpu import GpuTarget
from runtime.bundle import MANIFEST, WEIGHTS, Room, digest
from runtime.cpu.manifest import GpuManifest, StepEntry
from runtime.gpu.bundle import SOURCE
from runtime.manifest import DeviceEntry, TensorEntry


def write_bundle(
    room: Room,
    model: TritonModel,
    borders: dict[str, TensorEntry],
    target: GpuTarget,
    precision: str,
    facts: ModelFacts,
    hosts: list[HostSegment],
) -> GpuManifest:
    """Write all but the reports into a bundle in the making. `borders` are the module's tensors."""
    entries, files = host_entries([of_any_length(segment) for segment in hosts])
    before = [entry for entry, segment in entries if segment.when == "before"]
    after = [entry for entry, segment in entries if segment.when == "after"]
    contents: dict[str, bytes | memoryview] = {SOURCE: model.source.encode(), WEIGHTS: model.weights.data, **files}
    manifest = GpuManifest(
        hpcc_version=installed_version(),
        model=facts.entry,
        target=target.snapshot(),
        precision=precision,
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
