"""Hypothesis strategies: any instruction the encoding can hold."""

from __future__ import annotations

from hypothesis import strategies as st

from hw_targets.codec import build, words_of
from hw_targets.isa import FUNCTIONS, Address, Function, Immediate, Instruction

WORDS = st.integers(0, 2**32 - 1)
STRIDES = st.integers(-(2**31), 2**31 - 1) | st.just(0)
ADDRESSES = st.builds(Address, WORDS, WORDS | st.just(0), st.tuples(STRIDES, STRIDES))
SEMAPHORE_LISTS = st.lists(st.integers(0, 31), max_size=3).map(tuple)


def values(field: Immediate) -> st.SearchStrategy[int | float]:
    if field.is_float:
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    words = words_of(field.name)
    return st.sampled_from(list(words)) if words else st.integers(0, (1 << field.bits) - 1) | st.just(0)


@st.composite
def instructions(draw: st.DrawFn, function: Function | None = None) -> Instruction:
    function = function or draw(st.sampled_from(FUNCTIONS))
    operands = {o.name: draw(ADDRESSES) for o in function.operands if not o.optional or draw(st.booleans())}
    return build(
        function.name,
        operands,
        {i.name: draw(values(i)) for i in function.immediates},
        waits=draw(SEMAPHORE_LISTS),
        signals=draw(SEMAPHORE_LISTS),
        node=draw(st.integers(0, 2**24 - 1) | st.just(0)),
    )


def programs() -> st.SearchStrategy[list[Instruction]]:
    return st.lists(instructions(), max_size=8)
