"""A subset of the recipes of SparseML and llm-compressor, which are no longer developed, as rules of ours.

What is read and what is not stands in docs/RECIPES.md. Their `mask_structure: N:M` makes N of every M weights zero, ours
keeps N of M: 3:4 there is nm:1:4 here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from compiler.sparsity.base import Pattern
from compiler.sparsity.patterns import NM, parse_pattern
from compiler.sparsity.recipes import Recipe, Rule
from compiler.sparsity.unbalanced import Unstructured
from hw_targets.errors import HpccError, InputError

METHOD_OF: Mapping[str, str] = {
    "SparseGPTModifier": "second-order",
    "OBCQModifier": "second-order",
    "WandaPruningModifier": "activation",
    "MagnitudePruningModifier": "magnitude",
    "MagnitudeModifier": "magnitude",
    "ConstantPruningModifier": "magnitude",
    "OneShotMagnitudeModifier": "magnitude",
}
"""One-shot modifiers. Schedules (GMPruning and the like) train, and are not read."""
EVERYTHING = ("Linear", "__ALL_PRUNABLE__", "__ALL__")
"""Targets that mean every linear inside the blocks."""
IGNORED_KEYS = ("block_size", "dampening_frac", "sequential_update", "quantize", "sequential_targets", "offload_hessians")
READ_KEYS = ("sparsity", "final_sparsity", "mask_structure", "mask_type", "targets", "params", "ignore", *IGNORED_KEYS)
BLOCKS = r"re:layer\.\d+\.(attn\.(q|k|v|o)|ffn\.(up|gate|down))$"


def read_yaml(text: str, path: Path, kind: str) -> Recipe:
    """The modifiers of a recipe as rules. Raises InputError for what is not read."""
    import yaml

    where = str(path)
    try:
        document: Any = yaml.safe_load(re.sub(r"(?m)^---.*$", "", text) if text.lstrip().startswith("---") else text)
    except yaml.YAMLError as error:
        raise InputError("HPCC1856", f"not valid YAML: {str(error).splitlines()[0]}", where=where) from error
    except ValueError as error:  # !tags of SparseML have no constructor, dates may be impossible
        raise InputError("HPCC1856", f"not valid YAML: {error}", where=where) from error
    rules = tuple(_rule(name, entry, where, kind) for name, entry in _modifiers(document))
    if not rules:
        raise InputError("HPCC1855", "the recipe has no pruning modifier", where=where, hint=f"read are {_known()}")
    return Recipe(where, rules=rules)


def _known() -> str:
    return ", ".join(METHOD_OF)


def _modifiers(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, arguments) of every modifier in stages, groups and lists, in order."""
    if isinstance(node, list):
        for entry in node:  # pyright: ignore[reportUnknownVariableType]
            yield from _modifiers(entry)
    elif isinstance(node, dict):
        for key, value in cast(Mapping[Any, Any], node).items():
            if str(key).endswith("Modifier"):
                yield str(key), value if isinstance(value, dict) else {}  # pyright: ignore
            else:
                yield from _modifiers(value)


def _rule(name: str, entry: Mapping[str, Any], where: str, kind: str) -> Rule:
    if name not in METHOD_OF:
        raise InputError("HPCC1855", f"{name} is not read", where=where, hint=f"read are {_known()}; docs/RECIPES.md")
    unknown = next((key for key in entry if key not in READ_KEYS), None)
    if unknown is not None:
        raise InputError("HPCC1855", f"{name}: {unknown!r} is not read", where=where, hint="docs/RECIPES.md")
    targets = _texts(entry.get("targets", entry.get("params", "Linear")), name, where)
    matches = tuple(BLOCKS if target in EVERYTHING else target for target in targets)
    ignores = _texts(entry.get("ignore", []), name, where)
    return Rule(matches, _pattern(name, entry, where, kind), METHOD_OF[name], ignores, module_paths=True)


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    texts: Any = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):  # pyright: ignore
        raise InputError("HPCC1855", f"{name}: targets are names or re:expressions", where=where, hint="docs/RECIPES.md")
    for text in texts:  # pyright: ignore[reportUnknownVariableType]
        try:
            re.compile(str(text).removeprefix("re:") if str(text).startswith("re:") else "")  # pyright: ignore
        except re.error as error:
            raise InputError("HPCC1855", f"{name}: {text!r} is no expression: {error}", where=where) from error
    return tuple(texts)  # pyright: ignore


def _pattern(name: str, entry: Mapping[str, Any], where: str, kind: str) -> Pattern:
    sparsity = entry.get("sparsity", entry.get("final_sparsity"))
    structure = str(entry.get("mask_structure", entry.get("mask_type", "unstructured")))
    try:
        zeros = None if sparsity is None else Fraction(str(sparsity))
        if structure in ("unstructured", "0:0"):
            if zeros is None:
                raise ValueError("a sparsity is missing")
            return parse_pattern(f"{Unstructured.name}:{zeros}", kind)
        pruned, colon, group = structure.partition(":")
        if not colon or not pruned.isdecimal() or not group.isdecimal():
            raise ValueError(f"mask_structure {structure!r} is not read")
        pattern = NM(int(group) - int(pruned), int(group))
        if zeros is not None and zeros != Fraction(int(pruned), int(group)):
            raise ValueError(f"sparsity {sparsity} contradicts mask_structure {structure!r}")
        return pattern
    except HpccError as error:
        raise InputError("HPCC1857", error.message, where=where, hint=error.hint) from error
    except (ValueError, ZeroDivisionError) as error:
        raise InputError("HPCC1857", f"{name}: {error}", where=where, hint="docs/RECIPES.md") from error
