"""The dense twin of a program: the same model with every weight dense and whole, compiled for timing only; the yardstick."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Block, Operation
from xdsl.rewriter import Rewriter

from compiler.dialects.nn import QLinearOp, WeightOp, shape_of
from compiler.dialects.storage import StorageAttr, storage_attribute_of
from compiler.passes.sparsify import FACTOR_OF
from compiler.sparsity.base import Dense
from compiler.storage.formats import FORMATS
from compiler.tools.variants import compile_encoded
from compiler.weights import WeightStore
from hw_targets.errors import InfeasibleError
from hw_targets.storage import BASIS
from hw_targets.target import Target
from runtime.ledger import LayerCycles


def dense_layers(encoded: ModuleOp, target: Target) -> list[LayerCycles] | None:
    """Cycles by layer with dense weights, with the same attribution; None if the dense model does not fit the target.

    `encoded` is the module after `encode`; it is not changed. No weight is read: cycles depend on shapes and formats.
    """
    module = encoded.clone()
    dense = storage_attribute_of(FORMATS["dense"], Dense())
    for op in list(module.walk()):
        if isinstance(op, QLinearOp) and FACTOR_OF in op.attributes and not op.role.data.endswith(BASIS):
            _put_together(op)
    for op in module.walk():
        if isinstance(op, QLinearOp) and isinstance(op.weight.type, TensorType):
            type = op.weight.type
            if isinstance(type.encoding, StorageAttr) and type.encoding != dense:
                Rewriter.replace_value_with_new_type(op.weight, TensorType(type.element_type, type.get_shape(), dense))
    try:
        return compile_encoded(module, WeightStore(), target).layers
    except InfeasibleError:
        return None


def _put_together(left: QLinearOp) -> None:
    """One matrix again in the place of two factors: `left` reads what the linear before it reads."""
    block = left.parent_block()
    assert block is not None and isinstance(left.weight.type, TensorType)
    wanted = left.role.data + BASIS
    right = next(op for op in block.ops if isinstance(op, QLinearOp) and op.role.data == wanted)
    shape = (shape_of(left.weight)[0], shape_of(right.weight)[1])
    type = TensorType(left.weight.type.element_type, shape, left.weight.type.encoding)
    whole = WeightOp(f"{left.role.data}.whole", "", type)
    block.insert_op_before(whole, left)
    between = left.x.owner
    for old, new in ((left.x, right.x), (left.x_scale, right.x_scale), (left.weight, whole.result)):
        left.operands[left.operands.index(old)] = new
    _erase_unused(between)


def _erase_unused(op: Operation | Block) -> None:
    """Erase an op that nothing uses any more, and what it alone used."""
    if isinstance(op, Operation) and not any(result.uses for result in op.results):
        before = [operand.owner for operand in op.operands]
        op.detach()
        op.erase()
        for owner in before:
            _erase_unused(owner)
