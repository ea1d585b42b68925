"""Cost classes of the shipped devices: 1 the cheapest, 6 the dearest.

They are classes, not prices: what a board of its kind costs next to the others, by the orders of magnitude of list prices
(1: up to a few hundred dollars, 2: around a thousand, 3: a few thousand, 4 and 5: data centre cards, 6: the largest dies).
Prices move and depend on the buyer, so every class can be overruled (`--cost NAME=CLASS`).
"""

from __future__ import annotations

from collections.abc import Mapping

CLASSES: Mapping[str, float] = {
    "fpga-pynq-z2": 1,
    "fpga-kv260": 1,
    "fpga-zcu104": 2,
    "fpga-zcu102": 3,
    "fpga-u50": 4,
    "fpga-u55c": 4,
    "fpga-u200": 5,
    "fpga-u250": 5,
    "fpga-u280": 5,
    "fpga-vcu118": 5,
    "fpga-vu13p": 6,
}
CPU = 0.0
"""The class of every CPU: the machine is there already, no board has to be bought."""
