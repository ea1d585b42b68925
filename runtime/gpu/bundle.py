"""The files of a GPU bundle: the manifest, the Triton module and its weights, all under digests."""

from __future__ import annotations

from pathlib import Path

from runtime.gpu.manifest import GpuManifest
from runtime.steps.files import CheckedFiles, check_files

SOURCE = "model.py"

GpuBundle = CheckedFiles[GpuManifest]
"""A checked folder. The module maps weights.bin itself."""


def load_gpu_bundle(folder: Path) -> GpuBundle:
    """Read and check a bundle. Raises InputError naming the damaged file."""
    return check_files(folder, GpuManifest, (SOURCE,))
