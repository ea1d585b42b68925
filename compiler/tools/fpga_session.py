"""One `hpcc` run for an FPGA: the program, its simulation, verification, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from compiler.backends.fpga.machine import machine_of
from compiler.frontend.importer import Imported
from compiler.interpreters.evaluate import evaluate
from compiler.passes.sparsify import pruning_summary
from compiler.pipelines import Stage
from compiler.tools.baseline import print_comparison
from compiler.tools.compiled import Compiled
from compiler.tools.dense_twin import dense_layers
from compiler.tools.options import Options
from compiler.tools.packaging import build_bundle
from compiler.tools.parameters import check_parameters
from compiler.tools.reporting import RunFacts, build_report, build_run_report, ledger_problem
from compiler.tools.session import Array, Session, check_output
from compiler.tools.stepwise import StepwiseCheck
from compiler.tools.summary import print_summary
from hw_targets.asm import disassemble
from hw_targets.errors import VerificationError
from hw_targets.target import Target
from runtime.bundle import Bundle
from runtime.program import Program


class FpgaSession(Session):
    """The state of one run for an accelerator; see Session."""

    program_forms: ClassVar[tuple[str, ...]] = ("asm", "program")
    default_precision: ClassVar[str] = "int8"

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options, target)
        self.golden: ModuleOp | None = None
        self.encoded: ModuleOp | None = None

    @property
    def target(self) -> Target:
        """The accelerator."""
        assert isinstance(self.machine, Target)
        return self.machine

    def compiled(self) -> Compiled:
        """The program with its reports, simulated and verified as the options ask; nothing is written, nothing raised for
        results that are wrong."""
        start = self._load()
        self._stages(start, self.stage_names[-1])
        return self._compiled(self._bundle(), None)

    def compile(self) -> Compiled:
        """The program with its reports, simulated and verified as the options ask; a bundle only where they name one.

        Raises VerificationError where the results are wrong; the bundle is kept for a look.
        """
        output = Path(self.options.output) if self.options.output is not None else None
        if output is not None:
            check_output(output)
        start = self._load()
        self._stages(start, self.stage_names[-1])
        compiled = self._compiled(self._bundle(), output)
        if output is not None:
            compiled.save(output)
        compiled.raise_if_wrong(output)
        return compiled

    def _produce(self, output: Path) -> int:
        """From the last stage on: print the program, or run and verify it and write the bundle."""
        bundle = self._bundle()
        if self.options.emit == "asm":
            sys.stdout.write(disassemble(bundle.instructions, bundle.manifest.onnx_nodes))
            return 0
        return self._finish(self._compiled(bundle, output), output)

    # ---- the module -------------------------------------------------------------------------------------------------

    def _after_load(self, stage: str) -> None:
        super()._after_load(stage)
        if stage == "quantize":
            self.golden = self.module.clone()
        elif stage == "encode":
            self.encoded = self.module.clone()
        if self.stage_names.index(stage) >= self.stage_names.index("encode"):
            self._size_machine(self.module)

    def _after_stage(self, stage: Stage, module: ModuleOp) -> None:
        if stage.name == "quantize":
            self.golden = module.clone()
        elif stage.name == "encode":
            self.encoded = module.clone()
            self._size_machine(module)
        super()._after_stage(stage, module)

    def _size_machine(self, module: ModuleOp) -> None:
        """From here on the accelerator is the one that tiles and schedules are made for."""
        self.machine = machine_of(module, self.options.target)

    # ---- the program ------------------------------------------------------------------------------------------------

    def _bundle(self) -> Bundle:
        began = time.perf_counter()
        bundle = build_bundle(self.module, self.store, self.target, self._facts(), self.hosts)
        self.seconds["emit"] = self.seconds.get("emit", 0.0) + time.perf_counter() - began
        return bundle

    def _compiled(self, bundle: Bundle, output: Path | None) -> Compiled:
        """Check the program, count its cycles, and unless the options stop before, run and verify it."""
        options = self.options
        program = Program(bundle)
        self.progress.start("simulate")
        report = build_report(
            program, self._facts().entry, self.samples, self.asked, self.encoded, self._dense_layers(program)
        )
        run = RunFacts(self.seconds)
        outputs: Mapping[str, Array] = {}
        if options.emit != "program" and not options.timing_only:
            outputs = self._simulate(program, run)
        run.failed = run.failed or ledger_problem(report)
        run_report = build_run_report(run, program, output, options.model)
        comparison = self._compare_with_baseline(output, report, run_report)
        return Compiled(program, report, run_report, outputs, run.failed, comparison)

    def _finish(self, compiled: Compiled, output: Path) -> int:
        """Write the bundle and say what came out. It is kept for a look where the verification failed."""
        options = self.options
        compiled.save(output)
        self.progress.stop()
        if options.json:
            self._print_json(compiled.report, compiled.run_report)
        elif not options.quiet:
            print_summary(compiled.report, compiled.run_report, output, verbose=options.verbose)
            print_comparison(compiled.comparison, options.baseline)
        compiled.raise_if_wrong(output)
        return 0

    def _dense_layers(self, program: Program) -> Any:
        """The yardstick of the ledger: the program itself where nothing is pruned."""
        if self.encoded is None or not pruning_summary(self.encoded).changes_work:
            return program.layers()
        return dense_layers(self.encoded, self.target)

    def _simulate(self, program: Program, run: RunFacts) -> Mapping[str, Array]:
        """The outputs of every sample, compared with the integer reference and with ONNX Runtime."""
        result = program.run(self.samples.arrays)
        run.samples, run.batches = self.samples.count, result.batches
        run.simulate_seconds = result.simulate_seconds
        run.host_seconds = dict(result.host_seconds)
        if not self.options.verify:
            return result.outputs
        self.progress.start("verify")
        if self.golden is not None:
            run.bit_exact = self._bit_exact(program, self.golden)
            if not run.bit_exact:
                run.failed = "the simulator's values differ from the integer reference"
        if self.imported is not None:
            self._compare(self.imported, result.outputs, run)
            self._check_graph(self.imported, run)
        return result.outputs

    def _check_graph(self, imported: Imported, run: RunFacts) -> None:
        """What the limits of the integer result have room for: the fp32 graph computes what ONNX Runtime computes, and
        its parameters are those of the integer one."""
        if self.floats is None or self.golden is None:
            return
        try:
            check = StepwiseCheck(imported, self.store, self.batches[0])
            run.graph_error = check.float_stage("sparsify", self.floats, self._replaced())
            check_parameters(self.floats, self.golden, self.store)
        except VerificationError as error:
            run.failed = run.failed or error.message

    def _bit_exact(self, program: Program, golden: ModuleOp) -> bool:
        """Whether the device's outputs equal the whole-tensor interpreter's, bit for bit, batch by batch."""
        for batch in self.batches:
            values = program.border_inputs(batch)
            got = program.run(values, host=False).outputs
            wanted = evaluate(golden, self.store, values)
            if not all(np.array_equal(got[name], wanted[name].reshape(got[name].shape)) for name in got):
                return False
        return True
