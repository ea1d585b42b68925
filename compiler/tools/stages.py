"""Runs the stages of a pipeline on a module: passes, the stage's verifier, dumps, timings, callbacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException

from compiler.dialects import nn, tile
from compiler.dialects.isa import ImageOp
from compiler.passes.verify_stage import VerifyStagePass
from compiler.pipelines import Stage, all_passes
from compiler.tools.diagnostics import check_text, line_of, syntax_error
from compiler.universe import all_dialects
from compiler.weights import MODULE_ATTRIBUTE, WeightStore, attach_store
from hw_targets.errors import HpccError, InputError, UsageError
from hw_targets.interrupts import uninterrupted

AfterStage = Callable[[Stage, ModuleOp], None]


def new_context(store: WeightStore) -> Context:
    """A context that knows the dialects we use and holds the weights."""
    from xdsl.dialects.builtin import Builtin
    from xdsl.dialects.func import Func

    ctx = Context()
    ctx.load_dialect(Builtin)
    ctx.load_dialect(Func)
    for name, load in all_dialects().items():
        ctx.register_dialect(name, load)
    attach_store(ctx, store)
    return ctx


@dataclass
class StageRunner:
    """Runs stages in order. `after` is called with each finished stage; `seconds` says what each took."""

    ctx: Context
    target: str
    sparsity: str
    after: Sequence[AfterStage] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    kind: str = "fpga"
    precision: str = "fp32"
    storage: str = "auto"
    streaming: int | None = None
    shapes: str = ""
    """Whose list of pattern shapes `hp:S` is resolved with, if not the kind's."""
    passes_after: Mapping[str, str] = field(default_factory=dict[str, str])
    """More passes at the end of a stage, by its name; its verifier sees what they leave."""

    def run(self, module: ModuleOp, stages: Sequence[Stage]) -> ModuleOp:
        for stage in stages:
            start = time.perf_counter()
            self._apply(stage, module)
            VerifyStagePass(stage=stage.name, kind=self.kind).apply(self.ctx, module)
            self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + time.perf_counter() - start
            for callback in self.after:
                callback(stage, module)
        return module

    def run_passes(self, module: ModuleOp, stages: Sequence[Stage]) -> None:
        """The passes of stages alone: the forms of other compilers have no rules here."""
        for stage in stages:
            self._apply(stage, module)

    def _apply(self, stage: Stage, module: ModuleOp) -> None:
        text = stage.pipeline(
            target=self.target,
            sparsity=self.sparsity,
            precision=self.precision,
            storage=self.storage,
            kind=self.shapes or self.kind,
            streaming=self.streaming,
        )
        text = ",".join(filter(None, (text, self.passes_after.get(stage.name))))
        if not text:
            return
        try:
            PassPipeline.parse_spec(all_passes(), text).apply(self.ctx, module)
        except HpccError:
            raise
        except VerifyException as error:
            raise InputError("HPCC1432", f"stage {stage.name!r} made an invalid module: {line_of(error)}") from error


def module_text(module: ModuleOp) -> str:
    """The module as text, with locations."""
    stream = StringIO()
    printer = Printer(stream=stream, print_debuginfo=True)
    printer.print_op(module)
    return stream.getvalue() + "\n"


def weight_keys(module: ModuleOp) -> list[str]:
    """The WeightStore entries a module refers to, at any stage."""
    keys: set[str] = set()
    for op in module.walk():
        if isinstance(op, nn.WeightOp):
            keys.add(op.key.data)
        elif isinstance(op, tile.DramOp | ImageOp):
            keys.update(key.data for key in op.content if key.data)
    return sorted(keys)


def mlir_path(output: str, form: str | None) -> Path:
    """The .mlir file that `-o` names for a module. Raises UsageError for another kind of file."""
    path = Path(output)
    if path.suffix != ".mlir":
        raise UsageError("HPCC2010", f"-o {path} is no .mlir file", hint=f"--emit {form} -o FILE.mlir")
    return path


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error of a module's file that cannot be written."""
    return InputError("HPCC1703", f"cannot write the stage: {error.strerror}", where=str(path))


def dump(module: ModuleOp, store: WeightStore, path: Path) -> None:
    """Write `path` (.mlir) and the weights it refers to as a safetensors file beside it. Raises InputError."""
    module.attributes[MODULE_ATTRIBUTE] = StringAttr(path.with_suffix(".safetensors").name)
    try:
        write_pair(path, module_text(module), lambda weights: store.save(weights, weight_keys(module)))
    finally:
        del module.attributes[MODULE_ATTRIBUTE]


def write_pair(path: Path, text: str, save_weights: Callable[[Path], None]) -> None:
    """Write `path` and the safetensors file beside it, both or neither. Raises InputError."""
    places = (path.with_suffix(".safetensors"), path)
    made = [place.with_name(f".{place.name}.{os.getpid()}") for place in places]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(made[0])
        made[1].write_text(text, encoding="utf-8")
        made[0].chmod(made[1].stat().st_mode)  # safetensors makes files for their owner alone
        with uninterrupted():
            for temporary, place in zip(made, places, strict=True):
                temporary.replace(place)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        for temporary in made:
            with suppress(OSError):  # where nothing can be, nothing is
                temporary.unlink()


def load_dump(path: Path) -> tuple[Context, ModuleOp, WeightStore]:
    """Read a module written by `dump`. Raises InputError for what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("HPCC1020", f"cannot read the module: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("HPCC1020", "cannot read the module: it is no text", where=str(path)) from error
    check_text(text, str(path))
    ctx = new_context(WeightStore())
    try:
        module = Parser(ctx, text, str(path)).parse_module()
    except (ParseError, VerifyException) as error:
        raise syntax_error(error, str(path)) from error
    name = module.attributes.pop(MODULE_ATTRIBUTE, None)
    store = WeightStore.open(path.parent / name.data) if isinstance(name, StringAttr) else WeightStore()
    attach_store(ctx, store)
    return ctx, module, store
