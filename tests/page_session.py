"""A page read as its reader would: one folder, one shell, one Python, the blocks in order."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.workloads import TORCH_PYTHON
from hw_targets.cpu import CpuTarget
from hw_targets.load import load_any_target
from tests.graphs import Encoder, build, feeds
from tests.pages import ROOT, Block, Page, printed_as_shown

MODEL = Encoder(
    hidden=64,
    heads=2,
    intermediate=128,
    layers=2,
    vocabulary=400,
    positions=128,
    token_types="none",
    position="sliced",
    head="classifier",
)
TOKENS, SAMPLES, LABELS = 128, 64, 3


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _multiplies_bytes() -> bool:
    target = load_any_target("cpu-host")
    return isinstance(target, CpuTarget) and target.instructions.int8 is not None


NEEDS: Mapping[str, Callable[[], bool]] = {
    "nothing": lambda: True,
    "torch": lambda: _has("torch"),
    "an exporter": lambda: _has("torch") or TORCH_PYTHON in os.environ,
    "triton": lambda: _has("triton") and _has("torch"),
    "iree": lambda: _has("iree"),
    "int8 products": _multiplies_bytes,
}
"""What a block may need, and whether it is here."""
MARK = "end of the command:"
PYTHON = f"""
import json, sys, traceback
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    status = 0
    try:
        exec(json.loads(line), names)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        status = 1
    print("\\n{MARK}", status, flush=True)
"""


def expected(block: Block) -> bool:
    """Whether a block has to run here."""
    return block.is_code and "not run" not in block.notes and NEEDS[block.notes.get("needs", "nothing")]()


class Session:
    """A folder that looks like a clone of the repository, and what a page is given. Leaving it ends both interpreters."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder, self.ran = page, folder, list[Block]()
        for path in ROOT.iterdir():
            if path.name != "build" and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        _environment(folder / ".venv")
        environment = {
            **os.environ,
            "PATH": f"{_commands(folder / '.venv' / 'tools')}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *_packages(page, folder), os.environ.get("PYTHONPATH", "")]),
        }
        kept = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        common: dict[str, Any] = {**kept, "cwd": folder, "env": environment}
        self._shell = subprocess.Popen(["bash", "--noprofile", "--norc"], **common)
        self._python = subprocess.Popen([sys.executable, "-c", PYTHON], **common)
        for name in page.given:
            if name in ARRAYS:
                self._ask(self._python, json.dumps(ARRAYS[name]))
            elif name in FILES:
                FILES[name](folder / name)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in (self._shell, self._python):
            process.communicate()

    def run(self, block: Block) -> str:
        """Run a block: what went another way than the page says, empty if nothing did."""
        self.ran.append(block)
        if "file" in block.notes:
            (self.folder / block.notes["file"]).write_text(block.text, encoding="utf-8")
            return ""
        if block.language == "python":
            status, printed = self._ask(self._python, json.dumps(block.text))
            return f"{block.where}:\n{printed}" if status else ""
        commands = block.commands()
        for number, (command, shown) in enumerate(commands, 1):
            status, printed = self._ask(self._shell, f"{{ {command}\n}} < /dev/null\nprintf '\\n{MARK} %s\\n' $?")
            wanted = int(block.notes.get("exit status", "0")) if number == len(commands) else 0
            if status != wanted:
                return f"{block.where}: {command}\nexit status {status}\n{printed}"
            if shown and not printed_as_shown(shown, printed.splitlines(), block.notes.get("figures vary", "")):
                return f"{block.where}: {command}\nprints\n{printed}"
        return ""

    @staticmethod
    def _ask(process: subprocess.Popen[str], text: str) -> tuple[int, str]:
        """Exit status, and what was printed."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        lines: list[str] = []
        for line in process.stdout:
            if line.startswith(MARK):
                return int(line.rsplit(" ", 1)[1]), "".join(lines).removesuffix("\n")
            lines.append(line)
        return process.wait() or 1, "".join(lines)


def _environment(folder: Path) -> None:
    """The .venv of a clone in which everything is installed already: that of the tests."""
    folder.mkdir()
    (folder / "bin").symlink_to(Path(sys.executable).parent)
    for extra in ("base", "test", "dev", "bench", "train"):
        (folder / f".{extra}").touch()


def _commands(folder: Path) -> Path:
    """A folder with the tools of the tests' environment; where torch lies in another, hpcc-export runs there."""
    folder.mkdir()
    for path in Path(sys.executable).parent.iterdir():
        if path.name.startswith("python"):  # by a link it would be the Python of the environment that the link lies in
            (folder / path.name).write_text(f'#!/bin/sh\nexec {path} "$@"\n', encoding="utf-8")
            (folder / path.name).chmod(0o755)
        else:
            (folder / path.name).symlink_to(path)
    other = os.environ.get(TORCH_PYTHON)
    if other and not _has("torch"):
        script = folder / "hpcc-export"
        script.unlink()
        script.write_text(f'#!/bin/sh\nexec {other} -c "{EXPORT}" "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


EXPORT = "import sys; from compiler.tools.hpcc_export import main; sys.exit(main())"


def _packages(page: Page, folder: Path) -> list[str]:
    """Packages of tests/packages that the page is given, installed beside the folder."""
    from tests.e2e.test_plugins import installed

    names = [name for name in page.given if (ROOT / "tests" / "packages" / name).is_dir()]
    return [str(installed(ROOT / "tests" / "packages" / name, folder.parent)) for name in names]


# ---- what pages are given -------------------------------------------------------------------------------------------


def _model(path: Path) -> None:
    """A classifier for any batch, of at most 128 tokens; its output is named as transformers names it."""
    model = build(MODEL, 1, TOKENS, symbolic=True)
    old = model.graph.output[0].name
    for node in model.graph.node:
        for at, name in enumerate(node.output):
            if name == old:
                node.output[at] = "logits"
    model.graph.output[0].name = "logits"
    onnx.save(model, str(path))


def _samples(path: Path) -> None:
    arrays = feeds(MODEL, SAMPLES, TOKENS)
    np.savez(path, **arrays, labels=np.arange(SAMPLES) % LABELS)


def _sentences(path: Path) -> None:
    shutil.copyfile(ROOT / "examples" / "sentences.txt", path)


def write_tokenizer(path: Path) -> None:
    """A tokenizer of the words of the demo's sentences."""
    words = sorted(set((ROOT / "examples" / "sentences.txt").read_text(encoding="utf-8").lower().split()))
    table = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words][: MODEL.vocabulary])}
    made = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", table["[CLS]"]), ("[SEP]", table["[SEP]"])]
    )
    made.save(str(path))


def _lengths(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("length", "count"), (12, 300), (30, 500), (100, 20)])


def _recipe(path: Path) -> None:
    path.write_text('pattern = "nm:2:4"\n', encoding="utf-8")


def _ids(path: Path) -> None:
    np.save(path, np.ones((1, TOKENS), np.int64))


FILES: Mapping[str, Callable[[Path], None]] = {
    "model.onnx": _model,
    "small.onnx": _model,
    "start.onnx": _model,
    "samples.npz": _samples,
    "train.npz": _samples,
    "dev.npz": _samples,
    "sentences.txt": _sentences,
    "tokenizer.json": write_tokenizer,
    "lengths.csv": _lengths,
    "recipe.toml": _recipe,
    "ids.npy": _ids,
    "mask.npy": _ids,
}
ARRAYS: Mapping[str, str] = {
    "ids": f"import numpy; ids = numpy.ones((1, {TOKENS}), numpy.int64)",
    "mask": f"import numpy; mask = numpy.ones((1, {TOKENS}), numpy.int64)",
}
