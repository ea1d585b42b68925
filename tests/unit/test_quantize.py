"""hpcc-quantize and the meaning of its result: structure, weights, errors, accuracy against fp32."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp, NameLoc, NoneAttr, StringAttr, TensorType, f32, i8
from xdsl.dialects.func import Func, ReturnOp
from xdsl.parser import Parser
from xdsl.rewriter import Rewriter

from compiler.dialects import nn
from compiler.interpreters import load_meanings
from compiler.interpreters.evaluate import evaluate, run_op
from compiler.module import main_function, names_of
from compiler.passes.quantize import QuantizePass
from compiler.passes.smoothing import balance
from compiler.passes.verify_stage import VerifyStagePass, check_dominance
from compiler.weights import WeightStore, attach_store
from hw_targets import numerics
from hw_targets.errors import InfeasibleError, InputError
from tests.golden import scalar_reference as scalar

# ---- a small encoder ------------------------------------------------------------------------------------------------

B, S, D, HEADS, FFN, VOCAB = 2, 6, 16, 2, 32, 11
X, U = f"tensor<{B}x{S}x{D}xf32>", f"tensor<{B}x{S}x{FFN}xf32>"
MASK = f"tensor<{B}x{S}xi64>"


def text_of_type(array: np.ndarray) -> str:
    element = {"float32": "f32", "int64": "i64"}[str(array.dtype)]
    return f"tensor<{'x'.join(str(n) for n in (*array.shape, element))}>"


def parse(arguments: str, results: str, body: str, weights: Mapping[str, np.ndarray]) -> tuple[ModuleOp, Context]:
    """A module whose @main declares `weights` as %name, then holds `body`; "name:io" is stored transposed."""
    store = WeightStore()
    declared = ""
    for name, array in weights.items():
        stored = name.endswith(":io")
        key = store.add(name.removesuffix(":io"), np.ascontiguousarray(array.T) if stored else array)
        layout = ' stored "io"' if stored else ""
        declared += f'%{key} = hpcc_nn.weight "{key}" digest "{store.digest(key)}"{layout} : {text_of_type(array)}\n'
    text = f"builtin.module {{ func.func @main({arguments}) -> ({results}) {{ {declared} {body} }} }}"
    ctx = Context()
    for dialect in (Builtin, Func, nn.NN):
        ctx.load_dialect(dialect)
    attach_store(ctx, store)
    module = Parser(ctx, text).parse_module()
    module.verify()
    return module, ctx


def node(name: str) -> NameLoc:
    return NameLoc(StringAttr(name), NoneAttr())


def store_in(ctx: Context) -> WeightStore:
    return ctx.__dict__["hpcc_store"]


def quantized(module: ModuleOp, ctx: Context) -> ModuleOp:
    QuantizePass().apply(ctx, module)
    module.verify()
    check_dominance(module)
    VerifyStagePass(stage="quantize").apply(ctx, module)
    return module


def linear_weights(rng: np.random.Generator, outs: int, ins: int) -> np.ndarray:
    return (rng.standard_normal((outs, ins)) / np.sqrt(ins)).astype(np.float32)


def encoder_weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {
        "word": rng.standard_normal((VOCAB, D)).astype(np.float32),
        "position": rng.standard_normal((S, D)).astype(np.float32) * np.float32(0.3),
        "position_ids": np.arange(S, dtype=np.int64)[None],
        "up:io": linear_weights(rng, FFN, D),
        "up_bias": rng.standard_normal(FFN).astype(np.float32),
        "down": linear_weights(rng, D, FFN),
        "logits": linear_weights(rng, 3, D),
    }
    for name in ("q", "k", "v", "o"):
        weights[name] = linear_weights(rng, D, D)
    for name in ("bias", "gamma", "beta"):
        weights[name] = rng.standard_normal(D).astype(np.float32)
    return weights


NORM = f": {X}, tensor<{D}xf32>, tensor<{D}xf32> -> {X}"


def dense(role: str, result: str, x: str, weight: str, bias: str = "", outs: int = D, ins: int = D) -> str:
    source, target = f"tensor<{B}x{S}x{ins}xf32>", f"tensor<{B}x{S}x{outs}xf32>"
    bias_use, bias_type = (f" bias %{bias}", f", tensor<{outs}xf32>") if bias else ("", "")
    types = f"{source}, tensor<{outs}x{ins}xf32>{bias_type} -> {target}"
    return f'%{result} = hpcc_nn.linear "{role}" %{x}, %{weight}{bias_use} : {types}\n'


LAYER = (
    dense("layer.0.attn.q", "lq", "x0", "q", "bias")
    + dense("layer.0.attn.k", "lk", "x0", "k", "bias")
    + dense("layer.0.attn.v", "lv", "x0", "v")
    + f'%att = hpcc_nn.attention "layer.0.attn" %lq, %lk, %lv mask %mask heads {HEADS} : i64'
    + f" scale 3.535534e-01 : f32 : {X}, {X}, {X}, {MASK} -> {X}\n"
    + dense("layer.0.attn.o", "lo", "att", "o", "bias")
    + f"%sum0 = hpcc_nn.binary add %lo, %x0 : {X}, {X} -> {X}\n"
    + f"%x1 = hpcc_nn.layer_norm %sum0, %gamma, %beta eps 1.0e-12 : f32 {NORM}\n"
    + dense("layer.0.ffn.up", "lu", "x1", "up", "up_bias", FFN, D)
    + f"%act = hpcc_nn.activation gelu %lu : {U} -> {U}\n"
    + dense("layer.0.ffn.down", "ld", "act", "down", "bias", D, FFN)
    + f"%sum1 = hpcc_nn.binary add %x1, %ld : {X}, {X} -> {X}\n"
    + f"%x2 = hpcc_nn.layer_norm %sum1, %gamma, %beta eps 1.0e-12 : f32 {NORM}\n"
)
EMBED = (
    f"%sum = hpcc_nn.embedding %ids, %position_ids of %word, %position : {MASK}, tensor<1x{S}xi64> of"
    f" tensor<{VOCAB}x{D}xf32>, tensor<{S}x{D}xf32> -> {X}\n"
    f"%x0 = hpcc_nn.layer_norm %sum, %gamma, %beta eps 1.0e-12 : f32 {NORM}\n"
)
HEAD = (
    f"%pooled = hpcc_nn.mean_pool %x2, %mask minimum 1.0e-09 : f32 : {X}, {MASK} -> tensor<{B}x{D}xf32>\n"
    f"%first = hpcc_nn.take_token %x2, 0 : i64 : {X} -> tensor<{B}x{D}xf32>\n"
    f'%scores = hpcc_nn.linear "classifier" %first, %logits : tensor<{B}x{D}xf32>, tensor<3x{D}xf32>'
    f" -> tensor<{B}x3xf32>\n"
    f"func.return %x2, %pooled, %scores : {X}, tensor<{B}x{D}xf32>, tensor<{B}x3xf32>"
)


def encoder(weights: Mapping[str, np.ndarray] | None = None) -> tuple[ModuleOp, Context]:
    module, ctx = parse(
        f"%ids : {MASK}, %mask : {MASK}",
        f"{X}, tensor<{B}x{D}xf32>, tensor<{B}x3xf32>",
        EMBED + LAYER + HEAD,
        encoder_weights() if weights is None else weights,
    )
    for op in main_function(module).body.block.ops:
        if isinstance(op, nn.LinearOp | nn.AttentionOp):
            op.location = node(f"/{op.role.data}")
    return module, ctx


def encoder_inputs() -> dict[str, np.ndarray]:
    ids = np.random.default_rng(1).integers(0, VOCAB, (B, S))
    mask = np.ones((B, S), np.int64)
    mask[1, 4:] = 0
    return {"input0": ids, "input1": mask}


def ops_of(module: ModuleOp, kind: type) -> list:
    return [op for op in main_function(module).body.block.ops if isinstance(op, kind)]


def relative_l2(got: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(got - reference) / np.linalg.norm(reference))


# ---- structure ------------------------------------------------------------------------------------------------------


def test_the_result_is_canonical():
    module = quantized(*encoder())
    quantizes = ops_of(module, nn.QuantizeOp)
    keys = [(op.x, op.granularity.data) for op in quantizes]
    assert len(keys) == len(set(keys)) == 8
    for op in ops_of(module, nn.QLinearOp):
        users = {type(use.operation) for use in op.result.uses}
        assert users in ({nn.LayerNormOp}, {nn.CastOp}, {ReturnOp})
    assert not ops_of(module, nn.BinaryOp)
    assert not ops_of(module, nn.LinearOp)


def test_q_k_and_v_share_one_quantised_input():
    module = quantized(*encoder())
    inputs = {op.role.data: (op.x, op.x_scale) for op in ops_of(module, nn.QLinearOp)}
    assert inputs["layer.0.attn.q"] == inputs["layer.0.attn.k"] == inputs["layer.0.attn.v"]


def test_residual_additions_fold_into_the_linear_before_them():
    module = quantized(*encoder())
    residuals = {op.role.data: op.residual for op in ops_of(module, nn.QLinearOp) if op.residual is not None}
    norms = [op.result for op in ops_of(module, nn.LayerNormOp)]
    assert residuals == {"layer.0.attn.o": norms[0], "layer.0.ffn.down": norms[1]}


def test_locations_are_those_of_the_replaced_ops():
    module = quantized(*encoder())
    for op in (*ops_of(module, nn.QLinearOp), *ops_of(module, nn.QAttentionOp)):
        assert op.location == node(f"/{op.role.data}")
    attention = ops_of(module, nn.QAttentionOp)[0]
    assert next(iter(attention.result.uses)).operation.location == attention.location


def test_outputs_keep_their_types():
    module = quantized(*encoder())
    returned = main_function(module).body.block.last_op
    assert isinstance(returned, ReturnOp)
    assert [v.type for v in returned.arguments] == list(main_function(module).function_type.outputs)
    hidden, pooled, scores = (v.owner for v in returned.arguments)
    assert isinstance(hidden, nn.CastOp)
    assert isinstance(pooled, nn.MeanPoolOp)
    assert isinstance(scores, nn.QLinearOp)


def test_of_two_linears_the_later_one_takes_the_addition():
    x = f"tensor<{B}x{S}x{D}xf32>"
    body = (
        dense("a", "la", "x", "q")
        + dense("b", "lb", "x", "k")
        + f"%sum = hpcc_nn.binary add %la, %lb : {x}, {x} -> {x}\n"
        + f"func.return %sum : {x}"
    )
    weights = {name: encoder_weights()[name] for name in ("q", "k")}
    module, ctx = parse(f"%x : {x}", x, body, weights)
    inputs = {"input0": np.random.default_rng(5).standard_normal((B, S, D)).astype(np.float32)}
    reference = evaluate(module, store_in(ctx), inputs)["output0"]
    quantized(module, ctx)
    assert [(op.role.data, op.residual is not None) for op in ops_of(module, nn.QLinearOp)] == [
        ("a", False),
        ("b", True),
    ]
    assert relative_l2(evaluate(module, store_in(ctx), inputs)["output0"], reference) < 0.03


def test_a_reshape_before_a_linear_is_of_the_stored_form():
    flat = f"tensor<{B * S}x{D}xf32>"
    body = (
        f"%x0 = hpcc_nn.layer_norm %x, %gamma, %beta eps 1.0e-12 : f32 {NORM}\n"
        f"%rows = hpcc_nn.reshape %x0 : {X} -> {flat}\n"
        f'%y = hpcc_nn.linear "head.0" %rows, %q : {flat}, tensor<{D}x{D}xf32> -> {flat}\n'
        f"%back = hpcc_nn.reshape %y : {flat} -> {X}\nfunc.return %back : {X}"
    )
    weights = {name: encoder_weights()[name] for name in ("q", "gamma", "beta")}
    module, ctx = parse(f"%x : {X}", X, body, weights)
    inputs = {"input0": np.random.default_rng(6).standard_normal((B, S, D)).astype(np.float32)}
    reference = evaluate(module, store_in(ctx), inputs)["output0"]
    quantized(module, ctx)
    types = [nn.element_type_of(op.result) for op in ops_of(module, nn.ReshapeOp)]
    assert [str(t) for t in types] == ["bf16", "f32"]
    assert relative_l2(evaluate(module, store_in(ctx), inputs)["output0"], reference) < 0.02


# ---- weights --------------------------------------------------------------------------------------------------------


def test_weights_become_codes_and_scales_in_the_logical_layout():
    module, ctx = encoder()
    quantized(module, ctx)
    up = next(op for op in ops_of(module, nn.QLinearOp) if op.role.data == "layer.0.ffn.up")
    assert up.weight.owner.key.data == "up.codes"
    assert up.weight_scale.owner.key.data == "up.scale"
    assert up.weight.owner.stored is None
    codes, scale = store_in(ctx).get("up.codes"), store_in(ctx).get("up.scale")
    quantize = up.x.owner
    assert isinstance(quantize, nn.QuantizeOp)
    smooth = store_in(ctx).get(quantize.smooth.owner.key.data)
    logical = encoder_weights()["up:io"] / smooth
    expected_codes, expected_scale = numerics.quantize_weights(logical)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scale, expected_scale)
    assert codes.flags.c_contiguous
    assert np.abs(codes * scale[:, None] - logical).max() <= scale.max() / 2 * 1.0001


def outlying() -> dict[str, np.ndarray]:
    """An encoder one of whose channels leaves the norms forty times larger than the others."""
    weights = encoder_weights()
    for name in [name for name in weights if weights[name].shape == (D,) and "gamma" in name]:
        weights[name] = weights[name].copy()
        weights[name][3] *= 40
    return weights


def test_channels_that_dominate_a_norm_are_smoothed_by_powers_of_two():
    module, ctx = encoder(outlying())
    quantized(module, ctx)
    smoothed = [op for op in ops_of(module, nn.QuantizeOp) if op.smooth is not None]
    assert smoothed
    for op in smoothed:
        factors = store_in(ctx).get(op.smooth.owner.key.data)
        exponents = np.log2(factors)
        assert (exponents == np.rint(exponents)).all()
        assert np.abs(exponents).max() <= 4
        assert factors.argmin() == 3
        assert all(isinstance(use.operation, nn.QLinearOp) for use in op.codes.uses)


def test_smoothing_lowers_the_error(monkeypatch: pytest.MonkeyPatch):
    errors = []
    for smooth in (True, False):
        if not smooth:
            monkeypatch.setattr("compiler.passes.quantize.smoothing_factors", lambda module, store: {})
        module, ctx = encoder(outlying())
        inputs = encoder_inputs()
        reference = evaluate(module, store_in(ctx), inputs)
        quantized(module, ctx)
        mask = inputs["input1"] != 0
        got = evaluate(module, store_in(ctx), inputs)
        # Without the channel itself, which is nearly all of the norm of a row.
        others = np.arange(D) != 3
        errors.append(relative_l2(got["output0"][mask][:, others], reference["output0"][mask][:, others]))
    assert errors[0] < 0.7 * errors[1]


def test_columns_balance():
    activations = np.array([1, 1, 1, 16, 1, 0, 1e9], np.float32)
    weights = np.array([1, 1, 1, 1, 0, 1, 1], np.float32)
    assert balance(activations, weights).tolist() == [1, 1, 1, 0.25, 1 / 16, 1, 1 / 16]
    assert balance(activations, np.zeros(7, np.float32)).tolist() == [1] * 7


def test_the_sparsity_encoding_survives_and_zeros_stay_zero():
    weights = encoder_weights()
    weights["q"] = weights["q"].copy()
    weights["q"][:, ::2] = 0
    module, ctx = encoder(weights)
    encoding = StringAttr("a pattern")
    q = next(op for op in ops_of(module, nn.WeightOp) if op.key.data == "q")
    Rewriter.replace_value_with_new_type(q.result, TensorType(f32, (D, D), encoding))
    quantized(module, ctx)
    types = {op.role.data: op.weight.type for op in ops_of(module, nn.QLinearOp)}
    assert types["layer.0.attn.q"] == TensorType(i8, (D, D), encoding)
    assert types["layer.0.attn.k"] == TensorType(i8, (D, D))
    assert not store_in(ctx).get("q.codes")[:, ::2].any()


def test_tables_become_bf16_and_survive_a_dump(tmp_path: Path):
    module, ctx = encoder()
    inputs = encoder_inputs()
    quantized(module, ctx)
    store = store_in(ctx)
    assert store.get("word.bf16").dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(store.get("word.bf16").astype(np.float32), numerics.bf16(encoder_weights()["word"]))
    store.save(tmp_path / "weights.safetensors", [op.key.data for op in ops_of(module, nn.WeightOp)])
    reopened = WeightStore.open(tmp_path / "weights.safetensors")
    for name, array in evaluate(module, store, inputs).items():
        np.testing.assert_array_equal(evaluate(module, reopened, inputs)[name], array)
    for op in ops_of(module, nn.WeightOp):
        assert reopened.digest(op.key.data) == op.digest.data


def test_subnormal_parameters_are_flushed_and_others_stay_the_same_entry():
    weights = encoder_weights()
    weights["up_bias"] = weights["up_bias"].copy()
    weights["up_bias"][0] = 1e-40
    module, ctx = encoder(weights)
    quantized(module, ctx)
    biases = {op.role.data: op.bias.owner.key.data for op in ops_of(module, nn.QLinearOp) if op.bias is not None}
    assert biases["layer.0.ffn.up"] == "up_bias.f32"
    assert biases["layer.0.attn.q"] == "bias"
    assert store_in(ctx).get("up_bias.f32")[0] == 0


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q", "word", "up_bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(name: str, value: float):
    weights = encoder_weights()
    weights[name] = weights[name].copy()
    weights[name].reshape(-1)[3] = value
    with pytest.raises(InputError, match="finite") as caught:
        QuantizePass().apply(*reversed(encoder(weights)))
    assert f"weight '{name}'" in str(caught.value)
    assert caught.value.code == "HPCC1411"


def test_an_op_without_integer_form_is_named_with_its_node():
    body = f"%y = hpcc_nn.unary exp %x : {X} -> {X}\nfunc.return %y : {X}"
    module, ctx = parse(f"%x : {X}", X, body, {})
    ops_of(module, nn.UnaryOp)[0].location = node("/Exp_3")
    with pytest.raises(InputError, match="unary exp") as caught:
        QuantizePass().apply(ctx, module)
    assert str(caught.value).startswith("node '/Exp_3': error: ")


def attention_module(keys: int, mask: str = "", bias: str = "") -> tuple[ModuleOp, Context]:
    x = f"tensor<1x{keys}x4xf32>"
    argument, use, type = (f", %mask : {mask}", " mask %mask", f", {mask}") if mask else ("", "", "")
    if bias:
        argument, use, type = f"{argument}, %bias : {bias}", f"{use} bias %bias", f"{type} plus {bias}"
    body = (
        f'%y = hpcc_nn.attention "layer.0.attn" %x, %x, %x{use} heads 2 : i64 scale 0.7 : f32 : {x}, {x}, {x}{type}'
        f" -> {x}\nfunc.return %y : {x}"
    )
    return parse(f"%x : {x}{argument}", x, body, {})


def test_more_keys_than_their_sums_serve_are_infeasible():
    module, ctx = attention_module(32769)
    with pytest.raises(InfeasibleError, match="32,769 keys"):
        QuantizePass().apply(ctx, module)
    quantized(*attention_module(513))


# ---- values ---------------------------------------------------------------------------------------------------------


def fractions(x: np.ndarray) -> list:
    return [fractions(row) for row in x] if x.ndim else Fraction(float(x))  # type: ignore[return-value]


@pytest.mark.parametrize("kinds", [(), ("mask",), ("bias",), ("mask", "bias")], ids="-".join)
def test_attention_has_the_bits_of_the_scalar_reference(kinds: tuple[str, ...]):
    keys, size = 5, 2
    types = {"mask": f"tensor<1x{keys}xi64>", "bias": f"tensor<2x{keys}x{keys}xf32>"}
    module, ctx = attention_module(keys, **{kind: types[kind] for kind in kinds})
    rng = np.random.default_rng(7)
    x = numerics.bf16(rng.standard_normal((1, keys, 4)) * 3)
    x[0, 4] *= 32
    attended = np.array([[1, 1, 0, 1, 0]])
    bias = np.where(attended[:, None], rng.standard_normal((2, keys, keys)), -10000).astype(np.float32)
    given = {"mask": attended, "bias": bias}
    inputs = {"input0": x, **{f"input{1 + index}": given[kind] for index, kind in enumerate(kinds)}}
    quantized(module, ctx)
    got = evaluate(module, store_in(ctx), inputs)["output0"]
    mask = attended[0].tolist() if "mask" in kinds else None
    for head in range(2):
        rows = fractions(x[0, :, head * size : (head + 1) * size])
        codes, scales = scalar.quantize_rows(rows, size)
        v, v_scale = scalar.quantize_columns(rows, mask)
        flat = [row[0] for row in scales]
        added = fractions(bias[head]) if "bias" in kinds else None
        scale = Fraction(float(np.float32(0.7)))
        p, total = scalar.softmax(scalar.matmul(codes, codes), flat, flat, scale, mask, added)
        transposed = [list(column) for column in zip(*v, strict=True)]
        expected = scalar.context(scalar.matmul(p, transposed), total, v_scale)
        np.testing.assert_array_equal(
            got[0, :, head * size : (head + 1) * size], np.array(expected, dtype=object).astype(np.float32)
        )


def test_a_small_encoder_is_close_to_fp32():
    module, ctx = encoder()
    inputs = encoder_inputs()
    reference = evaluate(module, store_in(ctx), inputs)
    quantized(module, ctx)
    got = evaluate(module, store_in(ctx), inputs)
    mask = inputs["input1"] != 0
    assert relative_l2(got["output0"][mask], reference["output0"][mask]) < 0.03
    assert relative_l2(got["output1"], reference["output1"]) < 0.03
    assert relative_l2(got["output2"], reference["output2"]) < 0.05


def test_padding_changes_no_bit_of_a_sequence():
    """Neither other padding ids nor another sequence beside it move a bit of the unmasked tokens."""
    module, ctx = encoder()
    quantized(module, ctx)
    inputs = encoder_inputs()
    other = {name: array.copy() for name, array in inputs.items()}
    other["input0"][1, 4:] = (other["input0"][1, 4:] + 3) % VOCAB
    other["input0"][0] = 0
    got, changed = (evaluate(module, store_in(ctx), i) for i in (inputs, other))
    np.testing.assert_array_equal(got["output0"][1, :4], changed["output0"][1, :4])
    np.testing.assert_array_equal(got["output1"][1], changed["output1"][1])
    assert (got["output0"][0] != changed["output0"][0]).any()


# ---- the real model -------------------------------------------------------------------------------------------------


def fake_quantize(x: np.ndarray) -> np.ndarray:
    absmax = np.abs(x).max(axis=-1, keepdims=True)
    scale = np.where(absmax > 0, absmax / 127, 1)
    return (np.rint(x / scale).clip(-127, 127) * scale).astype(np.float32)


def plainly_quantized(module: ModuleOp, store: WeightStore, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The yardstick: fp32 everywhere but for linears, whose inputs are int8 per token and weights int8 per channel."""
    load_meanings()
    main = main_function(module)
    arguments = main.body.block.args
    values = {a: inputs[n] for a, n in zip(arguments, names_of(main, "input_names"), strict=True)}
    for op in main.body.block.ops:
        args = [values[operand] for operand in op.operands]
        if isinstance(op, ReturnOp):
            return dict(zip(names_of(main, "output_names"), args, strict=True))
        if isinstance(op, nn.LinearOp):
            args[:2] = fake_quantize(args[0]), fake_quantize(args[1])
        values.update(zip(op.results, run_op(op, args, store), strict=True))
    raise AssertionError("no return")


CASES = [(1, 128, (0,)), (1, 128, (10,)), (1, 8, (0,)), pytest.param(4, 128, (1, 4, 7, 9), marks=pytest.mark.slow)]


@pytest.mark.parametrize(("batch", "length", "lines"), CASES)
def test_l3_stays_close_to_onnx_runtime(
    l3_model: Path, tokenizer_file: Path, sentences: list[str], batch: int, length: int, lines: tuple[int, ...]
):
    import onnxruntime
    from tokenizers import Tokenizer

    from compiler.frontend.importer import import_onnx
    from compiler.passes.fuse import FusePass

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encodings = tokenizer.encode_batch([sentences[i] for i in lines])
    inputs = {
        "input_ids": np.array([e.ids for e in encodings], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
    }
    assert len(encodings) == batch
    session = onnxruntime.InferenceSession(str(l3_model), providers=["CPUExecutionProvider"])
    tokens = next(o.name for o in session.get_outputs() if len(o.shape) == 3)
    (reference,) = session.run([tokens], inputs)

    imported = import_onnx(l3_model, {name: array.shape for name, array in inputs.items()})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    plain = plainly_quantized(imported.module, imported.store, inputs)[tokens]
    quantized(imported.module, ctx)
    got = evaluate(imported.module, imported.store, inputs)[tokens]

    mask = inputs["attention_mask"] != 0
    a, b = got[mask].astype(np.float64), reference[mask].astype(np.float64)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    error = relative_l2(a, b)
    assert error <= 0.05
    assert cosine.min() >= 0.99
    assert error <= 1.3 * relative_l2(plain[mask], b)
