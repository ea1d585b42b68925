"""What runs for CPUs and GPUs share: a program in steps, of which a bundle is written and then run for real."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp, TensorType

from compiler.module import main_function, names_of
from compiler.passes.sparsify import PruningSummary, pruning_summary
from compiler.pipelines import Stage
from compiler.tools.baseline import print_comparison
from compiler.tools.model_facts import NUMPY_DTYPES
from compiler.tools.options import Options
from compiler.tools.session import Session
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from hw_targets.gpu import GpuTarget
from runtime.manifest import TensorEntry


class StepsSession(Session):
    """The state of one run; see Session."""

    def __init__(self, options: Options, target: CpuTarget | GpuTarget) -> None:
        super().__init__(options, target)
        self.pruning = PruningSummary(())
        if options.timing_only:
            message = "--timing-only counts cycles of an accelerator"
            hint = f"leave it out: a {self.kind.upper()} program is run and measured"
            raise UsageError("HPCC2603", message, hint=hint)

    @abstractmethod
    def _compiled_to(self, output: Path, scratch: Any) -> Any:
        """Write the bundle, run and verified unless the options stop before."""

    @abstractmethod
    def _print_source(self) -> None:
        """The source code, on stdout."""

    @abstractmethod
    def _print_summary(self, compiled: Any, output: Path) -> None:
        """What a person reads after a run."""

    def _produce(self, output: Path) -> int:
        """The source code, if that is asked for; else the bundle, and what came out."""
        if self.options.emit == self.program_forms[0]:
            self._print_source()
            return 0
        compiled = self._compiled_to(output, None)
        self.progress.stop()
        if self.options.json:
            self._print_json(compiled.report, compiled.run_report)
        elif not self.options.quiet:
            self._print_summary(compiled, output)
            print_comparison(compiled.comparison, self.options.baseline)
        compiled.raise_if_wrong(output)
        return 0

    def compile(self) -> Any:
        """The program with its reports, run and verified as the options ask; a bundle only where they name one.

        Raises VerificationError where the results are wrong; the bundle is kept for a look.
        """
        start = self._load()
        self._stages(start, self.stage_names[-1])
        if self.options.output is not None:
            compiled = self._compiled_to(Path(self.options.output), None)
            compiled.raise_if_wrong(Path(self.options.output))
            return compiled
        scratch = tempfile.TemporaryDirectory(prefix="hpcc-")
        compiled = self._compiled_to(Path(scratch.name) / "model.hpcc", scratch)
        compiled.raise_if_wrong(None)
        return compiled

    def _after_stage(self, stage: Stage, module: ModuleOp) -> None:
        super()._after_stage(stage, module)
        if stage.name == "sparsify":
            self.pruning = pruning_summary(module)

    def _after_load(self, stage: str) -> None:
        if stage == "sparsify":
            self.pruning = pruning_summary(self.module)

    def _borders(self, outputs: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, TensorEntry]:
        """The library's tensors by name, with the compiled shapes."""
        function = main_function(self.module)
        entries: dict[str, TensorEntry] = {}
        for name, type in zip(names_of(function, "input_names"), function.body.block.arg_types, strict=True):
            assert isinstance(type, TensorType)
            entries[name] = TensorEntry(name=name, dtype=NUMPY_DTYPES[str(type.element_type)], shape=tuple(type.get_shape()))
        for name, shape in zip(outputs, shapes, strict=True):
            entries[name] = TensorEntry(name=name, dtype="float32", shape=shape)
        return entries
