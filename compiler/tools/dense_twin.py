"""The dense twin of a program: the same model with every weight dense, compiled for timing only; the yardstick."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.rewriter import Rewriter

from compiler.dialects.nn import QLinearOp
from compiler.dialects.storage import StorageAttr, storage_attribute_of
from compiler.sparsity.base import Dense
from compiler.storage.formats import FORMATS
from compiler.tools.variants import compile_encoded
from compiler.weights import WeightStore
from hw_targets.errors import InfeasibleError
from hw_targets.target import Target
from runtime.ledger import LayerCycles


def dense_layers(encoded: ModuleOp, target: Target) -> list[LayerCycles] | None:
    """Cycles by layer with dense weights, with the same attribution; None if the dense model does not fit the target.

    `encoded` is the module after `encode`; it is not changed. No weight is read: cycles depend on shapes and formats.
    """
    module = encoded.clone()
    dense = storage_attribute_of(FORMATS["dense"], Dense())
    for op in module.walk():
        if isinstance(op, QLinearOp) and isinstance(op.weight.type, TensorType):
            type = op.weight.type
            if isinstance(type.encoding, StorageAttr) and type.encoding != dense:
                Rewriter.replace_value_with_new_type(op.weight, TensorType(type.element_type, type.get_shape(), dense))
    try:
        return compile_encoded(module, WeightStore(), target).layers
    except InfeasibleError:
        return None
