"""Small whole files to damage: models in many spellings, target files, inputs, bundles, dumped stages, a tokenizer."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

import hw_targets
from compiler.tools.hpcc import main as hpcc
from runtime.bundle import save_bundle
from tests.graphs import Encoder, feeds, write
from tests.unit.hand_programs import LinearData
from tests.unit.test_program import host_bundle

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
ENCODERS = {
    "plain": SMALL,
    "static": SMALL,
    "pooled": replace(SMALL, head="pooler", linear="gemm", layer_norm="decomposed"),
    "classifier": replace(SMALL, head="classifier", linear="transposed", mask="1e4"),
    "constant": replace(SMALL, linear="constant", gelu="tanh", mask="where"),
    "conv": replace(SMALL, linear="conv", attention="sdpa", names="numbers"),
    "einsum": replace(SMALL, linear="einsum", head="mean", layer_norm="reciprocal"),
    "int8": replace(SMALL, weights="int8"),
    "qdq": replace(SMALL, weights="qdq"),
    "causal": replace(SMALL, mask="causal", gelu="silu", projections="interleaved", token_types="none"),
    "two": replace(SMALL, layers=2, position="folded", token_types="constant"),
}
SHAPE = ("--shape", "input_ids:2x7")
FPGA = "fpga-u280"


def build(folder: Path, *, everything: bool = True) -> None:
    """Write the corpus into `folder`; nothing happens if it is there. Without `everything` it lacks the nodes of the
    standard, the CPU's bundles and the dumped stages, which take longest."""
    if (folder / "whole").exists():
        return
    for name in ("models", "nodes", "targets", "inputs", "fpga", "cpu", "stages", "texts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, encoder in ENCODERS.items():
        write(encoder, folder / "models" / f"{name}.onnx", 2, 7, symbolic=name != "static")
    external = onnx.load(folder / "models" / "static.onnx")
    onnx.save(
        external, folder / "models" / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0
    )
    for path in sorted(Path(hw_targets.__file__).parent.glob("*-*.toml")):
        (folder / "targets" / path.name).write_bytes(path.read_bytes())
    np.savez(folder / "inputs" / "good.npz", **feeds(SMALL, 4, 7))
    np.savez_compressed(folder / "inputs" / "packed.npz", **feeds(SMALL, 2, 7))
    _accelerator_bundles(folder)
    if everything:
        _node_cases(folder / "nodes")
        _other_bundles(folder)
    _tokenizer(folder / "texts")
    (folder / "whole").touch()


def _node_cases(folder: Path) -> None:
    """The one-node models of the ONNX standard: every operator, also those that hpcc does not know."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
        cases = collect_testcases("")
    for case in cases:
        if case.model is not None and case.model.ByteSize() < 100_000:
            (folder / f"{case.name}.onnx").write_bytes(case.model.SerializeToString())


def _accelerator_bundles(folder: Path) -> None:
    models = folder / "models"
    for name, model, sparsity in (
        ("dense", "plain", "dense"),
        ("nm", "pooled", "nm:2:4"),
        ("hp", "two", "hp:0.75"),
        ("unstructured", "plain", "unstructured:0.75"),
    ):
        _run(
            models / f"{model}.onnx",
            "--target",
            FPGA,
            *SHAPE,
            "--sparsity",
            sparsity,
            "-o",
            folder / "fpga" / f"{name}.hpcc",
        )
    save_bundle(host_bundle(LinearData()), folder / "fpga" / "host.hpcc")


def _other_bundles(folder: Path) -> None:
    models = folder / "models"
    for name, model, sparsity in (("dense", "plain", "dense"), ("hp", "pooled", "hp:0.75")):
        _run(
            models / f"{model}.onnx",
            "--target",
            "cpu-host",
            *SHAPE,
            "--sparsity",
            sparsity,
            "-o",
            folder / "cpu" / f"{name}.hpcc",
        )
    _run(
        models / "plain.onnx", "--target", FPGA, *SHAPE, "--sparsity", "nm:2:4", "--emit", "program",
        "-o", folder / "stages" / "out.hpcc", "--dump-stages", folder / "stages",
    )  # fmt: skip


def _run(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        status = hpcc([str(argument) for argument in (*arguments, "-q")])
    assert status == 0, arguments


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "small", "sentence", ".", "of", "words"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), indent=1), encoding="utf-8")
    (folder / "text.txt").write_text("A small sentence.\nwords of words\n\n", encoding="utf-8")
