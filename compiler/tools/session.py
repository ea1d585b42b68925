"""One `hpcc` run up to the program: import, stages, inputs, and the comparison with ONNX Runtime.

Programs are the business of fpga_session.py, cpu_session.py and gpu_session.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp, NameLoc

from compiler.dialects import nn
from compiler.frontend.host import HostSegment, host_segments
from compiler.frontend.importer import Imported, import_onnx
from compiler.frontend.preflight import Preflight, preflight
from compiler.interpreters.probe import id_limits
from compiler.passes.sparsify import AUTO, RECIPE
from compiler.passes.verify_stage import VerifyStagePass
from compiler.pipelines import PIPELINES, Stage, stages_between
from compiler.sparsity.base import Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.sparsity.recipes import load_recipe
from compiler.tools import inputs as run_inputs
from compiler.tools.baseline import DENSE, compared, dense_options, read_baseline
from compiler.tools.diagnostics import module_error
from compiler.tools.foresight import check_disk, check_memory, output_bytes, steps
from compiler.tools.model_facts import ModelFacts, read_facts, record_facts, record_macs
from compiler.tools.options import Options
from compiler.tools.passes_after import passes_after
from compiler.tools.reference import Distance, Reference, damage, distance, with_weights
from compiler.tools.report import Form
from compiler.tools.reporting import Comparison
from compiler.tools.stages import StageRunner, dump, load_dump, mlir_path, module_text, new_context
from compiler.tools.stepwise import StepwiseCheck
from compiler.tools.summary import STEPS, STEPS_OF, Progress
from hw_targets.cpu import CpuTarget
from hw_targets.errors import HpccError, InfeasibleError, InputError, UsageError
from hw_targets.gpu import GpuTarget
from hw_targets.load import load_any_target
from hw_targets.target import Target
from runtime.bundle import MANIFEST
from runtime.compare import Difference

Array = NDArray[Any]


def open_session(options: Options) -> Session:
    """The session for the kind of target that the options name."""
    target = load_any_target(options.target)
    if isinstance(target, CpuTarget):
        from compiler.tools.cpu_session import CpuSession

        return CpuSession(options, target)
    if isinstance(target, GpuTarget):
        from compiler.tools.gpu_session import GpuSession

        return GpuSession(options, target)
    from compiler.tools.fpga_session import FpgaSession

    return FpgaSession(options, target)


def run_command(options: Options) -> int:
    """Do what the command line asks for; returns the exit status."""
    session = open_session(options)
    try:
        status = session.run()
    except (HpccError, OSError, MemoryError):
        raise
    except Exception as error:
        if options.start is None:
            raise
        raise module_error(error, options.model) from error
    finally:
        session.progress.stop()
    if options.time_passes:
        session.print_times()
    return status


class Session(ABC):
    """The state of one run, on any kind of machine. What can fail early is checked before anything slow, and nothing is
    written before that."""

    program_forms: ClassVar[tuple[str, ...]]
    """What --emit takes besides the stages: these come after the last of them."""
    default_precision: ClassVar[str]

    def __init__(self, options: Options, target: Target | CpuTarget | GpuTarget) -> None:
        self.options = options
        self.machine = target
        self.kind = self.machine.kind
        self.stage_names = tuple(stage.name for stage in PIPELINES[self.kind])
        self.precision = options.precision or self.default_precision
        self.shapes = target.shapes(self.precision) if isinstance(target, CpuTarget) else self.kind
        self._check_stages()
        self._check_precision()
        self._check_storage()
        stages = [stage.name for stage in PIPELINES[self.kind] if stage.passes]
        self.passes_after = passes_after(options.pass_after, stages)
        self.baseline = read_baseline(options)  # before anything slow: it may be missing
        self.asked: Pattern | None = _asked_pattern(options.sparsity, self.shapes)
        if options.recipe is not None:
            load_recipe(Path(options.recipe), self.shapes)
        self.progress = Progress(quiet=options.quiet, steps=STEPS_OF.get(self.kind, STEPS))
        self.seconds: dict[str, float] = {}
        self.imported: Imported | None = None
        self.hosts: list[HostSegment] = []
        self.preflight: Preflight | None = None
        self.floats: ModuleOp | None = None
        self.keys_before: dict[str, str] = {}
        self.keys_after: dict[str, str] = {}
        self.stepwise: StepwiseCheck | None = None
        self.samples = run_inputs.InputSet("made up", "", None, 0, {})

    def _check_precision(self) -> None:
        """Raises UsageError for arithmetic that the target does not have."""
        if self.precision != self.default_precision:
            message = f"target {self.machine.name!r} has no {self.precision} products"
            raise UsageError("HPCC2027", message, hint=f"--precision {self.default_precision}")

    def _check_storage(self) -> None:
        """Raises UsageError for a storage format where none is read."""
        if self.options.storage != "auto" and self.kind != "fpga":
            message = f"target {self.machine.name!r} reads no storage formats"
            raise UsageError("HPCC2032", message, hint="leave --storage out")

    def _check_stages(self) -> None:
        """Raises UsageError for a stage or a form that targets of another kind have."""
        emit, start = self.options.emit, self.options.start
        forms = (*self.stage_names, *self.program_forms)
        if emit is not None and emit not in forms:
            message = f"--emit {emit!r} is no form for targets of kind {self.kind!r}"
            raise UsageError("HPCC2025", message, hint=", ".join(forms))
        if start is not None and start not in self.stage_names:
            message = f"targets of kind {self.kind!r} have no stage {start!r}"
            raise UsageError("HPCC2025", message, hint=f"stages: {', '.join(self.stage_names)}")

    @property
    def spec(self) -> str:
        """The full form of what --sparsity asks for."""
        if self.options.recipe is not None:
            return f"{RECIPE}{self.options.recipe}"
        return AUTO if self.asked is None else self.asked.spec()

    @abstractmethod
    def compile(self) -> Any:
        """The program with its reports, run and verified as the options ask; a bundle only where they name one.

        Raises VerificationError where the results are wrong; the bundle is kept for a look.
        """

    @abstractmethod
    def _produce(self, output: Path) -> int:
        """From the last stage on: print the program, or run and verify it and write the bundle. Returns the exit status."""

    def run(self) -> int:
        """Do what the options ask for, print it, write the bundle; returns the exit status."""
        options = self.options
        output = Path(options.output or default_output(options, self.machine))
        if options.makes_program:
            check_output(output)
        start = self._load()
        if start == "import" and options.emit != "import":
            self._stages("import", "fuse")
            start = "fuse"
        if options.list_layers:
            return self._list_layers()
        if options.check:
            return self._check()
        stops = options.emit is not None and options.emit not in self.program_forms
        last = str(options.emit) if stops else self.stage_names[-1]
        if self.stage_names.index(last) > self.stage_names.index(start):
            self._stages(start, last)
        return self._print_module() if stops else self._produce(output)

    def print_times(self) -> None:
        """What every stage took, on stderr."""
        for name, seconds in (*self.seconds.items(), ("total", sum(self.seconds.values()))):
            print(f"{name:<9} {seconds:8.3f} s", file=sys.stderr)

    # ---- the module -------------------------------------------------------------------------------------------------

    def _load(self) -> str:
        """Read the model or the dump; returns the stage the module has reached."""
        options = self.options
        path = Path(options.model)
        began = time.perf_counter()
        self.progress.start("import")
        if options.start is not None:
            if path.suffix == ".onnx":
                raise UsageError("HPCC2014", f"{path.name} is no dumped stage", hint="leave --from out, or name one")
            self.ctx, self.module, self.store = load_dump(path)
            VerifyStagePass(stage=options.start, kind=self.kind).apply(self.ctx, self.module)
            self.seconds["load"] = time.perf_counter() - began
            self._prepare_inputs()
            self._after_load(options.start)
            return options.start
        if path.suffix == ".mlir":
            raise UsageError("HPCC2009", f"{path.name} is a dumped stage", hint="say which: --from STAGE")
        self.imported = import_onnx(path, options.shapes)
        self.module, self.store = self.imported.module, self.imported.store
        self.ctx = new_context(self.store)
        self.seconds["import"] = time.perf_counter() - began
        record_facts(self.module, self.imported)
        self._prepare_inputs()
        self._after_stage(Stage("import"), self.module)
        return "import"

    def _after_load(self, stage: str) -> None:
        """Keep what later checks want of a dump, where it still has it."""
        if stage in ("import", "fuse", "sparsify", "quantize", "encode"):
            self._foresee(stage, self.module)

    def _facts(self) -> ModelFacts:
        return read_facts(self.module, self.spec, self.options.model)

    def _prepare_inputs(self) -> None:
        """Read or make the inputs now: a wrong file should not cost a compilation."""
        options, facts = self.options, self._facts()
        limits = id_limits(self.module)
        specs = [run_inputs.InputSpec(e.name, e.dtype, e.shape, limits.get(e.name)) for e in facts.inputs]
        if options.inputs is not None:
            self.samples = run_inputs.given(options.inputs, specs)
        elif options.text is not None and options.tokenizer is not None:
            self.samples = run_inputs.from_text(Path(options.text), Path(options.tokenizer), specs, options.max_length)
        elif not (options.check or options.list_layers):  # these compute nothing
            self.samples = run_inputs.made_up(specs)
        self.batches = self.samples.batches(specs[0].shape[0] if specs else 1)

    def _stages(self, first: str, last: str) -> None:
        runner = StageRunner(
            self.ctx,
            self.options.target,
            self.spec,
            (self._after_stage,),
            self.seconds,
            self.kind,
            self.precision,
            self.options.storage,
            self.machine.accelerator.design.streaming_shift if isinstance(self.machine, Target) else None,
            self.shapes,
            self.passes_after,
        )
        for stage in stages_between(self.kind, first, last):
            self.progress.start(stage.name)
            runner.run(self.module, (stage,))

    def _after_stage(self, stage: Stage, module: ModuleOp) -> None:
        if stage.name in ("import", "fuse"):
            self._foresee(stage.name, module)
        if stage.name == "fuse":
            self.preflight = preflight(module)
            record_macs(module, self.preflight.device_macs + self.preflight.host_macs)
            self.keys_before = _linear_keys(module)
            if self.imported is not None:
                self.hosts = host_segments(module, self.imported.model)
        elif stage.name == "sparsify":
            self.keys_after = _linear_keys(module)
            self.floats = module.clone()
        if self.options.dump_stages is not None:
            number = self.stage_names.index(stage.name)
            dump(module, self.store, Path(self.options.dump_stages) / f"{number}.{stage.name}.mlir")
        if self.options.verify_each and self.imported is not None:
            self._verify_stage(stage.name, module)

    def _foresee(self, stage: str, module: ModuleOp) -> None:
        """Raises InputError for what the machine has no room for, before anything slow and before anything is written."""
        options = self.options
        if options.check or options.list_layers or options.emit in ("import", "fuse"):
            return
        check_memory(steps(options, self.kind, stage, module))
        place = options.output or options.dump_stages or default_output(options, self.machine)
        check_disk(Path(place).resolve(), output_bytes(options, self.kind, module))

    def pruned_model(self) -> onnx.ModelProto:
        """The ONNX model with the weights that were compiled: what other engines are compared on."""
        assert self.imported is not None
        return with_weights(self.imported.model, self.store, self._replaced())

    def _replaced(self) -> dict[str, str]:
        """Initializers whose values were changed: {name in the ONNX graph: key in the store}."""
        pairs = ((old, self.keys_after.get(role, old)) for role, old in self.keys_before.items())
        return {old: new for old, new in pairs if old != new}

    def _verify_stage(self, name: str, module: ModuleOp) -> None:
        assert self.imported is not None
        if self.stepwise is None:
            self.stepwise = StepwiseCheck(self.imported, self.store, self.batches[0])
        check = self.stepwise
        said = len(check.lines)
        if name in ("import", "fuse", "sparsify"):
            check.float_stage(name, module, self._replaced())
        elif name == "quantize":
            check.quantize(module, self._replaced())
        elif name == "encode":
            check.encode(module)
        elif name in ("tile", "schedule"):
            check.tiles(name, module)
        if self.options.verbose:
            for line in check.lines[said:]:
                print(line, file=sys.stderr)

    # ---- answers without a program ----------------------------------------------------------------------------------

    def _print_module(self) -> int:
        if self.options.output is None:
            sys.stdout.write(module_text(self.module))
            return 0
        path = mlir_path(self.options.output, self.options.emit)
        dump(self.module, self.store, path)
        return 0

    def _check(self) -> int:
        if self.preflight is None:
            raise UsageError("HPCC2011", "--check looks at an ONNX file", hint="leave --from out")
        if self.options.json:
            document = {
                "device_macs": self.preflight.device_macs,
                "host_macs": self.preflight.host_macs,
                "host_ops": [vars(row) for row in self.preflight.rows],
                "notes": [] if self.imported is None else list(self.imported.notes),
            }
            print(json.dumps(document, indent=2))
        else:
            print(self.preflight.text())
            for note in () if self.imported is None else self.imported.notes:
                print(f"note: {note}")
        return 0 if self.preflight.feasible else InfeasibleError.exit_status

    def _list_layers(self) -> int:
        layers = [op for op in self.module.walk() if isinstance(op, nn.LinearOp)]
        rows = [(op.role.data, *nn.shape_of(op.weight), _node(op), _key(op)) for op in layers]
        if self.options.json:
            keys = ("role", "out", "in", "onnx_node", "initializer")
            print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
            return 0
        for role, outs, ins, node, key in rows:
            print(f"{role:<20} {outs:>6} x {ins:<6} {node}  {key}")
        return 0

    # ---- the program ------------------------------------------------------------------------------------------------

    def _compare_with_baseline(self, output: Path | None, report: Form, run_report: Form) -> Difference | None:
        """The comparison that --baseline asks for; None where the dense model does not fit."""
        options = self.options
        if options.baseline is None:
            return None
        baseline = self.baseline
        if baseline is None:
            self.progress.start("baseline")
            try:
                dense = open_session(dense_options(options, simulated=self.kind == "fpga")).compile()
            except InfeasibleError:
                return None
            told, ran = (part.model_dump(mode="json") for part in (dense.report, dense.run_report))
            baseline = (DENSE, told, ran)
        name = self.spec if output is None else output.resolve().name
        return compared(baseline, name, report, run_report)

    def _print_json(self, report: Form, run_report: Form) -> None:
        parts = {"report": report, "run": run_report}
        print(json.dumps({name: part.model_dump(mode="json") for name, part in parts.items()}))

    def _limits(self, wanted: Array, mask: Array | None) -> dict[str, Any]:
        """The tolerances of an output, as `distance` takes them."""
        made_up = self.samples.kind == "made up"
        return {"rtol": self.options.rtol, "atol": self.options.atol, "made_up": made_up}

    def _compare(self, imported: Imported, outputs: Mapping[str, Array], run: Comparison) -> None:
        replaced = self._replaced()
        began = time.perf_counter()
        wanted = self._collect(Reference(imported.model, self.store, replaced), outputs)
        run.reference_ms = (time.perf_counter() - began) * 1e3 / len(self.batches)
        mask = _mask_among(self.samples.arrays)
        for name, value in wanted.items():
            found = distance(name, outputs[name], value, mask, **self._limits(value, mask))
            run.distances.append(found)
            if not found.passed and not run.failed:
                run.failed = _failure(found)
        floats = [name for name, value in wanted.items() if value.dtype.kind == "f"]
        if replaced and floats:
            original = self._collect(Reference(imported.model, self.store, {}), outputs)
            run.damage = damage([outputs[floats[-1]]], [original[floats[-1]]], [mask])

    def _collect(self, reference: Reference, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What ONNX Runtime makes of all batches, as long as our `outputs`: without the rows that fill up the last one."""
        parts: dict[str, list[Array]] = {}
        for batch in self.batches:
            for name, value in reference.run(batch).items():
                parts.setdefault(name, []).append(value)
        return {
            name: values[0] if len(values) == 1 and not outputs[name].ndim else np.concatenate(values)[: len(outputs[name])]
            for name, values in parts.items()
        }


def _asked_pattern(spec: str | None, kind: str) -> Pattern | None:
    """The pattern of --sparsity, None for `auto`, the default, which changes no weight."""
    return None if spec in (None, AUTO) else parse_pattern(spec, kind)


def default_output(options: Options, target: Target | CpuTarget | GpuTarget) -> str:
    """MODEL.TARGET.PATTERN.hpcc, with the precision where one is asked for."""
    stem = Path(options.model).name.removesuffix(".onnx").removesuffix(".mlir")
    asked = options.sparsity or (AUTO if options.recipe is None else Path(options.recipe).stem)
    spec = re.sub(r"[^A-Za-z0-9.]+", "-", asked)
    precision = f".{options.precision}" if options.precision is not None else ""
    return f"{stem}.{target.name}.{spec}{precision}.hpcc"


def check_output(path: Path) -> None:
    """Raises InputError where something else than a bundle is in the way, or the place cannot be written to."""
    if path.exists() and not (path / MANIFEST).is_file():
        what = "is a folder but no bundle" if path.is_dir() else "is a file"
        raise InputError("HPCC1701", f"the output {what}; only a bundle is replaced", where=str(path), hint="-o DIR")
    parent = path.resolve().parent
    if not _writable(parent):
        raise InputError("HPCC1702", "cannot write there", where=str(parent), hint="-o DIR")


def _failure(found: Distance) -> str:
    return (
        f"output {found.name!r} is off: relative L2 {found.relative_l2:.4f}, worst token cosine"
        f" {found.min_token_cosine:.4f}, largest error {found.max_abs_error:.3g}"
    )


def _mask_among(arrays: Mapping[str, Array]) -> Array | None:
    masks = [a for name, a in arrays.items() if run_inputs.role_of(name) == "mask" and a.ndim == 2]
    return masks[0] if masks else None


def _writable(folder: Path) -> bool:
    """Whether a folder can be made there: the nearest existing parent decides."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _linear_keys(module: ModuleOp) -> dict[str, str]:
    """The WeightStore key of every linear, by role."""
    return {op.role.data: _key(op) for op in module.walk() if isinstance(op, nn.LinearOp)}


def _key(op: nn.LinearOp) -> str:
    weight = nn.stored_weight(op.weight)
    return "" if weight is None else weight.key.data


def _node(op: nn.LinearOp) -> str:
    return op.location.desc.data if isinstance(op.location, NameLoc) else ""
