"""Lowerings of the elementary operations: ONNX meaning, one linalg.generic each where a shape changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from xdsl.dialects import arith, math
from xdsl.ir import SSAValue

from compiler.backends.linalg.lowerings import lowering_of, result_element, unsigned
from compiler.backends.linalg.scalars import Scalars, highest, is_float, lowest, signless
from compiler.backends.linalg.tensors import ONE, Tensors
from compiler.dialects import nn
from compiler.interpreters.nn_float import constant_array

Args = Sequence[SSAValue]
_BATCH = "abcdefgh"

_UNARY: dict[nn.UnaryKind, Callable[[Scalars, SSAValue], SSAValue]] = {
    nn.UnaryKind.NEG: lambda s, x: s.negative(x),
    nn.UnaryKind.ABS: lambda s, x: s.unary(math.AbsFOp if is_float(x.type) else math.AbsIOp, x),
    nn.UnaryKind.SQRT: lambda s, x: s.sqrt(x),
    nn.UnaryKind.RECIPROCAL: lambda s, x: s.div(s.like(1, x), x),
    nn.UnaryKind.EXP: lambda s, x: s.exp(x),
    nn.UnaryKind.LOG: lambda s, x: s.unary(math.LogOp, x),
    nn.UnaryKind.COS: lambda s, x: s.unary(math.CosOp, x),
    nn.UnaryKind.SIN: lambda s, x: s.unary(math.SinOp, x),
    nn.UnaryKind.ERF: lambda s, x: s.unary(math.ErfOp, x),
    nn.UnaryKind.TANH: lambda s, x: s.tanh(x),
    nn.UnaryKind.SIGMOID: lambda s, x: s.sigmoid(x),
    nn.UnaryKind.RELU: lambda s, x: s.maximum(x, s.like(0, x)),
    nn.UnaryKind.NOT: lambda s, x: s.logic(arith.XOrIOp, s.truth(x), s.like(1, s.truth(x))),
    nn.UnaryKind.ISNAN: lambda s, x: s.is_nan(x),
}

_ARITHMETIC: dict[nn.BinaryKind, Callable[[Scalars, SSAValue, SSAValue], SSAValue]] = {
    nn.BinaryKind.ADD: lambda s, a, b: s.add(a, b),
    nn.BinaryKind.SUB: lambda s, a, b: s.sub(a, b),
    nn.BinaryKind.MUL: lambda s, a, b: s.mul(a, b),
    nn.BinaryKind.DIV: lambda s, a, b: s.div(a, b),
    nn.BinaryKind.POW: lambda s, a, b: s.insert((math.PowFOp if is_float(a.type) else math.IPowIOp)(a, b)),
    nn.BinaryKind.AND: lambda s, a, b: s.logic(arith.AndIOp, s.truth(a), s.truth(b)),
    nn.BinaryKind.OR: lambda s, a, b: s.logic(arith.OrIOp, s.truth(a), s.truth(b)),
}

_COMPARISONS = {
    nn.BinaryKind.EQUAL: "eq",
    nn.BinaryKind.LESS: "lt",
    nn.BinaryKind.LESS_EQUAL: "le",
    nn.BinaryKind.GREATER: "gt",
    nn.BinaryKind.GREATER_EQUAL: "ge",
}


@lowering_of(nn.ConstantOp)
def _constant(t: Tensors, op: nn.ConstantOp, args: Args) -> SSAValue:
    element = nn.element_type_of(op.result)
    if signless(element) == element:
        return t.constant(op.value)
    values = [int(value) for value in constant_array(op).reshape(-1)]
    scalars = [t.filled(value, (), signless(element)) for value in dict.fromkeys(values)]
    if len(scalars) == 1:
        return t.elementwise([scalars[0]], signless(element), lambda s, x: x, nn.shape_of(op.result))
    by_value = dict(zip(dict.fromkeys(values), scalars, strict=True))
    return t.reshape(t.concat([t.reshape(by_value[value], (1,)) for value in values], 0), nn.shape_of(op.result))


@lowering_of(nn.DequantizeOp)
def _dequantize(t: Tensors, op: nn.DequantizeOp, args: Args) -> SSAValue:
    element, plain = result_element(op), unsigned(op.codes)
    return t.elementwise(args, element, lambda s, code, scale: s.mul(s.cast(code, element, unsigned=plain), scale))


@lowering_of(nn.UnaryOp)
def _unary(t: Tensors, op: nn.UnaryOp, args: Args) -> SSAValue:
    return t.elementwise(args, result_element(op), lambda s, x: _UNARY[op.kind.data](s, x))


@lowering_of(nn.BinaryOp)
def _binary(t: Tensors, op: nn.BinaryOp, args: Args) -> SSAValue:
    kind, plain = op.kind.data, unsigned(op.lhs)

    def code(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
        if kind in _COMPARISONS:
            return s.compare(_COMPARISONS[kind], a, b, unsigned=plain)
        if kind is nn.BinaryKind.MIN:
            return s.minimum(a, b, unsigned=plain)
        if kind is nn.BinaryKind.MAX:
            return s.maximum(a, b, unsigned=plain)
        return _ARITHMETIC[kind](s, a, b)

    return t.elementwise(args, result_element(op), code)


@lowering_of(nn.WhereOp)
def _where(t: Tensors, op: nn.WhereOp, args: Args) -> SSAValue:
    return t.elementwise(args, result_element(op), lambda s, c, a, b: s.select(s.truth(c), a, b))


@lowering_of(nn.CastOp)
def _cast(t: Tensors, op: nn.CastOp, args: Args) -> SSAValue:
    element, plain = result_element(op), unsigned(op.x)
    return t.elementwise(args, element, lambda s, x: s.cast(x, element, unsigned=plain))


@lowering_of(nn.MatMulOp)
def _matmul(t: Tensors, op: nn.MatMulOp, args: Args) -> SSAValue:
    """numpy.matmul: leading axes broadcast, vectors are rows on the left and columns on the right."""
    a, b = nn.shape_of(args[0]), nn.shape_of(args[1])
    batch = nn.broadcast_shape(a[:-2], b[:-2])
    names = _BATCH[: len(batch)]

    def leading(shape: tuple[int, ...]) -> str:
        own = shape[:-2]
        first = len(batch) - len(own)
        return "".join(names[first + i] if size == batch[first + i] else ONE for i, size in enumerate(own))

    left = leading(a) + ("mk" if len(a) > 1 else "k")
    right = leading(b) + ("kn" if len(b) > 1 else "k")
    result = names + ("m" if len(a) > 1 else "") + ("n" if len(b) > 1 else "")
    return t.contract(f"{left},{right}->{result}", *args)


@lowering_of(nn.GemmOp)
def _gemm(t: Tensors, op: nn.GemmOp, args: Args) -> SSAValue:
    left, right = "km" if op.trans_a.value.data else "mk", "nk" if op.trans_b.value.data else "kn"
    y = t.contract(f"{left},{right}->mn", args[0], args[1])
    alpha, beta = op.alpha.value.data, op.beta.value.data

    def code(s: Scalars, y: SSAValue, *c: SSAValue) -> SSAValue:
        y = y if alpha == 1 else s.mul(s.like(alpha, y), y)
        if not c:
            return y
        return s.add(y, c[0] if beta == 1 else s.mul(s.like(beta, y), c[0]))

    return y if alpha == 1 and len(args) == 2 else t.elementwise([y, *args[2:]], result_element(op), code)


@lowering_of(nn.TransposeOp)
def _transpose(t: Tensors, op: nn.TransposeOp, args: Args) -> SSAValue:
    return t.transpose(args[0], op.permutation)


@lowering_of(nn.ReshapeOp)
def _reshape(t: Tensors, op: nn.ReshapeOp, args: Args) -> SSAValue:
    return t.reshape(args[0], nn.shape_of(op.result))


@lowering_of(nn.ExpandOp)
def _expand(t: Tensors, op: nn.ExpandOp, args: Args) -> SSAValue:
    return t.elementwise(args, result_element(op), lambda s, x: x, nn.shape_of(op.result))


@lowering_of(nn.GatherOp)
def _gather(t: Tensors, op: nn.GatherOp, args: Args) -> SSAValue:
    return t.gather(args[0], args[1], op.axis.value.data, unsigned=unsigned(op.indices))


@lowering_of(nn.SliceOp)
def _slice(t: Tensors, op: nn.SliceOp, args: Args) -> SSAValue:
    return t.slice(args[0], nn.int_values(op.starts), nn.shape_of(op.result), nn.int_values(op.steps))


@lowering_of(nn.ConcatOp)
def _concat(t: Tensors, op: nn.ConcatOp, args: Args) -> SSAValue:
    return t.concat(args, op.axis.value.data)


@lowering_of(nn.ReduceOp)
def _reduce(t: Tensors, op: nn.ReduceOp, args: Args) -> SSAValue:
    x, axes, kind = args[0], op.axis_tuple, op.kind.data
    element, plain = nn.element_type_of(x), unsigned(op.x)
    match kind:
        case nn.ReduceKind.MAX:
            y = t.reduce(x, axes, 0 if plain else lowest(element), lambda s, a, b: s.maximum(a, b, unsigned=plain))
        case nn.ReduceKind.MIN:
            top = -1 if plain else highest(element)  # all bits set
            y = t.reduce(x, axes, top, lambda s, a, b: s.minimum(a, b, unsigned=plain))
        case _:
            y = t.reduce(x, axes, 0, lambda s, a, b: s.add(a, b))
    if kind is nn.ReduceKind.MEAN:
        count = prod(nn.shape_of(x)[axis] for axis in axes)
        y = t.elementwise([y], element, lambda s, a: s.div(a, s.like(count, a)))
    return t.reshape(y, nn.shape_of(op.result))


def softmax(t: Tensors, x: SSAValue, axis: int) -> SSAValue:
    """exp(x - max) / sum along an axis."""
    element = nn.element_type_of(x)
    top = t.reduce(x, [axis], lowest(element), lambda s, a, b: s.maximum(a, b), keep=True)
    e = t.elementwise([x, top], element, lambda s, a, m: s.exp(s.sub(a, m)))
    total = t.reduce(e, [axis], 0, lambda s, a, b: s.add(a, b), keep=True)
    return t.elementwise([e, total], element, lambda s, a, b: s.div(a, b))


@lowering_of(nn.SoftmaxOp)
def _softmax(t: Tensors, op: nn.SoftmaxOp, args: Args) -> SSAValue:
    return softmax(t, args[0], op.axis.value.data)
