"""Faults in what the machine decodes, counts and multiplies, and in the arithmetic that golden and simulator share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.storage.formats import NMFormat
from hw_targets import numerics
from hw_targets import timing as costs
from hw_targets.timing import Cost
from runtime import ledger as runtime_ledger
from runtime import program as runtime_program
from runtime.decoding import formats
from runtime.simulator import functional, timing
from tests.e2e.mutations import BITS, ENCODED, LEDGER, LOADED, Array, Mutation, Patch, altered, decoded, wrapped
from tests.unit import test_decoders, test_numerics, test_timing

# ---- an index is decoded wrong --------------------------------------------------------------------------------------


def wrong_select(layout: Array) -> Array:
    """The first kept value of a 2:4 matrix moves to a place of its group that is free."""
    layout = layout.copy()
    first = len(layout) * 2 // 3  # one byte of selects follows for every two values
    low, high = layout[first] & 15, layout[first] >> 4
    free = min(set(range(4)) - {int(low), int(high)})
    layout[first] = high << 4 | free
    return layout


def wrong_kept_input(layout: Array) -> Array:
    """The first kept input of the first window is another one, which the window does not keep."""
    layout = layout.copy()
    lists = layout[-(16 + 16 + 8) * 2 :]
    lists[0] = min(set(range(32)) - {int(entry) for entry in lists[:16]})
    return layout


def wrong_column(layout: Array) -> Array:
    """The last value of an unstructured matrix lies one input further, or nearer where that is the window's end."""
    layout = layout.copy()
    layout[-1] = layout[-1] + 1 if layout[-1] < 7 else layout[-1] - 1
    return layout


def encode_an_index_wrong(patch: Patch) -> None:
    """The encoder writes the second index of a group in the first one's place, too."""
    encode = NMFormat.encode

    def broken(self: Any, codes: Array, pattern: Any) -> Array:
        data = encode(self, codes, pattern)
        first = codes.size // 2  # behind the values, two bits an index
        data[first] = data[first] & 0xFC | data[first] >> 2 & 3
        return data

    patch.setattr(NMFormat, "encode", broken)


# ---- cycles and products --------------------------------------------------------------------------------------------


def lose_a_cycle(patch: Patch) -> None:
    """The last layer is charged one cycle too few."""

    def spoil(parts: list[Any]) -> list[Any]:
        event, cause, cycles = parts[-1]
        return [*parts[:-1], (event, cause, cycles - 1)]

    wrapped(patch, runtime_ledger, "_drain", spoil)


def lose_a_layer(patch: Patch) -> None:
    wrapped(patch, runtime_program, "attribute", lambda layers: layers[1:])


def count_too_few_cycles(patch: Patch) -> None:
    """The counter takes MATRIX for a hundred times as fast as it is."""

    def spoil(cost: Cost) -> Cost:
        return Cost(max(cost.busy // 100, 1), cost.latency)

    wrapped(patch, timing, "cost", spoil)


def one_product_wrong(patch: Patch) -> None:
    """The simulator's array alone: one accumulator is one too large."""

    def broken(x: Array, w: Array) -> Array:
        acc = numerics.matmul_i32(x, w).copy()
        acc[-1, -1] += 1 << 12
        return acc

    patch.setattr(functional, "numerics", altered(numerics, matmul_i32=broken))


MUTATIONS: dict[str, Mutation] = {
    "wrong index: nm": Mutation(lambda patch: decoded(patch, "nm", wrong_select), BITS, 4, "nm:2:4", ENCODED),
    "wrong index: hp_mark": Mutation(lambda patch: decoded(patch, "hp_mark", wrong_kept_input), BITS, 4, "hp:0.75", ENCODED),
    "wrong index: unstructured": Mutation(
        lambda patch: wrapped(patch, formats, "unstructured_layout", wrong_column), BITS, 4, "unstructured:0.9", ENCODED
    ),
    "wrong index: encoder": Mutation(encode_an_index_wrong, LOADED + ".* nm indices do not ascend", 1, "nm:2:4"),
    "lose a cycle": Mutation(lose_a_cycle, LEDGER),
    "lose a layer's cycles": Mutation(lose_a_layer, LEDGER),
    "count too few cycles": Mutation(count_too_few_cycles, r"cycles are fewer than the busiest unit needs"),
    "a wrong product": Mutation(one_product_wrong, BITS),
}


# ---- arithmetic that golden and simulator share ---------------------------------------------------------------------


def product_off_by_one(patch: Patch) -> None:
    """So little that no limit of a result sees it."""
    wrapped(patch, numerics, "matmul_i32", lambda acc: acc + 1)


def softmax_of_all_keys(patch: Patch) -> None:
    softmax = numerics.softmax

    def broken(acc: Any, q: Any, k: Any, scale: float, mask: Any = None, *more: Any, **named: Any) -> Any:
        return softmax(acc, q, k, scale, None, *more, **named)

    patch.setattr(numerics, "softmax", broken)


def norm_without_beta(patch: Patch) -> None:
    norm = numerics.layer_norm
    patch.setattr(numerics, "layer_norm", lambda x, gamma, beta, eps: norm(x, gamma, beta * 0, eps))


def finish_without_bias(patch: Patch) -> None:
    finish = numerics.finish
    patch.setattr(numerics, "finish", lambda acc, rows, columns, bias, residual: finish(acc, rows, columns, None, residual))


def scale_of_the_row_above(patch: Patch) -> None:
    wrapped(patch, numerics, "quantize_rows", lambda made: (made[0], np.roll(made[1], 1, axis=0)))


def one_step_too_few(patch: Patch) -> None:
    wrapped(patch, costs, "matrix_steps", lambda steps: max(steps - 1, 1))


def decode_unsorted(patch: Patch) -> None:
    patch.setattr(formats, "check_ascending", lambda *arguments: None)


SHARED: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "product": (product_off_by_one, test_numerics.test_matmul_against_the_scalar_reference_and_batched),
    "softmax": (softmax_of_all_keys, test_numerics.test_softmax),
    "norm": (norm_without_beta, test_numerics.test_layer_norm),
    "finish": (finish_without_bias, test_numerics.test_finish),
    "scales": (scale_of_the_row_above, test_numerics.test_quantize_rows),
    "cycles": (one_step_too_few, test_timing.test_passes_of_the_array),
    "order of indices": (decode_unsorted, test_decoders.test_nm_padding_and_order),
}
