"""What programs for CPUs and GPUs share: samples of any number and length go through all segments in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError
from runtime.host import HostSegment
from runtime.manifest import DeviceEntry, TensorEntry
from runtime.samples import joined
from runtime.steps.files import CheckedFiles
from runtime.steps.manifest import StepsManifest

AnyArray = NDArray[Any]
Tensors = Mapping[str, AnyArray]
B = TypeVar("B", bound=CheckedFiles[Any])


@dataclass(frozen=True)
class BatchResult:
    """Outputs by name; milliseconds of each batch on the device and in host segments, in order."""

    outputs: dict[str, AnyArray]
    device_ms: tuple[float, ...]
    host_ms: tuple[float, ...]

    @property
    def batch_ms(self) -> tuple[float, ...]:
        """Milliseconds of each batch, both parts."""
        return tuple(device + host for device, host in zip(self.device_ms, self.host_ms, strict=True))


class BatchProgram(ABC, Generic[B]):
    """A checked bundle and how its device part runs. `threads` are those of host segments."""

    bundle: B
    threads: int

    @classmethod
    @abstractmethod
    def load(cls, path: Path | str, threads: int = 0) -> Self:
        """The program of a bundle folder. Raises InputError naming the damaged file."""

    def moved_to(self, folder: Path) -> None:
        """Go on with what was loaded after the folder was renamed."""
        self.bundle = replace(self.bundle, folder=folder)

    @abstractmethod
    def _run_device(self, values: dict[str, AnyArray]) -> float:
        """Add the device's outputs to `values`; milliseconds."""

    @property
    def entries(self) -> StepsManifest:
        return self.bundle.manifest

    @cached_property
    def _host(self) -> dict[str, HostSegment]:
        segments = self.entries.host_segments
        return {entry.file: HostSegment(entry, self.bundle.host[entry.file], self.threads) for entry in segments}

    @property
    def id_limits(self) -> Mapping[str, int]:
        """Rows of the smallest table that each input is looked up in."""
        return self.entries.id_limits

    # ---- values -----------------------------------------------------------------------------------------------------

    def run(self, inputs: Tensors) -> BatchResult:
        """Run samples of any number and any length up to the compiled one, in batches of at most the compiled size.

        Raises InputError for names, types, shapes or token ids that the program does not take.
        """
        checked = self._checked(inputs)
        samples = len(next(iter(checked.values())))
        parts: dict[str, list[AnyArray]] = {entry.name: [] for entry in self.entries.model_outputs}
        device: list[float] = []
        host: list[float] = []
        for start in range(0, samples, self.entries.batch):
            values = {name: array[start : start + self.entries.batch] for name, array in checked.items()}
            taken = self._run_batch(values)
            device.append(taken[0])
            host.append(taken[1])
            for name, found in parts.items():
                found.append(values[name])
        outputs = {
            entry.name: found[0] if len(found) == 1 else joined(entry, found, self.entries.batch, samples)
            for entry, found in zip(self.entries.model_outputs, parts.values(), strict=True)
        }
        return BatchResult(outputs, tuple(device), tuple(host))

    def _run_batch(self, values: dict[str, AnyArray]) -> tuple[float, float]:
        """Add what the segments make to `values`; milliseconds of the library and of the host."""
        device = host = 0.0
        for segment in self.entries.segments:
            if isinstance(segment, DeviceEntry):
                device += self._run_device(values)
            else:
                made, seconds = self._host[segment.file].run(values)
                host += 1e3 * seconds
                values.update(made)
        return device, host

    def _input(self, entry: TensorEntry, array: AnyArray) -> AnyArray:
        limit = self.id_limits.get(entry.name)
        if limit is not None and array.size and (array.min() < 0 or array.max() >= limit):
            worst = array.min() if array.min() < 0 else array.max()
            message = f"input {entry.name!r} holds id {worst}, outside its table of {limit} rows"
            raise InputError("HPCC1274", message)
        return np.ascontiguousarray(array, np.dtype(entry.dtype))

    def _output(self, entry: TensorEntry, batch: int, tokens: int) -> AnyArray:
        features = entry.shape[-1]
        return np.empty((batch, tokens, features) if len(entry.shape) == 3 else (batch, features), np.float32)

    def _checked(self, inputs: Tensors) -> dict[str, AnyArray]:
        """The inputs in the model's types, all of one shape, samples x tokens."""
        entries = {entry.name: entry for entry in self.entries.model_inputs}
        for name in inputs:
            if name not in entries:
                raise InputError("HPCC1271", f"the model has no input {name!r}", hint=f"it takes {', '.join(entries)}")
        checked: dict[str, AnyArray] = {}
        for name, entry in entries.items():
            if name not in inputs:
                raise InputError("HPCC1271", f"input {name!r} is missing")
            checked[name] = self._fitted(entry, np.asarray(inputs[name]))
        shapes = {array.shape for array in checked.values()}
        if len(shapes) > 1:
            told = ", ".join(f"{name} {array.shape}" for name, array in checked.items())
            raise InputError("HPCC1272", f"the inputs do not have one number of samples and tokens: {told}")
        return checked

    def _fitted(self, entry: TensorEntry, array: AnyArray) -> AnyArray:
        if array.ndim != 2 or not array.shape[0] or not 1 <= array.shape[1] <= self.entries.tokens:
            found = "x".join(map(str, array.shape)) or "no axes"
            expected = f"samples x 1 to {self.entries.tokens} tokens"
            raise InputError("HPCC1265", f"input {entry.name!r} has shape {found}, expected {expected}")
        wanted = np.dtype(entry.dtype)
        cast = array.astype(wanted)
        whole = wanted.kind in "iub" and array.dtype.kind in "iub"
        if not whole and (wanted.kind, array.dtype.kind) != ("f", "f"):
            raise InputError("HPCC1273", f"input {entry.name!r} is {array.dtype}, expected {wanted}")
        if whole and not (cast == array).all():
            raise InputError("HPCC1273", f"input {entry.name!r} ({array.dtype}) holds values that {wanted} does not")
        return cast
