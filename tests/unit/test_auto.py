"""--sparsity auto: the pattern that weights already have, from the file's metadata or found; no weight changes."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import StringAttr

from compiler.dialects.sparsity import pattern_of
from compiler.passes.sparsify import SparsifyPass, pruning_summary
from compiler.sparsity.base import METADATA_KEY, Dense, Pattern
from compiler.sparsity.detect import BLOCKS, detect, fits
from compiler.sparsity.patterns import parse_pattern
from compiler.sparsity.unbalanced import Unstructured
from compiler.storage.formats import candidates
from hw_targets.errors import InputError
from tests.unit.test_sparsify import Model

RNG = np.random.default_rng(5)


def stored_bytes(pattern: Pattern, outs: int, ins: int) -> int:
    return min(f.size_bits(outs, ins, pattern).total_bytes for f in candidates(pattern))


def found(w: np.ndarray) -> str:
    return detect(w, stored_bytes).spec()


def pruned(spec: str, outs: int = 256, ins: int = 384) -> np.ndarray:
    return parse_pattern(spec).project(RNG.normal(size=(outs, ins)).astype(np.float32))


SPECS = ["nm:1:2", "nm:2:4", "nm:1:4", "nm:2:8", "nm:1:8", "nm:4:8", "nm:3:4", "nm:2:16"]
SPECS += ["hp:0.75", "hp:0.9", "hp:0.6", "hp:rows=64,window=32,keep=8,fine=dense"]
SPECS += ["block:4x1:0.75", "block:16x1:0.5", "block:32x32:0.75", "block:1x16:0.9", "unstructured:0.75", "unstructured:0.95"]
SPECS += ["row:0.5", "column:0.75", "block:8x8:0.75:balanced"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(256, 384), (312, 1200)])
def test_what_was_pruned_is_found(spec: str, shape: tuple[int, int]) -> None:
    assert found(pruned(spec, *shape)) == parse_pattern(spec).spec()


def test_few_zeros_are_dense() -> None:
    w, order = RNG.normal(size=(50, 50)), RNG.permutation(2500)
    assert found(w) == "dense"
    w.reshape(-1)[order[:249]] = 0
    assert found(w) == "dense"
    w.reshape(-1)[order[249]] = 0
    assert found(w) == "unstructured:0.1"


def test_a_few_accidental_zeros_do_not_change_what_is_found() -> None:
    for spec in ("nm:2:4", "hp:0.75", "block:4x1:0.75"):
        w = pruned(spec)
        w[np.nonzero(w)[0][::500], np.nonzero(w)[1][::500]] = 0
        assert found(w) == parse_pattern(spec).spec()


def test_far_fewer_weights_than_a_pattern_keeps_are_found_as_what_they_are() -> None:
    w = pruned("nm:2:4") * (RNG.random((256, 384)) < 0.05)
    pattern = detect(w, stored_bytes)
    assert isinstance(pattern, Unstructured)
    assert pattern.kept(256, 384) == np.count_nonzero(w)


def test_nothing_at_all() -> None:
    for shape in ((1, 1), (1, 40), (40, 1), (64, 64)):
        pattern = detect(np.zeros(shape, np.float32), stored_bytes)
        pattern.check(np.zeros(shape, np.float32))


def test_of_those_that_fit_none_stores_less() -> None:
    """Every pattern that fits takes at least nine tenths of the bytes of what was found."""
    for spec in ("nm:2:4", "hp:0.75", "unstructured:0.6", "block:8x8:0.5"):
        w = pruned(spec)
        chosen = stored_bytes(detect(w, stored_bytes), *w.shape)
        others = [parse_pattern(s) for s in (*SPECS, spec) if fits(parse_pattern(s), w)]
        assert min(stored_bytes(p, *w.shape) for p in others) >= 0.9 * chosen
    assert (4, 1) in BLOCKS


# ---- the pass -------------------------------------------------------------------------------------------------------


def model_with(*specs: str) -> Model:
    """Linears of layer 0 whose weights have been pruned elsewhere."""
    roles = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")
    model = Model(*((f"layer.0.{role}", role, "io") for role, _ in zip(roles, specs, strict=False)))
    for role, spec in zip(roles, specs, strict=False):
        w = parse_pattern(spec).project(model.store.get(role).T)
        model.store.release([role])
        model.store.add(role, np.ascontiguousarray(w.T))
    return model


def patterns_of(model: Model) -> list[str]:
    return [pattern_of(op.weight.type).spec() for op in model.linears]


def test_each_matrix_has_its_own_pattern_and_no_weight_changes() -> None:
    specs = ["nm:2:4", "dense", "hp:0.75", "unstructured:0.8", "block:4x1:0.75"]
    model = model_with(*specs)
    keys = model.store.keys()
    digests = {key: model.store.digest(key) for key in keys}
    model.sparsify("auto")
    assert patterns_of(model) == [parse_pattern(spec).spec() for spec in specs]
    assert model.store.keys() == keys
    assert {model.weight(i).key.data: model.weight(i).digest.data for i in range(5)} == digests
    words = pruning_summary(model.module).found()
    assert words.startswith("auto: found 2:4 (keeps 2 of 4, 50 % zeros) in 1 matrix, hierarchical")
    assert "dense in 1; no weight was changed" in words


def test_the_result_equals_that_of_pruning_here() -> None:
    model, other = model_with("dense", "dense"), model_with("dense", "dense")
    other.sparsify("nm:2:4")
    for role in ("attn.q", "attn.k"):
        model.store.release([role])
        model.store.add(role, np.array(other.store.get(f"{role}.nm:2:4")))
    model.sparsify("auto")
    assert [op.weight.type for op in model.linears] == [op.weight.type for op in other.linears]


def test_a_model_without_zeros() -> None:
    model = model_with("dense", "dense")
    before = str(model.module)
    assert str(model.sparsify("auto").module) == before
    assert pruning_summary(model.module).found() == "auto: no matrix has 10% zeros, so all stay dense"


def test_what_the_file_names_goes_first() -> None:
    # 2:4 weights fit 4:8 too, which would be found only without the name.
    model = model_with("nm:2:4", "nm:3:4", "nm:2:4")
    model.module.attributes[METADATA_KEY] = StringAttr("nm:4:8")
    model.sparsify("auto")
    assert patterns_of(model) == ["nm:4:8", "nm:3:4", "nm:4:8"]
    assert "holds 6 weights that are not zero; nm:4:8 keeps 4" in model.linears[1].attributes["hpcc.not_as_named"].data
    assert "1 not as the file's metadata says (layer.0.attn.k: row 0" in pruning_summary(model.module).found()


def test_a_name_that_is_no_pattern() -> None:
    model = model_with("nm:2:4")
    model.module.attributes[METADATA_KEY] = StringAttr("nm:4:2")
    with pytest.raises(InputError, match=r"metadata 'hpcc.sparsity': nm: 4:2 would keep 4 of every 2"):
        SparsifyPass("auto").apply(model.ctx, model.module)


def test_weights_shared_with_something_else_stay_untyped() -> None:
    model = Model(("layer.0.attn.q", "a", "oi"), ("pooler", "a", "oi"))
    model.store.release(["a"])
    model.store.add("a", parse_pattern("nm:2:4").project(RNG.normal(size=(64, 64)).astype(np.float32)))
    one, two = model.linears
    two.operands[1] = one.weight
    model.sparsify("auto")
    assert pattern_of(model.linears[0].weight.type) == Dense()
