"""Damaged and hostile bundles: rejected in one line that names the place, or run to a clean end; whatever their digests.

The edits below are made with and without digests that match. A bundle whose digests match was made by somebody who
knows the format, so that only the checks behind the digests stand between it and the machine that runs it.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hw_targets.asm import disassemble
from hw_targets.codec import HEADER, decode, encode
from hw_targets.errors import InputError
from hw_targets.isa import INSTRUCTION_BYTES, Address, Instruction
from runtime.bundle import save_bundle
from runtime.cli import main_objdump, main_run
from tests.e2e.harness import TARGET, Done, call, hpcc, resign
from tests.graphs import Encoder, write
from tests.unit.hand_programs import LinearData
from tests.unit.instruction_strategies import instructions
from tests.unit.test_program import host_bundle

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
MODELS = {
    "nm": (replace(SMALL, head="pooler"), "nm:2:4"),
    "hp": (replace(SMALL, hidden=64, intermediate=96), "hp:0.75"),
    "unstructured": (SMALL, "unstructured:0.75"),
}
SECONDS = 60
"""None of the bundles takes a second to load and run; a damaged one may ask for some more work, not for any amount."""

NAMED = re.compile(
    r"(program\.(bin|asm)|weights\.bin|manifest\.json|host/\w+\.onnx|instruction \d+|(tensor|input|output) ')"
)
"""What a rejection names: a file of the bundle, an instruction, a tensor."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole bundles by name: every storage format, and one with work for the host on both sides of the device."""
    folder = tmp_path_factory.mktemp("shelf")
    for name, (encoder, pattern) in MODELS.items():
        model = write(encoder, folder / f"{name}.onnx", 2, 7)
        done = hpcc(model, "--target", TARGET, "--sparsity", pattern, "-q", "-o", folder / f"{name}.hpcc")
        assert (done.status, done.err) == (0, "")
    save_bundle(host_bundle(LinearData()), folder / "host.hpcc")
    return {name: folder / f"{name}.hpcc" for name in (*MODELS, "host")}


# ---- edits ----------------------------------------------------------------------------------------------------------

Edit = Callable[[Path], None]
NUMBERS = [0, 1, 2, 3, 5, 8, 16, 33, 64, 255, 4096, 65535, 1 << 20, (1 << 24) - 1, 1 << 31, (1 << 32) - 1]
VALUES: list[Any] = [
    *NUMBERS,
    -1,
    1 << 40,
    10**30,
    0.0,
    1.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "a\nb",
    "float32",
    "object",
    "/dev/zero",
    "\u2028",
    None,
    True,
    [],
    [1],
    {},
]


@st.composite
def byte_edits(draw: st.DrawFn, name: str, size: int, first: int = 0) -> Edit:
    """Some bytes of a file changed, or the file cut."""
    if draw(st.integers(0, 9)) == 0:
        kept = draw(st.integers(0, size - 1))
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept]) and None
    places = draw(st.lists(st.tuples(st.integers(first, size - 1), st.integers(1, 255)), min_size=1, max_size=8))

    def edit(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        for place, bits in places:
            data[place] ^= bits
        (folder / name).write_bytes(data)

    return edit


@st.composite
def program_edits(draw: st.DrawFn, program: list[Instruction]) -> Edit:
    """One to three instructions taken out, repeated, exchanged, changed in one field, or made up."""
    edited = list(program)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(edited) - 1))
        kind = draw(st.sampled_from(["drop", "repeat", "swap", "new", "immediate", "immediate", "address", "semaphore"]))
        if kind == "drop" and len(edited) > 1:
            del edited[place]
        elif kind == "repeat":
            edited.insert(draw(st.integers(0, len(edited))), edited[place])
        elif kind == "swap":
            other = draw(st.integers(0, len(edited) - 1))
            edited[place], edited[other] = edited[other], edited[place]
        elif kind == "new":
            edited.insert(place, draw(instructions()))
        else:
            edited[place] = draw(changed(edited[place], kind))

    def edit(folder: Path) -> None:
        (folder / "program.bin").write_bytes(encode(edited))
        (folder / "program.asm").write_text(disassemble(edited), encoding="utf-8")

    return edit


@st.composite
def changed(draw: st.DrawFn, instruction: Instruction, kind: str) -> Instruction:
    """The instruction with one immediate, address or list of semaphores changed to what its encoding can hold."""
    if kind == "immediate" and instruction.immediates:
        field = draw(st.sampled_from(instruction.function.immediates))
        if field.is_float:
            value: int | float = draw(st.sampled_from([0.0, 1.0, 1e30, -1e30, 2.0**-140]))
        else:
            most = {"mode": 3, "format": 4, "activation": 3}.get(field.name, (1 << field.bits) - 1)
            value = draw(st.sampled_from([number for number in NUMBERS if number <= most]))
        pairs = ((name, value if name == field.name else old) for name, old in instruction.immediates)
        return replace(instruction, immediates=tuple(pairs))
    if kind == "address" and instruction.operands:
        chosen, old = draw(st.sampled_from(instruction.operands))
        near = st.sampled_from([1, 2, 4, 64]).map(lambda step: old.base + step)
        base = draw(near | st.sampled_from(NUMBERS))
        pitch = draw(st.sampled_from([old.pitch, old.pitch + 1, *NUMBERS]))
        strides = draw(st.sampled_from([old.strides, (1, 0), (-4, 64), (-(1 << 31), 0)]))
        new = Address(min(base, (1 << 32) - 1), min(pitch, (1 << 32) - 1), strides)
        return replace(instruction, operands=tuple((name, new if name == chosen else a) for name, a in instruction.operands))
    numbers = draw(st.lists(st.integers(0, 31), max_size=3).map(tuple))
    return replace(instruction, waits=numbers) if draw(st.booleans()) else replace(instruction, signals=numbers)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a JSON document."""
    entries = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def manifest_edits(draw: st.DrawFn, manifest: dict[str, Any]) -> Edit:
    """Up to three values of the manifest replaced, removed or repeated."""
    text = json.dumps(manifest)
    for _ in range(draw(st.integers(1, 3))):
        document = json.loads(text)
        section = draw(st.sampled_from(sorted(set(document) - {"digest", "schema_version", "isa_version"})))
        path = draw(st.sampled_from([(section,), *places(document[section], (section,))]))
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if kind == "remove":
            del holder[path[-1]]
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(holder[path[-1]])
        else:
            holder[path[-1]] = draw(st.sampled_from(VALUES))
        text = json.dumps(document)
    return lambda folder: (folder / "manifest.json").write_text(text, encoding="utf-8") and None


@st.composite
def file_edits(draw: st.DrawFn, names: list[str]) -> Edit:
    """A file taken away, renamed, exchanged with another one, replaced by a folder, or put there in addition."""
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["remove", "rename", "exchange", "folder", "extra"]))

    def edit(folder: Path) -> None:
        file = folder / name
        if kind == "remove":
            file.unlink()
        elif kind == "rename":
            file.rename(file.with_name(f"{file.name}.old"))
        elif kind == "exchange":
            first, second = file.read_bytes(), (folder / other).read_bytes()
            file.write_bytes(second)
            (folder / other).write_bytes(first)
        elif kind == "folder":
            file.unlink()
            file.mkdir()
        else:
            (folder / "extra.bin").write_bytes(b"extra")

    return edit


@st.composite
def edits(draw: st.DrawFn, bundle: Path) -> Edit:
    names = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())
    sealed = [name for name in names if name in ("program.bin", "weights.bin", "program.asm") or name.startswith("host/")]
    kind = draw(st.sampled_from(["bytes", "bytes", "program", "program", "manifest", "manifest", "files"]))
    event(f"an edit of {kind}")
    if kind == "bytes":
        name = draw(st.sampled_from(sealed))
        return draw(byte_edits(name, (bundle / name).stat().st_size))
    if kind == "program":
        return draw(program_edits(decode((bundle / "program.bin").read_bytes())))
    if kind == "manifest":
        return draw(manifest_edits(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))))
    return draw(file_edits([*sealed, "manifest.json"]))


# ---- what must hold -------------------------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fails after so many seconds; a machine without SIGALRM has no limit."""

    def stop(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(done: Done) -> bool:
    """Whether the command succeeded; asserts that it did, or refused in one line that names the place."""
    said = [line for line in done.err.splitlines() if not line.startswith("note: no --inputs")]
    if done.status == 0:
        assert said == []
        return True
    assert done.status == 1, (done.status, done.err)
    assert len(said) == 1, done.err
    assert re.search(r"error: .* \[HPCC\d{4}\]$", said[0]), said[0]
    assert "HPCC1900" not in said[0], said[0]
    assert NAMED.search(said[0]), said[0]
    event(said[0][-9:])
    return False


def check(bundle: Path, edit: Edit, *, signed: bool) -> None:
    """Edit a copy and let every command that reads a bundle have it."""
    with tempfile.TemporaryDirectory() as place, time_limit(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("error")
        folder, out = Path(place) / "x.hpcc", Path(place) / "out.npz"
        shutil.copytree(bundle, folder)
        edit(folder)
        if signed:
            resign(folder)
        listed = judge(call(main_objdump, folder))
        assert judge(call(main_objdump, folder, "--sections")) == listed, "both print what loads"
        ran = judge(call(main_run, folder, "--json", "-o", out))
        assert listed or not ran
        assert out.exists() == ran, "nothing is written after an error"


@pytest.mark.parametrize("name", [*MODELS, "host"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_whole_bundle_passes(shelf: dict[str, Path], name: str, signed: bool) -> None:
    """The control: without an edit every command succeeds, digests made anew or not."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "x.hpcc"
        shutil.copytree(shelf[name], folder)
        if signed:
            resign(folder)
        for command in ((main_run, folder, "-o", folder.parent / "out.npz"), (main_objdump, folder)):
            assert judge(call(*command))


FAST = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SLOW = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(shelf: dict[str, Path], data: st.DataObject) -> None:
    bundle = shelf[data.draw(st.sampled_from(sorted(shelf)))]
    check(bundle, data.draw(edits(bundle)), signed=data.draw(st.sampled_from([True, True, True, False])))


@FAST
@given(data=st.data())
def test_damage_is_refused_or_harmless(shelf: dict[str, Path], data: st.DataObject) -> None:
    attempt(shelf, data)


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_damage_is_refused_or_harmless_more_often(shelf: dict[str, Path], data: st.DataObject) -> None:
    attempt(shelf, data)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.binary(min_size=INSTRUCTION_BYTES, max_size=INSTRUCTION_BYTES) | instructions(), max_size=4))
def test_random_words_are_no_program_and_say_which(parts: list[bytes | Instruction]) -> None:
    """Random records among valid ones: the decoder names the first that is none."""
    records = [part if isinstance(part, bytes) else encode([part])[HEADER.size :] for part in parts]
    header = encode([])[:8] + len(records).to_bytes(4, "little") + bytes(4)
    try:
        decode(header + b"".join(records))
    except InputError as error:
        index = int(error.where.split()[1])
        assert isinstance(parts[index], bytes)
        assert all(not isinstance(part, bytes) or decodes(header, part) for part in parts[:index])
    else:
        assert all(not isinstance(part, bytes) or decodes(header, part) for part in parts)


def decodes(header: bytes, record: bytes) -> bool:
    try:
        decode(header[:8] + (1).to_bytes(4, "little") + bytes(4) + record)
    except InputError:
        return False
    return True
