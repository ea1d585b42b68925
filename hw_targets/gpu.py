"""A GPU as a target: its multiprocessors, shared memory, bandwidth and peak rates. Imports neither pydantic nor numpy.

How a .toml file is read is hw_targets/schema.py and load.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hw_targets.errors import InputError
from hw_targets.target import damage, record_of

SNAPSHOT_VERSION = 1

ELEMENT_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of a weight and of an activation that is multiplied, by the precision of products."""


@dataclass(frozen=True)
class GpuTarget:
    """A GPU. `capability` is CUDA's (80, 90); rates count 1e12 operations per second, two for each multiplication; bytes
    are of a block's shared memory at most, of a multiprocessor's, and of the second-level cache."""

    name: str
    kind: str
    summary: str
    capability: int
    multiprocessors: int
    block_shared_bytes: int
    shared_bytes: int
    l2_bytes: int
    memory_gbytes_per_s: float
    fp32_tflops: float
    fp16_tflops: float
    int8_tops: float
    sparse_speedup: float
    sources: tuple[tuple[str, str], ...]

    def peak(self, precision: str) -> float:
        """Operations per second of dense products; bf16 has the rate of fp16."""
        rates = {"fp32": self.fp32_tflops, "int8": self.int8_tops}
        return 1e12 * rates.get(precision, self.fp16_tflops)

    @property
    def bytes_per_s(self) -> float:
        return 1e9 * self.memory_gbytes_per_s

    def unverified(self) -> tuple[str, ...]:
        return tuple(key for key, source in self.sources if source == "unverified")

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON-able data, for a bundle's manifest."""
        return {"snapshot_version": SNAPSHOT_VERSION, **asdict(self)}

    @classmethod
    def from_snapshot(cls, data: Mapping[str, Any], *, where: str = "") -> GpuTarget:
        """The inverse of `snapshot`. Raises InputError for anything else."""
        names = {field.name for field in fields(cls)}
        if data.get("snapshot_version") != SNAPSHOT_VERSION or set(data) != {*names, "snapshot_version"}:
            raise InputError("HPCC1322", "the target snapshot is not one of this release", where=where)
        try:
            sources = tuple((str(key), str(source)) for key, source in data["sources"])
            return record_of(cls, {name: data[name] for name in names} | {"sources": sources})
        except (TypeError, ValueError) as error:
            raise InputError("HPCC1322", damage(error), where=where) from error
