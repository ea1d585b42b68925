"""Rolling a program up into loops: what is unrolled again is the program, and it never got longer."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends.fpga.rolling import LONGEST_BODY, Item, Loop, depth, roll, size
from hw_targets.isa import LOOP_LEVELS

Flat = list[tuple[object, tuple[int, ...]]]


def unroll(node: Item | Loop, offset: Sequence[int]) -> Flat:
    """What a node stands for, its coordinates moved by `offset`. Written from the docstring of Loop."""
    if isinstance(node, Item):
        return [(node.key, tuple(c + o for c, o in zip(node.coordinates, offset, strict=True)))]
    result: Flat = []
    for i in range(node.count):
        cursor = 0
        for inner, steps in zip(node.body, node.steps, strict=True):
            own = offset[cursor : cursor + len(steps)]
            result += unroll(inner, [o + i * s for o, s in zip(own, steps, strict=True)])
            cursor += len(steps)
    return result


def flat(nodes: Sequence[Item | Loop]) -> Flat:
    return [entry for node in nodes for entry in unroll(node, [0] * len(node.coordinates))]


def items(sequence: Sequence[tuple[str, tuple[int, ...]]]) -> list[Item]:
    return [Item((key, len(coordinates)), coordinates, None) for key, coordinates in sequence]


COORDINATES = st.lists(st.integers(-3, 3), max_size=2).map(tuple)


@st.composite
def sequences(draw: st.DrawFn, levels: int = 3) -> list[tuple[str, tuple[int, ...]]]:
    """Loops of loops, written out, with odd ones in between: much that can be rolled up, some that almost can."""
    result: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(draw(st.integers(1, 3))):
        if levels and draw(st.booleans()):
            body = draw(sequences(levels=levels - 1))[:12]
            steps = [draw(st.lists(st.integers(-2, 2), min_size=len(c), max_size=len(c))) for _, c in body]
            for i in range(draw(st.integers(2, 5))):
                result += [
                    (key, tuple(v + i * s for v, s in zip(at, step, strict=True)))
                    for (key, at), step in zip(body, steps, strict=True)
                ]
        else:
            result.append((draw(st.sampled_from("ab")), draw(COORDINATES)))
    return result[:120]


@settings(max_examples=50, deadline=None)
@given(sequences())
def test_unrolling_gives_the_program_back(sequence: list[tuple[str, tuple[int, ...]]]) -> None:
    given_items = items(sequence)
    rolled = roll(given_items, LOOP_LEVELS)
    assert flat(rolled) == flat(given_items)
    assert all(depth(node) <= LOOP_LEVELS for node in rolled)
    assert sum(size(node) for node in rolled) <= len(given_items)


def test_a_loop_of_loops_becomes_one() -> None:
    """Two counters, where the inner loop is longer than the longest body."""
    count = LONGEST_BODY + 6
    sequence = [("mm", (i * 1000 + j, 7 * j)) for i in range(6) for j in range(count)]
    (loop,) = roll(items(sequence), LOOP_LEVELS)
    assert isinstance(loop, Loop)
    assert depth(loop) == 2
    assert loop.count == 6
    assert loop.steps == ((1000, 0),)
    (inner,) = loop.body
    assert isinstance(inner, Loop)
    assert (inner.count, inner.steps) == (count, ((1, 7),))


def test_bodies_of_several_items_and_double_buffers() -> None:
    sequence = [entry for i in range(8) for entry in ((f"mm{i % 2}", (i,)), (f"finish{i % 2}", (2 * i,)))]
    (loop,) = roll(items(sequence), LOOP_LEVELS)
    assert isinstance(loop, Loop)
    assert (loop.count, len(loop.body), loop.steps) == (4, 4, ((2,), (4,), (2,), (4,)))


def test_uneven_steps_stay_apart() -> None:
    """The third step is another one: three iterations of one loop would move wrongly."""
    assert flat(roll(items([("a", (v,)) for v in (0, 1, 2, 9, 10, 11, 12, 13)]))) == [
        (("a", 1), (v,)) for v in (0, 1, 2, 9, 10, 11, 12, 13)
    ]


def test_two_of_a_kind_are_not_worth_a_loop() -> None:
    assert all(isinstance(node, Item) for node in roll(items([("a", (0,)), ("a", (1,))])))
    assert all(isinstance(node, Item) for node in roll(items([("a", ())])))
    assert roll([]) == []
