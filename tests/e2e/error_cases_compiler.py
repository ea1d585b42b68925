"""What triggers the errors of the compiler and its commands that no golden line of tests/e2e/test_errors.py shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import i8, i32

import hw_targets
from compiler.backends.cpu.build import build_library, find_compiler
from compiler.backends.fpga.allocation import allocate
from compiler.backends.fpga.tasks import Task
from compiler.dialects.nn import UnaryOp
from compiler.frontend.host import extract
from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.sparsity import patterns
from compiler.sparsity.base import scores_of
from compiler.sparsity.patterns import parse_pattern
from compiler.sparsity.saliency import magnitudes
from compiler.storage import formats
from compiler.storage.anywhere import CSRFormat
from compiler.storage.choose import rank
from compiler.storage.formats import FORMATS
from compiler.tools.hpcc_opt import main as hpcc_opt
from hw_targets import numerics, storage, streaming_softmax
from hw_targets.cpu import CpuTarget
from hw_targets.isa import Memory
from hw_targets.load import load_any_target
from runtime import decoders
from runtime.cli import main_run
from tests.e2e.harness import ROOT, TARGET, Done, call, hpcc
from tests.graphs import Encoder, write
from tests.unit import tile_programs as tp

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
SHAPE = ("--shape", "input_ids:2x7")
Case = Callable[[Path, pytest.MonkeyPatch], object]


# ---- models ---------------------------------------------------------------------------------------------------------


def model(
    folder: Path,
    nodes: list[onnx.NodeProto],
    *,
    kind: int = TensorProto.FLOAT,
    shape: list[int] | None = None,
    out: tuple[int, list[Any] | None] = (TensorProto.FLOAT, [2, 4]),
    weights: dict[str, NDArray[Any]] | None = None,
) -> Path:
    """One graph from x to y."""
    inits = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 4] if shape is None else shape)],
        [helper.make_tensor_value_info("y", *out)],
        inits,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    return folder / "model.onnx"


def node(kind: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [out], name=kind.lower(), **attributes)


def compiled(*nodes: onnx.NodeProto, **more: Any) -> Case:
    """hpcc on a model of these nodes."""
    return lambda folder, _: hpcc(model(folder, list(nodes), **more).name, "--target", TARGET)


def small(*arguments: str, encoder: Encoder = SMALL) -> Case:
    """hpcc on the small encoder."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> Done:
        write(encoder, folder / "model.onnx", 2, 7)
        return hpcc("model.onnx", *arguments)

    return case


def fpga(*arguments: str, encoder: Encoder = SMALL) -> Case:
    return small("--target", TARGET, *arguments, encoder=encoder)


def dumped(stage: str, change: Callable[[Path], object], *arguments: str) -> Case:
    """hpcc on a dumped stage that was changed."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> Done:
        fpga("--emit", "emit", "--dump-stages", "stages", "-q")(folder, patch)
        path = next((folder / "stages").glob(f"*.{stage}.mlir"))
        path.replace(folder / f"{stage}.mlir")
        path.with_suffix(".safetensors").replace(folder / path.with_suffix(".safetensors").name)
        change(folder)
        return hpcc(f"{stage}.mlir", "--from", stage, "--target", TARGET, *(arguments or ("--emit", "asm")))

    return case


def replaced(stage: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / f"{stage}.mlir"
        text = path.read_text(encoding="utf-8")
        assert old in text, old
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def other_weights(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"stranger": np.zeros(1, np.float32)}, weights_of(folder))


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def with_metadata(text: str) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> Done:
        proto = onnx.load(write(SMALL, folder / "model.onnx", 2, 7))
        proto.metadata_props.add(key="hpcc.sparsity", value=text)
        onnx.save(proto, folder / "model.onnx")
        return hpcc("model.onnx", "--target", TARGET)

    return case


def interpreted(inputs: dict[str, Any], kind: str = "Relu", domain: str = "") -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> None:
        imported = import_onnx(model(folder, [node(kind, "x", domain=domain)]), {})
        evaluate(imported.module, imported.store, inputs)

    return case


def lost_tensor(folder: Path, _: pytest.MonkeyPatch) -> None:
    extract(import_onnx(model(folder, [node("Relu", "x")]), {}).model, ["x"], ["nothing"])


def gathered(folder: Path, _: pytest.MonkeyPatch) -> None:
    nodes, table = [node("Gather", "table", "x")], np.ones((5, 3), np.float32)
    path = model(folder, nodes, kind=TensorProto.INT64, out=(TensorProto.FLOAT, [2, 4, 3]), weights={"table": table})
    imported = import_onnx(path, {})
    evaluate(imported.module, imported.store, {"x": np.full((2, 4), 9)})


def recursive(folder: Path, _: pytest.MonkeyPatch) -> Done:
    path = model(folder, [node("Again", "x", domain="mine")])
    proto = onnx.load(path)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    proto.functions.append(helper.make_function("mine", "Again", ["x"], ["y"], [node("Again", "x", domain="mine")], opsets))
    onnx.save(proto, path)
    return hpcc(path.name, "--target", TARGET)


MODELS: dict[str, Case] = {
    "input of strings": compiled(node("Identity", "x"), kind=TensorProto.STRING, out=(TensorProto.STRING, [2, 4])),
    "host part that cannot be cut out": lost_tensor,
    "shape known at run time": compiled(node("NonZero", "x"), out=(TensorProto.INT64, [2, None])),
    "attribute of another type": compiled(node("Softmax", "x", axis=1.5)),
    "input without axes": compiled(node("Relu", "x"), shape=[], out=(TensorProto.FLOAT, [])),
    "op that only the host runs": interpreted({"x": np.zeros((2, 4), np.float32)}, "Odd", "mine"),
    "id beyond its table": gathered,
    "recursive function": recursive,
    "interpreted without an input": interpreted({}),
    "interpreted with another shape": interpreted({"x": np.zeros((3, 4), np.float32)}),
    "metadata that does not read": with_metadata("nm:x"),
}


# ---- dumped stages --------------------------------------------------------------------------------------------------


def invalid_pass(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    """A pass after which xDSL's own rules do not hold."""
    from xdsl.utils.exceptions import VerifyException

    from compiler.passes.partition import PartitionPass

    def apply(*_: object) -> None:
        raise VerifyException("made up")

    patch.setattr(PartitionPass, "apply", apply)
    return fpga()(folder, patch)


def invalid_stage(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    """A pass that makes an op whose rules its result breaks."""
    from xdsl.dialects.builtin import StringAttr
    from xdsl.utils.exceptions import VerifyException

    from compiler.passes.partition import PartitionPass

    def apply(self: object, ctx: object, op: Any) -> None:
        def verify(**_: object) -> None:
            raise VerifyException("made up")

        op.verify = verify
        op.attributes["spoilt"] = StringAttr("yes")

    patch.setattr(PartitionPass, "apply", apply)
    return fpga()(folder, patch)


def stumbling_stage(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    """A pass that meets in a given module what none of its verifiers knows."""
    from compiler.passes.quantize import QuantizePass

    def stumble(_: Path) -> None:
        def apply(*_: object) -> None:
            raise KeyError("made up")

        patch.setattr(QuantizePass, "apply", apply)

    return dumped("fuse", stumble)(folder, patch)


def stumbling_pass(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.passes.quantize import QuantizePass

    def apply(*_: object) -> None:
        raise AssertionError

    patch.setattr(QuantizePass, "apply", apply)
    (folder / "empty.mlir").write_text("builtin.module {\n}\n", encoding="utf-8")
    return call(hpcc_opt, "empty.mlir", "-p", "hpcc-quantize")


STAGES: dict[str, Case] = {
    "stage that stumbles over a given module": stumbling_stage,
    "pass that stumbles over a given module": stumbling_pass,
    "dump without its weights": dumped("encode", lambda folder: weights_of(folder).unlink()),
    "dump with damaged weights": dumped("encode", lambda folder: weights_of(folder).write_bytes(b"nonsense")),
    "dump of no known model": dumped("fuse", replaced("fuse", "sha256", "sha")),
    "weight that is not in its dump": dumped("encode", other_weights),
    "input that the module does not have": dumped(
        "tile", replaced("tile", 'dram "input" "input_ids"', 'dram "input" "ids"'), "--emit", "program"
    ),
    "region of another size than its content": dumped(
        "emit", replaced("emit", '"embeddings.columns" at 64 bytes 384', '"embeddings.columns" at 64 bytes 33'), "-o", "p"
    ),
    "region of columns that differ": dumped(
        "emit", replaced("emit", '"embeddings.norm.beta"', '"embeddings.word.bf16"'), "-o", "p"
    ),
    "module of a failing pass": invalid_pass,
    "module of an invalid pass": invalid_stage,
}


# ---- command lines --------------------------------------------------------------------------------------------------


def from_text(encoder: Encoder, *, text: str = "a small word", broken: bool = False, length: str | None = None) -> Case:
    def case(folder: Path, patch: pytest.MonkeyPatch) -> Done:
        words = {"a": 0} if broken else {"[UNK]": 0, "a": 1, "small": 2}
        parts = {
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
            "pre_tokenizer": {"type": "Whitespace"},
        }
        (folder / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
        (folder / "text.txt").write_text(f"{text}\n", encoding="utf-8")
        more = () if length is None else ("--max-length", length)
        return fpga("--text", "text.txt", "--tokenizer", "tokenizer.json", *more, encoder=encoder)(folder, patch)

    return case


def pixels(folder: Path, _: pytest.MonkeyPatch) -> Done:
    (folder / "text.txt").write_text("a\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    name = model(folder, [node("Relu", "x")]).name
    return hpcc(name, "--target", TARGET, "--text", "text.txt", "--tokenizer", "tokenizer.json")


def without(package: str, case: Case) -> Case:
    """A package that is not installed."""

    def run(folder: Path, patch: pytest.MonkeyPatch) -> object:
        patch.setitem(sys.modules, package, None)
        return case(folder, patch)

    return run


def no_compiler(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.backends.cpu import build

    patch.setattr(build.shutil, "which", lambda _: None)
    patch.setitem(sys.modules, "ziglang", None)
    patch.delenv("CC", raising=False)
    return small("--target", "cpu-avx2")(folder, patch)


def out_of_memory(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.tools import session

    def import_onnx(*_: object) -> None:
        raise MemoryError

    patch.setattr(session, "import_onnx", import_onnx)
    return fpga()(folder, patch)


def bug(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.tools import session

    patch.setattr(session, "import_onnx", lambda *_: 1 // 0)
    return fpga()(folder, patch)


def opt(passes: str) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> Done:
        write(SMALL, folder / "model.onnx", 2, 7)
        return call(hpcc_opt, "model.onnx", "-p", passes)

    return case


FOREIGN_NM = patterns.NM


def foreign(patch: pytest.MonkeyPatch, module: Any, name: str, found: type) -> object:
    """A package that brings a pattern or a format with the name of one of ours."""
    point = SimpleNamespace(name="copy", value=f"package:{name}", load=lambda: found)
    patch.setattr(module, "entry_points", lambda group: [point])
    registry = patterns.patterns if module is patterns else formats.all_formats
    return registry.__wrapped__()


def foreign_decoder(_: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setattr(storage, "plugin_decoders", lambda: {"copy": SimpleNamespace(storage=storage.BUILT_IN[3])})
    return storage.storage_formats.__wrapped__()


def stray_return(folder: Path, _: pytest.MonkeyPatch) -> Done:
    (folder / "stray.mlir").write_text('"func.return"() : () -> ()\n', encoding="utf-8")
    return call(hpcc_opt, "stray.mlir")


BEFORE_TILING = 'hpcc-fuse,hpcc-partition,hpcc-sparsify{spec="dense"}'


def board(*edits: tuple[str, str]) -> Case:
    """hpcc for a board that was edited."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> Done:
        text = (ROOT / "hw_targets" / f"{TARGET}.toml").read_text(encoding="utf-8")
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new)
        (folder / "board.toml").write_text(text, encoding="utf-8")
        return small("--target", "board.toml", "--timing-only")(folder, patch)

    return case


def too_many_keys(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    """With a smaller limit: a mask of 32,769 x 32,769 alone would take 4 GB."""
    patch.setattr(numerics, "MAX_KEYS", 32)
    write(replace(SMALL, positions=33), folder / "model.onnx", 1, 33)
    return hpcc("model.onnx", "--target", TARGET, "--emit", "quantize")


def too_many_streaming_keys(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    patch.setattr(streaming_softmax, "MAX_KEYS", 32)
    text = (Path(hw_targets.__file__).parent / f"{TARGET}.toml").read_text(encoding="utf-8")
    board = text.replace("[decode]", '[accelerator.design]\nsoftmax = "streaming"\n\n[decode]')
    (folder / "board.toml").write_text(board, encoding="utf-8")
    write(replace(SMALL, positions=33), folder / "model.onnx", 1, 33)
    return hpcc("model.onnx", "--target", "board.toml", "--emit", "quantize")


def pictures_for_a_cpu(folder: Path, _: pytest.MonkeyPatch) -> Done:
    matrix = np.ones((4, 4), np.float32)
    path = model(folder, [node("MatMul", "x", "w")], weights={"w": matrix})
    return hpcc(path.name, "--target", "cpu-avx2", "--emit", "c")


def without_the_operator(folder: Path, _: pytest.MonkeyPatch) -> Done:
    """A node of a domain that nobody implements stays on the host, where verification meets it first."""
    path = model(
        folder,
        [node("MatMul", "x", "w", out="m"), node("Odd", "m", domain="mine")],
        weights={"w": np.ones((4, 4), np.float32)},
    )
    return hpcc(path.name, "--target", TARGET)


def without_the_operator_each(folder: Path, _: pytest.MonkeyPatch) -> Done:
    without_the_operator(folder, _)
    return hpcc("model.onnx", "--target", TARGET, "--verify-each")


def two_shapes(folder: Path, _: pytest.MonkeyPatch, target: str = "cpu-avx2", form: str = "c") -> Done:
    """Token types that are the same for all samples."""
    proto = onnx.load(write(SMALL, folder / "model.onnx", 2, 7))
    types = next(value for value in proto.graph.input if value.name == "token_type_ids")
    types.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, folder / "model.onnx")
    return hpcc("model.onnx", "--target", target, "--emit", form)


def fails_as_it_runs(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.tools.reference import Reference

    run = Reference.run
    patch.setattr(Reference, "run", lambda self, inputs: run(self, {**inputs, "input_ids": np.zeros((3, 3), np.int64)}))
    return fpga()(folder, patch)


def fpga_each(name: str, value: object) -> Case:
    """`--verify-each` with something of its own replaced."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> Done:
        from compiler.tools import stepwise

        patch.setattr(stepwise, name, value)
        return fpga("--verify-each")(folder, patch)

    return case


def changed_integers(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    expand = decoders.expand
    patch.setattr(decoders, "expand", lambda *arguments: expand(*arguments) + 1)
    return fpga("--verify-each")(folder, patch)


def changed_parameter(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    from compiler.tools import parameters

    patch.setattr(parameters, "_is_rounded", lambda *_: False)
    return fpga("--verify-each")(folder, patch)


def refused_c(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "model.c").write_text("int main(void) { return nothing; }\n", encoding="utf-8")
    target = load_any_target("cpu-host")
    assert isinstance(target, CpuTarget)
    build_library(folder / "model.c", folder / "libmodel.so", find_compiler(target.instructions))


COMMANDS: dict[str, Case] = {
    "text for pictures": pixels,
    "text without a mask": from_text(Encoder(hidden=32, heads=2, intermediate=48, vocabulary=50, mask="none")),
    "tokenizer that fails": from_text(SMALL, broken=True),
    "length beyond the compiled one": from_text(SMALL, length="9"),
    "tokenizers missing": without("tokenizers", from_text(SMALL)),
    "check of a dump": dumped("fuse", lambda _: None, "--check"),
    "int8 on a CPU without it": small("--target", "cpu-neon", "--precision", "int8"),
    "form of another kind of target": small("--target", "cpu-avx2", "--emit", "asm"),
    "unknown precision": fpga("--precision", "int4"),
    "precision that an accelerator lacks": fpga("--precision", "fp32"),
    "cycles of a CPU": small("--target", "cpu-avx2", "--timing-only"),
    "cpu: cycles of a program": lambda folder, _: call(main_run, "cpu.hpcc", "--timing-only"),
    "pattern for nobody": fpga("--sparsity", "nm:1:16"),
    "groups beyond the selector": fpga("--sparsity", "nm:1:32"),
    "no C compiler": no_compiler,
    "onnxruntime missing for verification": without("onnxruntime", fpga()),
    "out of memory": out_of_memory,
    "a bug": bug,
    "opt: accelerator for a CPU's pass": opt(f'{BEFORE_TILING},hpcc-tile-cpu{{target="{TARGET}"}}'),
    "opt: pipeline that does not read": opt("hpcc-fuse{"),
    "opt: decode that does not read": opt(f'{BEFORE_TILING},hpcc-quantize,hpcc-encode-storage{{decode="dense=fast"}}'),
    "opt: format that the target lacks": opt(
        f'{BEFORE_TILING},hpcc-quantize,hpcc-encode-storage{{target="{TARGET}" format="zip"}}'
    ),
    "opt: module that breaks a rule": stray_return,
    "key left out": board(("summary = ", "# summary = ")),
    "more cores than SLRs": board(('cores = "auto"', "cores = 9")),
    "too many keys": too_many_keys,
    "too many keys for the streaming softmax": too_many_streaming_keys,
    "input of activations for a CPU": pictures_for_a_cpu,
    "inputs of two shapes for a CPU": two_shapes,
    "host part that cannot be loaded": without_the_operator,
    "onnxruntime cannot load the model": without_the_operator_each,
    "onnxruntime fails": fails_as_it_runs,
    "stage that changes values": fpga_each("FLOAT_LIMIT", -1.0),
    "stage that changes integers": changed_integers,
    "stage that changes a parameter": changed_parameter,
    "compiler that refuses the C": refused_c,
}


# ---- plain numpy ----------------------------------------------------------------------------------------------------


def folded_ids(folder: Path, _: pytest.MonkeyPatch, target: str = "cpu-avx2", form: str = "c") -> Done:
    """The positions are constants of the model, and one of them is not in its table."""
    proto = onnx.load(write(replace(SMALL, token_types="constant"), folder / "model.onnx", 2, 7))
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and tuple(tensor.dims) == (2, 7):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 9, tensor.name))
    onnx.save(proto, folder / "model.onnx")
    return hpcc("model.onnx", "--target", target, "--emit", form)


CODES = np.ones((8, 16), np.int8)


def out_of_order(*_: object) -> None:
    from tests.unit.test_verify_stage import CHAIN, check_dominance, ops_of, parse

    module = parse(CHAIN)
    first = ops_of(module, UnaryOp)[0]
    first.operands[0] = first.results[0]
    check_dominance(module)


def ring_too_small(*_: object) -> None:
    """Two weights in use at the same time, and room for one."""
    x, acc = tp.buffer(Memory.ACT, 4, 64, i8, -1), tp.buffer(Memory.ACC, 4, 8, i32, -1)
    tasks: list[Task] = []
    weights = [tp.buffer(Memory.WEIGHTS, 8, 64, i8, -1) for _ in range(2)]
    for weight in weights:
        stored = tp.buffer(Memory.DRAM, 8, 64, i8, -1)
        tasks.append(tp.task("load.weights", {"src": tp.part(stored, 0, 8), "dst": tp.part(weight, 0, 8)}, outs=8, ins=64))
    for weight in (*weights, weights[0]):
        tasks.append(tp.multiply(tp.part(x, 0, 4), tp.part(weight, 0, 8), tp.part(acc, 0, 4)))
    allocate(tasks, {memory: 600 if memory is Memory.WEIGHTS else 1 << 30 for memory in Memory})


PLAIN: dict[str, Case] = {
    "value before its definition": out_of_order,
    "ring of weights too small": ring_too_small,
    "pattern of no matrix": lambda *_: magnitudes(np.ones(3, np.float32)),
    "saliency of another shape": lambda *_: scores_of(np.ones((4, 8), np.float32), np.ones((4, 4))),
    "weights without the pattern": lambda *_: parse_pattern("nm:2:4").check(np.ones((4, 8), np.float32)),
    "format of floats": lambda *_: FORMATS["dense"].encode(CODES.astype(np.float32), parse_pattern("dense")),
    "format that does not store the pattern": lambda *_: FORMATS["hp_mark"].encode(CODES, parse_pattern("nm:2:4")),
    "codes of too many bits": lambda *_: FORMATS["dense"].encode(np.full((2, 2), 8, np.int8), parse_pattern("dense"), 4),
    "decoder of a format that is there": foreign_decoder,
    "pattern that is there": lambda _, patch: foreign(patch, patterns, "NM", FOREIGN_NM),
    "format that is there": lambda _, patch: foreign(patch, formats, "CSR", CSRFormat),
    "format that nobody knows": lambda *_: storage.storage_of_code(11),
    "no format for the pattern": lambda *_: rank(parse_pattern("unstructured:0.5"), 8, 16, {"hp_mark": 1.0}),
    "stored id beyond its table": folded_ids,
}

CASES = {**MODELS, **STAGES, **COMMANDS, **PLAIN}
