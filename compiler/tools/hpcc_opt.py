"""`hpcc-opt`: xDSL's driver with hpcc's dialects and passes; reads .mlir and .onnx."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException
from xdsl.xdsl_opt_main import xDSLOptMain

from compiler.tools.arguments import parse_shapes
from compiler.tools.diagnostics import check_text, module_error, report
from compiler.universe import all_dialects, all_passes
from compiler.weights import MODULE_ATTRIBUTE, WeightStore, attach_store
from hw_targets.collection import seldom_collecting
from hw_targets.command_line import Parser, internal_error
from hw_targets.errors import HpccError, InputError, UsageError
from hw_targets.interrupts import remembered


class HpccOptMain(xDSLOptMain):
    """xdsl-opt plus our dialects and passes (found through the entry point too, when hpcc is installed)."""

    version_format: ClassVar[str] = "hpcc-opt on xdsl {xdsl_version}"

    def register_all_dialects(self) -> None:
        super().register_all_dialects()
        known = set(self.ctx.registered_dialect_names)
        for name, load in all_dialects().items():
            if name not in known:
                self.ctx.register_dialect(name, load)

    def register_all_passes(self) -> None:
        super().register_all_passes()
        for name, load in all_passes().items():
            self.available_passes.setdefault(name, load)

    def register_all_frontends(self) -> None:
        super().register_all_frontends()

        def parse_onnx(stream: IO[bytes]) -> ModuleOp:
            from compiler.frontend.importer import import_onnx

            imported = import_onnx(Path(self.args.input_file), parse_shapes(self.args.shape))
            attach_store(self.ctx, imported.store)
            return imported.module

        parse_text = self.available_frontends["mlir"]

        def parse_mlir(stream: IO[bytes]) -> ModuleOp:
            data = stream.read()
            check_text(data.decode("utf-8", "replace"), self.args.input_file or "stdin")
            module = parse_text(BytesIO(data))
            self._find_weights(module)
            return module

        self.available_frontends |= {"onnx": parse_onnx, "mlir": parse_mlir}

    def _find_weights(self, module: ModuleOp) -> None:
        """A dump's weights lie beside it, wherever the tool is called from."""
        name = module.attributes.get(MODULE_ATTRIBUTE)
        if isinstance(name, StringAttr) and self.args.input_file:
            path = Path(self.args.input_file).parent / name.data
            if path.is_file():
                attach_store(self.ctx, WeightStore.open(path))

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.prog = "hpcc-opt"
        arg_parser.error = Parser(prog=arg_parser.prog).error
        arg_parser.add_argument(
            "--shape", action="append", default=[], metavar="NAME:AxB", help="bind an input's shape (.onnx input)"
        )
        arg_parser.add_argument("--debug", action="store_true", help="show a traceback with an error")

    def setup_pipeline(self) -> None:
        try:
            super().setup_pipeline()
        except ValueError as error:
            raise UsageError("HPCC2305", f"bad pass pipeline: {error}", hint="hpcc-opt --help lists the passes") from error

    def get_input_stream(self) -> tuple[IO[bytes], str]:
        try:
            stream, extension = super().get_input_stream()
        except OSError as error:
            raise InputError("HPCC1023", f"cannot read the input: {error.strerror}", where=self.args.input_file) from error
        if extension not in self.available_frontends:
            raise InputError("HPCC1024", "neither .mlir nor .onnx", where=self.args.input_file)
        return stream, extension


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; the exit status follows DESIGN: 0 ok, 1 content, 2 usage, 3 infeasible."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    file = ""
    try:
        tool = HpccOptMain(description="hpcc modular optimizer driver", args=arguments)
        file = str(tool.args.input_file or "")
        with seldom_collecting(), remembered():
            tool.run()
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (HpccError, ParseError, DiagnosticException, VerifyException, ValueError) as error:
        if debug:
            raise
        return report(error)
    except BaseException as error:  # xDSL's pipeline parser raises a BaseException for bad text
        if debug or isinstance(error, SystemExit):
            raise
        if type(error).__name__ == "ArgSpecParseError":
            return report(UsageError("HPCC2303", f"bad pass pipeline: {str(error).splitlines()[-1]}"))
        if not file.endswith(".mlir") or not isinstance(error, Exception) or isinstance(error, OSError | MemoryError):
            return report(internal_error(error))
        return report(module_error(error, file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
