"""`hpcc-export FOLDER -o model.onnx`: a Hugging Face folder as ONNX. What can be said without torch is said here.

torch_export.py, which needs the extra `export`, does the work; nothing is ever fetched.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.tools.arguments import parse_shapes
from hw_targets.command_line import Parser, guarded
from hw_targets.errors import InputError, MissingToolError, UsageError

TEXT = (
    "bert",
    "albert",
    "electra",
    "roberta",
    "distilbert",
    "camembert",
    "xlm-roberta",
    "mpnet",
    "deberta",
    "deberta-v2",
    "modernbert",
)
TYPED = ("bert", "albert", "electra")
"""Those whose tokens have types, if the configuration gives them more than none."""
DECODERS = ("gpt2", "gpt_neo", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3")
IMAGES = ("vit", "deit", "dinov2", "beit", "clip_vision_model", "siglip_vision_model")

TASKS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "features": ((*TEXT, *DECODERS, *IMAGES), ("last_hidden_state",)),
    "classification": ((*TEXT, *DECODERS, *IMAGES), ("logits",)),
    "token-classification": (TEXT, ("logits",)),
    "question-answering": (TEXT, ("start_logits", "end_logits")),
    "fill-mask": (TEXT, ("logits",)),
    "causal-lm": (DECODERS, ("logits",)),
}
"""By task: the model types that have it, and the outputs."""

ARCHITECTURES = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
}
"""By the end of the class's name that the folder was saved from; anything else has features."""

OPSETS = {"torchscript": 17, "dynamo": 18}


@dataclass(frozen=True)
class Job:
    """What is to be exported, with everything that the folder and the command line say."""

    folder: Path
    config: Mapping[str, Any]
    task: str
    exporter: str
    opset: int
    shapes: Mapping[str, tuple[int, ...]]
    """Of every input, for the example that is traced: batch and tokens, or pixels."""
    fixed: bool
    """Whether the shapes are bound; otherwise batch and tokens stay open."""

    @property
    def kind(self) -> str:
        return str(self.config["model_type"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return TASKS[self.task][1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return guarded(build_parser(), _run, argv)


def build_parser() -> Parser:
    """The folder, where to, by which exporter."""
    parser = Parser(prog="hpcc-export", description="Export a Hugging Face folder to ONNX, and compare the file with torch.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds config.json and *.safetensors")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.onnx", help="the file to write (default: DIR's name)")
    parser.add_argument("--exporter", default="torchscript", choices=list(OPSETS), help="of torch (default: torchscript)")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset (default: 17 for torchscript, 18 for dynamo)")
    parser.add_argument("--task", default="auto", choices=["auto", *TASKS], help="default: what the folder was saved from")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:AxB",
        help="fix an input's shape (default: batch and length open)",
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return parser


def _run(options: argparse.Namespace) -> None:
    job = plan(options.folder, options.task, options.exporter, options.opset, parse_shapes(options.shape))
    output = options.output or Path(f"{options.folder.resolve().name}.onnx")
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise InputError(
            "HPCC1045", "cannot write there: no file in a folder that exists", where=str(output), hint="-o OUT.onnx"
        )
    report = _export(job, output)
    print(
        f"{output}: {job.kind} for {job.task}, opset {job.opset}, {report['parameters']:,} parameters\n"
        f"  inputs   {', '.join(f'{name} {_text(shape)}' for name, shape in report['inputs'].items())}\n"
        f"  outputs  {', '.join(job.outputs)}\n"
        f"  checked  largest error {report['error']:.2g} of the rms against torch, in ONNX Runtime"
    )


def _text(shape: Sequence[object]) -> str:
    return "x".join(map(str, shape))


def _export(job: Job, output: Path) -> dict[str, Any]:
    try:
        from compiler.tools import torch_export
    except ImportError as error:
        message = f"exporting needs torch and transformers: {error}"
        raise MissingToolError("HPCC5111", message, hint="pip install 'hpcc[export]'") from error
    return torch_export.export(job, output)


# ---- what the folder says -------------------------------------------------------------------------------------------


def plan(folder: Path, task: str, exporter: str, opset: int | None, shapes: Mapping[str, tuple[int, ...]]) -> Job:
    """Raises InputError for a folder that cannot be exported, UsageError for a task or a shape that it does not have."""
    config = read_config(folder)
    kind = str(config["model_type"])
    if task == "auto":
        task = _task_of(config)
    if kind not in TASKS[task][0]:
        known = [name for name, (kinds, _) in TASKS.items() if kind in kinds]
        raise UsageError("HPCC2402", f"a model of type {kind!r} has no task {task!r}", hint=", ".join(known))
    if not any(folder.glob("*.safetensors")):
        hint = "save_pretrained(..., safe_serialization=True) writes them; pickled weights are never read"
        raise InputError("HPCC1043", "the folder has no weights: no *.safetensors", where=str(folder), hint=hint)
    known = _shapes_of(config, task)
    for name, shape in shapes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or list(known)
            raise UsageError(
                "HPCC2401", f"--shape names {name!r}, which is no input", hint=f"did you mean {', '.join(near)}?"
            )
        if len(shape) != len(known[name]):
            message = f"--shape {name}:{_text(shape)} has {len(shape)} dimensions, the input has {len(known[name])}"
            raise UsageError("HPCC2403", message, hint=f"as in --shape {name}:{_text(known[name])}")
    if shapes and "input_ids" in known:  # inputs of tokens have one shape
        known = dict.fromkeys(known, next(iter(shapes.values())))
    known.update(shapes)
    return Job(folder, config, task, exporter, opset or OPSETS[exporter], known, bool(shapes))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, with a model type that hpcc-export knows."""
    path = folder / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "a folder that save_pretrained wrote, or a clone of a model's repository"
        raise InputError("HPCC1040", f"there is no config.json: {error.strerror}", where=str(folder), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError("HPCC1041", f"not valid JSON: {error}", where=str(path)) from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise InputError("HPCC1041", "it names no model_type", where=str(path))
    if kind not in (*TEXT, *DECODERS, *IMAGES):
        near = difflib.get_close_matches(kind, (*TEXT, *DECODERS, *IMAGES), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "export it by torch.onnx.export and give hpcc the file"
        raise InputError("HPCC1042", f"models of type {kind!r} are not known", where=str(path), hint=hint)
    return config


def _task_of(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or [""]
    name = str(names[0]) if isinstance(names, list) else ""
    return next((task for end, task in ARCHITECTURES.items() if name.endswith(end)), "features")


def _shapes_of(config: Mapping[str, Any], task: str) -> dict[str, tuple[int, ...]]:
    """The inputs of the model by name, with the shapes that are traced."""
    kind = config["model_type"]
    if kind in IMAGES:
        size = config.get("image_size", 224)
        height, width = size if isinstance(size, list) else (size, size)
        return {"pixel_values": (2, int(config.get("num_channels", 3)), int(height), int(width))}
    names = ["input_ids"]
    if kind in TEXT:
        names.append("attention_mask")
    if kind in TYPED and int(config.get("type_vocab_size", 2)) > 0:
        names.append("token_type_ids")
    return dict.fromkeys(names, (2, 16))
