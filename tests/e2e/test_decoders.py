"""Decoder-only models, built by hand in the spellings of exporters, through every stage to the simulator's bits."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from benchmarks.decoder import Decoder, write
from compiler.dialects import nn
from compiler.passes.fuse import FusePass
from compiler.passes.quantize import QuantizePass
from compiler.tools.fpga_session import FpgaSession
from compiler.tools.options import Options
from compiler.tools.session import open_session
from hw_targets import decoder_numerics
from hw_targets.cpu import CpuTarget
from hw_targets.load import load_any_target
from runtime.simulator import functional
from tests.e2e.harness import TARGET, hpcc, read_json
from tests.e2e.mutations import BITS, ONNX_RUNTIME, PARAMETERS, Mutation, after, altered, ops, swap_out

TOKENS = 10
BASE = Decoder()
SHAPE = ("--shape", f"input_ids:2x{TOKENS}")

SPELLINGS: dict[str, Decoder] = {
    "as torch writes it": BASE,
    "root by division, gathered heads": replace(BASE, norm="divided", repeat="gather"),
    "power and a mask of chosen scores": replace(BASE, norm="power", mask="chosen"),
    "queries are scaled before they turn": replace(BASE, scale="queries"),
    "neighbours turn": replace(BASE, rotary="interleaved"),
    "a part of the features turns": replace(BASE, turned=4),
    "neighbours of a part": replace(BASE, rotary="interleaved", turned=4),
    "operators of opset 23": replace(BASE, opset=23, norm="op", rotary="op", mask="operator"),
    "rotary operator, neighbours": replace(BASE, opset=23, rotary="op_neighbours", turned=4),
    "operators of ONNX Runtime": replace(BASE, norm="skip", rotary="contrib"),
    "one head of keys": replace(BASE, kv_heads=1),
    "as many heads of keys": replace(BASE, kv_heads=4),
    "fused projections": replace(BASE, projections="split"),
    "norms of heads": replace(BASE, heads_norm=True, head_size=16),
    "a mask of padding": replace(BASE, padding=True),
    "a mask of padding, chosen scores": replace(BASE, padding=True, mask="chosen"),
    "GELU gate": replace(BASE, gate="gelu_tanh"),
    "GPT-2": replace(BASE, norm="layer", rotary="none", gate="none", kv_heads=4, projections="gemm"),
    "a head of its own": replace(BASE, tied=False),
}


def fused(spec: Decoder, folder: Path) -> ModuleOp:
    model = write(spec, folder / "decoder.onnx")
    shapes = {name: (2, TOKENS) for name in ("input_ids", *(["attention_mask"] if spec.padding else []))}
    session = open_session(Options(model=str(model), target=TARGET, shapes=shapes, quiet=True))
    assert isinstance(session, FpgaSession)
    session._load()
    session._stages("import", "quantize")
    assert session.floats is not None
    return session.floats


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_a_spelling_runs_on_the_accelerator(name: str, tmp_path: Path) -> None:
    """No product on the host, every stage equal to the one before, the simulator's bits, ONNX Runtime's results."""
    model = write(SPELLINGS[name], tmp_path / "decoder.onnx")
    done = hpcc(model, "--target", TARGET, "-q", "--verify-each", "-o", tmp_path / "out.hpcc", *SHAPE)
    assert (done.status, done.err) == (0, "")
    report, run = read_json(tmp_path / "out.hpcc" / "report.json"), read_json(tmp_path / "out.hpcc" / "run.json")
    assert sum(entry["macs_share"] for entry in report["host_ops"]) == 0
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] and output["relative_l2"] <= 0.1 for output in run["verify"]["outputs"])
    roles = {layer["name"] for layer in report["layers"]}
    gates = set[str]() if SPELLINGS[name].gate == "none" else {"layer.0.ffn.gate"}
    assert {"layer.0.attn.q", "layer.1.attn.k", "layer.1.attn.o", "layer.0.ffn.up", "layer.1.ffn.down", *gates} <= roles
    assert "lm_head" in roles


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_a_spelling_means_causal_shared_heads(name: str, tmp_path: Path) -> None:
    """What `fuse` finds in each: causal attention over as few heads of keys as there are, and rotations of q and k."""
    spec = SPELLINGS[name]
    module = fused(spec, tmp_path)
    attentions = ops(module, nn.AttentionOp)
    assert len(attentions) == spec.layers
    assert all(op.causal is not None and op.groups == spec.kv_heads for op in attentions)
    assert {op.mask is not None for op in attentions} == {spec.padding}
    turns = ops(module, nn.RotaryOp)
    assert len(turns) == (0 if spec.rotary == "none" else 2 * spec.layers)
    neighbours = spec.rotary in ("interleaved", "op_neighbours")
    assert all((op.turned, op.interleaved is not None) == (spec.rotated, neighbours) for op in turns)
    norms = [op for op in ops(module, nn.RmsNormOp) if not op.is_whole]
    assert len(norms) == 2 * spec.layers * spec.heads_norm


@pytest.mark.parametrize(
    ("board", "pattern"),
    [
        ("fpga-u280", "hp:0.75"),
        ("fpga-pynq-z2", "unstructured:0.8"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product(("fpga-u280", "fpga-pynq-z2"), ("nm:2:4", "hp:0.75", "block:4x1:0.75", "unstructured:0.8"))
            if case not in (("fpga-u280", "hp:0.75"), ("fpga-pynq-z2", "unstructured:0.8"))
        ),
    ],
)
def test_gated_blocks_are_pruned(pattern: str, board: str, tmp_path: Path) -> None:
    """The default scope is every linear of a block, gates among them, and not the head; the bits hold on any board."""
    model = write(replace(BASE, hidden=64, intermediate=96, head_size=16), tmp_path / "decoder.onnx")
    folder = tmp_path / "out.hpcc"
    done = hpcc(model, "--target", board, "--sparsity", pattern, "-q", "-o", folder, *SHAPE)
    assert (done.status, done.err) == (0, "")
    layers = {layer["name"]: layer for layer in read_json(folder / "report.json")["layers"] if layer["op"] == "linear"}
    dense = {name for name, layer in layers.items() if layer["pattern"] == "dense"}
    assert dense == {"lm_head"}
    assert read_json(folder / "run.json")["verify"]["bit_exact"]


@pytest.mark.slow
def test_a_wide_head_is_cut_into_panels(tmp_path: Path) -> None:
    """A vocabulary that fits neither the weight memory nor the accumulators: its weights are read once, all the same."""
    spec = replace(BASE, layers=1, vocabulary=70000, tied=False)
    model = write(spec, tmp_path / "decoder.onnx")
    folder = tmp_path / "out.hpcc"
    done = hpcc(model, "--target", "fpga-pynq-z2", "-q", "-o", folder, *SHAPE)
    assert (done.status, done.err) == (0, "")
    head = next(layer for layer in read_json(folder / "report.json")["layers"] if layer["name"] == "lm_head")
    assert head["weight_bytes_loaded"] == head["dense_bytes"] == 70000 * spec.hidden
    assert read_json(folder / "run.json")["verify"]["bit_exact"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "name",
    [
        "as torch writes it",
        "GPT-2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("norms of heads", "neighbours of a part")),
    ],
)
def test_a_decoder_runs_on_this_cpu(name: str, precision: str, tmp_path: Path) -> None:
    host = load_any_target("cpu-host")
    assert isinstance(host, CpuTarget)
    if precision == "int8" and host.instructions.int8 is None:
        pytest.skip("no int8 products")
    model = write(replace(SPELLINGS[name], padding=True), tmp_path / "decoder.onnx")
    shapes = (*SHAPE, "--shape", f"attention_mask:2x{TOKENS}")
    folder = tmp_path / "out.hpcc"
    done = hpcc(model, "--target", "cpu-host", "--precision", precision, "-q", "-o", folder, *shapes)
    assert (done.status, done.err) == (0, "")
    assert read_json(folder / "run.json")["verify"]["outputs"][0]["passed"]


# ---- faults ---------------------------------------------------------------------------------------------------------


def not_causal(module: ModuleOp) -> None:
    for op in [*ops(module, nn.AttentionOp), *ops(module, nn.QAttentionOp)]:
        del op.properties["causal"]


def halves_for_neighbours(module: ModuleOp) -> None:
    op = ops(module, nn.RotaryOp)[0]
    swap_out(op, nn.RotaryOp(op.x, op.table, op.head_size.value.data, interleaved=True, type=op.result.type))


def without_gate(module: ModuleOp) -> None:
    op = next(op for op in ops(module, nn.QLinearOp) if op.gate is not None)
    scales = op.x_scale, op.weight, op.weight_scale
    swap_out(op, nn.QLinearOp(op.role.data, op.x, *scales, op.bias, op.residual, op.result.type))


def another_key_head(patch: pytest.MonkeyPatch) -> None:
    """The simulator's softmax takes the scales of keys from one row below."""
    made = functional.PREPARE["vector.softmax"]

    def prepare(sim: functional.Simulator, i: functional.Resolved) -> functional.Step:
        place = i.operands["col_scale"]
        return made(sim, replace(i, operands={**i.operands, "col_scale": place._replace(base=place.base + 4)}))

    patch.setattr(functional, "PREPARE", {**functional.PREPARE, "vector.softmax": prepare})


def simulator_turns_back(patch: pytest.MonkeyPatch) -> None:
    def rotate(x, table, group, *, interleaved):  # pyright: ignore
        half = table.shape[1] // 2
        table = table.copy()
        table[:, half:] *= -1
        return decoder_numerics.rotate(x, table, group, interleaved=interleaved)  # pyright: ignore

    patch.setattr(functional, "decoder_numerics", altered(decoder_numerics, rotate=rotate))


def simulator_without_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(functional, "decoder_numerics", altered(decoder_numerics, gated=lambda y, gate: y))


GRAPH = r"stage 'fuse': output 'logits' is off by .* of its rms; the first op that diverges is "
FAULTS: dict[str, Mutation] = {
    "ignore causality: fuse": Mutation(lambda patch: after(patch, FusePass, not_causal), GRAPH),
    "ignore causality: quantize": Mutation(lambda patch: after(patch, QuantizePass, not_causal), PARAMETERS),
    "swap the halves of a rotation: fuse": Mutation(lambda patch: after(patch, FusePass, halves_for_neighbours), GRAPH),
    "swap the halves of a rotation: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, halves_for_neighbours), PARAMETERS
    ),
    "turn the wrong way: simulator": Mutation(simulator_turns_back, BITS),
    "take another head's keys: simulator": Mutation(another_key_head, BITS),
    "drop a gate: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, without_gate), f"{ONNX_RUNTIME}|{PARAMETERS}"
    ),
    "drop a gate: simulator": Mutation(simulator_without_gate, BITS),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith(": quantize") else ()) for name in FAULTS]
)
def test_a_fault_turns_a_check_red(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command without the fault is that of the first spelling above, which succeeds."""
    model = write(BASE, tmp_path / "decoder.onnx")
    fault = FAULTS[name]
    fault.make(monkeypatch)
    each = () if fault.says == BITS else ("--verify-each",)
    done = hpcc(model, "--target", TARGET, "-q", "-o", tmp_path / "out.hpcc", *each, *SHAPE)
    assert done.status == fault.status, done
    assert re.search(fault.says, done.line), done.line
