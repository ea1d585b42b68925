"""Bad input to hpcc-prune: one line, the documented exit status, nothing written. The lines stand in tests/golden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compiler.tools.hpcc_prune import main
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import call, hpcc
from tests.graphs import Encoder, feeds, write

SMALL = Encoder(hidden=36, heads=3, intermediate=72)
PRUNE = ("model.onnx", "--pattern", "nm:2:4", "-o", "out.onnx")
CASES: dict[str, tuple[str, ...]] = {
    "prune: no model": (),
    "prune: unknown flag": (*PRUNE, "--nope"),
    "prune: not an ONNX file": ("text.txt", "--pattern", "nm:2:4", "-o", "out.onnx"),
    "prune: no output": PRUNE[:3],
    "prune: no pattern": ("model.onnx", "-o", "out.onnx"),
    "prune: unknown pattern": ("model.onnx", "--pattern", "mn:2:4", "-o", "out.onnx"),
    "prune: pattern that prunes nothing": ("model.onnx", "--pattern", "nm:4:4", "-o", "out.onnx"),
    "prune: pattern that no layer holds": ("model.onnx", "--pattern", "nm:1:64", "--target", "cpu-avx2", "-o", "out.onnx"),
    "prune: pattern and recipe": (*PRUNE, "--recipe", "good.toml"),
    "prune: unknown method": (*PRUNE, "--method", "magic"),
    "prune: method without data": (*PRUNE, "--method", "second-order"),
    "prune: method of a sharing pattern": (
        *("model.onnx", "--pattern", "circulant:4", "--method", "second-order", "--calibrate", "good.npz", "-o", "out.onnx"),
    ),
    "prune: global without data": (*PRUNE, "--allocate", "global"),
    "prune: text without tokenizer": (*PRUNE, "--text", "text.txt"),
    "prune: two kinds of data": (*PRUNE, "--text", "text.txt", "--tokenizer", "t.json", "--calibrate", "good.npz"),
    "prune: no token left": (*PRUNE, "--max-length", "0"),
    "prune: data of a wrong name": (*PRUNE, "--calibrate", "wrong name.npz"),
    "prune: data of a wrong length": (*PRUNE, "--calibrate", "wrong length.npz"),
    "prune: data that is padding only": (*PRUNE, "--calibrate", "padding.npz"),
    "prune: data that makes infinities": ("infinite.onnx", *PRUNE[1:], "--calibrate", "good.npz"),
    "prune: weights that are NaN": ("nan.onnx", *PRUNE[1:]),
    "prune: output is the model": ("model.onnx", "--pattern", "nm:2:4", "-o", "model.onnx"),
    "prune: output in no folder": ("model.onnx", "--pattern", "nm:2:4", "-o", "nowhere/out.onnx"),
    "prune: scope that matches nothing": (*PRUNE, "--scope", "layer.*.fnn.*"),
    "prune: recipe that matches nothing": ("model.onnx", "--recipe", "nothing.toml", "-o", "out.onnx"),
    "prune: missing recipe": ("model.onnx", "--recipe", "nowhere.toml", "-o", "out.onnx"),
    "prune: recipe that is no TOML": ("model.onnx", "--recipe", "bad.toml", "-o", "out.onnx"),
    "prune: unknown key of a recipe": ("model.onnx", "--recipe", "key.toml", "-o", "out.onnx"),
    "prune: unknown pattern of a recipe": ("model.onnx", "--recipe", "pattern.toml", "-o", "out.onnx"),
    "prune: recipe that is no YAML": ("model.onnx", "--recipe", "bad.yaml", "-o", "out.onnx"),
    "prune: modifier that is not read": ("model.onnx", "--recipe", "modifier.yaml", "-o", "out.onnx"),
    "prune: structure that is not read": ("model.onnx", "--recipe", "structure.yaml", "-o", "out.onnx"),
}
HPCC = {
    "prune: hpcc with a pattern and a recipe": (
        *("model.onnx", "--target", "fpga-u280", "--sparsity", "nm:2:4", "--recipe", "good.toml"),
    )
}
FILES = {
    "text.txt": "no model\n",
    "good.toml": 'pattern = "nm:2:4"\n',
    "nothing.toml": '[[rule]]\nmatch = "layer.7.ffn.up"\npattern = "nm:2:4"\n',
    "bad.toml": "pattern = \n",
    "key.toml": 'patern = "nm:2:4"\n',
    "pattern.toml": '[[rule]]\nmatch = "layer.*"\npattern = "mn:2:4"\n',
    "bad.yaml": "a: [\n",
    "modifier.yaml": "stage:\n  GMPruningModifier:\n    final_sparsity: 0.5\n",
    "structure.yaml": "stage:\n  SparseGPTModifier:\n    sparsity: 0.5\n    mask_structure: block4\n",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    import onnx
    from onnx import numpy_helper

    model = onnx.load(write(SMALL, folder / "model.onnx", 2, 8))
    for name, value in (("nan.onnx", np.nan), ("infinite.onnx", np.inf)):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        chosen = (36, 72) if name == "nan.onnx" else (50, 36)
        tensor = next(t for t in copy.graph.initializer if numpy_helper.to_array(t).shape == chosen)
        array = numpy_helper.to_array(tensor).copy()
        array[:] = value
        if name == "nan.onnx":
            array[1:] = 0.5
            array[:, 1:] = 0.25
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(copy, folder / name)
    good = feeds(SMALL, 4, 8)
    np.savez(folder / "good.npz", **good)
    np.savez(folder / "wrong name.npz", **{name.replace("ids", "id"): array for name, array in good.items()})
    np.savez(folder / "wrong length.npz", **{name: array[:, :5] for name, array in good.items()})
    np.savez(folder / "padding.npz", **{name: np.zeros_like(array) for name, array in good.items()})
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def place(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    shutil.copytree(shelf, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_hpcc_prune(place: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    done, (status, line) = call(main, *CASES[name]), GOLDEN[name]
    assert matches(done.line, line), f"\n  got  {done.line}\n  want {line}"
    assert (done.status, done.out) == (status, "")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("name", HPCC)
def test_hpcc(place: Path, name: str) -> None:
    done, (status, line) = hpcc(*HPCC[name]), GOLDEN[name]
    assert matches(done.line, line)
    assert done.status == status


def test_hpcc_takes_a_recipe(place: Path) -> None:
    (place / "recipe.toml").write_text('pattern = "nm:2:4"\n[[rule]]\nmatch = "layer.*.ffn.*"\npattern = "hp:0.75"\n')
    done = hpcc("model.onnx", "--target", "fpga-u280", "--recipe", "recipe.toml", "-o", "out.hpcc")
    assert done.status == 0, done.err
    report = json.loads((place / "out.hpcc" / "report.json").read_text())
    found = {layer["name"]: layer["pattern"] for layer in report["layers"]}
    assert found["layer.0.attn.q"] == "nm:2:4"
    assert found["layer.0.ffn.up"].startswith("hp:rows=64")
    assert report["pruning"]["pattern"] == "recipe:recipe.toml"
    assert "hpcc-prune model.onnx --recipe recipe.toml --calibrate SAMPLES.npz -o model.pruned.onnx" in done.out


def test_a_run_that_succeeds(place: Path) -> None:
    done = call(main, *PRUNE, "--calibrate", "good.npz")
    assert done.status == 0, done.err
    assert "2:4 (keeps 2 of 4, 50 % zeros) in 6 matrices" in done.out
    assert "second-order" in done.out
    assert (place / "out.onnx").is_file()
    done = call(main, "model.onnx", "--list-layers")
    assert "layer.0.ffn.up" in done.out
    (place / "recipe.yaml").write_text(
        "sparsity_stage:\n  SparseGPTModifier:\n    sparsity: 0.75\n    mask_structure: '3:4'\n    targets: [Linear]\n"
    )
    done = call(main, "model.onnx", "--recipe", "recipe.yaml", "--calibrate", "good.npz", "-o", "other.onnx", "--json")
    assert '"pattern": "nm:1:4"' in done.out
