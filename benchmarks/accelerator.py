"""`python -m benchmarks.accelerator [MODEL.onnx]`: compile time, peak memory and simulation time beside their peers.

Compilation is measured against IREE's import and compile of the same file for the host's CPU, simulation against one
inference of ONNX Runtime with equal threads. All commands take turns, so that they see the same machine; what is printed
are the medians and their ratio. IREE is used where this environment has `iree-import-onnx` and `iree-compile`.
With `--table`, every pattern is also compiled, simulated and verified for every board, one line each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import Measured, run
from benchmarks.workloads import generated_model, l3_model
from hw_targets.errors import HpccError

BOARDS = ("fpga-u280", "fpga-zcu104", "fpga-pynq-z2")
PATTERNS = ("dense", "nm:2:4", "hp:0.75", "block:4x1:0.75", "unstructured:0.75")
SIMULATION = """
import json, sys, time
import numpy as np
began = time.perf_counter()
if sys.argv[1] == "hpcc":
    from runtime.program import Program
    program = Program.load(sys.argv[2])
    loaded = time.perf_counter() - began
    feed = dict(np.load(sys.argv[3]))
    call = lambda: program.run(feed)
else:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[4])
    session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter() - began
    names = {entry.name for entry in session.get_inputs()}
    feed = {name: array for name, array in np.load(sys.argv[3]).items() if name in names}
    call = lambda: session.run(None, feed)
call()
times = []
for _ in range(5):
    began = time.perf_counter()
    call()
    times.append(time.perf_counter() - began)
timed = []
for _ in range(5 if sys.argv[1] == "hpcc" else 0):
    fresh = Program(program.bundle)  # loaded, but not timed yet
    began = time.perf_counter()
    fresh.timing()
    timed.append(time.perf_counter() - began)
print(json.dumps({"loaded": loaded, "times": times, "timed": timed}))
"""
"""A process of its own per engine; the first call warms it up (the simulator decodes its weights then)."""


def hpcc_command(model: Path, target: str, shape: str, pattern: str, output: Path) -> list[str]:
    tool = str(Path(sys.executable).with_name("hpcc"))
    what = [str(model), "--target", target, "--shape", f"input_ids:{shape}", "--sparsity", pattern]
    return [tool, *what, "-q", "-o", str(output)]


def median(measured: Sequence[Measured]) -> Measured:
    return Measured(statistics.median(m.seconds for m in measured), max(m.peak_mb for m in measured))


def iree_tools() -> tuple[str, str] | None:
    """iree-import-onnx and iree-compile of this environment, if it has them."""
    found = [shutil.which(name, path=str(Path(sys.executable).parent)) for name in ("iree-import-onnx", "iree-compile")]
    return (found[0], found[1]) if found[0] and found[1] else None


def compile_beside_iree(model: Path, target: str, shape: str, pattern: str, rounds: int, folder: Path) -> None:
    ours: list[Measured] = []
    theirs: list[Measured] = []
    command = [*hpcc_command(model, target, shape, pattern, folder / "m.hpcc"), "--emit", "program", "--no-verify"]
    tools = iree_tools()
    for _ in range(rounds):
        ours.append(run(command))
        if tools is not None:
            imported = run([tools[0], str(model), "--opset-version", "17", "-o", str(folder / "m.mlir")])
            flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
            host = ["--iree-llvmcpu-target-cpu=host", "-o", str(folder / "m.vmfb")]
            compiled = run([tools[1], str(folder / "m.mlir"), *flags, *host])
            theirs.append(Measured(imported.seconds + compiled.seconds, max(imported.peak_mb, compiled.peak_mb)))
    mine, size = median(ours), model.stat().st_size / (1 << 20)
    peak = f"peak {mine.peak_mb:.0f} MB = {mine.peak_mb / size:.2f}x the file (budget 3x)"
    print(f"compile {pattern} for {target}: {mine.seconds:.1f} s, {peak}")
    if theirs:
        other = median(theirs)
        said = f"{other.seconds:.1f} s, peak {other.peak_mb:.0f} MB"
        print(f"  IREE import + compile: {said}; hpcc takes {mine.seconds / other.seconds:.2f}x of its time (budget 1x)")
    else:
        print("  IREE: skipped, this environment has no iree-import-onnx and iree-compile")


def simulate_beside_onnxruntime(model: Path, bundle: Path, inputs: Path, threads: int) -> None:
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}
    found: dict[str, dict[str, Any]] = {}
    for engine, what in (("hpcc", bundle), ("onnxruntime", model)):
        command = [sys.executable, "-c", SIMULATION, engine, str(what), str(inputs), str(threads)]
        found[engine] = json.loads(run(command, environment=environment).output)
    ours, theirs = (statistics.median(found[name]["times"]) for name in ("hpcc", "onnxruntime"))
    print(
        f"simulate with {threads} thread(s): {ours:.3f} s, loading {found['hpcc']['loaded']:.2f} s;"
        f" ONNX Runtime fp32 {theirs:.3f} s; ratio {ours / theirs:.1f}x (budget 10x)"
    )
    cycles_only = statistics.median(found["hpcc"]["timed"])
    print(f"  cycles without values: {cycles_only:.3f} s; ratio {cycles_only / theirs:.2f}x (budget 1x)")


def table(
    model: Path, shape: str, boards: Sequence[str], patterns: Sequence[str], folder: Path, extra: Sequence[str]
) -> None:
    """One line for every board and pattern; seconds are those of the whole command."""
    heads = (("cycles", 12), ("ms", 9), ("attained", 8), ("bits", 6), ("L2", 7), ("cosine", 7), ("host", 7), ("s", 7))
    print(f"{'board':<14} {'pattern':<18} " + " ".join(f"{head:>{width}}" for head, width in heads))
    for board in boards:
        for pattern in patterns:
            output = folder / "cell.hpcc"
            began = time.perf_counter()
            status = run([*hpcc_command(model, board, shape, pattern, output), *extra], allowed=(0, 4)).status
            seconds = time.perf_counter() - began
            report = json.loads((output / "report.json").read_text())
            verify = json.loads((output / "run.json").read_text())["verify"]
            outputs = verify["outputs"]
            share = sum(op["macs_share"] for op in report["host_ops"])
            print(
                f"{board:<14} {pattern:<18} {report['cycles']:>12,} {report['latency']['accelerator_ms']:>9.3f}"
                f" {report['roofline']['attained']:>8.2f} {'equal' if verify['bit_exact'] else 'DIFFER':>6}"
                f" {max(e['relative_l2'] for e in outputs):>7.4f} {min(e['min_token_cosine'] for e in outputs):>7.4f}"
                f" {share:>7.2%} {seconds:>7.1f}{'' if status == 0 else '  verification FAILED'}",
                flush=True,
            )


def main() -> int:
    description = "Compiler and simulator beside their peers."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=description)
    parser.add_argument("model", nargs="?", type=Path, help="default: BERT-base, or L3 where torch is missing")
    parser.add_argument("--shape", default="1x128", help="batch x tokens (default 1x128)")
    parser.add_argument("--rounds", type=int, default=1, help="compilations of each tool (default 1)")
    parser.add_argument("--boards", nargs="+", default=BOARDS, help=f"default: {' '.join(BOARDS)}")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help=f"default: {' '.join(PATTERNS)}")
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2), help="default: 1 2")
    parser.add_argument("--table", action="store_true", help="every pattern on every board instead")
    parser.add_argument("--text", help="sentences for --table, with --tokenizer")
    parser.add_argument("--tokenizer", help="tokenizer.json for --text")
    options = parser.parse_args()
    try:
        model = options.model or _default_model()
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    with tempfile.TemporaryDirectory(prefix="hpcc-bench-") as name:
        folder = Path(name)
        print(f"{model.name}, {options.shape}")
        if options.table:
            text = ["--text", options.text, "--tokenizer", options.tokenizer] if options.text else []
            table(model, options.shape, options.boards, options.patterns, folder, text)
            return 0
        target, pattern = options.boards[0], "hp:0.75"
        compile_beside_iree(model, target, options.shape, pattern, options.rounds, folder)
        inputs = folder / "inputs.npz"
        save_inputs(folder / "m.hpcc", inputs)
        for count in options.threads:
            simulate_beside_onnxruntime(model, folder / "m.hpcc", inputs, count)
    return 0


def save_inputs(bundle: Path, path: Path) -> None:
    """Made-up inputs of a bundle, the same for both engines."""
    import numpy as np

    from compiler.tools.inputs import InputSpec, made_up
    from runtime.program import Program

    program = Program.load(bundle)
    limits = program.id_limits
    specs = [InputSpec(e.name, e.dtype, tuple(e.shape), limits.get(e.name)) for e in program.manifest.model_inputs]
    np.savez(path, **dict[str, Any](made_up(specs).arrays))


def _default_model() -> Path:
    try:
        return generated_model("bertbase")
    except HpccError as error:
        print(f"BERT-base: skipped, {error.message}; L3 in its place")
        return l3_model()


if __name__ == "__main__":
    sys.exit(main())
