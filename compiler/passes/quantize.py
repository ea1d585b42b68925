"""`hpcc-quantize`: the fused transformer in fp32 to the accelerator's integers and bf16 (docs/NUMERICS.md, section 7).

Every value of the fp32 module gets up to three forms, made where they are first needed: fp32 as an operation computes
it, bf16 as it is stored, codes with scales as MATRIX reads them. Weights are coded here, in new entries of the store;
no calibration data is involved, all other scales are computed by the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float32Type, ModuleOp, NameLoc, TensorType, bf16, f32, i8
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from compiler.dialects import nn
from compiler.dialects.sparsity import pattern_of
from compiler.interpreters.nn_float import constant_array, dequantized
from compiler.module import main_function
from compiler.passes.smoothing import smoothing_factors
from compiler.weights import WeightStore, row_major, store_of
from hw_targets import numerics, streaming_softmax
from hw_targets.errors import InfeasibleError, InputError

Array = NDArray[Any]

_MATRIX_BLOCK = 128
"""Rows of a weight matrix coded at a time: their fp32 intermediates fit a core's cache."""
_TABLE_BLOCK = 4096
"""Rows of an embedding table converted at a time: the table may be most of the model, its fp32 copies need not be."""


@dataclass(frozen=True)
class QuantizePass(ModulePass):
    """Replace the fused ops of @main by their integer forms.

    Raises InputError for an op without one and for weights that are not finite, InfeasibleError for attention over more
    keys than the integer sums of probabilities serve.
    """

    name: ClassVar[str] = "hpcc-quantize"
    streaming: int | None = None
    """The shift of the streaming softmax, where the accelerator has it."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        _Quantizer(store_of(ctx, op), self.streaming).run(op)


def _where(op: Operation) -> str:
    return f"node {op.location.desc.data!r}" if isinstance(op.location, NameLoc) else ""


def _check_keys(op: nn.AttentionOp, streaming: bool) -> None:
    """Raises InfeasibleError for a row of probabilities whose sum could overflow."""
    keys = nn.shape_of(op.k)[1]
    if keys > numerics.MAX_KEYS:
        raise InfeasibleError(
            "HPCC3201",
            f"attention over {keys:,} keys: the sums of probabilities serve {numerics.MAX_KEYS:,} at most",
            where=_where(op),
            hint="bind a shorter sequence with --shape",
        )
    if streaming and keys > streaming_softmax.MAX_KEYS:
        raise InfeasibleError(
            "HPCC3202",
            f"attention over {keys:,} keys: the streaming softmax serves {streaming_softmax.MAX_KEYS:,} at most",
            where=_where(op),
            hint='bind a shorter sequence with --shape, or take a target with softmax = "exact"',
        )


def _is_f32(value: SSAValue) -> bool:
    return isinstance(value.type, TensorType) and isinstance(value.type.element_type, Float32Type)


def _typed(value: SSAValue, element: Float32Type | BFloat16Type) -> TensorType:
    return TensorType(element, nn.shape_of(value))


def _aliases(value: SSAValue) -> list[SSAValue]:
    """What one instruction writes: a value and all that is reshaped from it, or that it is itself reshaped from."""
    while isinstance(value.owner, nn.ReshapeOp):
        value = value.owner.x
    found = [value]
    for alias in found:
        found += [use.operation.result for use in alias.uses if isinstance(use.operation, nn.ReshapeOp)]
    return found


# ---- residual additions and gates -----------------------------------------------------------------------------------


def _completed_by(op: nn.BinaryOp) -> tuple[nn.LinearOp, SSAValue] | None:
    """The linear that an addition or a product completes and the other operand, or None if there is no such linear.

    Of two candidates the later one is taken: its chain can start when the other result is stored.
    """
    if op.kind.data not in (nn.BinaryKind.ADD, nn.BinaryKind.MUL) or nn.shape_of(op.lhs) != nn.shape_of(op.rhs):
        return None
    found: list[tuple[nn.LinearOp, SSAValue]] = []
    for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
        if isinstance(mine.owner, nn.LinearOp) and len(list(mine.uses)) == 1:
            found.append((mine.owner, other))
    if len(found) == 2:
        block = op.parent_block()
        assert block is not None
        return max(found, key=lambda pair: block.get_operation_index(pair[0]))
    return found[0] if found else None


# ---- the conversion -------------------------------------------------------------------------------------------------


@dataclass
class _Quantizer:
    """One pass over the block: new ops are inserted before the old one, which is erased at the end.

    `primary` maps an old fp32 value to the value its op now computes (fp32 or bf16), `stored` to its bf16 form, `codes`
    a bf16 value, granularity, group count and mask to the quantize op, `widened` a bf16 value to its fp32 cast.
    """

    store: WeightStore
    streaming: int | None = None
    primary: dict[SSAValue, SSAValue] = field(default_factory=dict)
    stored: dict[SSAValue, SSAValue] = field(default_factory=dict)
    widened: dict[SSAValue, SSAValue] = field(default_factory=dict)
    codes: dict[tuple[SSAValue, nn.Granularity, int, SSAValue | None], nn.QuantizeOp] = field(default_factory=dict)
    weights: dict[tuple[SSAValue, str], tuple[SSAValue, ...]] = field(default_factory=dict)
    folded: dict[Operation, SSAValue] = field(default_factory=dict)
    smoothing: Mapping[SSAValue, Array] = field(default_factory=dict)

    def run(self, module: ModuleOp) -> None:
        for op in module.walk():
            if isinstance(op, nn.AttentionOp):
                _check_keys(op, self.streaming is not None)  # before anything slow
        self.smoothing = smoothing_factors(module, self.store)
        block = main_function(module).body.block
        old = list(block.ops)
        completions: dict[Operation, tuple[nn.LinearOp, SSAValue]] = {}
        for op in old:
            if isinstance(op, nn.BinaryOp) and (found := _completed_by(op)) is not None:
                completions[op] = found
        late = {linear for linear, _ in completions.values()}
        replaced: list[Operation] = []
        for op in old:
            if isinstance(op, ReturnOp):
                for index, value in enumerate(op.arguments):
                    op.operands[index] = self._output(value, op)
                continue
            if isinstance(op, nn.HandOverOp):
                replaced.append(op)
                self._hand_over(op)
                continue
            if op in late:
                replaced.append(op)
            elif op in completions and isinstance(op, nn.BinaryOp):
                self.primary[op.result] = self._linear(completions[op][0], op, completions[op][1], op.kind.data)
                replaced.append(op)
            elif self._convert(op):
                replaced.append(op)
        for op in reversed(replaced):
            op.detach()
            op.erase()
        for op in reversed([op for op in block.ops if isinstance(op, nn.STORED)]):
            if not any(True for _ in op.results[0].uses):
                op.detach()
                op.erase()

    def _hand_over(self, op: nn.HandOverOp) -> None:
        """Values in the type they had; what another part reads is there in bf16 too, and that is what is handed over."""
        for value in op.values:
            uses = (use.operation for alias in _aliases(value) for use in alias.uses)
            if any(not isinstance(user, nn.ReshapeOp | nn.HandOverOp | ReturnOp) for user in uses):
                self._bf16(value, op)
        new = nn.HandOverOp(op.tensors, [self._output(value, op) for value in op.values])
        self._emit(new, op, op)
        self.primary.update(zip(op.outs, new.outs, strict=True))

    def _convert(self, op: Operation) -> bool:
        """Make the integer form of `op`; False if it stays as it is."""
        converter = _CONVERTERS.get(type(op))
        if converter is not None and _is_f32(op.results[0]):
            self.primary[op.results[0]] = converter(self, op)
            return True
        if isinstance(op, nn.STORED):
            return False
        if isinstance(op, nn.ReshapeOp | nn.CastOp) and not _is_f32(op.results[0]) and not _is_f32(op.operands[0]):
            return False
        kind = f" {op.kind.data.value}" if isinstance(op, nn.BinaryOp | nn.UnaryOp) else ""
        raise InputError(
            "HPCC1410",
            f"{op.name}{kind} has no integer form",
            where=_where(op),
            hint="run `hpcc-fuse` and `hpcc-partition` first: what they leave over belongs on the host",
        )

    # ---- forms of a value -------------------------------------------------------------------------------------------

    def _emit(self, new: Operation, before: Operation, origin: Operation | None = None) -> None:
        """Insert `new` with the location (and, for the op that replaces it, the attributes) of the old op."""
        new.location = before.location if origin is None else origin.location
        if origin is not None:
            new.attributes.update(origin.attributes)
        block = before.parent_block()
        assert block is not None
        block.insert_op_before(new, before)

    def _now(self, value: SSAValue) -> SSAValue:
        """The new value for an old one; arguments, masks and ids stand for themselves."""
        return self.primary.get(value, value)

    def _bf16(self, value: SSAValue, before: Operation) -> SSAValue:
        """The bf16 form of an old value."""
        if isinstance(value.owner, nn.STORED):
            return self._table(value, before)
        now = self._now(value)
        if isinstance(nn.element_type_of(now), BFloat16Type):
            return now
        if now not in self.stored:
            cast = nn.CastOp(now, _typed(now, bf16))
            self._emit(cast, before)
            if isinstance(now.owner, Operation):
                cast.location = now.owner.location
            self.stored[now] = cast.result
        return self.stored[now]

    def _output(self, value: SSAValue, before: Operation) -> SSAValue:
        """The form of an old value that the function returns: of the type it had."""
        now = self._now(value)
        forms = [self._now(alias) for alias in _aliases(value)]
        if any(form in self.stored or isinstance(form.owner, nn.EmbeddingOp | nn.QAttentionOp) for form in forms):
            now = self._bf16(value, before)  # an instruction writes one form: the one that others read
        if now.type == value.type or not isinstance(nn.element_type_of(now), BFloat16Type):
            return now
        if now not in self.widened:
            cast = nn.CastOp(now, _typed(now, f32))
            self._emit(cast, before)
            if isinstance(now.owner, Operation):
                cast.location = now.owner.location
            self.widened[now] = cast.result
        return self.widened[now]

    def _quantized(
        self,
        value: SSAValue,
        granularity: nn.Granularity,
        groups: int,
        mask: SSAValue | None,
        before: Operation,
        *,
        smooth: Array | None = None,
    ) -> tuple[SSAValue, SSAValue]:
        """Codes and scales of an old value. All readers of a value as whole tokens ask for the same `smooth`."""
        source = self._bf16(value, before)
        key = (source, granularity, groups, mask)
        if key not in self.codes:
            shape = nn.shape_of(source)
            lead = (shape[0], 1) if granularity is nn.Granularity.SEQUENCE_HEAD else shape[:-1]
            factors = None
            if smooth is not None:
                type = TensorType(f32, smooth.shape)
                factors = self._add_weight(f"{_norm_key(value)}.smooth", smooth, type, before, value)
            op = nn.QuantizeOp(granularity, source, mask, factors, TensorType(i8, shape), TensorType(f32, (*lead, groups)))
            self._emit(op, before)
            if isinstance(source.owner, Operation):
                op.location = source.owner.location
            self.codes[key] = op
        return self.codes[key].codes, self.codes[key].scale

    # ---- weights ----------------------------------------------------------------------------------------------------

    def _values(self, value: SSAValue, before: Operation) -> tuple[str, Array]:
        """Store key and logical array (out x in for a matrix) of a constant operand."""
        owner = value.owner
        if isinstance(owner, nn.WeightOp):
            array = self.store.get(owner.key.data)
            return owner.key.data, array.T if owner.transposed else array
        if isinstance(owner, nn.ConstantOp):
            return "constant", constant_array(owner)
        if isinstance(owner, nn.DequantizeOp):
            key, codes = self._values(owner.codes, before)
            return key, dequantized(codes, self._values(owner.scale, before)[1])
        raise InputError("HPCC1410", f"{before.name} takes a weight that is not constant", where=_where(before))

    def _add_weight(self, key: str, array: Array, type: TensorType, before: Operation, like: SSAValue) -> SSAValue:
        key = self.store.add(key, array)
        op = nn.WeightOp(key, self.store.digest(key), type)
        self._emit(op, before)
        if isinstance(like.owner, Operation):
            op.location = like.owner.location
        return op.result

    def _cached(self, value: SSAValue, form: str, make: Callable[[], tuple[SSAValue, ...]]) -> tuple[SSAValue, ...]:
        if (value, form) not in self.weights:
            self.weights[value, form] = make()
        return self.weights[value, form]

    def _coded(self, value: SSAValue, before: Operation, smooth: Array | None) -> tuple[SSAValue, SSAValue]:
        """int8 codes, with the sparsity encoding of the fp32 type, and fp32 scales of a weight matrix, its columns divided
        by the factors that its input was multiplied with."""

        def make() -> tuple[SSAValue, SSAValue]:
            imported = self._imported_codes(value, before)
            if imported is not None:
                return imported
            key, array = self._values(value, before)
            matrix = row_major(np.asarray(array, dtype=np.float32))
            codes, scale = np.empty(matrix.shape, np.int8), np.empty(len(matrix), np.float32)
            tied = pattern_of(value.type).tied_rows
            step = max(_MATRIX_BLOCK // tied, 1) * tied
            for start in range(0, len(matrix), step):
                rows = slice(start, start + step)
                _check_finite(key, matrix[rows])
                block = matrix[rows] if smooth is None else matrix[rows] / smooth
                codes[rows], scale[rows] = numerics.quantize_weights(block, tied)
            assert isinstance(value.type, TensorType)
            type = TensorType(i8, codes.shape, value.type.encoding)
            return (
                self._add_weight(f"{key}.codes", codes, type, before, value),
                self._add_weight(f"{key}.scale", scale, TensorType(f32, scale.shape), before, value),
            )

        form = "codes" if smooth is None else f"codes smoothed by {smooth.tobytes().hex()}"
        codes, scale = self._cached(value, form, make)
        return codes, scale

    def _imported_codes(self, value: SSAValue, before: Operation) -> tuple[SSAValue, SSAValue] | None:
        """Codes and scales as the file has them, if they are what the accelerator computes with: [-127, 127], one scale
        per output row or one in all, neither infinite nor subnormal. A pruned entry is code 0."""
        owner = value.owner
        if not isinstance(owner, nn.DequantizeOp) or nn.shape_of(owner.scale)[1:] != (1,):
            return None
        key, codes = self._values(owner.codes, before)
        scale_key, array = self._values(owner.scale, before)
        scale = np.ascontiguousarray(np.broadcast_to(array[:, 0], codes.shape[:1]), dtype=np.float32)
        if codes.dtype != np.int8 or not np.array_equal(scale, numerics.ftz(scale)) or codes.min() < -127:
            return None
        _check_finite(scale_key, scale)
        assert isinstance(owner.codes.type, TensorType)
        type = TensorType(i8, codes.shape, owner.codes.type.encoding)
        return (
            self._add_weight(f"{key}.codes", row_major(codes), type, before, value),
            self._add_weight(f"{scale_key}.rows", scale, TensorType(f32, scale.shape), before, value),
        )

    def _table(self, value: SSAValue, before: Operation) -> SSAValue:
        """An embedding table in bf16."""

        def make() -> tuple[SSAValue]:
            key, rows_of = self._rows(value, before)
            table = np.empty(nn.shape_of(value), dtype=ml_dtypes.bfloat16)
            for start in range(0, len(table), _TABLE_BLOCK):
                rows = rows_of(slice(start, start + _TABLE_BLOCK))
                _check_finite(key, rows)
                table[start : start + _TABLE_BLOCK] = numerics.bf16_bits(rows).view(ml_dtypes.bfloat16)
            return (self._add_weight(f"{key}.bf16", table, TensorType(bf16, table.shape), before, value),)

        return self._cached(value, "bf16", make)[0]

    def _rows(self, value: SSAValue, before: Operation) -> tuple[str, Callable[[slice], Array]]:
        """Store key of a table and how to get some of its rows in fp32."""
        owner = value.owner
        if not isinstance(owner, nn.DequantizeOp):
            key, array = self._values(value, before)
            return key, lambda rows: np.asarray(array[rows], dtype=np.float32)
        key, codes = self._values(owner.codes, before)
        scale = np.broadcast_to(self._values(owner.scale, before)[1], codes.shape)
        return key, lambda rows: dequantized(codes[rows], scale[rows])

    def _parameter(self, value: SSAValue, before: Operation) -> SSAValue:
        """A bias or norm parameter in fp32 without subnormals; the old weight itself where it already is that."""

        def make() -> tuple[SSAValue]:
            key, array = self._values(value, before)
            flushed = numerics.ftz(array)
            _check_finite(key, flushed)
            if isinstance(value.owner, nn.WeightOp) and array.dtype == np.float32 and np.array_equal(array, flushed):
                return (value,)
            return (self._add_weight(f"{key}.f32", flushed, TensorType(f32, flushed.shape), before, value),)

        return self._cached(value, "f32", make)[0]

    # ---- one function per op ----------------------------------------------------------------------------------------

    def _linear(
        self, op: nn.LinearOp, before: Operation, other: SSAValue | None = None, kind: nn.BinaryKind = nn.BinaryKind.ADD
    ) -> SSAValue:
        """The linear layer, and what adds `other` to its result or multiplies it."""
        term = None if other is None else self._bf16(other, before)
        addend, gate = (None, term) if kind is nn.BinaryKind.MUL else (term, None)
        smooth = self.smoothing.get(op.x)
        codes, scale = self._quantized(op.x, nn.Granularity.TOKEN, 1, None, before, smooth=smooth)
        weight, weight_scale = self._coded(op.weight, before, smooth)
        bias = None if op.bias is None else self._parameter(op.bias, before)
        type = TensorType(f32, nn.shape_of(op.result))
        new = nn.QLinearOp(op.role.data, codes, scale, weight, weight_scale, bias, addend, type, gate=gate)
        self._emit(new, before, op)
        return new.result

    def linear(self, op: nn.LinearOp) -> SSAValue:
        return self._linear(op, op)

    def embedding(self, op: nn.EmbeddingOp) -> SSAValue:
        tables = [self._table(table, op) for table in op.tables]
        new = nn.EmbeddingOp([self._now(ids) for ids in op.ids], tables, TensorType(f32, nn.shape_of(op.result)))
        self._emit(new, op, op)
        return new.result

    def attention(self, op: nn.AttentionOp) -> SSAValue:
        heads = op.heads.value.data
        q = self._quantized(op.q, nn.Granularity.TOKEN_HEAD, heads, None, op)
        k = self._quantized(op.k, nn.Granularity.TOKEN_HEAD, op.groups, None, op)
        v = self._quantized(op.v, nn.Granularity.SEQUENCE_HEAD, op.groups, op.mask, op)
        new = nn.QAttentionOp(
            op.role.data,
            q,
            k,
            v,
            op.mask,
            heads=heads,
            scale=op.scale.value.data,
            type=TensorType(f32, nn.shape_of(op.result)),
            kv_heads=op.groups,
            causal=op.causal is not None,
            streaming=self.streaming,
            bias=None if op.bias is None else self._bias(op.bias, op),
        )
        self._emit(new, op, op)
        return new.result

    def _bias(self, value: SSAValue, before: Operation) -> SSAValue:
        """What is added to scores, in fp32: a stored one flushed (-infinity masks), else an input as it is."""
        if not isinstance(value.owner, nn.STORED):
            return self._now(value)

        def make() -> tuple[SSAValue]:
            key, array = self._values(value, before)
            flushed = numerics.ftz(array)
            if np.isnan(flushed).any() or np.isposinf(flushed).any():
                _check_finite(key, flushed)
            return (self._add_weight(f"{key}.bias", flushed, TensorType(f32, flushed.shape), before, value),)

        return self._cached(value, "bias", make)[0]

    def layer_norm(self, op: nn.LayerNormOp) -> SSAValue:
        """Of the fp32 value where nothing else reads it (post-norm), else of its bf16 form (pre-norm)."""
        gamma, beta = self._parameter(op.gamma, op), self._parameter(op.beta, op)
        new = nn.LayerNormOp(self._normalised(op.x, op), gamma, beta, op.eps.value.data, _typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def _normalised(self, x: SSAValue, op: Operation) -> SSAValue:
        in_chain = x.has_one_use() and isinstance(self._now(x).owner, nn.QLinearOp | nn.EmbeddingOp)
        return self._now(x) if in_chain else self._bf16(x, op)

    def rms_norm(self, op: nn.RmsNormOp) -> SSAValue:
        """As a layer norm; of heads always the stored bf16 form."""
        gamma = self._parameter(op.gamma, op)
        x = self._normalised(op.x, op) if op.is_whole else self._bf16(op.x, op)
        new = nn.RmsNormOp(x, gamma, op.eps.value.data, _typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def rotary(self, op: nn.RotaryOp) -> SSAValue:
        x, table = self._bf16(op.x, op), self._parameter(op.table, op)
        interleaved = op.interleaved is not None
        new = nn.RotaryOp(x, table, op.head_size.value.data, interleaved=interleaved, type=_typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def activation(self, op: nn.ActivationOp) -> SSAValue:
        new = nn.ActivationOp(op.kind.data, self._bf16(op.x, op), _typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def mean_pool(self, op: nn.MeanPoolOp) -> SSAValue:
        new = nn.MeanPoolOp(self._bf16(op.x, op), op.mask, op.minimum.value.data, _typed(op.result, f32))
        self._emit(new, op, op)
        return new.result

    def concat(self, op: nn.ConcatOp) -> SSAValue:
        new = nn.ConcatOp([self._bf16(part, op) for part in op.inputs], op.axis.value.data, _typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def take_token(self, op: nn.TakeTokenOp) -> SSAValue:
        new = nn.TakeTokenOp(self._bf16(op.x, op), op.index.value.data, _typed(op.result, bf16))
        self._emit(new, op, op)
        return new.result

    def reshape(self, op: nn.ReshapeOp) -> SSAValue:
        """Of the stored bf16 form, unless only the caller sees the result: then a finished fp32 value stays one."""
        finished = all(isinstance(use.operation, ReturnOp | nn.HandOverOp) for use in op.result.uses)
        has_fp32 = not isinstance(_aliases(op.x)[0].owner, nn.EmbeddingOp | nn.AttentionOp)
        x = self._now(op.x) if finished and has_fp32 else self._bf16(op.x, op)
        new = nn.ReshapeOp(x, TensorType(nn.element_type_of(x), nn.shape_of(op.result)))
        self._emit(new, op, op)
        return new.result


_CONVERTERS: dict[type[Operation], Callable[[_Quantizer, Any], SSAValue]] = {
    nn.LinearOp: _Quantizer.linear,
    nn.EmbeddingOp: _Quantizer.embedding,
    nn.AttentionOp: _Quantizer.attention,
    nn.LayerNormOp: _Quantizer.layer_norm,
    nn.RmsNormOp: _Quantizer.rms_norm,
    nn.RotaryOp: _Quantizer.rotary,
    nn.ActivationOp: _Quantizer.activation,
    nn.MeanPoolOp: _Quantizer.mean_pool,
    nn.TakeTokenOp: _Quantizer.take_token,
    nn.ConcatOp: _Quantizer.concat,
    nn.ReshapeOp: _Quantizer.reshape,
}


def _norm_key(value: SSAValue) -> str:
    """A name for what belongs to a norm's result: that of its gamma."""
    norm = value.owner
    assert isinstance(norm, nn.LayerNormOp | nn.RmsNormOp)
    return norm.gamma.owner.key.data if isinstance(norm.gamma.owner, nn.WeightOp) else "norm"


def _check_finite(key: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise InputError(
            "HPCC1411",
            "weights are not finite: NaN or infinity",
            where=f"weight {key!r}",
            hint="the exported file is damaged or training diverged",
        )
