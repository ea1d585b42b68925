"""Runs a CPU bundle from Python on the samples of an .npz file: prints the time of a batch and what came out.

    python examples/cpu/run_model.py model.cpu-host.hp-0.75.hpcc inputs.npz

Any number of samples, of any length up to the compiled one; padding after the last token is masked by the model's own
attention mask.
"""

import statistics
import sys

import numpy as np

import hpcc


def main() -> None:
    bundle, file = sys.argv[1:]
    program = hpcc.load(bundle)
    with np.load(file, allow_pickle=False) as samples:
        result = program.run({name: samples[name] for name in samples if name != "labels"})
    print(f"{len(result.batch_ms)} batches, median {statistics.median(result.batch_ms):.3f} ms")
    for name, values in result.outputs.items():
        print(f"{name}: {values.shape}, rms {np.sqrt(np.mean(np.square(values))):.4f}")


if __name__ == "__main__":
    main()
