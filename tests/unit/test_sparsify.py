"""hpcc-sparsify on small modules: scope, ties, stored layouts, errors, the summary."""

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.parser import Parser

from compiler.dialects.nn import NN, LinearOp, WeightOp
from compiler.dialects.sparsity import SPARSITY, pattern_of
from compiler.passes.sparsify import SparsifyPass, pruning_summary
from compiler.sparsity.patterns import NM, Dense
from compiler.weights import WeightStore, attach_store
from hw_targets.errors import UsageError


class Model:
    """A chain of linears on tensor<1x4x64xf32>, written as (role, weight key, stored)."""

    def __init__(self, *linears: tuple[str, str, str], seed: int = 0) -> None:
        self.ctx, self.store = Context(), WeightStore()
        for dialect in (Builtin, Func, NN, SPARSITY):
            self.ctx.load_dialect(dialect)
        attach_store(self.ctx, self.store)
        self.rng = np.random.default_rng(seed)
        lines, value = [], "%x"
        for number, (role, key, stored) in enumerate(linears):
            if key not in self.store:
                self.store.add(key, self.rng.normal(size=(64, 64)).astype(np.float32))
            weight = f'"{key}" digest "{self.store.digest(key)}" stored "{stored}" : tensor<64x64xf32>'
            lines.append(f"%w{number} = hpcc_nn.weight {weight}")
            types = "tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>"
            lines.append(f'%y{number} = hpcc_nn.linear "{role}" {value}, %w{number} : {types}')
            value = f"%y{number}"
        body = "\n".join([*lines, f"func.return {value} : tensor<1x4x64xf32>"])
        text = f"func.func @main(%x: tensor<1x4x64xf32>) -> tensor<1x4x64xf32> {{\n{body}\n}}"
        self.module: ModuleOp = Parser(self.ctx, text).parse_module()

    def sparsify(self, spec: str) -> "Model":
        SparsifyPass(spec).apply(self.ctx, self.module)
        self.module.verify()
        return self

    @property
    def linears(self) -> list[LinearOp]:
        return [op for op in self.module.walk() if isinstance(op, LinearOp)]

    def weight(self, number: int) -> WeightOp:
        owner = self.linears[number].weight.owner
        assert isinstance(owner, WeightOp)
        return owner


def test_only_the_blocks_linears_are_pruned() -> None:
    model = Model(("layer.0.attn.q", "a", "oi"), ("pooler", "b", "oi"), ("layer.11.ffn.gate", "c", "oi"))
    model.sparsify("nm:2:4")
    patterns = [pattern_of(op.weight.type) for op in model.linears]
    assert patterns == [NM(2, 4), Dense(), NM(2, 4)]
    assert [model.weight(i).key.data for i in range(3)] == ["a.nm:2:4", "b", "c.nm:2:4"]
    assert np.array_equal(model.store.get("a.nm:2:4"), NM(2, 4).project(model.store.get("a")))
    assert model.weight(0).digest.data == model.store.digest("a.nm:2:4")


def test_the_stored_layout_does_not_change_the_mask() -> None:
    model = Model(("layer.0.attn.q", "a", "io"))
    other = Model(("layer.0.attn.q", "b", "oi"))
    other.store.release(["b"])
    other.store.add("b", np.ascontiguousarray(model.store.get("a").T))
    model.sparsify("hp:0.75"), other.sparsify("hp:0.75")
    spec = "hp:rows=64,window=32,keep=16,fine=2:4"
    assert np.array_equal(model.store.get(f"a.{spec}").T, other.store.get(f"b.{spec}"))
    assert model.weight(0).transposed
    assert np.count_nonzero(model.store.get(f"a.{spec}")) == 64 * 64 / 4


def test_a_weight_tied_to_something_outside_stays() -> None:
    # the pooler's own weight; and one that is its transpose under another name
    model = Model(("layer.0.attn.q", "a", "oi"), ("pooler", "a", "oi"), ("layer.0.attn.k", "b", "io"))
    model.sparsify("nm:2:4")
    assert [pattern_of(op.weight.type) for op in model.linears] == [Dense(), Dense(), NM(2, 4)]
    assert "outside of the blocks" in model.linears[0].attributes["hpcc.left_dense"].data
    model = Model(("layer.0.attn.q", "a", "oi"), ("pooler", "t", "oi"), ("layer.0.attn.k", "b", "io"))
    model.store.release(["t"])
    model.store.add("t", np.ascontiguousarray(model.store.get("a").T))
    model.sparsify("nm:2:4")
    assert [pattern_of(op.weight.type) for op in model.linears] == [Dense(), Dense(), NM(2, 4)]


def test_tied_weights_are_masked_once() -> None:
    model = Model(("layer.0.ffn.up", "a", "oi"), ("layer.1.ffn.up", "a", "oi")).sparsify("nm:1:4")
    assert model.weight(0).key == model.weight(1).key
    assert model.store.keys() == ["a", "a.nm:1:4"]
    summary = pruning_summary(model.module)
    assert (len(summary.layers), summary.zeros) == (2, 64 * 64 * 3 // 4)


def test_rows_of_fewer_than_four_groups_stay_dense() -> None:
    model = Model(("layer.0.attn.q", "a", "oi"))
    with pytest.raises(UsageError, match=r"layer.0.attn.q: its 64 inputs are fewer than 4 groups of 17"):
        SparsifyPass("nm:2:17", kind="cpu").apply(model.ctx, model.module)
    assert pattern_of(model.sparsify("nm:2:16").linears[0].weight.type) == NM(2, 16)


def test_summary_and_no_ops() -> None:
    model = Model(("layer.0.attn.q", "a", "oi"), ("layer.0.attn.o", "b", "oi"), ("classifier", "b", "oi"))
    before = str(model.module)
    for spec in ("dense", "nm:4:4"):
        assert str(model.sparsify(spec).module) == before
    summary = pruning_summary(model.sparsify("hp:0.9").module)
    assert [(layer.role, layer.zeros) for layer in summary.layers] == [
        ("layer.0.attn.q", 64 * (64 - 6)),
        ("layer.0.attn.o", 0),
    ]
    assert summary.pruned_zeros == 58 / 64
    assert summary.encoder_zeros == 29 / 64
    assert summary.layers[1].left_dense


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(UsageError, match="no layer of this model"):
        Model(("pooler", "a", "oi")).sparsify("nm:2:4")
    with pytest.raises(UsageError, match="unknown sparsity pattern"):
        Model(("layer.0.attn.q", "a", "oi")).sparsify("nn:2:4")


def test_hp_at_one_half_is_annotated_as_what_it_is() -> None:
    model = Model(("layer.0.attn.q", "a", "oi")).sparsify("hp:0.5")
    assert pattern_of(model.linears[0].weight.type) == NM(2, 4)


def test_the_pass_prints_as_a_pipeline_reads_it() -> None:
    assert str(SparsifyPass("nm:2:4")) == 'hpcc-sparsify{spec="nm:2:4"}'
    again = SparsifyPass.from_pass_spec(SparsifyPass("hp:0.75").pipeline_pass_spec())
    assert again == SparsifyPass("hp:0.75")
