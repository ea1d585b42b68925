"""The part of hpcc-export that needs torch, transformers and onnxscript: load, export, compare in ONNX Runtime."""

# torch is no dependency of hpcc, so a type checker may not find it.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})

import numpy as np
import onnx
import torch
import transformers as hf

from compiler.tools.hpcc_export import DECODERS, IMAGES, Job
from compiler.tools.model_files import publish
from hw_targets.errors import InputError, VerificationError
from runtime.host import import_onnxruntime

LOADERS = {
    "features": "AutoModel",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
}
ONE_FILE_BYTES = 1900 << 20
"""protobuf ends at 2 GB; the weights of larger models lie in a file beside the model."""
TOLERANCE = 1e-3
"""Largest error against torch, of the output's rms: both compute fp32, in different orders."""


class Plain(torch.nn.Module):
    """A model with positional inputs and a tuple of tensors."""

    def __init__(self, model: torch.nn.Module, job: Job) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(job.shapes), job.outputs

    def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, arguments, strict=True)))
        return tuple(getattr(result, name) for name in self.outputs)


def export(job: Job, output: Path) -> dict[str, Any]:
    """Write `output` whole or not at all; returns parameters, inputs and the largest error against torch."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    model = Plain(_load(job), job).eval()
    arguments = _arguments(job)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with tempfile.TemporaryDirectory(dir=output.resolve().parent, prefix=f".{output.name}.") as place:
        unfinished = Path(place) / output.name
        try:
            with torch.no_grad(), _silence():
                _write(model, job, arguments, unfinished, big=size > ONE_FILE_BYTES)
        except Exception as error:  # torch's exporters raise whatever a model's code meets
            lines = str(error).strip().splitlines() or [type(error).__name__]
            hint = "the other --exporter, a lower --opset, or --shape may help"
            raise InputError(
                "HPCC1044", f"torch cannot export it: {lines[0][:300]}", where=str(job.folder), hint=hint
            ) from error
        difference = _compare(model, job, arguments, unfinished)
        publish(onnx.load(unfinished, load_external_data=False), Path(place), output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shapes = {name: shape if job.fixed else _open(name, shape) for name, shape in job.shapes.items()}
    if not difference <= TOLERANCE:
        message = f"the exported file is off by {difference:.2g} of the rms from torch"
        raise VerificationError("HPCC4005", message, where=str(output), hint="the other --exporter may do better")
    return {"parameters": parameters, "inputs": shapes, "error": difference}


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stdout and stderr, where the exporters, some of them from C++, tell what they do."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, null = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)


def _open(name: str, shape: tuple[int, ...]) -> tuple[object, ...]:
    return ("batch", *shape[1:]) if name == "pixel_values" else ("batch", "sequence")


def _load(job: Job) -> torch.nn.Module:
    """The model in fp32. Raises InputError for weights that are missing; nothing is made up or fetched."""
    name = LOADERS.get(job.task)
    if name is None:
        name = "AutoModelForImageClassification" if job.kind in IMAGES else "AutoModelForSequenceClassification"
    # torch's older exporter knows no grouped queries in its fused attention.
    spelling = "eager" if job.exporter == "torchscript" and job.kind in DECODERS else "sdpa"
    choices = {
        "attn_implementation": spelling,
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    try:
        model, loading = getattr(hf, name).from_pretrained(str(job.folder), dtype=torch.float32, **choices)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and errors of safetensors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError("HPCC1046", f"transformers cannot load it: {lines[0][:300]}", where=str(job.folder)) from error
    missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key or job.task != "features")
    if missing:
        message = f"{len(missing)} weights are missing for {job.task}, the first is {missing[0]!r}"
        raise InputError("HPCC1047", message, where=str(job.folder), hint="another --task, or the whole folder")
    model.config.use_cache = False
    # Decoders look for several sequences in one row by an operator that has no ONNX form; there is one.
    if hasattr(hf.masking_utils, "find_packed_sequence_indices"):
        hf.masking_utils.find_packed_sequence_indices = lambda *_, **__: None
    return model.eval()


def _arguments(job: Job) -> tuple[torch.Tensor, ...]:
    """Made-up inputs: any ids, a mask that hides the end of the last sample, any pixels."""
    random = torch.Generator().manual_seed(0)
    made: list[torch.Tensor] = []
    for name, shape in job.shapes.items():
        if name == "pixel_values":
            made.append(torch.randn(shape, generator=random))
        elif name == "input_ids":
            made.append(torch.randint(0, int(job.config.get("vocab_size", 1000)), shape, generator=random))
        elif name == "attention_mask":
            mask = torch.ones(shape, dtype=torch.int64)
            mask[-1, (shape[1] + 1) // 2 :] = 0
            made.append(mask)
        else:
            made.append(torch.zeros(shape, dtype=torch.int64))
    return tuple(made)


def _write(model: Plain, job: Job, arguments: tuple[torch.Tensor, ...], path: Path, *, big: bool) -> None:
    names: dict[str, Any] = {"input_names": list(job.shapes), "output_names": list(job.outputs), "opset_version": job.opset}
    open_axes = {0: "batch"} if "pixel_values" in job.shapes else {0: "batch", 1: "sequence"}
    if job.exporter == "dynamo":
        limits = {0: 64, 1: int(job.config.get("max_position_embeddings", 512))}
        dims = {
            axis: torch.export.Dim(label, min=1 if axis == 0 else 2, max=limits[axis]) for axis, label in open_axes.items()
        }
        shapes = None if job.fixed else ((dims,) * len(job.shapes),)
        torch.onnx.export(
            model, arguments, str(path), dynamo=True, dynamic_shapes=shapes, external_data=big, verbose=False, **names
        )
        return
    axes = None if job.fixed else dict.fromkeys(job.shapes, open_axes)
    if not big:
        torch.onnx.export(model, arguments, str(path), dynamo=False, dynamic_axes=axes, **names)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as place:  # this exporter writes one file for each large tensor
        scattered = Path(place) / path.name
        torch.onnx.export(model, arguments, str(scattered), dynamo=False, dynamic_axes=axes, **names)
        onnx.save(onnx.load(scattered), path, save_as_external_data=True, location=f"{path.name}.data")


def _compare(model: Plain, job: Job, arguments: tuple[torch.Tensor, ...], path: Path) -> float:
    """The largest error over the attended tokens, of each output's rms."""
    runtime = import_onnxruntime()
    options: Any = runtime.SessionOptions()
    options.log_severity_level = 4
    session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}
    feed = {name: tensor.numpy() for name, tensor in zip(job.shapes, arguments, strict=True) if name in taken}
    with torch.no_grad():
        wanted = model(*arguments)
    worst = 0.0
    for found, tensor in zip(session.run(list(job.outputs), feed), wanted, strict=True):
        reference = tensor.numpy().astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(reference)))) or 1.0
        worst = max(worst, float(np.abs(found - reference).max()) / rms)
    return worst
