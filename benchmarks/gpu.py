"""`python -m benchmarks.gpu`: BERT-base on this GPU, hpcc's programs against torch, at batch 8, 32, 128 x 128, 512 tokens.

All engines are in fp16 and run in turn, one run each in every round, so that all see the same
clocks; a ratio is that of the medians. Times are CUDA events around one run with inputs on the device; what an engine
compiles or captures is done before. The engines:

    hpcc hp, hpcc dense, hpcc 2:4   bundles by `hpcc --target gpu-sm..`, launched as a CUDA graph
    torch eager                     transformers' BertModel with torch's scaled dot product attention
    torch compile                   the same by torch.compile(mode="max-autotune"), which captures a CUDA graph
    torch 2:4                       the same compiled, linears of the encoder as torch's semi-structured tensors

Beside the times stand the work: multiplications that an engine does (hpcc's counted in its packed tiles, torch's by its own
counter), and bytes that hpcc's launches move if every buffer is moved once. Both over the time are rates, which say
what binds. Without a CUDA device this prints one line and ends with exit status 5.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import generated_model
from compiler.tools.hpcc import main as hpcc
from hw_targets.errors import HpccError, MissingToolError
from runtime.gpu.program import GpuProgram

BATCHES = (8, 32, 128)
LENGTHS = (128, 512)
SPECS = {"hpcc hp": "hp:0.75", "hpcc dense": "dense", "hpcc 2:4": "nm:2:4"}
BASELINE = "torch compile"
ROUNDS = 30
HEADS = 12


@dataclass
class Engine:
    """`run` enqueues one run on the GPU. `macs` are its multiplications, `moved` the bytes of its launches (0: unknown)."""

    name: str
    run: Callable[[], object]
    macs: int
    moved: int = 0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


def cuda() -> Any:
    """torch, on a machine with a GPU. Raises MissingToolError."""
    if importlib.util.find_spec("torch") is None:
        raise MissingToolError("HPCC5193", "the package 'torch' is not installed", hint="pip install 'hpcc[gpu]'")
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise MissingToolError("HPCC5193", "torch finds no CUDA device", hint="run it on a machine with a GPU")
    return torch


def measure(engines: Sequence[Engine], rounds: int, timed: Callable[[Callable[[], object]], float]) -> None:
    """One run of every engine in each round, the order turned by one each time; `timed` says milliseconds."""
    for engine in engines:
        timed(engine.run)
    for number in range(rounds):
        first = number % len(engines)
        for engine in (*engines[first:], *engines[:first]):
            engine.milliseconds.append(timed(engine.run))


def rows(engines: Sequence[Engine]) -> list[dict[str, Any]]:
    """A line for each engine: its median, its ratio to BASELINE, and what the work over the time comes to."""
    medians = {engine.name: engine.median for engine in engines}
    found: list[dict[str, Any]] = []
    for engine in engines:
        seconds = engine.median / 1e3
        found.append(
            {
                "engine": engine.name,
                "ms": engine.median,
                "ratio": medians[BASELINE] / engine.median if BASELINE in medians else None,
                "gmacs": engine.macs / 1e9,
                "tflops": 2e-12 * engine.macs / seconds,
                "moved_mb": engine.moved / 1e6 or None,
                "gbytes_per_s": 1e-9 * engine.moved / seconds or None,
            }
        )
    return found


def text_of(row: Mapping[str, Any]) -> str:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    moved = "" if row["moved_mb"] is None else f"{row['moved_mb']:,.0f} MB at {row['gbytes_per_s']:,.0f} GB/s"
    work = f"{row['gmacs']:9.1f} GMAC at {row['tflops']:6.1f} TFLOP/s"
    return f"  {row['engine']:<14} {row['ms']:9.3f} ms {ratio:>7}  {work}  {moved}"


# ---- the engines ------------------------------------------------------------------------------------------------------


def hpcc_engine(torch: Any, name: str, model: Path, target: str, batch: int, tokens: int, folder: Path) -> Engine:
    """A bundle, its graph captured on inputs that are on the device."""
    out = folder / f"{name.replace(' ', '-').replace(':', '-')}.{batch}x{tokens}.hpcc"
    options = ["--target", target, "--sparsity", SPECS[name], "--emit", "program", "-q", "-o", str(out)]
    shapes = [
        part for key in ("input_ids", "attention_mask", "token_type_ids") for part in ("--shape", f"{key}:{batch}x{tokens}")
    ]
    if hpcc([str(model), *options, *shapes]):
        raise SystemExit(1)
    program = GpuProgram.load(out)
    program.model.captured(inputs_of(torch, batch, tokens))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    macs = sum(layer["macs_executed"] for layer in report["layers"])
    return Engine(name, program.model.graph.replay, macs, report["memory"]["moved_bytes"])


def inputs_of(torch: Any, batch: int, tokens: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(0, 30522, (batch, tokens))).cuda()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def torch_engines(torch: Any, batch: int, tokens: int) -> list[Engine]:
    """torch's three, with random weights of BERT-base: dense ones take the time of any."""
    transformers: Any = importlib.import_module("transformers")
    counter: Any = importlib.import_module("torch.utils.flop_counter")
    config = transformers.BertConfig(attn_implementation="sdpa")
    inputs = inputs_of(torch, batch, tokens)

    def model() -> Any:
        return transformers.BertModel(config).half().cuda().eval()

    def engine(name: str, module: Any, macs: int) -> Engine:
        def run() -> object:
            with torch.inference_mode():
                return module(**inputs)

        for _ in range(3):
            run()
        return Engine(name, run, macs)

    dense = model()
    with torch.inference_mode(), counter.FlopCounterMode(display=False) as counted:
        dense(**inputs)
    macs = int(counted.get_total_flops()) // 2
    engines = [engine("torch eager", dense, macs), engine(BASELINE, torch.compile(dense, mode="max-autotune"), macs)]
    try:
        halved = model()
        linear = 0
        for module in halved.encoder.modules():
            if isinstance(module, torch.nn.Linear):
                linear += module.weight.numel() * batch * tokens
                module.weight = torch.nn.Parameter(torch.sparse.to_sparse_semi_structured(two_of_four(torch, module.weight)))
        engines.append(engine("torch 2:4", torch.compile(halved, mode="max-autotune"), macs - linear // 2))
    except (NotImplementedError, RuntimeError) as error:
        print(f"  torch 2:4 left out: {str(error).partition(chr(10))[0]}")
    return engines


def two_of_four(torch: Any, weight: Any) -> Any:
    """The two largest of every four inputs."""
    groups = weight.detach().reshape(-1, 4)
    kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(2, dim=1).indices, 1)
    return (groups * kept).reshape(weight.shape)


def event_ms(torch: Any) -> Callable[[Callable[[], object]], float]:
    def timed(run: Callable[[], object]) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    return timed


def bench(torch: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    major, minor = torch.cuda.get_device_capability()
    target = "gpu-sm90" if (major, minor) >= (9, 0) else "gpu-sm80"
    model = generated_model("bertbase")
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, BERT-base in fp16 for {target}, {options.rounds} rounds"
    )
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for tokens in options.tokens:
            for batch in options.batch:
                print(f"batch {batch} x {tokens} tokens; ratios to {BASELINE}")
                engines = [hpcc_engine(torch, name, model, target, batch, tokens, Path(scratch)) for name in SPECS]
                engines += torch_engines(torch, batch, tokens)
                measure(engines, options.rounds, event_ms(torch))
                for row in rows(engines):
                    print(text_of(row))
                    cells.append({"batch": batch, "tokens": tokens, **row})
                del engines
                torch.cuda.empty_cache()
    level = [cell for cell in cells if cell["engine"] == "hpcc hp" and cell["ratio"] >= 1]
    print(f"hp:0.75 is at least level with {BASELINE} in {len(level)} of {len(options.batch) * len(options.tokens)} cells")
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(argv)
    try:
        cells = bench(cuda(), options)
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if options.json is not None:
        options.json.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
