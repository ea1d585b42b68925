"""The accelerator that a module is compiled for: the target of a name, its `auto` fields sized for the module's pattern
where an array of its own pays (hw_targets/sizing.py).

Known once weights have their storage formats. `hpcc-tile` notes it in the module, since the tiles no longer tell.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from math import prod

from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType

from compiler.dialects.nn import QLinearOp, shape_of
from compiler.dialects.storage import StorageAttr
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode
from hw_targets.layout import SELECT_GROUP, Layout
from hw_targets.load import load_target
from hw_targets.target import Target, Workload

ATTRIBUTE = "hpcc.sized_for"
SIZED_FOR = (MatrixMode.DENSE, MatrixMode.NM, MatrixMode.HP)
"""What the steps of unstructured weights are is in their indices; no array is sized for them."""


def machine_of(module: ModuleOp, name: str) -> Target:
    """The accelerator of a target's name for a module after `encode`. Raises as load_target does."""
    return load_target(name, _noted(module) or workload_of(module))


def note_machine(module: ModuleOp, target: Target) -> None:
    """Keep in the module what the target was sized for."""
    if target.workload is not None:
        module.attributes[ATTRIBUTE] = StringAttr(json.dumps(asdict(target.workload)))


def workload_of(module: ModuleOp) -> Workload | None:
    """The pattern that most multiplications of the linear layers have; None where no array is sized for that."""
    macs: dict[StorageAttr, int] = {}
    shapes: dict[StorageAttr, tuple[int, int]] = {}
    for op in module.walk():
        if isinstance(op, QLinearOp) and isinstance(op.weight.type, TensorType):
            encoding = op.weight.type.encoding
            if isinstance(encoding, StorageAttr):
                outs, ins = shape_of(op.weight)
                shapes[encoding] = outs, ins
                macs[encoding] = macs.get(encoding, 0) + prod(shape_of(op.x)) * outs
    if not macs:
        return None
    layouts = {encoding: encoding.format.layout(*shape, encoding.pattern) for encoding, shape in shapes.items()}
    most = max(macs, key=lambda encoding: macs[encoding])
    layout = layouts[most]
    if layout.mode not in SIZED_FOR:
        return None
    return Workload(
        pattern=most.pattern.spec(),
        mode=layout.mode.value,
        n=layout.n,
        m=layout.m,
        block_rows=layout.block_rows,
        window=layout.window,
        keep=layout.keep,
        reach=max(_reach(other) for other in layouts.values()),
    )


def _reach(layout: Layout) -> int:
    """Inputs that one multiplier chooses from: a group of the fine pattern, as many as there can be where rows differ."""
    return SELECT_GROUP if layout.mode is MatrixMode.UNSTRUCTURED else layout.m


def _noted(module: ModuleOp) -> Workload | None:
    noted = module.attributes.get(ATTRIBUTE)
    if not isinstance(noted, StringAttr):
        return None
    try:
        return Workload.from_snapshot(json.loads(noted.data))
    except (TypeError, ValueError) as error:
        message = f"what the module says of its accelerator is damaged: {error}"
        raise InputError("HPCC1440", message, hint="use a file of --dump-stages") from error
