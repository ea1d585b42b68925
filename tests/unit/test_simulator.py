"""The functional simulator against the arithmetic it claims to execute, instruction by instruction and as programs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

from compiler.sparsity.patterns import parse_pattern
from compiler.storage.formats import FORMATS, candidates
from hw_targets import activations, numerics
from hw_targets.asm import assemble
from hw_targets.check import Semaphore, check_program
from hw_targets.codec import Place, Resolved, expand
from hw_targets.errors import InputError
from hw_targets.extents import Extent, operand_extents
from hw_targets.isa import FUNCTIONS, Memory, Queue
from runtime.simulator import threads
from runtime.simulator.functional import DEFAULTS, Options, Simulator
from runtime.simulator.machine import POISON, DramRegion, Memories, read_bf16, write_bf16
from tests.unit.hand_programs import INS, LINEAR_SEMAPHORES, OUTS, SIZES, LinearData, linear

SPECS = ["dense", "nm:2:4", "nm:1:4", "hp:rows=8,window=8,keep=4,fine=2:4", "hp:rows=5,window=10,keep=8,fine=1:4"]
SPECS += ["nm:2:4,along=out", "block:4x1:0.75", "block:3x5:0.5", "unstructured:0.75", "unstructured:0.05"]
SPECS += ["row:0.5", "row:0.5:tile=5x10", "column:0.75", "column:0.5:tile=8x8", "block:4x4:0.5:balanced", "circulant:5"]
SPECS += ["block:4x8:0.5+nm:2:4", "row:0.5+nm:1:4"]
BOTH = [Options(poison=True), Options(poison=True, from_bytes=True)]
RANDOM = np.random.default_rng(7)


def machine(text: str, options: Options = DEFAULTS) -> Simulator:
    dram = DramRegion("all", 0, np.zeros(SIZES[Memory.DRAM], np.uint8))
    return Simulator(expand(assemble(text + "\ncontrol.halt")), SIZES, [dram], options)


def put(sim: Simulator, memory: Memory, base: int, values: Any, pitch: int = 0) -> None:
    array = np.asarray(values)
    sim.memories.view(Place(memory, base, pitch), array.dtype.type, array.shape)[...] = array


def get(sim: Simulator, memory: Memory, base: int, dtype: Any, shape: tuple[int, ...], pitch: int = 0) -> Any:
    return sim.memories.view(Place(memory, base, pitch), dtype, shape).copy()


def put_bf16(sim: Simulator, base: int, values: Any, pitch: int = 0) -> None:
    write_bf16(sim.memories.view(Place(Memory.ACT, base, pitch), np.uint16, values.shape), values)


def normal(*shape: int) -> Any:
    return numerics.bf16(RANDOM.standard_normal(shape).astype(np.float32))


def scores(*shape: int) -> Any:
    return RANDOM.integers(-20000, 20000, shape).astype(np.int32)


# ---- whole programs -------------------------------------------------------------------------------------------------


def linear_machine(data: LinearData, options: Options, program: Any, stored: Any = None) -> Simulator:
    dram = np.zeros(SIZES[Memory.DRAM], np.uint8)
    image = data.weights_bin(stored)
    dram[: image.size] = image
    expanded = check_program(program, LINEAR_SEMAPHORES, SIZES)
    sim = Simulator(expanded, SIZES, [DramRegion("all", 0, dram)], options)
    write_bf16(sim.memories.view(Place(Memory.DRAM, 0x2000, 48), np.uint16, (4, 24)), data.x)
    return sim


EVERY_FORMAT = [(spec, f.name) for spec in SPECS for f in candidates(parse_pattern(spec))]


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize(("spec", "name"), EVERY_FORMAT)
def test_a_linear_in_every_format(spec: str, name: str, options: Options) -> None:
    """Weights go through encoder, decoder, weight memory and array; 24 inputs make tails for a window of 10."""
    data = LinearData()
    pattern = parse_pattern(spec)
    codes = np.asarray(pattern.project(data.codes))
    storage = FORMATS[name]
    stored = np.asarray(storage.encode(codes, pattern))
    p = storage.layout(OUTS, INS, pattern)
    fields = f"n={p.n} m={p.m} block_rows={p.block_rows} window={p.window} keep={p.keep} kept={p.kept}"
    program = linear(f"format={name} {fields}", f"mode={p.mode} {fields}", stored.size)
    sim = linear_machine(data, options, program, stored)
    for _ in range(2):
        sim.run()
        np.testing.assert_array_equal(get(sim, Memory.DRAM, 0x3000, np.float32, (4, OUTS)), data.expected(codes=codes))


def test_poison_shows_unwritten_reads() -> None:
    """Without the load of the input, the poisoned memory gives another result than the clean one."""
    data = LinearData()
    results = []
    for poison in (False, True):
        sim = linear_machine(data, Options(poison=poison), linear())
        sim._steps = [s for s in sim._steps if not (s[0].name == "load.copy" and s[0].index == 0)]
        sim.run()
        results.append(get(sim, Memory.DRAM, 0x3000, np.float32, (4, OUTS)))
    assert not np.array_equal(*results)


def test_products_take_one_thread_and_give_the_others_back() -> None:
    """Whatever the environment says; a second one mostly spins."""

    class Threads:
        seen: ClassVar[set[int]] = set()

        def before(self, instruction: Resolved, memories: Memories) -> None:
            self.seen.update(blas_threads())

        def after(self, instruction: Resolved, memories: Memories) -> None:
            pass

    threads._libraries.cache_clear()  # another test may have loaded a second library since
    with threadpool_limits(2, "blas"):
        machine("vector.absmax x=0 absmax=512 rows=1 cols=8").run(Threads())
        assert Threads.seen == {1}
        assert blas_threads() == {2}


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_loops_and_tiles() -> None:
    """Two tiles of two rows give what one of four gives."""
    tiled = """
load.copy src=0x0 dst=0x0 rows=1 row_bytes=96
control.loop count=2
  matrix.multiply x=0x0:24(+0x30) w=0x0 acc=0x0:64(+0x80) rows=2 outs=16 ins=24 n=1 m=1
control.end
"""
    sim = machine(tiled)
    x, w = RANDOM.integers(-127, 128, (4, 24)).astype(np.int8), RANDOM.integers(-127, 128, (16, 24)).astype(np.int8)
    put(sim, Memory.DRAM, 0, x)
    put(sim, Memory.WEIGHTS, 0, w)
    sim.run()
    np.testing.assert_array_equal(get(sim, Memory.ACC, 0, np.int32, (4, 16)), x.astype(int) @ w.T.astype(int))


def test_resident_weights_are_given_up_when_overwritten() -> None:
    """Codes written over a loaded matrix are what a later multiplication uses."""
    text = """
load.weights src=0x0 dst=0x0 outs=4 ins=4 n=1 m=1 stored_bytes=16
matrix.multiply x=0x0 w=0x0 acc=0x0 rows=1 outs=4 ins=4 n=1 m=1
vector.quantize x=0x100 codes=0x0 codes_in_weights=1 scale=0x200 rows=1 cols=4 group=4
matrix.multiply x=0x0 w=0x0 acc=0x100 rows=1 outs=4 ins=4 n=1 m=1
"""
    sim = machine(text)
    w = np.arange(16, dtype=np.int8).reshape(4, 4)
    put(sim, Memory.DRAM, 0, w)
    put(sim, Memory.ACT, 0, np.ones((1, 4), np.int8))
    put_bf16(sim, 0x100, np.array([[127, 0, 0, -127]], np.float32))
    for _ in range(2):
        sim.run()
        assert get(sim, Memory.ACC, 0, np.int32, (4,)).tolist() == [6, 22, 38, 54]
        assert get(sim, Memory.ACC, 0x100, np.int32, (4,)).tolist() == [0, 22, 38, 54]


def test_a_matrix_loaded_twice_in_turn_with_another() -> None:
    load = "load.weights src={} dst=0x0 outs=4 ins=4 n=1 m=1 stored_bytes=16\n"
    multiply = "matrix.multiply x=0x0 w=0x0 acc={} rows=1 outs=4 ins=4 n=1 m=1\n"
    order = ((0, 0), (16, 0x40), (0, 0x80))
    sim = machine("".join(load.format(hex(src)) + multiply.format(hex(acc)) for src, acc in order))
    put(sim, Memory.DRAM, 0, np.arange(32, dtype=np.int8))
    put(sim, Memory.ACT, 0, np.ones((1, 4), np.int8))
    sim.run()
    first, second, third = (get(sim, Memory.ACC, acc, np.int32, (4,)).tolist() for _, acc in order)
    assert first == third == [6, 22, 38, 54]
    assert second == [70, 86, 102, 118]


# ---- single instructions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "smoothed"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("activation", ["none", "gelu", "tanh", "relu"])
@pytest.mark.parametrize("residual", [False, True])
def test_finish(norm: int, smoothed: int, activation: str, residual: bool) -> None:
    text = (
        "vector.finish acc=0x0:80 row_scale=0x0:8 columns=0x0:64 out=0x400:48 codes=0x800:20 scale=0x900:16 "
        f"{'residual=0x100:40 ' if residual else ''}rows=3 cols=16 group=8 "
        f"norm={norm} smoothed={smoothed} activation={activation} eps=1e-12"
    )
    sim = machine(text)
    acc, columns = scores(3, 16), RANDOM.uniform(0.1, 1, (5, 16)).astype(np.float32)
    columns[4] = np.exp2(RANDOM.integers(-4, 5, 16))
    columns[0] *= 1e-4
    row_scale = RANDOM.uniform(0.5, 2, 3).astype(np.float32)
    added = normal(3, 16)
    put(sim, Memory.ACC, 0, acc, 80)
    put(sim, Memory.PARAM, 0, columns, 64)
    put(sim, Memory.ACT, 0, row_scale[:, None], 8)
    put_bf16(sim, 0x100, added, 40)
    sim.run()
    y = numerics.finish(acc, row_scale, columns[0], columns[1], added if residual else None)
    y = numerics.layer_norm(y, columns[2], columns[3], 1e-12) if norm else numerics.bf16(y)
    y = {"none": lambda v: v, "gelu": activations.gelu, "tanh": activations.tanh, "relu": activations.relu}[activation](y)
    codes, scale = numerics.quantize_rows(y, 8, columns[4] if smoothed else None)
    np.testing.assert_array_equal(read_bf16(get(sim, Memory.ACT, 0x400, np.uint16, (3, 16), 48)), y)
    np.testing.assert_array_equal(get(sim, Memory.ACT, 0x800, np.int8, (3, 16), 20), codes)
    np.testing.assert_array_equal(get(sim, Memory.ACT, 0x900, np.float32, (3, 2), 16), scale)


def test_attention_of_one_head() -> None:
    """K and V into the weight memory, scores, probabilities, context: 8 features beside others, one key masked."""
    text = """
vector.quantize x=0x0:32 codes=0x400:16 scale=0x500:8 rows=5 cols=8 group=8
vector.quantize x=0x100:32 codes=0x0:8 codes_in_weights=1 scale=0x540:8 rows=5 cols=8 group=8
vector.quantize_columns x=0x200:32 mask=0x600 codes=0x200:5 scale=0x580 rows=5 cols=8
matrix.multiply x=0x400:16 w=0x0:8 acc=0x0:20 rows=5 outs=5 ins=8 n=1 m=1
vector.softmax acc=0x0:20 row_scale=0x500:8 col_scale=0x540:8 mask=0x600 p=0x700:5 l=0x780 rows=5 cols=5 \
score_scale=0.353
matrix.multiply x=0x700:5 w=0x200:5 acc=0x100:32 x_unsigned=1 rows=5 outs=8 ins=5 n=1 m=1
vector.context acc=0x100:32 l=0x780 v_scale=0x580 out=0x800:32 rows=5 cols=8
"""
    sim = machine(text)
    q, k, v = normal(5, 8), normal(5, 8), normal(5, 8)
    mask = np.array([1, 1, 1, 0, 1], np.uint8)
    for base, value in ((0, q), (0x100, k), (0x200, v)):
        put_bf16(sim, base, value, 32)
    put(sim, Memory.ACT, 0x600, mask)
    sim.run()
    (qc, qs), (kc, ks) = numerics.quantize_rows(q, 8), numerics.quantize_rows(k, 8)
    vc, vs = numerics.quantize_columns(v, mask)
    p, sums = numerics.softmax(numerics.matmul_i32(qc, kc), qs[:, 0], ks[:, 0], float(np.float32(0.353)), mask)
    expected = numerics.context(numerics.matmul_i32(p, np.ascontiguousarray(vc.T)), sums, vs)
    assert (p[:, 3] == 0).all()
    np.testing.assert_array_equal(read_bf16(get(sim, Memory.ACT, 0x800, np.uint16, (5, 8), 32)), expected)


def test_embedding() -> None:
    text = """
load.copy src=0x4000 dst=0x0 rows=1 row_bytes=12
load.gather table=0x0:32 ids=0x0 dst=0x100:32 rows=3 row_bytes=32 table_rows=7
load.copy src=0x200:32 dst=0x180:32 rows=3 row_bytes=32
vector.embed rows_in=0x100:32 columns=0x0:64 out=0x400 codes=0x600 scale=0x700 rows=3 cols=16 group=16 tables=2 \
table_bytes=128 norm=1 eps=1e-5
"""
    sim = machine(text)
    table, positions, columns = normal(7, 16), normal(3, 16), normal(2, 16)
    ids = np.array([6, 0, 3], np.int32)
    for base, value in ((0, table), (0x200, positions)):
        write_bf16(sim.memories.view(Place(Memory.DRAM, base, 32), np.uint16, value.shape), value)
    put(sim, Memory.DRAM, 0x4000, ids)
    put(sim, Memory.PARAM, 0, columns, 64)
    sim.run()
    y = numerics.layer_norm(numerics.embed(np.stack([table[ids], positions])), columns[0], columns[1], 1e-5)
    np.testing.assert_array_equal(read_bf16(get(sim, Memory.ACT, 0x400, np.uint16, (3, 16))), y)
    np.testing.assert_array_equal(get(sim, Memory.ACT, 0x600, np.int8, (3, 16)), numerics.quantize_rows(y, 16)[0])
    for wrong in (7, -1):
        put(sim, Memory.DRAM, 0x4004, np.array([wrong], np.int32))
        with pytest.raises(InputError, match=f"instruction 1 .load.gather.*id {wrong} of token 1"):
            sim.run()


def test_pool_and_context_without_keys() -> None:
    sim = machine(
        "vector.pool x=0x0:32 mask=0x200 out=0x300 rows=6 cols=8 minimum=1e-9\n"
        "vector.context acc=0x0 l=0x400 v_scale=0x500 out=0x600 rows=2 cols=4"
    )
    x, mask = normal(6, 8), np.array([1, 0, 1, 1, 0, 1], np.uint8)
    put_bf16(sim, 0, x, 32)
    put(sim, Memory.ACT, 0x200, mask)
    put(sim, Memory.ACC, 0, scores(2, 4))
    put(sim, Memory.ACT, 0x400, np.array([0, 5], np.int32))
    put(sim, Memory.ACT, 0x500, np.array([0.25], np.float32))
    sim.run()
    np.testing.assert_array_equal(get(sim, Memory.ACT, 0x300, np.float32, (8,)), numerics.mean_pool(x, mask, 1e-9))
    out = read_bf16(get(sim, Memory.ACT, 0x600, np.uint16, (2, 4)))
    assert (out[0] == 0).all()
    assert (out[1] != 0).all()


def test_out_f32_is_not_rounded() -> None:
    sim = machine("vector.finish acc=0x0 row_scale=0x0 columns=0x0 out=0x100 rows=1 cols=4 out_f32=1 activation=relu")
    put(sim, Memory.ACC, 0, np.array([[-5, 1, 2, 3]], np.int32))
    put(sim, Memory.ACT, 0, np.array([1 / 3], np.float32))
    put(sim, Memory.PARAM, 0, np.array([[1, 1, 1, 1], [0, 0, 0, 1]], np.float32))
    sim.run()
    third = np.float32(1 / 3)
    expected = [np.float32(0), third, np.float32(2) * third, np.float32(3) * third + np.float32(1)]
    assert get(sim, Memory.ACT, 0x100, np.float32, (4,)).tolist() == expected


# ---- only the operands ----------------------------------------------------------------------------------------------

BUSY = """
vector.finish acc=0x0:80 row_scale=0x0:8 columns=0x0:64 residual=0x100:40 out=0x400:48 codes=0x800:20 scale=0x900:16 \
rows=3 cols=16 group=8 norm=1
vector.finish acc=0x0:80 row_scale=0x0:8 columns=0x0:64 gate=0x100:40 codes=0x800:20 scale=0x900:16 rows=3 cols=16 \
group=8 norm=rms
vector.softmax acc=0x0:40 row_scale=0x0:8 col_scale=0x40:12 mask=0x100 p=0x200:16 l=0x300 rows=4 cols=10 score_scale=1.0
vector.softmax acc=0x0:40 row_scale=0x0:8 col_scale=0x40:12 mask=0x100 bias=0x400:48 maximum=0x140 p=0x200:16 l=0x300 \
rows=4 cols=10 score_scale=1.0 bias_rows=4 wide=1 continued=1
vector.maximum acc=0x0:40 row_scale=0x0:8 col_scale=0x40:12 mask=0x100 bias=0x140 maximum=0x300 rows=4 cols=10 \
score_scale=1.0 bias_rows=1 continued=1
vector.softmax acc=0x0:40 row_scale=0x0:8 col_scale=0x40:12 p=0x200:16 l=0x300 rows=4 cols=10 score_scale=1.0 causal=1
vector.heads x=0x0:40 columns=0x0:32 table=0x200:24 out=0x400:48 codes=0x800:20 scale=0x900:16 rows=3 cols=16 \
group=8 turned=6
vector.context acc=0x0:80 l=0x0 v_scale=0x40 out=0x100:40 rows=3 cols=16
vector.context acc=0x0:80 l=0x0 v_scale=0x40 out=0x100:40 rows=3 cols=16 wide=1
vector.quantize x=0x0:40 codes=0x100:30 codes_in_weights=1 scale=0x200:12 rows=3 cols=16 group=8
vector.quantize_columns x=0x0:40 mask=0x100 codes=0x200:9 scale=0x300 rows=5 cols=12
vector.quantize_columns x=0x0:40 absmax=0x100 codes=0x200:9 scale=0x300 rows=5 cols=12 codes_in_act=1
vector.absmax x=0x0:40 mask=0x100 absmax=0x200 rows=5 cols=12 continued=1
vector.embed rows_in=0x0:40 columns=0x0:64 out=0x400:40 codes=0x800:20 scale=0x900:8 rows=3 cols=16 group=16 tables=2 \
table_bytes=256 norm=1
vector.pool x=0x0:40 mask=0x200 out=0x300 rows=5 cols=16
matrix.multiply x=0x0:30 w=0x0:28 acc=0x0:60 rows=3 outs=12 ins=20 n=1 m=1
matrix.multiply x=0x0:9 w=0x0:28 acc=0x0:60 rows=3 outs=12 ins=20 n=1 m=1 accumulate=1
load.copy src=0x0:40 dst=0x100:48 rows=3 row_bytes=20
load.rows src=0x0:40 dst=0x100:48 rows=3 row_bytes=20
load.gather table=0x0:40 ids=0x0 dst=0x100:48 rows=3 row_bytes=20 table_rows=1
store.copy src=0x0:40 dst=0x1000:48 rows=3 row_bytes=20
""".strip().split("\n")


def test_the_cases_cover_all_queues() -> None:
    names = {line.split()[0] for line in BUSY}
    assert {f.name for f in FUNCTIONS if f.queue is not Queue.CONTROL} - names == {"load.weights"}


@pytest.mark.parametrize("line", BUSY, ids=lambda line: line.split()[0])
def test_a_step_touches_its_operands_only(line: str) -> None:
    """Bytes outside the written extents stay, and bytes outside the read extents do not matter."""
    results = [_run_filled(line, seed) for seed in (0, 1)]
    (resolved, first_before, first_after), (_, _, second_after) = results
    for memory, data in first_after.items():
        written = np.zeros(data.size, bool)
        for operand in resolved.function.operands:
            if operand.access == "w" and operand.name in resolved.operands:
                for region in operand_extents(resolved, operand.name):
                    if region.memory is memory:
                        written |= covered(region, data.size)
        assert (data[~written] == first_before[memory][~written]).all(), memory
        assert (data[written] == second_after[memory][written]).all(), memory
        if written.any():
            assert (data[written] != first_before[memory][written]).any(), memory


def covered(region: Extent, size: int) -> Any:
    result = np.zeros(size, bool)
    for row in range(region.rows):
        start = region.start + row * region.pitch
        result[start : start + region.row_bytes] = True
    return result


def _run_filled(line: str, seed: int) -> tuple[Resolved, dict[Memory, Any], dict[Memory, Any]]:
    """Run with noise everywhere, but the same small numbers in what the instruction reads."""
    noise = np.random.default_rng(seed)
    sim = machine(line)
    memories = {**sim.memories.chip, Memory.DRAM: sim.memories.dram[0].data}
    for data in memories.values():
        data[...] = noise.integers(0, 256, data.size)
    resolved = expand(assemble(line + "\ncontrol.halt"))[0]
    same = np.random.default_rng(99)
    for operand in resolved.function.operands:
        reads = operand.access == "r" or (operand.updates and resolved.integer(operand.updates))
        if reads and operand.name in resolved.operands:
            for region in operand_extents(resolved, operand.name):
                memories[region.memory][covered(region, memories[region.memory].size)] = _content(
                    operand.shape, region.rows * region.row_bytes, same, operand.name == "ids"
                )
    before = {memory: data.copy() for memory, data in memories.items()}
    sim.run()
    return resolved, before, {memory: data.copy() for memory, data in memories.items()}


def _content(shape: str, size: int, random: Any, zero: bool) -> Any:
    if zero:
        return np.zeros(size, np.uint8)
    if shape.startswith("f32"):
        return random.uniform(0.5, 2, size // 4).astype(np.float32).view(np.uint8)
    if shape.startswith("bf16"):
        bits = numerics.bf16_bits(random.standard_normal(size // 2).astype(np.float32))
        return bits.view(np.uint8)
    if shape.startswith("i32"):
        return random.integers(1, 1000, size // 4).astype(np.int32).view(np.uint8)
    return random.integers(1, 255, size).astype(np.uint8)


# ---- memories -------------------------------------------------------------------------------------------------------


def test_memories_keep_to_their_bounds() -> None:
    weights = np.zeros(16, np.uint8)
    weights.flags.writeable = False
    memories = Memories({Memory.ACT: 64}, [DramRegion("w", 100, weights), DramRegion("x", 116, np.zeros(8, np.uint8))])
    assert memories.view(Place(Memory.ACT, 0, 32), np.float32, (2, 8)).shape == (2, 8)
    for place, shape in (
        (Place(Memory.ACT, 4, 32), (2, 8)),
        (Place(Memory.ACT, -4, 0), (1, 8)),
        (Place(Memory.DRAM, 112, 0), (2, 2)),
        (Place(Memory.DRAM, 96, 0), (1, 2)),
        (Place(Memory.ACC, 0, 0), (1, 1)),
    ):
        with pytest.raises(InputError, match="lie in no region"):
            memories.view(place, np.float32, shape)
    memories.fill(POISON)
    assert (memories.chip[Memory.ACT] == POISON).all()


def test_weights_in_dram_are_read_only() -> None:
    weights = np.zeros(64, np.uint8)
    weights.flags.writeable = False
    program = expand(assemble("store.copy src=0x0 dst=0x0 rows=1 row_bytes=4\ncontrol.halt"))
    with pytest.raises(InputError, match="must not change"):
        Simulator(program, SIZES, [DramRegion("w", 0, weights)])


def test_linear_data_has_tails() -> None:
    assert INS % 10
    assert OUTS % 5


@pytest.mark.parametrize("options", BOTH)
def test_multiplications_are_joined_only_over_unchanged_operands(options: Options) -> None:
    """x is multiplied, overwritten and multiplied again; the neighbouring tile, written before, may go together."""
    multiply = "matrix.multiply x={} w=0x0 acc={} rows=1 outs=4 ins=4 n=1 m=1\n"
    text = (
        "load.weights src=0x0 dst=0x0 outs=4 ins=4 n=1 m=1 stored_bytes=16\n"
        "load.copy src=0x100 dst=0x0 rows=1 row_bytes=12\n"
        + multiply.format("0x0", "0x0")
        + multiply.format("0x4", "0x40")
        + "load.copy src=0x200 dst=0x0 rows=1 row_bytes=8\n"
        + multiply.format("0x0", "0x80")
        + multiply.format("0x4", "0xc0")
        + multiply.format("0x8", "0x100")
    )
    sim = machine(text, options)
    w, old = RANDOM.integers(-127, 128, (4, 4)).astype(np.int8), RANDOM.integers(-127, 128, (3, 4)).astype(np.int8)
    new = RANDOM.integers(-127, 128, (2, 4)).astype(np.int8)
    for base, values in ((0, w), (0x100, old), (0x200, new)):
        put(sim, Memory.DRAM, base, values)
    for _ in range(2):
        sim.run()
        found = np.stack([get(sim, Memory.ACC, 0x40 * i, np.int32, (4,)) for i in range(5)])
        np.testing.assert_array_equal(found, np.concatenate([old[:2], new, old[2:]]).astype(int) @ w.T.astype(int))


# ---- any schedule ---------------------------------------------------------------------------------------------------

RING = """
control.loop count=6
  load.copy src=0x0(+0x20) dst=0x0{step} rows=1 row_bytes=32 wait=1 signal=0
  vector.quantize x=0x0{step} codes=0x100 scale=0x200(+0x4) rows=1 cols=16 group=16 wait=0,3 signal=1,2
  matrix.multiply x=0x100 w=0x0 acc=0x0(+0x10) rows=1 outs=4 ins=16 n=1 m=1 wait=2 signal=3
control.end
control.halt
"""
"""One input buffer (or six, with a step) and one buffer of codes between three queues."""


def ring(credits: int) -> tuple[Semaphore, ...]:
    return (
        Semaphore("full", 0, Queue.LOAD, Queue.VECTOR),
        Semaphore("empty", credits, Queue.VECTOR, Queue.LOAD),
        Semaphore("codes", 0, Queue.VECTOR, Queue.MATRIX),
        Semaphore("free", 1, Queue.MATRIX, Queue.VECTOR),
    )


def run_in_any_order(text: str, semaphores: tuple[Semaphore, ...], seed: int) -> Any:
    """Execute queue heads that may start, picked at random; an instruction happens at once. The accumulators."""
    random = np.random.default_rng(seed)
    program = expand(assemble(text))
    dram = DramRegion("all", 0, np.random.default_rng(3).integers(0, 120, SIZES[Memory.DRAM]).astype(np.uint8))
    sim = Simulator(program, SIZES, [dram], Options(from_bytes=True))
    sim.memories.chip[Memory.WEIGHTS][:64] = np.arange(64)
    counts = [semaphore.initial for semaphore in semaphores]
    queues = {queue: [entry for entry in sim._steps if entry[0].queue is queue] for queue in Queue}
    while any(queues.values()):
        ready = [q for q, waiting in queues.items() if waiting and all(counts[s] for s in waiting[0][0].waits)]
        instruction, step = queues[ready[random.integers(len(ready))]].pop(0)
        for semaphore in instruction.waits:
            counts[semaphore] -= 1
        step()
        for semaphore in instruction.signals:
            counts[semaphore] += 1
            assert counts[semaphore] <= 15
    return get(sim, Memory.ACC, 0, np.int32, (24,))


def test_what_the_checker_accepts_computes_the_same_in_any_order() -> None:
    for step, credits in (("", 1), ("(+0x20)", 6)):
        text = RING.format(step=step)
        check_program(assemble(text), ring(credits), SIZES)
        results = [run_in_any_order(text, ring(credits), seed).tolist() for seed in range(8)]
        assert results[0] != [0] * 24
        assert all(result == results[0] for result in results)


def test_what_the_checker_rejects_may_not() -> None:
    """Two credits for one buffer: some orders read what the next load wrote."""
    text = RING.format(step="")
    with pytest.raises(InputError, match="HPCC1227"):
        check_program(assemble(text), ring(2), SIZES)
    assert len({tuple(run_in_any_order(text, ring(2), seed).tolist()) for seed in range(8)}) > 1
