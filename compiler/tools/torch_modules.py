"""torch.nn.Module to hpcc, by torch.export: `hpcc.compile(module, ...)`, and `torch.compile(model, backend="hpcc")`."""

# torch is no dependency of hpcc, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hw_targets.errors import HpccError, InputError, MissingToolError, UsageError

NEEDS = "pip install 'hpcc[export]'"
OPTIONS = ("target", "sparsity", "precision")


def _torch() -> Any:
    """The package torch. Raises MissingToolError without it."""
    try:
        import onnxscript
        import torch
    except ImportError as error:
        message = f"compiling a torch module needs {error.name}, which is not installed"
        raise MissingToolError("HPCC5121", message, hint=NEEDS) from error
    del onnxscript
    return torch


def is_module(model: object) -> bool:
    """Whether a value is a torch.nn.Module, without importing torch for it."""
    return any(kind.__module__.startswith("torch.nn") and kind.__name__ == "Module" for kind in type(model).__mro__)


def export_module(module: Any, arguments: Sequence[Any], path: Path, *, named: Mapping[str, Any] | None = None) -> None:
    """Write `path`, an ONNX file of the module with the shapes of the arguments. Raises InputError where torch cannot."""
    torch = _torch()
    module = module.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(module, tuple(arguments), dict(named or {}), strict=False)
            torch.onnx.export(program, dynamo=True, verbose=False, external_data=False).save(str(path))
    except Exception as error:  # torch's exporters raise whatever a model's code meets
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError("HPCC1961", f"torch cannot export the module: {lines[0][:300]}") from error


@contextmanager
def exported(module: object, example_inputs: Sequence[Any] | Mapping[str, Any] | None) -> Iterator[Path]:
    """A module as an ONNX file, for as long as it is needed. Raises UsageError for what is no module, or has no inputs."""
    if not is_module(module):
        hint = "the path of an .onnx file, or a torch.nn.Module"
        raise UsageError("HPCC2057", f"a {type(module).__name__} is no model", hint=hint)
    if example_inputs is None:
        hint = "hpcc.compile(module, target, example_inputs=(ids, mask))"
        raise UsageError("HPCC2058", "a module needs example inputs, whose shapes are compiled", hint=hint)
    by_name = example_inputs if isinstance(example_inputs, Mapping) else {}
    in_order = () if isinstance(example_inputs, Mapping) else example_inputs
    with tempfile.TemporaryDirectory(prefix="hpcc-") as place:
        path = Path(place) / f"{type(module).__name__}.onnx"
        export_module(module, in_order, path, named=by_name)
        yield path


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters say much on the way that is no concern of the caller."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


# ---- torch.compile ------------------------------------------------------------------------------------------------------


class HpccFallback(UserWarning):
    """A graph that torch.compile(backend="hpcc") leaves to torch, and why."""


def hpcc_backend(graph: Any, example_inputs: Sequence[Any], **given: Any) -> Callable[..., Any]:
    """The backend of torch.compile: a graph becomes a program for a CPU (option `target`, cpu-host by default).

    Inference only. A graph that cannot be compiled runs in torch, with an HpccFallback warning that says why. Options, as
    of `hpcc`: target, sparsity, precision. Raises UsageError for any other.
    """
    options = dict(given.get("options") or {})
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UsageError("HPCC2056", f"the backend has no option {unknown[0]!r}", hint=f"options: {', '.join(OPTIONS)}")
    reason = _obstacle(graph, example_inputs)
    if reason is None and _has_sizes(example_inputs):
        return _ByShape(graph, options)
    return _compiled(graph, example_inputs, options, reason)


def _compiled(
    graph: Any, example_inputs: Sequence[Any], options: Mapping[str, str], reason: str | None = None
) -> Callable[..., Any]:
    """A program, or torch with a warning: for a `reason` that is known before, or one that turns up."""
    if reason is None:
        try:
            return _Compiled(graph, example_inputs, options)
        except HpccError as error:
            reason = str(error)
    warnings.warn(f"hpcc leaves a graph to torch: {reason}", HpccFallback, stacklevel=3)
    return graph.forward


def _has_sizes(example_inputs: Sequence[Any]) -> bool:
    """Whether sizes that vary from call to call are among a graph's inputs."""
    torch = _torch()
    return any(not isinstance(value, torch.Tensor) for value in example_inputs)


MAX_SHAPES = 8
"""Programs of a graph whose sizes vary; a further shape runs in torch."""


@dataclass
class _ByShape:
    """A graph whose sizes vary: a program for each shape, compiled when it comes for the first time."""

    graph: Any
    options: Mapping[str, str]
    programs: dict[tuple[Any, ...], Callable[..., Any]] = field(default_factory=dict[tuple[Any, ...], Callable[..., Any]])

    def __call__(self, *arguments: Any) -> Any:
        shape = tuple(tuple(value.shape) if hasattr(value, "shape") else value for value in arguments)
        if shape not in self.programs:
            full = len(self.programs) >= MAX_SHAPES
            reason = f"it has {MAX_SHAPES} programs of other shapes" if full else None
            program = _compiled(self.graph, arguments, self.options, reason)
            if full:
                return program(*arguments)
            self.programs[shape] = program
        return self.programs[shape](*arguments)


def _obstacle(graph: Any, example_inputs: Sequence[Any]) -> str | None:
    """Why a graph is not even tried."""
    torch = _torch()
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are on; call the model under torch.no_grad()"
    other = {str(tensor.device.type) for tensor in tensors} - {"cpu"}
    if other:
        return f"its tensors are on {', '.join(sorted(other))}, programs run on the CPU"
    outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    if any(not hasattr(value, "meta") for value in outputs):
        return "it returns more than tensors"
    return None


@dataclass
class _Compiled:
    """A compiled graph: called with all of the graph's inputs; parameters and sizes are part of the program."""

    graph: Any
    example_inputs: Sequence[Any]
    options: Mapping[str, str]
    fixed: dict[int, Any] = field(default_factory=dict[int, Any])
    versions: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        torch = _torch()
        placeholders = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        for index, (node, value) in enumerate(zip(placeholders, self.example_inputs, strict=True)):
            static = node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
            if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter) or static is not None:
                self.fixed[index] = value
        self._compile()

    def _compile(self) -> None:
        """Export and compile with the parameters' present values. Raises HpccError."""
        from compiler.tools.options import Options
        from compiler.tools.session import open_session

        torch = _torch()
        self.versions = {index: value._version for index, value in self.fixed.items() if isinstance(value, torch.Tensor)}
        free = [value for index, value in enumerate(self.example_inputs) if index not in self.fixed]
        with tempfile.TemporaryDirectory(prefix="hpcc-") as place:
            path = Path(place) / "graph.onnx"
            export_module(_Closed(torch, self.graph, self.fixed, len(self.example_inputs)), free, path)
            inputs = [tuple(value.shape) for value in free]
            names = _names(path)
            shapes = dict(zip(names, inputs, strict=True))
            target = self.options.get("target", "cpu-host")
            options = Options(
                model=str(path),
                target=target,
                shapes=shapes,
                sparsity=self.options.get("sparsity"),
                precision=self.options.get("precision"),
                verify=False,
                quiet=True,
            )
            self.program = open_session(options).compile()
        self.names = names

    def __call__(self, *arguments: Any) -> list[Any]:
        torch = _torch()
        if any(arguments[index]._version != version for index, version in self.versions.items()):
            self.fixed = {index: arguments[index] for index in self.fixed}
            self._compile()
        free = [value for index, value in enumerate(arguments) if index not in self.fixed]
        feed = {name: value.detach().contiguous().numpy() for name, value in zip(self.names, free, strict=True)}
        outputs = self.program.run(feed).outputs
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in outputs.values()]


def _Closed(torch: Any, graph: Any, fixed: Mapping[int, Any], count: int) -> Any:
    """The graph as a module of its free inputs; the others are buffers."""

    class Closed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = graph
            for index, value in fixed.items():
                if isinstance(value, torch.Tensor):
                    self.register_buffer(f"fixed{index}", value.detach())
                else:
                    setattr(self, f"fixed{index}", int(value))

        def forward(self, *free: Any) -> Any:
            rest = iter(free)
            return self.inner(*(getattr(self, f"fixed{i}") if i in fixed else next(rest) for i in range(count)))

    return Closed()


def _names(path: Path) -> list[str]:
    import onnx

    return [entry.name for entry in onnx.load(path, load_external_data=False).graph.input]
