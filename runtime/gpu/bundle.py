"""The files of a GPU bundle: the manifest, the Triton module and its weights, all under digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hw_targets.errors import InputError
from runtime.bundle import MANIFEST, WEIGHTS, check_plain, digest, digest_of
from runtime.cpu.manifest import GpuManifest, parse_manifest

SOURCE = "model.py"


@dataclass(frozen=True)
class GpuBundle:
    """A checked folder. The module maps weights.bin itself."""

    folder: Path
    manifest: GpuManifest
    host: Mapping[str, bytes]


def load_gpu_bundle(folder: Path) -> GpuBundle:
    """Read and check a bundle. Raises InputError naming the damaged file."""
    text = _read(folder / MANIFEST).decode("utf-8", "replace")
    manifest = parse_manifest(text, str(folder / MANIFEST), GpuManifest)
    if manifest.own_digest() != manifest.digest:
        raise _edited(folder / MANIFEST)
    host = tuple(segment.file for segment in manifest.host_segments)
    for name in (SOURCE, WEIGHTS, *host):
        if name not in manifest.digests:
            raise InputError("HPCC1276", f"no digest of {name}", where=str(folder / MANIFEST))
    data = {name: _read(folder / name) for name in (SOURCE, *host)}
    for name, content in data.items():
        if digest(content) != manifest.digests[name]:
            raise _edited(folder / name)
    try:
        check_plain(folder / WEIGHTS)
        found = digest_of(folder / WEIGHTS)
    except OSError as error:
        raise InputError("HPCC1277", f"cannot read: {error.strerror}", where=str(folder / WEIGHTS)) from error
    if found != manifest.digests[WEIGHTS]:
        raise _edited(folder / WEIGHTS)
    return GpuBundle(folder, manifest, {name: data[name] for name in host})


def _read(file: Path) -> bytes:
    try:
        check_plain(file)
        return file.read_bytes()
    except OSError as error:
        raise InputError("HPCC1277", f"cannot read: {error.strerror}", where=str(file)) from error


def _edited(file: Path) -> InputError:
    message = "the file is not the one that was written with this bundle"
    return InputError("HPCC1278", message, where=str(file), hint="it is truncated or was edited; compile again")
