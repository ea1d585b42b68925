"""Unrolling a tiled program: the order of software-pipelined loops, and rectangles of views of views."""

from __future__ import annotations

import pytest

from compiler.backends.fpga.tasks import Task, flatten
from compiler.module import main_function
from hw_targets.errors import InputError
from tests.unit.tile_programs import parse

ALLOCS = """
  %x = hpcc_tile.alloc "x" : memref<64x64xi8, "act">
  %y = hpcc_tile.dram "output" "y" from [] : memref<64x64xi8, "dram">
"""


SIZE = "{row_bytes = 64 : i64, rows = 64 : i64}"


def store(layer: str, stage: str = "", x: str = "%x") -> str:
    """A store named by its layer; the program's order is read off these names."""
    kind = 'memref<64x64xi8, "act">, dst = %y : memref<64x64xi8, "dram">'
    return f'hpcc_tile.run "store.copy" (src = {x} : {kind}) {SIZE} layer "{layer}" {stage}\n'


def program(body: str) -> list[Task]:
    module = parse(f"func.func @main() {{ {ALLOCS} {body} func.return }}")
    return flatten(main_function(module).body.block)


def order(body: str) -> str:
    return " ".join(task.op.layer.data for task in program(body))


def test_a_loop_without_stages_keeps_its_order() -> None:
    assert order(f"hpcc_tile.for %i to 3 {{ {store('a')} {store('b')} }} {store('end')}") == "a b a b a b end"


def test_the_second_stage_runs_behind_the_next_first_one() -> None:
    body = store("s") + store("p") + store("m", "stage 1") + store("c", "stage 1")
    assert order(f"{store('begin')} hpcc_tile.for %i to 3 {{ {body} }} {store('end')}") == (
        "begin s p s p m c s p m c m c end"
    )


def test_stage_zero_is_the_first_stage() -> None:
    assert order(f"hpcc_tile.for %i to 2 {{ {store('s', 'stage 0')} {store('m', 'stage 1')} }}") == "s s m m"


def test_one_iteration_has_nothing_to_overlap_with() -> None:
    assert order(f"hpcc_tile.for %i to 1 {{ {store('s')} {store('m', 'stage 1')} }}") == "s m"
    assert order(store("s") + store("m", "stage 1") + store("t")) == "s m t"


def test_a_tail_tile_is_a_unit_of_its_own() -> None:
    """Two score tiles in one body: never more than two are under way, or their slots would be written too early."""
    body = store("s") + store("m", "stage 1") + store("st") + store("mt", "stage 1")
    assert order(f"hpcc_tile.for %i to 2 {{ {body} }}") == "s st m s mt st m mt"


def test_a_nest_is_pipelined_once() -> None:
    """Tiles inside, a tail beside them, heads around: one unit behind, across all loop borders."""
    inner = f"hpcc_tile.for %j to 2 {{ {store('s')} {store('m', 'stage 1')} }}"
    body = f"hpcc_tile.for %i to 2 {{ {inner} {store('st')} {store('mt', 'stage 1')} }}"
    assert order(body) == "s s m st m s mt s m st m mt"


def test_every_iteration_has_its_own_temporary() -> None:
    tasks = program(
        """hpcc_tile.for %i to 3 {
          %t = hpcc_tile.alloc "t" slots 2 : memref<64x64xi8, "act">
        """
        + store("a", x="%t")
        + "}"
    )
    sources = [task.operands["src"].instance for task in tasks]
    assert len({id(instance) for instance in sources}) == 3
    assert {instance.slots for instance in sources} == {2}
    assert len({id(task.operands["dst"].instance) for task in tasks}) == 1


def test_views_of_views() -> None:
    """Rows 1, 3, 5, ... of `x`; of these the ones from 4 on, columns from 16 on: rows 9, 11, ..."""
    tasks = program(
        """
        %odd = hpcc_tile.view %x[] origin affine_map<() -> (1, 0)>
          : memref<64x64xi8, "act"> -> memref<32x64xi8, strided<[128, 1], offset: ?>, "act">
        hpcc_tile.for %i to 2 {
          %v = hpcc_tile.view %odd[%i] origin affine_map<(d0) -> (d0 * 8 + 4, 16)> : memref<32x64xi8,
            strided<[128, 1], offset: ?>, "act"> -> memref<8x16xi8, strided<[128, 1], offset: ?>, "act">
          hpcc_tile.run "store.copy" (src = %v : memref<8x16xi8, strided<[128, 1], offset: ?>, "act">,
            dst = %y : memref<64x64xi8, "dram">) {row_bytes = 16 : i64, rows = 8 : i64} layer "a"
        }"""
    )
    first, second = (task.operands["src"] for task in tasks)
    assert (first.row, first.col, first.rows, first.row_bytes, first.pitch) == (9, 16, 8, 16, 128)
    assert (first.offset, second.row) == (9 * 64 + 16, 25)


def test_an_op_of_another_stage_is_refused() -> None:
    with pytest.raises(InputError, match=r"hpcc_nn.weight is not a tile op"):
        program('%w = hpcc_nn.weight "w" digest "0" : tensor<4xf32>')
