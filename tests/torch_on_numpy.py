"""What the runner of a Triton module takes of torch, on numpy, for Triton's interpreter.

torch is not in the tests' extra, and its import takes longer than a small model. test_gpu.py uses torch itself.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DType:
    """Prints as torch's do, which is how Triton finds the type of a pointer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize

    def __repr__(self) -> str:
        return f"torch.{self.name}"


DTYPES = {name: DType(name) for name in ("float32", "float16", "int8", "uint8", "int32", "int64")}


class Tensor:
    """A numpy array under the names that the runner and the interpreter use; views share memory as torch's do."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.dtype = DTYPES.get(array.dtype.name)
        self.shape = array.shape

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self.array[index])

    def __ne__(self, other: object) -> Any:
        return Tensor(self.array != other)

    __hash__ = object.__hash__

    def __int__(self) -> int:
        return int(self.array)

    def view(self, *how: Any) -> Tensor:
        return Tensor(self.array.view(how[0].numpy) if isinstance(how[0], DType) else self.array.reshape(how))

    def reshape(self, *shape: int) -> Tensor:
        return Tensor(self.array.reshape(shape))

    def t(self) -> Tensor:
        return Tensor(self.array.T)

    def float(self) -> Tensor:
        return Tensor(self.array.astype(np.float32))

    def contiguous(self) -> Tensor:
        return Tensor(np.ascontiguousarray(self.array))

    def copy_(self, other: Tensor) -> None:
        self.array[...] = other.array

    def numel(self) -> int:
        return self.array.size

    def min(self) -> Tensor:
        return Tensor(self.array.min())

    def max(self) -> Tensor:
        return Tensor(self.array.max())

    def numpy(self) -> NDArray[Any]:
        return self.array

    def to(self, device: object) -> Tensor:
        return self

    # ---- what the interpreter asks for: memory is the host's, so a copy to the host is the tensor itself

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> Any:
        return SimpleNamespace(data_ptr=self.data_ptr, cpu=lambda: self, copy_=lambda _: None)

    def cpu(self) -> Tensor:
        return self

    def new_empty(self, count: int, device: str) -> Tensor:
        return Tensor(self.array)

    def set_(self, *place: object) -> None:
        """The memory is that of `new_empty` already."""

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.shape

    def stride(self) -> tuple[int, ...]:
        return self.shape


def torch_on_numpy() -> ModuleType:
    """A module to stand in sys.modules as `torch`."""

    @contextmanager
    def inference_mode() -> Iterator[None]:
        yield

    def zeros(shape: tuple[int, ...], dtype: DType, device: object) -> Tensor:
        return Tensor(np.zeros(shape, dtype.numpy))

    torch = ModuleType("torch")
    torch.__dict__.update(
        DTYPES,
        Tensor=Tensor,
        device=lambda name: SimpleNamespace(type=name),
        from_numpy=Tensor,
        as_tensor=lambda array: Tensor(np.asarray(array)),
        zeros=zeros,
        inference_mode=inference_mode,
    )
    return torch


def main(*arguments: str) -> None:
    """`MODEL.py INPUTS.npz OUTPUTS.npz` as often as wanted: what `python MODEL.py INPUTS.npz OUTPUTS.npz` does."""
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which reads it once
    importlib.import_module("triton.language")
    sys.modules["torch"] = torch_on_numpy()
    for first in range(0, len(arguments), 3):
        sys.argv = list(arguments[first : first + 3])
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
