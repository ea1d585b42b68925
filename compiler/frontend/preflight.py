"""The preflight table: which nodes would run on the host, why, and what share of the multiply-accumulates they are."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from compiler.frontend.host import HostNode, host_parts
from compiler.module import main_function
from compiler.passes.macs import macs_of


@dataclass(frozen=True)
class PreflightRow:
    """One host node. `macs_share` is its share of the whole model's MACs, 0 to 1; `when` is before or after; `help` is the
    nearest thing that would bring it to the accelerator, empty where nothing is known."""

    onnx_node: str
    op: str
    reason: str
    macs: int
    macs_share: float
    when: str
    help: str = ""


_HELP = (
    ("too few products follow", "nothing to gain: its share of the MACs is below that of a trip to the device"),
    ("it follows a node", "see the first node above that runs on the host after the device"),
    ("it prepares an input", "nothing to gain: it moves data once, before the device starts"),
    ("it passes an input", "nothing to gain: drop the output if nobody reads it"),
    ("no bias to the scores", "an FPGA target adds it"),
    ("key-value cache", "export without past keys and values"),
    ("run time", "bind every input with --shape, or export with fixed shapes"),
    (
        "no name in the ONNX graph",
        "export with plain operators here: no tensor of the graph, nor a movement of one, is this value",
    ),
    ("channels a group", "depthwise convolutions have no product for the array; ordinary ones become linear layers"),
    ("patches overlap to", "smaller inputs, or a larger stride"),
    ("more than one position", "bind every input with --shape: with known shapes it becomes a linear layer"),
    ("neither a linear layer nor attention", "a constant weight makes it a linear layer"),
    ("right behind its linear layer", "let the activation be the only reader of the linear layer's result"),
    ("is not supported", "docs/SUPPORTED_OPS.md lists what is; simplify or rewrite this part of the export"),
    ("no accelerator operation computes", "no instruction does: cheap if its share of the MACs is 0"),
)
"""By a part of the reason: what would help."""


def _help(reason: str) -> str:
    return next((text for part, text in _HELP if part in reason), "")


@dataclass(frozen=True)
class Preflight:
    """What runs where, of a partitioned module."""

    device_macs: int
    host_macs: int
    rows: tuple[PreflightRow, ...]

    @property
    def feasible(self) -> bool:
        """Whether every node with MACs runs on the accelerator."""
        return self.host_macs == 0

    def text(self) -> str:
        """The table for people, or one line if the host has nothing to do."""
        total = self.device_macs + self.host_macs
        share = self.device_macs / total if total else 1.0
        head = f"{share:.1%} of {total / 1e6:,.1f} M MACs run on the accelerator"
        if not self.rows:
            return f"{head}; no node runs on the host"
        titles = ("node", "op", "MACs", "when", "why it runs on the host")
        cells = [titles, *((r.onnx_node, r.op, f"{r.macs_share:.1%}", r.when, r.reason) for r in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        helps = dict.fromkeys(f"{row.reason}: {row.help}" for row in self.rows if row.help)
        return "\n".join([head, "", *lines, "", "what would help", *(f"  {text}" for text in helps)])


def preflight(module: ModuleOp) -> Preflight:
    """The table of a module after `hpcc-partition`, host nodes in order of execution."""
    device = sum(macs_of(op) for op in main_function(module).body.block.ops)
    nodes = [(part.when, node) for part in host_parts(module) for node in part.nodes]
    host = sum(node.macs for _, node in nodes)
    total = max(device + host, 1)
    return Preflight(device, host, tuple(_row(when, node, total) for when, node in nodes))


def _row(when: str, node: HostNode, total: int) -> PreflightRow:
    return PreflightRow(node.onnx_node, node.op, node.reason, node.macs, node.macs / total, when, _help(node.reason))
