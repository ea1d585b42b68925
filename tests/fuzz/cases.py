"""A case: files in a folder of its own and a command line that reads them, made from a kind and a number alone."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx

from hw_targets.asm import disassemble
from hw_targets.catalogue import target_files
from hw_targets.codec import decode, encode
from hw_targets.errors import HpccError
from hw_targets.isa import Address, Instruction
from tests.e2e.harness import resign
from tests.fuzz import edits, pruning
from tests.fuzz.corpus import ENCODERS, FPGA, SHAPE
from tests.fuzz.workshop import OUT, OUTPUTS, Case, Workshop
from tests.graphs import feeds


def make(kind: str, number: int, corpus: Path, folder: Path) -> Case:
    """Write the files of a case into the empty `folder`."""
    shop = Workshop(Random(f"{kind} {number}"), corpus, folder)
    return replace(KINDS[kind](shop), name=f"{kind}-{number}")


def models(shop: Workshop) -> Case:
    """An ONNX file with damage."""
    random = shop.random
    node = random.random() < 0.2
    source = shop.pick("nodes/*.onnx" if node else "models/*.onnx")
    path = shop.folder / "model.onnx"
    data = source.read_bytes()
    edits.write_traps(shop.folder)
    if source.name == "external.onnx":
        blob = (source.parent / "external.bin").read_bytes()
        (shop.folder / "external.bin").write_bytes(edits.damaged_bytes(random, blob) if random.random() < 0.5 else blob)
    if random.random() < 0.3:
        path.write_bytes(edits.damaged_bytes(random, data))
    else:
        path.write_bytes(edits.damaged_model(random, onnx.ModelProto.FromString(data)))
    shop.older()
    if random.random() < 0.15:
        passes = random.choice(
            ["hpcc-fuse", "hpcc-fuse,hpcc-partition", "hpcc-fuse,hpcc-partition,hpcc-quantize", "canonicalize"]
        )
        return Case("", "hpcc-opt", ("model.onnx", *SHAPE, "-p", passes))
    target = random.choice([FPGA, FPGA, FPGA, "fpga-zcu104", "cpu-avx2"])
    shape = SHAPE if not node and random.random() < 0.95 else ()
    return Case("", "hpcc", ("model.onnx", "--target", target, *shape, *shop.sparsity(), *shop.ways(target), *OUT), OUTPUTS)


def targets(shop: Workshop) -> Case:
    """A target file with damage."""
    random = shop.random
    path = shop.take("targets/*.toml", "board.toml")
    text = path.read_text(encoding="utf-8")
    if random.random() < 0.2:
        path.write_bytes(edits.damaged_bytes(random, text.encode()))
    else:
        path.write_text(edits.damaged_text(random, text), encoding="utf-8")
    shop.take("models/plain.onnx", "model.onnx")
    shop.older()
    ways = random.choice(
        [["--timing-only"], ["--emit", "schedule"], ["--emit", "asm"], ["--emit", "c"], ["--check"], ["--emit", "program"]]
    )
    return Case("", "hpcc", ("model.onnx", "--target", "board.toml", *SHAPE, *shop.sparsity(), *ways, *OUT), OUTPUTS)


def arrays(shop: Workshop) -> Case:
    """An .npz file with damage, or with arrays that are not those of the model."""
    random = shop.random
    path = shop.take("inputs/*.npz", "inputs.npz")
    if random.random() < 0.4:
        path.write_bytes(edits.damaged_bytes(random, path.read_bytes()))
    else:
        _odd_arrays(random, path)
    if random.random() < 0.5:
        shop.take("models/plain.onnx", "model.onnx")
        shop.older()
        rest = random.choice([["--no-verify"], [], ["--timing-only"]])
        return Case("", "hpcc", ("model.onnx", "--target", FPGA, *SHAPE, "--inputs", "inputs.npz", *rest, *OUT), OUTPUTS)
    kind = random.choice(["fpga/dense.hpcc", "fpga/unstructured.hpcc", "cpu/dense.hpcc"])
    shop.take(kind, "program.hpcc")
    return Case("", "hpcc-run", ("program.hpcc", "--inputs", "inputs.npz", "-o", "out.npz"), ("out.npz",))


def _odd_arrays(random: Random, path: Path) -> None:
    given: dict[str, Any] = dict(feeds(ENCODERS["plain"], random.choice([1, 2, 3, 4]), 7))
    for _ in range(random.choice([1, 1, 2])):
        name = random.choice(list(given))
        array = np.asarray(given[name])
        change = random.choice(["dtype", "shape", "name", "value", "object", "drop", "extra", "order", "scalar", "member"])
        if change == "dtype":
            kinds = [
                "float32",
                "float64",
                "int8",
                "uint64",
                "bool",
                "complex64",
                "U4",
                "S4",
                "datetime64[s]",
                "int32",
                ">i8",
                "float16",
            ]
            if array.dtype.names is None and array.dtype.kind != "O":
                given[name] = array.astype(random.choice(kinds))
        elif change == "shape":
            given[name] = np.resize(
                array, random.choice([(0,), (7,), (2, 7, 1), (2, 6), (2, 8), (0, 7), (100, 7), (2, 0), ()])
            )
        elif change == "name":
            given[random.choice([*edits.TEXTS[1:5], "input_ids", "a/b", "../a"])] = given.pop(name)
        elif change == "value":
            array = array.copy()
            at, value = (
                random.randrange(array.size) if array.size else slice(0),
                random.choice([-1, 50, 1 << 40, -(1 << 63)]),
            )
            with contextlib.suppress(
                ValueError, OverflowError, TypeError
            ):  # an earlier change may have made bytes or dates of it
                array.flat[at] = value
            given[name] = array
        elif change == "object":
            given[name] = np.array([{"a": 1}, None], dtype=object)
        elif change == "drop":
            del given[name]
            if not given:
                break
        elif change == "extra":
            given["labels"] = np.arange(random.choice([0, 1, 4]))
        elif change == "order":
            given[name] = np.asfortranarray(array)
        elif change == "scalar":
            given[name] = np.int64(1)
        else:
            given[name] = np.zeros(3, [("a", "i4"), ("b", "f4")])
    with zipfile.ZipFile(path, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, array in given.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
            data = stream.getvalue()
            if random.random() < 0.2:
                data = edits.damaged_bytes(random, data[:128]) + data[128:]
            archive.writestr(f"{name}{random.choice(['.npy'] * 8 + ['', '.npz'])}", data)


# ---- bundles --------------------------------------------------------------------------------------------------------


def programs(shop: Workshop) -> Case:
    """A bundle of the accelerator, damaged by somebody who can make digests."""
    random = shop.random
    bundle = shop.take("fpga/*.hpcc", "program.hpcc")
    for _ in range(random.choice([1, 1, 2])):
        kind = random.choice(["manifest", "manifest", "program", "program", "weights", "host", "bytes", "files"])
        try:
            _damage_bundle(random, bundle, kind)
        except (OSError, ValueError, HpccError):  # the second edit finds what the first one left
            break
    if random.random() < 0.85:
        resign(bundle)
    return _run_or_show(random)


def _run_or_show(random: Random) -> Case:
    tool = random.choice(["hpcc-run", "hpcc-run", "hpcc-objdump"])
    if tool == "hpcc-objdump":
        return Case("", tool, ("program.hpcc", *random.choice([(), ("--sections",)])))
    rest = random.choice([(), (), ("--json",), ("--timing-only",), ("--repeat", "2")])
    return Case("", tool, ("program.hpcc", *rest, "-o", "out.npz"), ("out.npz",))


def _damage_bundle(random: Random, bundle: Path, kind: str) -> None:
    names = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())
    if kind == "manifest":
        file = bundle / "manifest.json"
        kept = frozenset({"digest", "digests", "schema_version", "isa_version"} if random.random() < 0.9 else ())
        file.write_text(edits.damaged_json(random, file.read_text(encoding="utf-8"), kept), encoding="utf-8")
    elif kind == "program":
        program = decode((bundle / "program.bin").read_bytes())
        for _ in range(random.choice([1, 1, 2, 3])):
            _damage_program(random, program)
        (bundle / "program.bin").write_bytes(encode(program))
        (bundle / "program.asm").write_text(disassemble(program), encoding="utf-8")
    elif kind == "files":
        name, other = random.choice(names), random.choice(names)
        change = random.choice(["remove", "exchange", "folder", "extra", "link"])
        if change == "exchange":
            first, second = (bundle / name).read_bytes(), (bundle / other).read_bytes()
            (bundle / name).write_bytes(second)
            (bundle / other).write_bytes(first)
        elif change == "extra":
            (bundle / "extra.bin").write_bytes(b"extra")
        else:
            (bundle / name).unlink()
            if change == "folder":
                (bundle / name).mkdir()
            elif change == "link":
                (bundle / name).symlink_to(random.choice(["/etc/hostname", "/dev/zero", "nowhere", name]))
    else:
        wanted = [name for name in names if kind == "bytes" or name.startswith(kind)] or names
        file = bundle / random.choice(wanted)
        file.write_bytes(edits.damaged_bytes(random, file.read_bytes()))


def _damage_program(random: Random, program: list[Instruction]) -> None:
    """An instruction taken out, repeated, exchanged, put into a loop, or changed in one field."""
    place = random.randrange(len(program))
    chosen = program[place]
    kind = random.choice(
        ["drop", "repeat", "swap", "loop", "immediate", "immediate", "immediate", "address", "address", "semaphore"]
    )
    if kind == "drop" and len(program) > 1:
        del program[place]
    elif kind == "repeat":
        program.insert(random.randrange(len(program)), chosen)
    elif kind == "swap":
        other = random.randrange(len(program))
        program[place], program[other] = program[other], chosen
    elif kind == "loop":
        count = random.choice([number for number in edits.NUMBERS if number < 1 << 32])
        end = random.randrange(place, len(program)) + 1
        program.insert(min(end, len(program) - 1), Instruction("control.end"))
        program.insert(place, Instruction("control.loop", immediates=(("count", count),)))
    elif kind == "immediate" and chosen.immediates:
        field = random.choice(chosen.function.immediates)
        most = {"mode": 3, "format": 4, "activation": 3}.get(field.name, (1 << field.bits) - 1)
        whole = [number for number in edits.NUMBERS if number <= most]
        value: Any = random.choice([0.0, 1.0, 1e30, -1e30, 2.0**-140]) if field.is_float else random.choice(whole)
        pairs = tuple((name, value if name == field.name else old) for name, old in chosen.immediates)
        program[place] = replace(chosen, immediates=pairs)
    elif kind == "address" and chosen.operands:
        operand, old = random.choice(chosen.operands)
        base = random.choice([old.base + random.choice([1, 2, 4, 64]), *edits.NUMBERS])
        pitch = random.choice([old.pitch, old.pitch + 1, *edits.NUMBERS])
        strides = random.choice([old.strides, (1, 0), (-4, 64), (-(1 << 31), 0)])
        new = Address(min(base, (1 << 32) - 1), min(pitch, (1 << 32) - 1), strides)
        program[place] = replace(
            chosen, operands=tuple((name, new if name == operand else a) for name, a in chosen.operands)
        )
    elif kind == "semaphore":
        numbers = tuple(random.randrange(32) for _ in range(random.randrange(4)))
        field_name = random.choice(["waits", "signals"])
        program[place] = replace(chosen, **{field_name: numbers})


def libraries(shop: Workshop) -> Case:
    """A bundle for a CPU, damaged; its machine code is never changed under a digest that matches."""
    random = shop.random
    bundle = shop.take("cpu/*.hpcc", "program.hpcc")
    kind = random.choice(["manifest", "manifest", "manifest", "weights", "build", "bytes", "files"])
    with contextlib.suppress(OSError, ValueError, IndexError):
        _damage_bundle(random, bundle, kind)
    if kind in ("manifest", "weights") and random.random() < 0.9:
        resign_cpu(bundle)
    return _run_or_show(random)


def resign_cpu(bundle: Path) -> None:
    """Make the digests of a CPU bundle those of its files, as far as its manifest still reads."""
    from runtime.bundle import digest
    from runtime.cpu.manifest import CpuManifest
    from runtime.steps.files import WEIGHTS_HEADER
    from runtime.steps.manifest import parse_manifest

    try:
        document = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        for name in document["digests"]:
            if (bundle / name).is_file():
                content = (bundle / name).read_bytes()
                document["digests"][name] = digest(content[:WEIGHTS_HEADER] if name == "weights.bin" else content)
        document["digest"] = parse_manifest(json.dumps(document), "", CpuManifest).own_digest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HpccError):
        return
    (bundle / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


# ---- the rest -------------------------------------------------------------------------------------------------------


def stages(shop: Workshop) -> Case:
    """A dumped stage with damage in its text or its weights."""
    random = shop.random
    source = shop.pick("stages/*.mlir")
    path = shop.folder / source.name
    text = source.read_text(encoding="utf-8")
    weights = source.with_suffix(".safetensors")
    blob = weights.read_bytes() if weights.exists() else b""
    if random.random() < 0.25 and blob:
        blob = edits.damaged_bytes(random, blob[:400]) + blob[400:]
    else:
        text = edits.damaged_text(random, text)
    path.write_text(text, encoding="utf-8")
    if blob:
        path.with_suffix(".safetensors").write_bytes(blob)
    if random.random() < 0.3:
        return Case("", "hpcc-opt", (path.name,))
    stage = source.stem.split(".")[1]
    rest = random.choice(
        [["--emit", "asm"], ["--emit", "program"], ["--timing-only"], ["--emit", "schedule"], ["--no-verify"]]
    )
    return Case("", "hpcc", (path.name, "--from", stage, "--target", FPGA, *rest, *OUT), OUTPUTS)


def texts(shop: Workshop) -> Case:
    """A text or a tokenizer with damage."""
    random = shop.random
    shop.take("models/plain.onnx", "model.onnx")
    tokenizer, text = shop.take("texts/tokenizer.json", "tokenizer.json"), shop.take("texts/text.txt", "text.txt")
    if random.random() < 0.3:
        text.write_bytes(edits.damaged_bytes(random, text.read_bytes()))
    elif random.random() < 0.7:
        tokenizer.write_text(edits.damaged_json(random, tokenizer.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        tokenizer.write_bytes(edits.damaged_bytes(random, tokenizer.read_bytes()))
    rest = random.choice([[], ["--max-length", str(random.choice([1, 7, 8, -1, 0]))]])
    given = ("--text", "text.txt", "--tokenizer", "tokenizer.json", *rest)
    return Case("", "hpcc", ("model.onnx", "--target", FPGA, *SHAPE, *given, "--timing-only", *OUT), OUTPUTS)


FLAGS: dict[str, list[str]] = {
    "--target": [FPGA, "fpga-u28", "cpu-avx2", "x.toml", "folder", ""],
    "--shape": [
        "input_ids:2x7",
        "input_ids:1x-1",
        "input_ids:0x7",
        "x:1",
        ":",
        "input_ids:2x7x1",
        "input_ids:999999x7",
        "input_ids:2x17",
    ],
    "--sparsity": [
        "dense",
        "nm:2:4",
        "nm:0:4",
        "nm:4:2",
        "hp:0.75",
        "hp:2",
        "hp:",
        "hp:rows=0",
        "hp:rows=64,window=32,keep=99",
        "block:0x1:0.5",
        "block:4x1:nan",
        "unstructured:1",
        "unstructured:-1",
        "unstructured:1e-9",
        "circulant:8",
        "nm:1:99999999999",
        "hp:rows=64,window=32,keep=16,fine=9:4",
        "block:99999999999x1:0.5",
        "auto",
        "",
    ],
    "--precision": ["int8", "fp32", "int4", ""],
    "--inputs": ["inputs.npz", "model.onnx", "nowhere", "folder", "/dev/null"],
    "--text": ["text.txt", "nowhere", "folder", "model.onnx"],
    "--tokenizer": ["tokenizer.json", "nowhere", "folder", "text.txt"],
    "--max-length": ["7", "0", "-1", "99999999999999999999", "x"],
    "--rtol": ["0.1", "nan", "-1", "inf", "1e400", "x"],
    "--atol": ["0.1", "0", "nan", "-1"],
    "--emit": ["import", "tile", "asm", "c", "program", "nonsense", ""],
    "--from": ["import", "tile", "nonsense"],
    "--output": ["out.hpcc", "folder", "text.txt", "text.txt/x", "out.mlir", "", ".", "..", "/", "/proc/x", "x" * 300],
    "--dump-stages": ["stages", "text.txt", "text.txt/x"],
    "--explain": ["HPCC1004", "x", ""],
}
SWITCHES = ["--verify", "--no-verify", "--verify-each", "--check", "--timing-only", "--time-passes", "--print-pipeline",
            "--list-targets", "--list-layers", "--json", "-v", "-q", "--version", "--nonsense", "--help"]  # fmt: skip


def commands(shop: Workshop) -> Case:
    """A command line of hpcc or hpcc-run with odd values."""
    random = shop.random
    shop.take("models/plain.onnx", "model.onnx")
    shop.take("inputs/good.npz", "inputs.npz")
    shop.take("texts/tokenizer.json", "tokenizer.json")
    shop.take("texts/text.txt", "text.txt")
    (shop.folder / "folder").mkdir()
    (shop.folder / "folder" / "precious").write_text("precious\n", encoding="utf-8")
    if random.random() < 0.25:
        shop.take(random.choice(["fpga/dense.hpcc", "cpu/dense.hpcc"]), "program.hpcc")
        values = ["0", "1", "-1", "3", "x", "99999999999999999999", "1e3", ""]
        chosen = ["program.hpcc"]
        for flag in random.sample(
            ["--repeat", "--threads", "--inputs", "-o", "--json", "--timing-only", "--sections", "extra"], k=2
        ):
            chosen.append(flag)
            if flag in ("--repeat", "--threads"):
                chosen.append(random.choice(values[:5] + values[6:] if flag == "--repeat" else values))
            elif flag == "--inputs":
                chosen.append(random.choice(FLAGS["--inputs"]))
            elif flag == "-o":
                chosen.append(random.choice(["out.npz", "folder", "text.txt/x", ""]))
        return Case("", random.choice(["hpcc-run", "hpcc-run", "hpcc-objdump"]), tuple(chosen), ("out.npz", ".npz"))
    base = ["model.onnx", "--target", FPGA, *SHAPE, "-o", "out.hpcc"]
    chosen = base if random.random() < 0.7 else [word for word in base if random.random() < 0.8]
    for _ in range(random.choice([1, 1, 2, 3])):
        if random.random() < 0.4:
            chosen = [*chosen, random.choice(SWITCHES)]
        else:
            flag = random.choice(list(FLAGS))
            chosen = [*chosen, flag, random.choice(FLAGS[flag])]
    return Case("", "hpcc", tuple(chosen), (*OUTPUTS, "out.mlir", "model."))


KINDS: dict[str, Callable[[Workshop], Case]] = {
    "models": models,
    "targets": targets,
    "arrays": arrays,
    "programs": programs,
    "libraries": libraries,
    "stages": stages,
    "texts": texts,
    "commands": commands,
    "prunes": pruning.prunes,
    "recipes": pruning.recipes,
    "reports": pruning.reports,
}
WEIGHTS = {"models": 8, "programs": 5, "targets": 3, "arrays": 2, "libraries": 2, "stages": 2, "texts": 1, "commands": 2}
WEIGHTS |= {"prunes": 3, "recipes": 2, "reports": 1}

assert set(WEIGHTS) == set(KINDS)
assert FPGA in target_files()
