"""Machines of ours sized after published designs, and what the simulator says of them beside the published figures.

Only figures that are in a public source stand in the column `published`; what a source does not say (sequence lengths,
clocks, power) is an assumption of ours and named so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.validation import prepared
from compiler.tools.variants import Prepared, Variant
from hw_targets.load import load_target, parse_target, target_files
from hw_targets.target import Clock, Target

OPERATIONS_PER_MAC = 2


@dataclass(frozen=True)
class Row:
    """One published design point beside a machine of ours."""

    design: str
    published: str
    ours: str
    simulated: str
    difference: str


def gops(variant: Variant) -> float:
    """Operations of the dense model a second, as papers count them, zeros included."""
    return OPERATIONS_PER_MAC * variant.timing.macs_dense / (variant.milliseconds * 1e6)


def array(board: str, *, mhz: float, tokens: int, outputs: int, lanes: int, multipliers: int = 8) -> Target:
    """The board with an array of our choice, as a user would write it: its file with these fields fixed, the memories
    sized around them. Raises InfeasibleError where it does not fit."""
    text = target_files()[board].read_text(encoding="utf-8")
    asked = {"cores": 1, "tokens": tokens, "outputs": outputs, "lanes": lanes, "multipliers": multipliers}
    for field, value in asked.items():
        text, found = re.subn(rf'^{field} = "auto"$', f"{field} = {value}", text, flags=re.MULTILINE)
        if found != 1:
            raise ValueError(f"{board}: {field} is not sized")
    return replace(parse_target(text, where=board), clock=Clock(mhz))


def machine(target: Target) -> str:
    a = target.accelerator
    dsp = target.resources()["dsp"]["used"]
    return f"{a.cores} x {a.tokens} x {a.outputs} x {a.multipliers}, {a.lanes} lanes, {dsp:,} DSPs, {target.clock.mhz:g} MHz"


def rows(bert: Path, small: Path) -> list[Row]:
    """`bert` is BERT-base (RoBERTa-base has the same encoder), `small` a model of 3 layers."""
    one = (1, 128)
    return [
        tataa(prepared(bert, one, "dense")),
        *ftrans(bert, (16, 128)),
        *sta(bert, one),
        peng(prepared(small, (32, 64), "column:0.9")),
        fq_bert(prepared(bert, one, "dense")),
    ]


def tataa(dense: Prepared) -> Row:
    target = array("fpga-u280", mhz=300, tokens=20, outputs=16, lanes=64)
    variant = dense.on(target)
    busy = variant.roofline
    return Row(
        "TATAA (arXiv 2411.03697), U280, int8 with bf16, 300 MHz",
        "2,935 GOPS in linear layers",
        f"{machine(target)}: their 15 units of 8 x 4 x 16 multipliers, 7,680 MAC a cycle; lanes are ours",
        f"{gops(variant):,.0f} GOPS of BERT-base (1 x 128), all layers and all vector work included;"
        f" peak {OPERATIONS_PER_MAC * target.accelerator.macs_per_cycle * target.clock.mhz / 1e3:,.0f},"
        f" bound by {max((busy.matrix_ms, 'MATRIX'), (busy.vector_ms, 'VECTOR'), (busy.memory_ms, 'memory'))[1]}",
        "the same peak by construction. Theirs is of linear layers alone and measured; ours is of whole inferences and"
        " overlaps vector work with the array, which theirs does on the same multipliers in another mode",
    )


def ftrans(bert: Path, shape: tuple[int, int]) -> list[Row]:
    target = load_target("fpga-vcu118")
    batch = shape[0]
    found: list[Row] = []
    for spec in ("circulant:16", "dense", "hp:0.75"):
        variant = prepared(bert, shape, spec).on(target)
        found.append(
            Row(
                "FTRANS (arXiv 2007.08563), VCU118, RoBERTa-base, batch 16, 16 bits, 6,531 DSPs, block-circulant",
                "101.79 sequences a second",
                f"{machine(target)}; BERT-base, {batch} x 128 tokens (their length is not given), {spec}",
                f"{1e3 * batch / variant.milliseconds:,.0f} sequences a second",
                "ours multiplies the expanded matrix at int8, two products in a DSP; theirs transforms 16-bit blocks, and"
                " saves multiplications that ours does not"
                if spec.startswith("circulant")
                else "int8 on the same die, two products in a DSP; no circulant arithmetic",
            )
        )
    return found


def sta(bert: Path, shape: tuple[int, int]) -> list[Row]:
    found: list[Row] = []
    for name, published, spec, outputs in (
        ("STA-4", "392 GOPS", "nm:2:8", 8),
        ("STA-8", "523 GOPS", "nm:1:8", 8),
    ):
        target = array("fpga-zcu104", mhz=200, tokens=16, outputs=outputs, lanes=16)
        variant = prepared(bert, shape, spec).on(target)
        found.append(
            Row(
                f"{name} (arXiv 2208.06118, in the survey 2409.03384), N:M sparse",
                published,
                f"{machine(target)}; BERT-base 1 x 128, {spec}: device, clock and multipliers of theirs are not in"
                " a public source, so the array is ours",
                f"{gops(variant):,.0f} GOPS with the zeros counted; dense peak"
                f" {OPERATIONS_PER_MAC * target.accelerator.macs_per_cycle * target.clock.mhz / 1e3:,.0f}",
                "no comparison of efficiency: only the rate is known. It shows what a machine of this rate looks like here",
            )
        )
    return found


def peng(pruned: Prepared) -> Row:
    target = load_target("fpga-u200")
    variant = pruned.on(target)
    return Row(
        "Peng et al. (ISQED 2021), column-balanced blocks, batch 32",
        "10.35 ms",
        f"{machine(target)}; MiniLM-L3 at 32 x 64 with `column:0.9`: their model's sizes are not in a public source",
        f"{variant.milliseconds:.2f} ms for {variant.timing.macs_dense / 1e9:.1f} GMAC dense,"
        f" {variant.timing.macs_executed / 1e9:.2f} left by the pattern",
        "another model, so the milliseconds do not compare; the pattern is theirs (whole columns of blocks, equally many in"
        " each) and runs without imbalance",
    )


def fq_bert(dense: Prepared) -> Row:
    target = load_target("fpga-zcu102")
    variant = dense.on(target)
    rate = 1e3 / variant.milliseconds
    return Row(
        "FQ-BERT (arXiv 2103.02800), ZCU102 or ZCU111, BERT-base, 4-bit weights, 8-bit activations",
        "3.18 frames a second and watt",
        f"{machine(target)}; BERT-base 1 x 128, dense, 8-bit weights",
        f"{rate:.1f} frames a second ({variant.milliseconds:.1f} ms)",
        f"we have no model of power: ours would be as efficient at {rate / 3.18:.0f} W. Weights of 4 bits are not built",
    )
