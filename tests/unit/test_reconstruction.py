"""Second-order pruning against Optimal Brain Surgeon written the slow way, and the counts of every pattern."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler.sparsity import reconstruction
from compiler.sparsity.allocation import Level, allocate, levels_of
from compiler.sparsity.base import Dense
from compiler.sparsity.patterns import HP, NM, parse_pattern
from compiler.sparsity.reconstruction import Curvature, Moments, choose_mask, damped, reconstruct, solve_inside
from compiler.sparsity.saliency import activation_scores
from hw_targets.errors import InputError, UsageError

SPECS = [
    "nm:2:4",
    "nm:1:8",
    "nm:2:4,along=out",
    "hp:rows=8,window=16,keep=8,fine=2:4",
    "hp:rows=4,window=in,keep=1/4,fine=dense",
    "unstructured:0.75",
    "block:4x1:0.75",
    "block:4x4:0.5",
    "block:4x4:0.5:balanced",
    "row:0.5",
    "row:0.5:tile=8x8",
    "column:0.75",
    "column:0.5:tile=8x8",
    "block:8x8:0.5+nm:2:4",
    "row:0.5+nm:1:4",
]


def layer(outs: int, ins: int, seed: int = 0, tokens: int = 300) -> tuple[np.ndarray, Moments]:
    """Weights, and correlated inputs some of which are much larger than others."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(tokens, ins)) @ (np.eye(ins) + 0.5 * random.normal(size=(ins, ins)) / np.sqrt(ins))
    x *= np.exp(random.normal(size=ins))
    return random.normal(size=(outs, ins)), Moments(x.T @ x, tokens)


def naive_obs(row: np.ndarray, h: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Take the weights outside the mask out one by one; each time all that are left make up for it."""
    w, left = row.copy(), list(range(len(row)))
    inverse = np.linalg.inv(h)
    for gone in np.flatnonzero(~mask):
        at = left.index(gone)
        update = w[left] - w[gone] / inverse[at, at] * inverse[:, at]
        w[left] = update
        w[gone] = 0.0
        inverse = inverse - np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
        inverse = np.delete(np.delete(inverse, at, 0), at, 1)
        left.remove(gone)
    return w


def naive_nm_mask(w: np.ndarray, h: np.ndarray, n: int, m: int) -> np.ndarray:
    """The sweep without Cholesky: at each group the inverse of what is left of H ranks, then the dropped ones go."""
    current, mask, ins = w.copy(), np.ones(w.shape, bool), w.shape[1]
    for start in range(0, ins, m):
        stop = min(start + m, ins)
        inverse = np.linalg.inv(h[start:, start:])
        scores = current[:, start:stop] ** 2 / np.diag(inverse)[: stop - start]
        keep = -(-n * (stop - start) // m)
        for row in range(len(w)):
            order = np.argsort(-scores[row], kind="stable")
            mask[row, start + order[keep:]] = False
        for column in range(start, stop):
            inverse = np.linalg.inv(h[column:, column:])
            error = np.where(mask[:, column], 0, current[:, column]) / inverse[0, 0]
            current[:, column:] -= np.outer(error, inverse[0])
    return mask


@pytest.mark.parametrize("spec", SPECS)
def test_it_agrees_with_a_naive_obs(spec: str) -> None:
    w, moments = layer(16, 48)
    pattern, h = parse_pattern(spec), damped(moments.gram)
    values, mask = reconstruct(w, Curvature.of(moments), pattern)
    pattern.check(values)
    wanted = np.stack([naive_obs(row, h, keep) for row, keep in zip(w, mask, strict=True)])
    exact = solve_inside(w, h, mask, residual=1e-12)
    assert np.allclose(exact, wanted, atol=1e-6 * np.abs(w).max())

    def loss(v: np.ndarray) -> float:
        return float((((w - v) @ h) * (w - v)).sum())

    assert loss(wanted) <= loss(values) * (1 + 1e-9) <= loss(wanted) * 1.001
    if (mask.any(1) & ~mask.all(1)).any():  # in a row that goes as a whole nothing is left to make up for it
        assert loss(values) < loss(np.where(mask, w, 0))


@pytest.mark.parametrize(("n", "m", "ins"), [(2, 4, 48), (1, 4, 50), (2, 8, 44)])
def test_groups_are_chosen_when_the_sweep_reaches_them(n: int, m: int, ins: int) -> None:
    w, moments = layer(12, ins, seed=3)
    found = choose_mask(w, Curvature.of(moments).factor, NM(n, m))
    assert np.array_equal(found, naive_nm_mask(w, damped(moments.gram), n, m))
    # a mask chosen at the start is another one: the corrections matter
    assert not np.array_equal(found, NM(n, m).mask(w, w**2 / np.diag(np.linalg.inv(damped(moments.gram)))))


def test_hp_chooses_the_shared_inputs_first() -> None:
    """In the first window, whose weights no correction has reached, by the summed saliency of OBS."""
    w, moments = layer(16, 64, seed=1)
    pattern = HP(8, 32, 16, 2, 4)
    mask = choose_mask(w, Curvature.of(moments).factor, pattern)
    saliency = w**2 / np.diag(np.linalg.inv(damped(moments.gram)))
    for block in range(2):
        rows = slice(8 * block, 8 * block + 8)
        best = np.sort(np.argsort(-saliency[rows, :32].sum(axis=0))[:16])
        assert np.array_equal(np.flatnonzero(mask[rows, :32].any(axis=0)), best)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 40), st.integers(16, 70), st.integers(0, 99))
def test_every_method_hits_the_count(data: st.DataObject, outs: int, ins: int, seed: int) -> None:
    spec = data.draw(st.sampled_from(SPECS))
    pattern = parse_pattern(spec)
    assume(ins >= 4 * pattern.group)
    w, moments = layer(outs, ins, seed, tokens=40)
    masks = [
        pattern.mask(w),
        pattern.mask(w, activation_scores(w, moments.energies)),
        reconstruct(w, Curvature.of(moments), pattern)[1],
    ]
    for mask in masks:
        pattern.check(mask)
        assert np.count_nonzero(mask) == pattern.kept(outs, ins)


def test_nothing_is_written_outside_the_mask() -> None:
    w, moments = layer(16, 64)
    for spec in SPECS:
        values, mask = reconstruct(w, Curvature.of(moments), parse_pattern(spec))
        assert not values[~mask].any()
        assert values[mask].all()


def test_dead_inputs_keep_their_weights_and_rank_last() -> None:
    w, moments = layer(8, 32)
    gram = 300.0 * np.eye(32)
    gram[5, 5] = 0
    w[:, 5] = 0.1
    values, mask = reconstruct(w, Curvature.of(Moments(gram, 300)), NM(3, 4))
    assert np.isfinite(values).all()
    assert not mask[:, 5].any()
    values, mask = reconstruct(w, Curvature.of(Moments(np.zeros_like(gram), 300)), NM(2, 4))
    assert np.array_equal(mask, NM(2, 4).mask(w))
    assert np.allclose(values, np.where(mask, w, 0))


def test_what_is_not_finite_is_an_error() -> None:
    w, moments = layer(8, 32)
    with pytest.raises(InputError, match="NaN or infinite"):
        Moments(np.full((4, 4), np.nan), 3)
    with pytest.raises(InputError, match="NaN or infinity"):
        reconstruct(np.where(w > 1, np.inf, w), Curvature.of(moments), NM(2, 4))


def test_rounding_is_made_up_for() -> None:
    w, moments = layer(16, 64, seed=2)
    h, curvature = damped(moments.gram), Curvature.of(moments)
    step = np.abs(w).max() / 7

    def rounded(values: np.ndarray, column: int) -> np.ndarray:
        return np.rint(values / step) * step

    values, mask = reconstruct(w, curvature, NM(2, 4), rounded)
    plain = reconstruct(w, curvature, NM(2, 4))[0]
    nearest = np.where(mask, np.rint(plain / step) * step, 0)
    assert np.allclose(values, np.rint(values / step) * step)

    def loss(v: np.ndarray) -> float:
        return float((((w - v) @ h) * (w - v)).sum())

    assert loss(values) < loss(nearest)


# ---- mutations ------------------------------------------------------------------------------------------------------


def test_a_permuted_h_is_noticed() -> None:
    """What the tests above stand on: with the inputs' order wrong, OBS is not agreed with."""
    w, moments = layer(16, 48)
    order = np.random.default_rng(0).permutation(48)
    wrong = Moments(moments.gram[np.ix_(order, order)], moments.tokens)
    h = damped(moments.gram)
    values, mask = reconstruct(w, Curvature.of(wrong), NM(2, 4))
    wanted = np.stack([naive_obs(row, h, keep) for row, keep in zip(w, mask, strict=True)])
    assert (((w - values) @ h) * (w - values)).sum() > 1.1 * (((w - wanted) @ h) * (w - wanted)).sum()


def test_an_update_outside_of_the_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "solve_inside", lambda w, h, mask: w)
    w, moments = layer(16, 64)
    with pytest.raises(InputError):
        NM(2, 4).check(reconstruct(w, Curvature.of(moments), NM(2, 4))[0])


# ---- allocation -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.integers(0, 999), st.floats(0.05, 0.9))
def test_allocation_keeps_the_budget_and_is_no_worse_than_uniform(layers: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    levels = {}
    for number in range(layers):
        size, damages = int(random.integers(100, 9999)), np.sort(random.random(8) * random.random() * 10)
        levels[str(number)] = [Level(Dense(), 0, 0.0)] + [
            Level(NM(8 - step, 8), size * step // 8, float(damages[step])) for step in range(1, 8)
        ]
    step = int(np.ceil(share * 7))
    least = sum(options[step].zeros for options in levels.values())
    chosen = allocate(levels, least)
    assert sum(level.zeros for level in chosen.values()) >= least
    assert set(chosen) == set(levels)


def test_a_sensitive_layer_is_spared() -> None:
    def options(damage: float) -> list[Level]:
        return [Level(Dense(), 0, 0.0)] + [Level(NM(4 - n, 4), 100 * n, damage * n * n) for n in (1, 2, 3)]

    chosen = allocate({"a": options(1.0), "b": options(9.0)}, 400)
    assert chosen["a"].zeros == 300
    assert chosen["b"].zeros == 100
    with pytest.raises(ValueError, match="more than"):
        allocate({"a": options(1.0)}, 301)


def test_levels_share_the_granularity() -> None:
    assert levels_of(NM(2, 4)) == [Dense(), NM(3, 4), NM(2, 4), NM(1, 4)]
    shapes = levels_of(parse_pattern("hp:0.75"))
    assert parse_pattern("hp:0.75") in shapes
    assert [p.sparsity for p in shapes] == sorted({p.sparsity for p in shapes})
    assert all(p.sparsity < 1 for p in levels_of(parse_pattern("unstructured:0.75")))
    with pytest.raises(UsageError, match="no levels"):
        levels_of(Dense())


def test_the_size_of_the_inputs_changes_no_bit() -> None:
    """Squares of large inputs, and products of those, leave the range of single precision."""
    w, moments = layer(24, 32)
    mask = parse_pattern("nm:2:4").mask(w)
    h = damped(moments.gram)
    wanted = solve_inside(w, h, mask)
    with np.errstate(all="raise"):
        for power in (-200, 100, 200):
            np.testing.assert_array_equal(solve_inside(w, np.ldexp(h, power), mask), wanted)
