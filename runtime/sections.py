"""What hpcc-objdump prints of a bundle beside its instructions: files, segments, semaphores, the memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hw_targets.cpu import CpuTarget
from hw_targets.gpu import GpuTarget
from runtime.buckets import parse_bucket_manifest
from runtime.bundle import BUCKETS, MANIFEST, WEIGHTS, Bundle
from runtime.cpu.bundle import load_cpu_bundle
from runtime.gpu.bundle import SOURCE, load_gpu_bundle
from runtime.steps.manifest import StepsManifest


def sections(bundle: Bundle) -> str:
    """Files, segments, semaphores and the memory map as text."""
    manifest = bundle.manifest
    executed = len(bundle.expanded)
    lines = [
        f"model {manifest.model.name} ({manifest.model.pattern}), target {bundle.target.name}",
        f"program.bin: {len(bundle.instructions):,} instructions, {executed:,} executed",
        f"weights.bin: {bundle.weights.size:,} bytes",
        "segments:",
    ]
    for segment in manifest.segments:
        if segment.kind == "host":
            lines.append(f"  {segment.file}: {', '.join(segment.inputs)} -> {', '.join(segment.outputs)}")
            lines += [f"    {node.onnx_node} ({node.op}): {node.reason}" for node in segment.nodes]
        else:
            lines.append("  device")
    for title, borders in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        lines.append(f"device {title}:")
        for border in borders:
            shape = "x".join(map(str, border.shape))
            lines.append(f"  {border.offset:#012x} {border.name}: {shape} {border.device_dtype} ({border.dtype} outside)")
    lines.append("memories:")
    lines += [f"  {memory}: {size:,} bytes" for memory, size in manifest.sizes.items()]
    lines.append("dram:")
    for region in sorted(manifest.dram, key=lambda r: r.offset):
        lines.append(f"  {region.offset:#012x}..{region.end:#012x} {region.kind:8} {region.name} ({region.bytes:,} bytes)")
    lines.append("semaphores:")
    for number, s in enumerate(manifest.semaphores):
        lines.append(f"  {number:2} {s.name}: {s.producer} -> {s.consumer}, initially {s.initial}")
    return "\n".join(lines)


def cpu_sections(path: Path) -> str:
    """Files, segments, tensors and steps of a CPU bundle as text; its instructions are the C of model.c."""
    bundle = load_cpu_bundle(path)
    target = CpuTarget.from_snapshot(bundle.manifest.target, where=MANIFEST)
    built = f"{bundle.build.compiler} {' '.join(bundle.build.flags)}" if bundle.build else "not built"
    head = (f"target {target.name} ({target.isa})", f"model.c, model.h, libmodel.so: {built}")
    return _step_sections(bundle.manifest, head, bundle.weights.size, "library")


def gpu_sections(path: Path) -> str:
    """Files, segments, tensors and steps of a GPU bundle as text; its instructions are the Triton of model.py."""
    manifest = load_gpu_bundle(path).manifest
    target = GpuTarget.from_snapshot(manifest.target, where=MANIFEST)
    head = (
        f"target {target.name} (compute capability {target.capability / 10}), {manifest.precision}",
        f"{SOURCE}: {(path / SOURCE).stat().st_size:,} bytes",
    )
    return _step_sections(manifest, head, (path / WEIGHTS).stat().st_size, SOURCE)


def _step_sections(manifest: StepsManifest, head: Sequence[str], weight_bytes: int, device: str) -> str:
    """`head` says what it is for and how it was made, `device` what runs the segments that are not the host's."""
    lines = [
        f"model {manifest.model.name} ({manifest.model.pattern})",
        *head,
        f"weights.bin: {weight_bytes:,} bytes",
        f"at most {manifest.batch} samples of {manifest.tokens} tokens",
        "segments:",
        *(f"  {getattr(segment, 'file', device)}" for segment in manifest.segments),
        "inputs:",
        *(f"  {entry.name}: {entry.dtype}" for entry in manifest.inputs),
        "outputs:",
        *(f"  {entry.name}: {'x'.join(map(str, entry.shape))}" for entry in manifest.outputs),
        "steps:",
        *(f"  {number:3} {step.name:<28} {step.op:<10} {step.onnx_node}" for number, step in enumerate(manifest.steps)),
    ]
    return "\n".join(lines)


def bucket_sections(path: Path) -> str:
    """The shapes of a bundle of several, and where each lies, as text."""
    manifest = parse_bucket_manifest(path)
    lines = [f"model {manifest.model}, target {manifest.target}", "buckets, on one weights.bin:"]
    for entry in manifest.buckets:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in entry.shapes.items())
        lines.append(f"  {path / BUCKETS / entry.name}: {shapes}")
    return "\n".join(lines)
