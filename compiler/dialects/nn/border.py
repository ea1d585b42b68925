"""Where the device stops for the host."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, prop_def, var_operand_def, var_result_def
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.nn.types import AnyTensor


@irdl_op_definition
class HandOverOp(IRDLOperation):
    """The end of a device part that is not the last: its values go to the host under these names, the host works, then the
    next part begins. The results are the operands."""

    name = "hpcc_nn.hand_over"
    names = prop_def(ArrayAttr[StringAttr])
    values = var_operand_def(AnyTensor)
    outs = var_result_def(AnyTensor)
    assembly_format = "$names $values attr-dict `:` type($values) `->` type($outs)"

    def __init__(self, names: Sequence[str], values: Sequence[SSAValue]) -> None:
        super().__init__(
            operands=[list(values)],
            properties={"names": ArrayAttr([StringAttr(name) for name in names])},
            result_types=[[value.type for value in values]],
        )

    @property
    def tensors(self) -> list[str]:
        """The names of the values."""
        return [name.data for name in self.names]

    def verify_(self) -> None:
        if len(self.names) != len(self.values) or [v.type for v in self.values] != [out.type for out in self.outs]:
            raise VerifyException("a hand-over has a name and a result for each of its values")
