"""The files of a bundle for a CPU or a GPU: the manifest names them, and each is the one that its digest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from hw_targets.errors import InputError
from runtime.bundle import MANIFEST, WEIGHTS, check_plain, digest, digest_of
from runtime.steps.manifest import M, parse_manifest

WEIGHTS_HEADER = 64
"""Bytes at the beginning of weights.bin: what kind of file it is, and the digest of the rest."""


@dataclass(frozen=True)
class CheckedFiles(Generic[M]):
    """A checked folder: its manifest, and host segments by file."""

    folder: Path
    manifest: M
    host: Mapping[str, bytes]


def check_files(folder: Path, form: type[M], sources: Sequence[str]) -> CheckedFiles[M]:
    """Read and check the manifest, `sources`, the weights and the host's part. Raises InputError naming the damaged file.

    Weights are read, not mapped: only rows in use take memory later.
    """
    manifest = parse_manifest(read(folder / MANIFEST).decode("utf-8", "replace"), str(folder / MANIFEST), form)
    if manifest.own_digest() != manifest.digest:
        raise _edited(folder / MANIFEST)
    host = tuple(segment.file for segment in manifest.host_segments)
    for name in (*sources, WEIGHTS, *host):
        if name not in manifest.digests:
            raise InputError("HPCC1266", f"no digest of {name}", where=str(folder / MANIFEST))
    data = {name: read(folder / name) for name in (*sources, *host)}
    for name, content in data.items():
        check(folder / name, digest(content), manifest.digests[name])
    check_weights(folder / WEIGHTS, manifest.digests[WEIGHTS])
    return CheckedFiles(folder, manifest, {name: data[name] for name in host})


def check_weights(file: Path, expected: str) -> None:
    """Raises InputError unless the header has the `expected` digest and holds that of the rest: the program is made for this
    header, and trusts the numbers behind it as places of its memory."""
    try:
        check_plain(file)
        with file.open("rb") as stream:
            header = stream.read(WEIGHTS_HEADER)
            rest = digest_of(stream)
    except OSError as error:
        raise _unread(file, error) from error
    if digest(header) != expected or bytes.fromhex(rest) not in header:
        raise _edited(file)


def read(file: Path) -> bytes:
    """A file's bytes. Raises InputError."""
    try:
        check_plain(file)
        return file.read_bytes()
    except OSError as error:
        raise _unread(file, error) from error


def check(file: Path, found: str, expected: str) -> None:
    """Raises InputError for a file with another digest."""
    if found != expected:
        raise _edited(file)


def _unread(file: Path, error: OSError) -> InputError:
    return InputError("HPCC1268", f"cannot read: {error.strerror}", where=str(file))


def _edited(file: Path) -> InputError:
    message = "the file is not the one that was written with this bundle"
    return InputError("HPCC1264", message, where=str(file), hint="it is truncated or was edited; compile again")
