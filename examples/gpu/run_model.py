"""Runs the Triton module of a GPU bundle by itself, without hpcc: it needs torch, triton and numpy.

    python examples/gpu/run_model.py model.gpu-sm80.hp-0.75.hpcc inputs.npz

The inputs may be tensors that are on the GPU already, as from a tokenizer or a model before this one; the outputs are fp32
tensors on the GPU. `captured` runs all launches as one CUDA graph, made when a shape comes for the first time. With
TRITON_INTERPRET=1 it runs on the CPU, slowly, for checks.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np


def load(bundle):
    """The model of a bundle folder, its weights on the device."""
    spec = importlib.util.spec_from_file_location("model", Path(bundle) / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.Model()


def main() -> None:
    bundle, file = sys.argv[1:]
    module, model = load(bundle)
    with np.load(file, allow_pickle=False) as samples:
        inputs = {name: samples[name] for name in module.INPUTS}
    outputs = model(inputs) if model.device.type == "cpu" else model.captured(inputs)
    for name, values in outputs.items():
        values = values.cpu().numpy()
        print(f"{name}: {values.shape}, rms {np.sqrt(np.mean(np.square(values))):.4f}")
    if model.by_marks:
        print(f"2:4 layers by marks, not on sparse tensor cores: {model.by_marks}")


if __name__ == "__main__":
    main()
