"""Recipes: which pattern and method each linear gets, as a TOML file says (docs/RECIPES.md). No IR.

    pattern = "nm:2:4"            # what no rule names, of the linears inside the blocks; without it they stay dense
    method = "second-order"

    [[rule]]                      # the last rule that matches decides
    match = "layer.*.ffn.*"       # a role, an ONNX node or an initializer, with * and ?
    pattern = "hp:0.75"

The YAML of SparseML and llm-compressor is read by sparseml.py into the same rules.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Any, cast

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import parse_pattern
from hw_targets.errors import HpccError, InputError

METHODS = ("magnitude", "activation", "second-order", "random")
"""`random` is a control for tables: the same zeros, anywhere that the pattern allows."""
KEYS = ("pattern", "method", "rule")
RULE_KEYS = ("match", "pattern", "method")


@dataclass(frozen=True)
class Linear:
    """What a linear is called: its role, the ONNX node of its product, the tensors of its weight."""

    role: str
    node: str
    tensors: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.role, self.node, *self.tensors)

    @property
    def module_names(self) -> tuple[str, ...]:
        """Names as torch modules have them: an exporter's node path with dots, without the operator."""
        path = self.node.strip("/").replace("/", ".").rpartition(".")[0]
        return (*self.names, *((path, f"{path}.weight") if path else ()))


@dataclass(frozen=True)
class Rule:
    """Linears that one of `matches` names and none of `ignores` does; pattern None leaves the pattern as it is."""

    matches: tuple[str, ...]
    pattern: Pattern | None
    method: str | None = None
    ignores: tuple[str, ...] = ()
    module_paths: bool = False
    """Whether expressions are those of torch's module names."""

    def applies(self, linear: Linear) -> bool:
        names = linear.module_names if self.module_paths else linear.names
        return _any(self.matches, names) and not _any(self.ignores, names)


@dataclass(frozen=True)
class Choice:
    """What one linear gets."""

    pattern: Pattern
    method: str | None


@dataclass(frozen=True)
class Recipe:
    """Rules in order, and what holds for linears inside the blocks that no rule names."""

    where: str
    pattern: Pattern | None = None
    method: str | None = None
    rules: tuple[Rule, ...] = field(default=())

    def choose(self, linears: Sequence[Linear], inside: Mapping[str, bool]) -> dict[str, Choice]:
        """The choice of each linear that gets one, by role; `inside` says which roles lie in blocks.

        Raises InputError for a rule that matches nothing, naming what is near.
        """
        for rule in self.rules:
            for expression in rule.matches:
                if not any(Rule((expression,), None, module_paths=rule.module_paths).applies(one) for one in linears):
                    raise _matches_nothing(expression, linears, self.where)
        chosen: dict[str, Choice] = {}
        for linear in linears:
            pattern = self.pattern if inside.get(linear.role, False) else None
            method = self.method
            for rule in self.rules:
                if rule.applies(linear):
                    pattern, method = rule.pattern or pattern, rule.method or method
            if pattern is not None and not isinstance(pattern, Dense):
                chosen[linear.role] = Choice(pattern, method)
        return chosen


def glob_or_expression(text: str) -> re.Pattern[str]:
    """`re:...` is a regular expression, matched from the start as SparseML does; all else has * and ?."""
    if text.startswith("re:"):
        return re.compile(text.removeprefix("re:"))
    return re.compile(translate(text.replace("[", "[[]")))


def _any(expressions: Sequence[str], names: Sequence[str]) -> bool:
    compiled = [glob_or_expression(text) for text in expressions]
    return any(expression.match(name) for expression in compiled for name in names)


def _matches_nothing(expression: str, linears: Sequence[Linear], where: str) -> InputError:
    names = list(dict.fromkeys(name for linear in linears for name in linear.names if name))
    plain = expression.removeprefix("re:").replace("*", "").replace("?", "")
    near = difflib.get_close_matches(plain, names, n=3, cutoff=0.3) or [linear.role for linear in linears[:3]]
    hint = f"near are {', '.join(near)}" if near else "the model has no linear layer"
    return InputError("HPCC1850", f"{expression!r} matches no linear layer of the model", where=where, hint=hint)


def scope_of(globs: Sequence[str], pattern: Pattern, method: str | None) -> Recipe:
    """--scope: one pattern for what the globs name."""
    return Recipe("--scope", rules=tuple(Rule((glob,), pattern, method) for glob in globs))


# ---- TOML -----------------------------------------------------------------------------------------------------------


def load_recipe(path: Path, kind: str = "fpga") -> Recipe:
    """Read a recipe; `kind` is that of the target, as in `parse_pattern`. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError("HPCC1851", f"cannot read the recipe: {reason}", where=str(path)) from error
    if path.suffix in (".yaml", ".yml"):
        from compiler.sparsity.sparseml import read_yaml

        return read_yaml(text, path, kind)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError("HPCC1852", f"not valid TOML: {error}", where=str(path)) from error
    return _recipe(document, str(path), kind)


def _recipe(document: Mapping[str, Any], where: str, kind: str) -> Recipe:
    _check_keys(document, KEYS, where, "a recipe")
    rules = document.get("rule", [])
    if not isinstance(rules, list):
        raise InputError("HPCC1853", "'rule' is no table array", where=where, hint="write [[rule]]")
    read = tuple(_rule(rule, f"{where}: rule {number}", kind) for number, rule in enumerate(rules, 1))  # pyright: ignore
    pattern, method = _pattern(document, where, kind), _method(document, where)
    if pattern is None and not read:
        raise InputError("HPCC1853", "the recipe says nothing", where=where, hint='pattern = "nm:2:4", or [[rule]]')
    return Recipe(where, pattern, method, read)


def _rule(rule: Any, where: str, kind: str) -> Rule:
    if not isinstance(rule, dict):
        raise InputError("HPCC1853", "it is no table", where=where, hint="write [[rule]]")
    table = cast(Mapping[str, Any], rule)
    _check_keys(table, RULE_KEYS, where, "a rule")
    match = table.get("match")
    matches: Any = [match] if isinstance(match, str) else match
    if not isinstance(matches, list) or not matches or not all(isinstance(text, str) for text in matches):  # pyright: ignore
        hint = 'match = "layer.*.ffn.*", or a list of such'
        raise InputError("HPCC1853", "'match' names no layers", where=where, hint=hint)
    return Rule(tuple(matches), _pattern(table, where, kind), _method(table, where))  # pyright: ignore


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str, what: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(known)}"
            raise InputError("HPCC1853", f"{what} has no key {key!r}", where=where, hint=hint)


def _pattern(table: Mapping[str, Any], where: str, kind: str) -> Pattern | None:
    spec = table.get("pattern")
    if spec is None:
        return None
    try:
        return parse_pattern(str(spec), kind).canonical()
    except HpccError as error:
        raise InputError("HPCC1854", error.message, where=where, hint=error.hint) from error


def _method(table: Mapping[str, Any], where: str) -> str | None:
    method = table.get("method")
    if method is not None and method not in METHODS:
        raise InputError("HPCC1853", f"there is no method {method!r}", where=where, hint=f"methods: {', '.join(METHODS)}")
    return method
