"""Cases of hpcc-prune, of recipes, and of the reports that hpcc-objdump and --baseline compare."""

from __future__ import annotations

import onnx

from tests.fuzz import edits
from tests.fuzz.corpus import FPGA, SHAPE
from tests.fuzz.workshop import OUT, OUTPUTS, Case, Workshop

TOML = """pattern = "nm:2:4"
method = "second-order"

[[rule]]
match = "layer.*.ffn.*"
pattern = "hp:0.75"

[[rule]]
match = ["layer.0.*", "re:.*attention.*"]
method = "magnitude"
pattern = "dense"
"""
YAML = """sparsity_stage:
  run_type: oneshot
  sparsity_modifiers:
    SparseGPTModifier:
      sparsity: 0.5
      mask_structure: '2:4'
      targets: ['Linear', 're:.*ffn.*']
      ignore: ['re:.*classifier']
      block_size: 128
      dampening_frac: 0.01
    MagnitudePruningModifier: {final_sparsity: 0.75, params: __ALL_PRUNABLE__}
"""


ODD = (
    *(("--scope", scope) for scope in ("*", "", "[", "layer.*.fnn")),
    *(("--allocate", way) for way in ("global", "")),
    *(("--method", method) for method in ("random", "activation", "magnitude", "")),
    *(("--seed", seed) for seed in ("-1", "9" * 30)),
    *(("-o", output) for output in ("model.onnx", "", "folder", "x" * 300, "/proc/x")),
    *(("--target", target) for target in ("cpu-avx2", "", "x.toml")),
    *(("--max-length", "0"), ("--text", "samples.npz"), ("--list-layers",), ("--json",), ("--pattern", "")),
    *(("--train", "samples.npz"), ("--train", "samples.npz", "--steps", "0"), ("--ladder", "4:8,2:8"), ("--resume", ".")),
)


def recipe(shop: Workshop) -> str:
    """Write a recipe, most often a damaged one; returns its name."""
    random = shop.random
    name, text = random.choice([("recipe.toml", TOML), ("recipe.yaml", YAML)])
    path = shop.folder / name
    if random.random() < 0.2:
        path.write_bytes(edits.damaged_bytes(random, text.encode()))
    else:
        path.write_text(edits.damaged_text(random, text) if random.random() < 0.85 else text, encoding="utf-8")
    return name


def recipes(shop: Workshop) -> Case:
    """A recipe with damage, given to either command."""
    shop.take("models/*.onnx", "model.onnx")
    if shop.random.random() < 0.5:
        return Case("", "hpcc-prune", ("model.onnx", *SHAPE, "--recipe", recipe(shop), "-o", "out.onnx"), ("out.onnx",))
    rest = shop.random.choice([["--emit", "sparsify"], ["--timing-only"], ["--list-layers"]])
    arguments = ("model.onnx", "--target", FPGA, *SHAPE, "--recipe", recipe(shop), *rest, *OUT)
    return Case("", "hpcc", arguments, OUTPUTS)


def prunes(shop: Workshop) -> Case:
    """hpcc-prune on a damaged model, on damaged samples, or with odd options."""
    random = shop.random
    source = shop.pick("models/*.onnx")
    data = source.read_bytes()
    edits.write_traps(shop.folder)
    if source.name == "external.onnx":
        (shop.folder / "external.bin").write_bytes((source.parent / "external.bin").read_bytes())
    kind = random.choice(["model", "model", "samples", "options"])
    if kind == "model" and random.random() < 0.3:
        data = edits.damaged_bytes(random, data)
    elif kind == "model":
        data = edits.damaged_model(random, onnx.ModelProto.FromString(data))
    (shop.folder / "model.onnx").write_bytes(data)
    samples = shop.take("inputs/*.npz", "samples.npz")
    if kind == "samples":
        samples.write_bytes(edits.damaged_bytes(random, samples.read_bytes()))
    patterns = ["nm:2:4", "hp:0.75", "unstructured:0.9", "block:4x1:0.5", "circulant:4", "row:0.5", "column:0.75"]
    chosen = ["model.onnx", "--pattern", random.choice(patterns), "-o", "out.onnx"]
    if random.random() < 0.6:
        chosen += ["--calibrate", "samples.npz"]
    else:
        chosen += [*SHAPE]
    if kind == "options":
        for extra in random.sample(ODD, k=random.choice([1, 2])):
            chosen += extra
    return Case("", "hpcc-prune", tuple(chosen), ("out.onnx",))


def reports(shop: Workshop) -> Case:
    """A bundle whose reports are damaged, compared with another."""
    random = shop.random
    kind = random.choice(["fpga", "fpga", "cpu"])
    first, second = shop.take(f"{kind}/*.hpcc", "first.hpcc"), shop.take(f"{kind}/*.hpcc", "second.hpcc")
    chosen = random.choice([first, second]) / random.choice(["report.json", "run.json", "report.json"])
    if chosen.exists():
        text = chosen.read_text(encoding="utf-8")
        if random.random() < 0.8:
            chosen.write_text(edits.damaged_json(random, text), encoding="utf-8")
        else:
            chosen.write_bytes(edits.damaged_bytes(random, text.encode()))
    if kind == "fpga" and random.random() < 0.3:
        shop.take("models/plain.onnx", "model.onnx")
        arguments = ("model.onnx", "--target", FPGA, *SHAPE, "--timing-only", "--baseline", "first.hpcc", *OUT)
        return Case("", "hpcc", arguments, OUTPUTS)
    rest = random.choice([(), ("--json",), ("--html", "page.html"), ("--html", ""), ("--html", "first.hpcc")])
    return Case("", "hpcc-objdump", ("--diff", "first.hpcc", "second.hpcc", *rest), ("page.html",))
