"""manifest.json of a CPU or GPU bundle: the tensors and segments of the model, and what the program's steps are.

The model is strict: an unknown key, a missing one or a wrong type is an error that names it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hw_targets.errors import InputError
from runtime.bundle import check_plain, digest
from runtime.manifest import DeviceEntry as DeviceEntry
from runtime.manifest import HostEntry, ModelEntry, Segment, Size, Strict, TensorEntry

SCHEMA_VERSION = 1


class StepEntry(Strict):
    """One step of the library, in order of execution: its C function's name, and the layers that it computes."""

    name: str
    op: str
    onnx_node: str
    layers: tuple[str, ...]


class StepsManifest(Strict):
    """What manifests of programs in steps, for CPUs and GPUs, share. `inputs` and `outputs` are those of the library, in its
    order; `batch` and `tokens` the most it takes. `digests` are blake2b (32 bytes, hex) of the other files (of weights.bin
    its header's, which holds that of the rest) but a CPU's library, whose digest is in build.json; `digest` is this
    file's own, made with an empty one."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: ModelEntry
    target: dict[str, Any]
    batch: Size
    tokens: Size
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    id_limits: dict[str, Size]
    steps: tuple[StepEntry, ...]
    model_inputs: tuple[TensorEntry, ...]
    model_outputs: tuple[TensorEntry, ...]
    segments: tuple[Segment, ...]
    digests: dict[str, str] = {}
    digest: str = ""

    def own_digest(self) -> str:
        """That of this file's text with `digest` empty."""
        return digest(self.model_copy(update={"digest": ""}).text().encode())

    @property
    def host_segments(self) -> tuple[HostEntry, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, HostEntry))

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


M = TypeVar("M", bound=StepsManifest)


def parse_manifest(text: str, where: str, form: type[M]) -> M:
    """The manifest of a JSON text. Raises InputError for damage, and for a bundle of another version."""
    try:
        head: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("HPCC1269", f"not valid JSON: {error}", where=where) from error
    entries: dict[str, Any] = {**head} if isinstance(head, dict) else {}
    found = entries.get("schema_version")
    if found != SCHEMA_VERSION:
        hint = "compile the model again, or use the release that wrote it"
        message = f"schema_version is {found!r}, this release reads {SCHEMA_VERSION}"
        raise InputError("HPCC1270", message, where=where, hint=hint)
    try:
        manifest = form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError("HPCC1269", f"{place}: {first['msg']}", where=where) from error
    _expect_made(manifest, where)
    return manifest


def _expect_made(manifest: StepsManifest, where: str) -> None:
    """Raises InputError unless every tensor that a segment or the user reads has been made by then."""
    made = {tensor.name for tensor in manifest.model_inputs}
    for segment in manifest.segments:
        host = isinstance(segment, HostEntry)
        needs = segment.inputs if host else [tensor.name for tensor in manifest.inputs]
        gives = segment.outputs if host else [tensor.name for tensor in manifest.outputs]
        for name in needs:
            if name not in made:
                reader = segment.file if host else "the library"
                raise InputError("HPCC1269", f"{reader} reads {name!r}, which nothing before it makes", where=where)
        made.update(gives)
    for tensor in manifest.model_outputs:
        if tensor.name not in made:
            raise InputError("HPCC1269", f"nothing makes the output {tensor.name!r}", where=where)


def kind_of(path: Path) -> str:
    """The kind of target that a folder's manifest names; empty where there is none that can be read, or for an FPGA."""
    try:
        check_plain(path / "manifest.json")
        head: Any = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, InputError):
        return ""
    entries: dict[str, Any] = {**head} if isinstance(head, dict) else {}
    kind = entries.get("kind")
    return kind if isinstance(kind, str) else ""
