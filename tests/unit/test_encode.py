"""hpcc-encode-storage: the choice of formats, the encoded bytes, errors."""

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.parser import Parser

from compiler.dialects.nn import NN, QLinearOp, WeightOp
from compiler.dialects.sparsity import SPARSITY, attribute_of
from compiler.dialects.storage import STORAGE
from compiler.passes.encode_storage import EncodeStoragePass, encoded_bytes, storage_of
from compiler.passes.sparsify import pruning_summary
from compiler.sparsity.patterns import NM, Dense, Pattern, parse_pattern
from compiler.storage.choose import rank
from compiler.weights import WeightStore, attach_store
from hw_targets.errors import InfeasibleError, UsageError
from runtime.decoders import decode, expand

MODULE = """
func.func @main(%x: tensor<1x4x96xi8>, %s: tensor<1x4x1xf32>, %ws: tensor<80xf32>) -> tensor<1x4x80xf32> {{
  %w = hpcc_nn.weight "w" digest "d" {stored} : tensor<80x96xi8{encoding}>
  %y = hpcc_nn.qlinear "layer.0.ffn.up" %x, %s, %w, %ws
    : tensor<1x4x96xi8>, tensor<1x4x1xf32>, tensor<80x96xi8{encoding}>, tensor<80xf32> -> tensor<1x4x80xf32>
  func.return %y : tensor<1x4x80xf32>
}}
"""


def encoded(pattern: Pattern, stored: str = "", **options: object) -> tuple[WeightOp, WeightStore, np.ndarray]:
    ctx, store = Context(), WeightStore()
    for dialect in (Builtin, Func, NN, SPARSITY, STORAGE):
        ctx.load_dialect(dialect)
    codes = pattern.project(np.random.default_rng(0).integers(-127, 128, (80, 96)).astype(np.int8))
    store.add("w", np.ascontiguousarray(codes.T) if "io" in stored else codes)
    attach_store(ctx, store)
    encoding = "" if isinstance(pattern, Dense) else f", {attribute_of(pattern)}"
    module = Parser(ctx, MODULE.format(stored=stored, encoding=encoding)).parse_module()
    EncodeStoragePass(**options).apply(ctx, module)  # pyright: ignore[reportArgumentType]
    module.verify()
    weight = next(op for op in module.walk() if isinstance(op, QLinearOp)).weight.owner
    assert isinstance(weight, WeightOp)
    assert pruning_summary(module).layers[0].pattern == pattern
    return weight, store, codes


@pytest.mark.parametrize(("spec", "name"), [("dense", "dense"), ("nm:2:4", "nm"), ("hp:0.75", "hp_mark")])
@pytest.mark.parametrize("stored", ["", 'stored "io"'])
def test_the_format_follows_the_pattern(spec: str, name: str, stored: str) -> None:
    pattern = parse_pattern(spec)
    weight, store, codes = encoded(pattern, stored)
    storage, same = storage_of(weight)
    assert (storage.name, same) == (name, pattern)
    p = pattern.parameters(96)
    shape = (96, p.n, p.m, p.block_rows, p.window, p.keep)
    layout = decode(storage.code, encoded_bytes(weight, store), 80, *shape)
    assert np.array_equal(expand(layout, storage.code, 80, *shape), codes)
    part = decode(storage.code, encoded_bytes(weight, store, slice(64, 80)), 16, *shape)
    assert np.array_equal(expand(part, storage.code, 16, *shape), codes[64:])


def test_the_choice_can_be_overruled() -> None:
    weight, _, _ = encoded(NM(2, 4), format="dense")
    assert str(weight.result.type) == "tensor<80x96xi8, #hpcc_storage.dense<of = #hpcc_sparsity.nm<2:4>>>"
    weight, _, _ = encoded(Dense(), format="nm")  # cannot store it: the choice stays
    assert storage_of(weight)[0].name == "dense"
    weight, _, _ = encoded(NM(2, 4), format="ell")
    assert storage_of(weight)[0].name == "ell"
    with pytest.raises(UsageError, match="no storage format 'elk'"):
        encoded(NM(2, 4), format="elk")


def test_the_target_limits_the_choice() -> None:
    weight, _, _ = encoded(NM(2, 4), decode=("dense=64", "hp_mark=16"))
    assert storage_of(weight)[0].name == "dense"
    with pytest.raises(InfeasibleError, match="decodes no format that stores nm:2:4"):
        encoded(NM(2, 4), decode=("hp_mark=16",))
    with pytest.raises(UsageError, match="'nm' "):
        encoded(NM(2, 4), format="nm", decode=("dense",))
    with pytest.raises(UsageError, match="unknown format 'cbs'"):
        encoded(NM(2, 4), decode=("cbs=1",))


def test_unbalanced_patterns_take_the_smallest_format() -> None:
    for spec, name in (("unstructured:0.75", "bitmap"), ("unstructured:0.95", "csr"), ("block:4x1:0.75", "bcsr")):
        weight, _, _ = encoded(parse_pattern(spec))
        assert storage_of(weight)[0].name == name, spec
    weight, _, _ = encoded(parse_pattern("unstructured:0.05"))  # with its indices it would be larger than dense
    assert storage_of(weight)[0].name == "dense"


def test_the_speed_of_the_layout_goes_before_bytes() -> None:
    # Indices of 4:8 take 3 bits a value, 1.5 a weight, a bitmap 1; both run in the N:M layout.
    assert [c.format.name for c in rank(NM(4, 8), 64, 64)][:2] == ["bitmap", "nm"]
    assert [c.format.name for c in rank(NM(2, 4), 64, 64)] == ["nm", "bitmap", "ell", "csr", "dense", "coo"]
    hp = [c.format.name for c in rank(parse_pattern("hp:0.9"), 768, 768)]
    assert hp[:2] == ["hp_mark", "cbr"], "cbr multiplies the fine zeros too"
    assert hp[-1] == "dense"
    slow = rank(parse_pattern("unstructured:0.95"), 768, 768, {"dense": 64.0, "csr": 1.0, "bitmap": 64.0}, 32.0)
    assert [c.format.name for c in slow] == ["bitmap", "csr", "dense"], "a decoder that is too slow loses"


def test_the_target_of_the_pass() -> None:
    weight, _, _ = encoded(parse_pattern("unstructured:0.95"), target="fpga-u280")
    assert storage_of(weight)[0].name == "bitmap"  # 256 columns a cycle take longer than the memory
    with pytest.raises(UsageError, match="unknown target"):
        encoded(NM(2, 4), target="fpga-u2800")


def test_ranking_shows_sizes_and_load_cycles() -> None:
    nm, dense = rank(NM(2, 4), 64, 64, {"dense": 64.0, "nm": 8.0}, bytes_per_cycle=32.0)
    assert (nm.format.name, nm.size.total_bytes, nm.compute_bytes) == ("nm", 64 * 32 + 64 * 8, 64 * 48)
    assert nm.load_cycles == 64 * 32 / 8
    assert (dense.load_cycles, dense.compute_bytes) == (64 * 64 / 32, 64 * 64)
