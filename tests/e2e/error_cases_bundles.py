"""Bundles that were damaged, or changed by somebody who can make digests, by the name of their golden line."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hw_targets.codec import decode, encode
from hw_targets.isa import Instruction


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rename(file: Path) -> None:
    """Still valid JSON: another name of the model."""
    text = file.read_text(encoding="utf-8")
    assert '"name": "dynamic"' in text
    file.write_text(text.replace('"name": "dynamic"', '"name": "dynamit"'), encoding="utf-8")


def newer(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")


EDITED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated program": ("program.bin", cut),
    "edited program": ("program.bin", flip),
    "empty program": ("program.bin", empty),
    "missing program": ("program.bin", Path.unlink),
    "edited listing": ("program.asm", flip),
    "truncated weights": ("weights.bin", cut),
    "edited weights": ("weights.bin", flip),
    "empty weights": ("weights.bin", empty),
    "missing weights": ("weights.bin", Path.unlink),
    "truncated manifest": ("manifest.json", lambda file: file.write_bytes(file.read_bytes()[:1000]) and None),
    "edited manifest": ("manifest.json", rename),
    "empty manifest": ("manifest.json", empty),
    "missing manifest": ("manifest.json", Path.unlink),
    "manifest of a newer release": ("manifest.json", newer),
}


# ---- with digests that are right ---------------------------------------------------------------------------------------


def manifest(*path: str | int, value: Any) -> Callable[[Path], None]:
    """Set one value of the manifest."""

    def change(bundle: Path) -> None:
        file = bundle / "manifest.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        file.write_text(json.dumps(document), encoding="utf-8")

    return change


def program(change: Callable[[list[Instruction]], None]) -> Callable[[Path], None]:
    """Change the instructions."""

    def edit(bundle: Path) -> None:
        instructions = decode((bundle / "program.bin").read_bytes())
        change(instructions)
        (bundle / "program.bin").write_bytes(encode(instructions))

    return edit


def endless_loop(program: list[Instruction]) -> None:
    program[:0] = [
        Instruction("control.loop", immediates=(("count", (1 << 32) - 1),)),
        Instruction("control.end"),
    ]


def huge_matrix(program: list[Instruction]) -> None:
    """A matrix of 4 G entries of which one is stored."""
    place = next(i for i, instruction in enumerate(program) if instruction.name == "load.weights")
    values = {"format": 3, "outs": 65535, "ins": 65535, "n": 1, "m": 1, "stored_bytes": 64, "kept": 1}
    changed = tuple((name, values.get(name, 0)) for name, _ in program[place].immediates)
    program[place] = replace(program[place], immediates=changed)


def without_first_signal(program: list[Instruction]) -> None:
    place = next(i for i, instruction in enumerate(program) if instruction.signals)
    program[place] = replace(program[place], signals=())


def pipe(bundle: Path) -> None:
    (bundle / "weights.bin").unlink()
    os.mkfifo(bundle / "weights.bin")


def deep(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[" * 100_000, encoding="utf-8")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "hostile: memory beyond the target": manifest("sizes", "act", value=1 << 40),
    "hostile: memory beyond any address": manifest("sizes", "dram", value=1 << 62),
    "hostile: tensor beyond reason": manifest("model_inputs", 0, "shape", value=[1 << 31, 7]),
    "hostile: empty tensor": manifest("model_inputs", 0, "shape", value=[0, 7]),
    "hostile: type that is none": manifest("model_inputs", 0, "dtype", value="object"),
    "hostile: output of another shape": manifest("model_outputs", 0, "shape", value=[2, 7, 16, 2]),
    "hostile: clock that stands": manifest("target", "clock", "mhz", value=0),
    "hostile: clock that is text": manifest("target", "clock", "mhz", value="fast"),
    "hostile: no queue": manifest("target", "accelerator", "queue_depth", value=0),
    "hostile: window that is no power of two": manifest("target", "accelerator", "window", value=33),
    "hostile: file outside": manifest("digests", "/dev/zero", value=""),
    "hostile: pipe for a file": pipe,
    "hostile: deep manifest": deep,
    "hostile: endless loop": program(endless_loop),
    "hostile: matrix beyond reason": program(huge_matrix),
    "hostile: signal left out": program(without_first_signal),
}
