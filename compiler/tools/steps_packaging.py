"""From a printed model to the folder of a CPU or GPU bundle: its files, host segments and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from compiler.backends.image import StepsModel
from compiler.frontend.host import HostSegment
from compiler.tools.hpcc import installed_version
from compiler.tools.model_facts import ModelFacts
from compiler.tools.packaging import host_entries
from runtime.bundle import MANIFEST, WEIGHTS, Room, digest
from runtime.manifest import DeviceEntry, TensorEntry
from runtime.steps.files import WEIGHTS_HEADER
from runtime.steps.manifest import M, StepEntry


def write_bundle(
    room: Room,
    form: type[M],
    model: StepsModel[Any],
    sources: Mapping[str, str],
    borders: Mapping[str, TensorEntry],
    facts: ModelFacts,
    hosts: list[HostSegment],
    **own: Any,
) -> M:
    """Write all but the reports, and what is built, into a bundle in the making. `sources` are its texts by name, `borders`
    the module's tensors, `own` the fields that a manifest of this form has besides."""
    entries, files = host_entries([of_any_length(segment) for segment in hosts])
    before = [entry for entry, segment in entries if segment.when == "before"]
    after = [entry for entry, segment in entries if segment.when == "after"]
    texts = {name: text.encode() for name, text in sources.items()}
    contents: dict[str, bytes | memoryview] = {**texts, WEIGHTS: model.weights.data, **files}
    manifest = form(
        hpcc_version=installed_version(),
        model=facts.entry,
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
        digests={name: digest(data[:WEIGHTS_HEADER] if name == WEIGHTS else data) for name, data in contents.items()},
        **own,
    )
    manifest = manifest.model_copy(update={"digest": manifest.own_digest()})
    for name, data in contents.items():
        room.write(name, data)
    room.write(MANIFEST, manifest.text())
    return manifest


def of_any_length(segment: HostSegment) -> HostSegment:
    """The host's part without the compiled batch and length at its borders: the program takes shorter ones too."""
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    for value in (*model.graph.input, *model.graph.output):
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.Clear()
            dim.dim_param = f"{value.name}_{number}"
    return replace(segment, model=model)
