"""`hpcc-sparsify{spec="nm:2:4"}`: prunes the linear weights inside the blocks by magnitude and says so in their types.
With spec="auto" it changes no weight, and says in the types which pattern the weights already have: the one that the
module names (attribute `hpcc.sparsity`, from the ONNX file's metadata) where they obey it, else the one found in them.

Before: `hpcc_nn.linear` ops with roles, their weights in the store. After: each pruned weight is a new store entry
(`KEY.SPEC`, same stored layout) that obeys the pattern, verified on the data, and its type carries the pattern. What is
left dense although its role is in scope says why in the attribute `hpcc.left_dense` of its linear; what breaks the pattern
that the module names says how in `hpcc.not_as_named`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ModuleOp, NameLoc, StringAttr, TensorType, f32
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.utils.arg_spec import ArgSpec

from compiler.dialects.nn import DequantizeOp, LinearOp, QLinearOp, WeightOp, shape_of, stored_weight
from compiler.dialects.sparsity import attribute_of, pattern_of
from compiler.sparsity.base import METADATA_KEY, METADATA_LAYERS_KEY, Dense, Pattern
from compiler.sparsity.detect import LEAST_ZEROS, detect, near_miss
from compiler.sparsity.factored import Factored
from compiler.sparsity.patterns import HP, NM, parse_pattern
from compiler.sparsity.recipes import Linear, Recipe, load_recipe
from compiler.storage.formats import candidates
from compiler.weights import Array, WeightStore, content_digest, row_major, store_of
from hw_targets.errors import InputError, UsageError
from hw_targets.storage import BASIS

PRUNABLE = re.compile(r"layer\.\d+\.(attn\.(q|k|v|o)|ffn\.(up|gate|down))")
"""Roles pruned by default: the linears inside encoder and decoder blocks."""

LEFT_DENSE = "hpcc.left_dense"
NOT_AS_NAMED = "hpcc.not_as_named"
NEAR_MISS = "hpcc.near_miss"
AUTO = "auto"
RECIPE_ATTRIBUTE = "hpcc.recipe"
RECIPE = "recipe:"
"""What stands before the path of a recipe in the place of a pattern."""
FACTOR_OF = "hpcc.factor_of"
"""Attribute of the two linears that one with a factored weight has become: the pattern of their product."""
_CACHED_ROWS = 256
THREADS = 4
"""Matrices pruned side by side, where there are the cores: numpy lets go of the interpreter while it works. No more, for
each takes a few copies of its matrix."""
MIN_GROUPS = 4
"""A row of fewer groups than this stays dense."""


@dataclass(frozen=True)
class SparsifyPass(ModulePass):
    """Prune with the pattern `spec`, resolved for targets of `kind`, or find the patterns ("auto").

    Raises UsageError for a pattern that applies to no layer.
    """

    name = "hpcc-sparsify"
    spec: str  # pyright: ignore[reportIncompatibleMethodOverride]
    kind: str = "fpga"

    def pipeline_pass_spec(self, *, include_default: bool = False) -> ArgSpec:
        """The pass as a pipeline prints it; the base class's own method is hidden by the option `spec`."""
        return ModulePass.spec(self, include_default=include_default)

    def __str__(self) -> str:
        return str(self.pipeline_pass_spec())

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.spec == AUTO:
            find_patterns(op, store_of(ctx, op), named_pattern(op, self.kind), named_layers(op, self.kind))
            return
        if self.spec.startswith(RECIPE):
            sparsify_by_recipe(op, store_of(ctx, op), load_recipe(Path(self.spec.removeprefix(RECIPE)), self.kind))
            return
        pattern = parse_pattern(self.spec, self.kind).canonical()
        if not isinstance(pattern, Dense):
            sparsify(op, store_of(ctx, op), pattern)


def sparsify(module: ModuleOp, store: WeightStore, pattern: Pattern) -> None:
    """Prune every linear inside the blocks with one pattern."""
    linears = [op for op in module.walk() if isinstance(op, LinearOp) and PRUNABLE.fullmatch(op.role.data)]
    sparsify_each(module, store, dict.fromkeys(linears, pattern), pattern.spec())


def sparsify_each(module: ModuleOp, store: WeightStore, patterns: Mapping[LinearOp, Pattern], what: str) -> None:
    """Prune each linear with its pattern. Tied weights are masked once; one that other ops use too stays as it is."""
    reasons = reasons_to_stay_dense(module, store, patterns)
    weights: dict[WeightOp, Pattern] = {}
    for op, pattern in patterns.items():
        weight = stored_weight(op.weight)
        if not reasons[op] and weight is not None:
            weights.setdefault(weight, pattern)
    if not weights:
        raise UsageError("HPCC2210", f"{what} applies to no layer of this model", hint=_why_none(reasons))
    tasks: dict[tuple[str, bool, str, str], _Task] = {}
    identities = {weight: _identity(weight, pattern) for weight, pattern in weights.items()}
    for weight, pattern in weights.items():
        if identities[weight] not in tasks:
            tasks[identities[weight]] = _task(weight, store, pattern)
    keys: dict[tuple[str, bool, str, str], str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for (identity, task), (stored, digest) in zip(tasks.items(), pool.map(_prune, tasks.values()), strict=True):
            keys[identity] = store.add(f"{task.key}.{task.pattern.spec()}", stored, digest)
    for weight, pattern in weights.items():
        _replace(weight, keys[identities[weight]], store, pattern)
    for op, reason in reasons.items():
        if reason:
            op.attributes[LEFT_DENSE] = StringAttr(reason)


def sparsify_by_recipe(module: ModuleOp, store: WeightStore, recipe: Recipe) -> None:
    """Prune each linear by magnitude with the pattern that the recipe gives it."""
    linears = {op.role.data: op for op in module.walk() if isinstance(op, LinearOp)}
    inside = {role: PRUNABLE.fullmatch(role) is not None for role in linears}
    choices = recipe.choose([linear_names(op) for op in linears.values()], inside)
    patterns = {linears[role]: choice.pattern for role, choice in choices.items()}
    sparsify_each(module, store, patterns, f"the recipe {recipe.where}")
    module.attributes[RECIPE_ATTRIBUTE] = StringAttr(Path(recipe.where).name)


def linear_names(op: LinearOp) -> Linear:
    """What a recipe can call a linear: its role, its ONNX node, the tensor of its weight."""
    node = op.location.desc.data if isinstance(op.location, NameLoc) else ""
    stored = stored_weight(op.weight)
    return Linear(op.role.data, node, () if stored is None else (stored.key.data,))


def reasons_to_stay_dense(module: ModuleOp, store: WeightStore, patterns: Mapping[LinearOp, Pattern]) -> dict[LinearOp, str]:
    """Why each linear cannot be pruned with its pattern; empty where it can."""
    shared = _digests_out_of_scope(module, store, patterns)
    return {op: _reason_to_stay_dense(op, pattern, patterns, shared) for op, pattern in patterns.items()}


# ---- auto -----------------------------------------------------------------------------------------------------------


def named_pattern(module: ModuleOp, kind: str = "fpga") -> Pattern | None:
    """The pattern that the module says its weights have. Raises InputError for one that does not exist."""
    named = module.attributes.get(METADATA_KEY)
    if not isinstance(named, StringAttr):
        return None
    try:
        return parse_pattern(named.data, kind).canonical()
    except UsageError as error:
        raise InputError("HPCC1812", f"metadata {METADATA_KEY!r}: {error.message}", hint=error.hint) from error


def named_layers(module: ModuleOp, kind: str = "fpga") -> dict[str, Pattern]:
    """The patterns that the module names layer by layer, by role. Raises InputError for text that does not say that."""
    text = module.attributes.get(METADATA_LAYERS_KEY)
    if not isinstance(text, StringAttr):
        return {}
    try:
        named: dict[str, str] = json.loads(text.data)
        return {role: parse_pattern(spec, kind).canonical() for role, spec in named.items()}
    except UsageError as error:
        raise InputError("HPCC1812", f"metadata {METADATA_LAYERS_KEY!r}: {error.message}", hint=error.hint) from error
    except (AttributeError, TypeError, ValueError) as error:
        message = f"metadata {METADATA_LAYERS_KEY!r} is no JSON of patterns by role"
        raise InputError("HPCC1812", message, hint="remove it, or write it with hpcc-prune") from error


def find_patterns(
    module: ModuleOp, store: WeightStore, named: Pattern | None = None, layers: Mapping[str, Pattern] | None = None
) -> None:
    """Put the pattern that each weight inside the blocks already has into its type; no value changes.

    `named` is what the file names for all of them, `layers` for single roles.
    """
    found: dict[tuple[str, bool], tuple[Pattern, str, str]] = {}
    linears = {op: None for op in module.walk() if isinstance(op, LinearOp) and PRUNABLE.fullmatch(op.role.data)}
    for op in linears:
        weight = op.weight.owner
        if not isinstance(weight, WeightOp) or not _in_scope(weight, linears) or not _is_plain_float(weight):
            continue
        identity = weight.digest.data, weight.transposed
        if identity not in found:
            own = (layers or {}).get(op.role.data, named)
            found[identity] = _pattern_found(logical(store.get(weight.key.data), weight), own)
        pattern, broken, near = found[identity]
        if near:
            op.attributes[NEAR_MISS] = StringAttr(near)
        if broken:
            op.attributes[NOT_AS_NAMED] = StringAttr(broken)
        if not isinstance(pattern, Dense):
            _replace(weight, weight.key.data, store, pattern)


def _is_plain_float(weight: WeightOp) -> bool:
    type = weight.result.type
    assert isinstance(type, TensorType)
    return isinstance(type.element_type, AnyFloat) and isinstance(pattern_of(type), Dense)


def _pattern_found(w: Array, named: Pattern | None) -> tuple[Pattern, str, str]:
    """The pattern of a matrix, how it breaks the one that the file names, and which one it has but for a few places."""
    broken = ""
    if named is not None and not isinstance(named, Dense):
        try:
            named.check(w)
        except InputError as error:
            broken = error.message
        else:
            return named, "", ""
    pattern = detect(w, _fewest_bytes)
    return pattern, broken, near_miss(w, pattern)


def _fewest_bytes(pattern: Pattern, outs: int, ins: int) -> int:
    return min(format.size_bits(outs, ins, pattern).total_bytes for format in candidates(pattern))


# ---- scope ----------------------------------------------------------------------------------------------------------


def logical(array: Array, weight: WeightOp | _Task) -> Array:
    """The matrix out x in of a stored array, as a view."""
    return array.T if weight.transposed else array


def _dequantize_of(weight: WeightOp) -> DequantizeOp | None:
    """What turns a weight into fp32 if it is codes."""
    user = weight.result.get_user_of_unique_use()
    return user if isinstance(user, DequantizeOp) else None


def _scale_digest(weight: WeightOp) -> str:
    """The digest of the scale of codes, empty for other weights."""
    dequantize = _dequantize_of(weight)
    scale = None if dequantize is None else dequantize.scale.owner
    return scale.digest.data if isinstance(scale, WeightOp) else ""


def _is_pruned_use(operation: Operation, index: int, chosen: Container[Operation]) -> bool:
    if isinstance(operation, DequantizeOp):
        return index == 0 and all(_is_pruned_use(use.operation, use.index, chosen) for use in operation.result.uses)
    return isinstance(operation, LinearOp) and index == 1 and operation in chosen


def _in_scope(weight: WeightOp, chosen: Container[Operation]) -> bool:
    return all(_is_pruned_use(use.operation, use.index, chosen) for use in weight.result.uses)


def _digests_out_of_scope(module: ModuleOp, store: WeightStore, chosen: Container[Operation]) -> set[str]:
    """Digests, as stored and transposed, of the matrices used out of scope that a linear's weight could be tied to."""
    weights = [op for op in module.walk() if isinstance(op, WeightOp) and len(shape_of(op.result)) == 2]
    shapes = {tuple(sorted(shape_of(op.result))) for op in weights if _in_scope(op, chosen)}
    digests: set[str] = set()
    for op in weights:
        if not _in_scope(op, chosen) and tuple(sorted(shape_of(op.result))) in shapes:
            digests |= {op.digest.data, content_digest(store.get(op.key.data).T)}
    return digests


def _reason_to_stay_dense(op: LinearOp, pattern: Pattern, chosen: Container[Operation], shared: set[str]) -> str:
    """Empty if the linear can be pruned."""
    weight, (outs, ins) = stored_weight(op.weight), shape_of(op.weight)
    if weight is None:
        return "its weight is computed, not stored"
    assert isinstance(op.weight.type, TensorType)
    if not isinstance(op.weight.type.element_type, AnyFloat):
        return f"its weights are {op.weight.type.element_type}, not floating point"
    if not _in_scope(weight, chosen) or weight.digest.data in shared:
        return "its weight is used outside of the blocks' linears too"
    if pattern.sharing and _dequantize_of(weight) is not None:
        return "its weights are codes, which are not shared anew"
    if isinstance(pattern, Factored) and (values := pattern.free(outs, ins)) >= outs * ins:
        return f"its factors would have {values:,} weights, it has {outs * ins:,}"
    if ins < MIN_GROUPS * pattern.group:
        return f"its {ins} inputs are fewer than {MIN_GROUPS} groups of {pattern.group}"
    return ""


def _why_none(reasons: dict[LinearOp, str]) -> str:
    if not reasons:
        return "it has no linear inside an encoder or decoder block; --list-layers prints the layers"
    op, reason = next(iter(reasons.items()))
    return f"{op.role.data}: {reason}"


@dataclass(frozen=True)
class _Task:
    """A matrix to prune, without the IR it comes from: `_prune` runs beside others."""

    key: str
    matrix: Array
    """out x in, as a view of the stored array."""
    transposed: bool
    """Whether it is stored in x out."""
    factor: Array | None
    """What its values are multiplied by to get what they stand for."""
    pattern: Pattern


def _task(weight: WeightOp, store: WeightStore, pattern: Pattern) -> _Task:
    matrix = logical(store.get(weight.key.data), weight)
    dequantize = _dequantize_of(weight)
    scale = None if dequantize is None else stored_weight(dequantize.scale)
    factor = None if scale is None else np.broadcast_to(logical(store.get(scale.key.data), scale), matrix.shape)
    return _Task(weight.key.data, matrix, weight.transposed, factor, pattern)


def _identity(weight: WeightOp, pattern: Pattern) -> tuple[str, bool, str, str]:
    """The same for weights that are pruned to the same values."""
    return weight.digest.data, weight.transposed, _scale_digest(weight), pattern.spec()


def _prune(task: _Task) -> tuple[Array, str]:
    """The pruned matrix, in the stored layout, and its digest. Codes are ranked by what they stand for; those that are
    pruned become 0."""
    matrix, pattern = row_major(task.matrix), task.pattern
    try:
        projected = pattern.project(matrix) if pattern.sharing else _masked(matrix, task.factor, pattern)
    except InputError as error:
        raise InputError(error.code, error.message, where=f"weight {task.key!r}", hint=error.hint) from error
    pattern.check(projected)
    stored = row_major(logical(projected, task))  # transposing twice gives the stored layout
    return stored, content_digest(stored)


def _masked(matrix: Array, factor: Array | None, pattern: Pattern) -> Array:
    """The matrix with zeros where the pattern has them; ranked by what it stands for, its values times `factor`."""
    projected = np.empty_like(matrix)
    for rows in _row_blocks(pattern, len(matrix)):
        values = matrix[rows]
        mask = pattern.mask(values if factor is None else values * factor[rows])
        projected[rows] = np.where(mask, values, matrix.dtype.type(0))
    return projected


def _row_blocks(pattern: Pattern, outs: int) -> Iterator[slice]:
    """Rows whose masks do not depend on each other, some hundred at a time: their scores fit a core's cache."""
    match pattern:
        case NM() if pattern.along == "in":
            step = _CACHED_ROWS
        case HP():
            step = -(-_CACHED_ROWS // pattern.rows) * pattern.rows
        case _:
            step = max(outs, 1)
    return (slice(start, start + step) for start in range(0, outs, step))


def _replace(weight: WeightOp, key: str, store: WeightStore, pattern: Pattern) -> None:
    type = weight.result.type
    assert isinstance(type, TensorType)
    pruned = WeightOp(
        key,
        store.digest(key),
        TensorType(type.element_type, type.get_shape(), attribute_of(pattern)),
        stored=None if weight.stored is None else weight.stored.data,
    )
    replace_weight(weight, pruned)


def replace_weight(old: WeightOp, new: WeightOp) -> None:
    """Put `new` in the place of `old`, with its location, name and other attributes."""
    block = old.parent
    assert block is not None
    new.location = old.location
    new.attributes.update(old.attributes)
    new.result.name_hint = old.result.name_hint
    block.insert_op_before(new, old)
    dequantize = _dequantize_of(old)
    old.result.replace_all_uses_with(new.result)
    if dequantize is not None:
        assert isinstance(new.result.type, TensorType)
        type = TensorType(f32, new.result.type.get_shape(), new.result.type.encoding)
        Rewriter.replace_value_with_new_type(dequantize.result, type)
    old.detach()
    old.erase()


# ---- what was pruned ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerPruning:
    """One linear inside the blocks: its pattern and how many of its `count` weights the pattern makes zero.

    `left_dense` says why it was not pruned, `not_as_named` how it breaks the pattern that the file names; else empty.
    """

    role: str
    key: str
    pattern: Pattern
    zeros: int
    count: int
    left_dense: str = ""
    not_as_named: str = ""
    near_miss: str = ""


@dataclass(frozen=True)
class PruningSummary:
    """Zeros are counted by the patterns' closed forms: weights that happen to be 0 do not count. A tied weight counts
    once."""

    layers: tuple[LayerPruning, ...]
    recipe: str = ""
    """The file that said what each layer gets, if one did."""

    @property
    def pruned_zeros(self) -> float:
        """Share of zeros of the pruned tensors."""
        return _share(layer for layer in self.layers if layer.zeros)

    @property
    def encoder_zeros(self) -> float:
        """Share of zeros of all linear weights inside the blocks."""
        return _share(self.layers)

    @property
    def changes_work(self) -> bool:
        """Whether the weights are another work than dense ones: they have zeros, or stand as two factors."""
        return any(layer.zeros or isinstance(layer.pattern, Factored) for layer in self.layers)

    def found(self) -> str:
        """What `auto` found, in words."""
        by_name: dict[str, list[LayerPruning]] = {}
        for layer in self.layers:
            if layer.zeros or layer.pattern.sharing:
                by_name.setdefault(layer.pattern.name, []).append(layer)
        if not by_name and not self.near_misses():
            return f"auto: no matrix has {float(LEAST_ZEROS):.0%} zeros, so all stay dense"
        parts = [_words_of(layers) for layers in by_name.values()]
        dense = len(self.layers) - sum(map(len, by_name.values()))
        if dense:
            parts.append(f"dense in {dense}")
        if self.recipe:
            return f"recipe {self.recipe}: {', '.join(parts)}"
        words = f"auto: found {', '.join(parts) or 'no pattern'}; no weight was changed"
        broken = [layer for layer in self.layers if layer.not_as_named]
        if broken:
            words += f"; {len(broken)} not as the file's metadata says ({broken[0].role}: {broken[0].not_as_named})"
        near = self.near_misses()
        if near:
            words += f"; nearly: {near[0]}" + (f" and {len(near) - 1} more" if len(near) > 1 else "")
        return words

    def near_misses(self) -> tuple[str, ...]:
        """As in "2:4 except for 37 groups in layer.3.ffn.down"."""
        return tuple(f"{layer.near_miss} in {layer.role}" for layer in self.layers if layer.near_miss)

    @property
    def zeros(self) -> int:
        return sum(layer.zeros for layer in _distinct(self.layers))


def _words_of(layers: list[LayerPruning]) -> str:
    """One pattern, or the range of sparsity of several of one kind, and the number of matrices."""
    patterns = list(dict.fromkeys(layer.pattern for layer in layers))
    if len(patterns) == 1:
        return f"{patterns[0].describe()} in {len(layers)} matri{'ces' if len(layers) > 1 else 'x'}"
    if all(pattern.sharing for pattern in patterns):
        return f"{patterns[0].name} of several sizes in {len(layers)} matrices"
    shares = [pattern.sparsity for pattern in patterns]
    return f"{patterns[0].name} with {min(shares):.0%} to {max(shares):.0%} zeros in {len(layers)} matrices"


def _distinct(layers: Iterable[LayerPruning]) -> list[LayerPruning]:
    return list({layer.key: layer for layer in layers}.values())


def _share(layers: Iterable[LayerPruning]) -> float:
    distinct = _distinct(layers)
    count = sum(layer.count for layer in distinct)
    return sum(layer.zeros for layer in distinct) / count if count else 0.0


def _note(op: Operation, name: str) -> str:
    note = op.attributes.get(name)
    return note.data if isinstance(note, StringAttr) else ""


def pruning_summary(module: ModuleOp) -> PruningSummary:
    """What the types of the linears inside the blocks say, before or after `quantize` and `encode`."""
    layers: list[LayerPruning] = []
    inputs = {op.role.data: shape_of(op.weight)[1] for op in module.walk() if isinstance(op, LinearOp | QLinearOp)}
    for op in module.walk():
        if isinstance(op, LinearOp | QLinearOp) and PRUNABLE.fullmatch(op.role.data):
            outs, ins = shape_of(op.weight)
            pattern = pattern_of(op.weight.type)
            if product := _note(op, FACTOR_OF):
                pattern, ins = parse_pattern(product, kind="any"), inputs[op.role.data + BASIS]
            stored = stored_weight(op.weight)
            key = op.role.data if stored is None else stored.key.data
            zeros = outs * ins - pattern.kept(outs, ins)
            notes = (_note(op, LEFT_DENSE), _note(op, NOT_AS_NAMED), _note(op, NEAR_MISS))
            layers.append(LayerPruning(op.role.data, key, pattern, zeros, outs * ins, *notes))
    recipe = module.attributes.get(RECIPE_ATTRIBUTE)
    return PruningSummary(tuple(layers), recipe.data if isinstance(recipe, StringAttr) else "")
