"""The form of a target file (strict TOML) as pydantic models, and its JSON Schema: `python -m hw_targets.schema`.

Only the form: what the numbers mean is hw_targets/target.py, whether they fit a device is hw_targets/resources.py.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from hw_targets.storage import storage_formats
from hw_targets.target import QUANTITY_LIMIT
from hw_targets.target import Target as Target

Auto = Literal["auto"]
Source = Annotated[str, Field(min_length=1, description='where the number is from; "unverified" if nobody knows')]


class Strict(BaseModel):
    """No unknown keys, no conversion of strings to numbers, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Count(Strict):
    """A whole number and where it is from."""

    value: Annotated[int, Field(ge=0, le=int(QUANTITY_LIMIT))]
    source: Source


class Quantity(Strict):
    """A positive number and where it is from."""

    value: Annotated[float, Field(ge=1 / QUANTITY_LIMIT, le=QUANTITY_LIMIT)]
    source: Source


def _at_least_one(count: Count) -> Count:
    if count.value < 1:
        raise ValueError("must be at least 1")
    return count


PositiveCount = Annotated[Count, AfterValidator(_at_least_one)]


class ResourceTable(Strict):
    """FPGA resources; `bram` counts 36 Kb blocks."""

    lut: Count
    ff: Count
    bram: Count
    uram: Count
    dsp: Count


class DeviceTable(Strict):
    """[device]: the part, and what the die has and the shell leaves; `slr_dsp` of the smallest SLR, where they differ."""

    part: str
    dsp_kind: Literal["dsp48e1", "dsp48e2"]
    slrs: PositiveCount
    slr_dsp: PositiveCount | None = None
    die: ResourceTable
    usable: ResourceTable


class ClockTable(Strict):
    """[clock]"""

    mhz: Quantity


class MemoryTable(Strict):
    """[memory]: the off-chip memory; `gbytes_per_s` is the peak of all channels, `efficiency` the share reached."""

    kind: str
    channels: PositiveCount
    gbytes_per_s: Quantity
    efficiency: Quantity
    latency_ns: Quantity
    burst_bytes: PositiveCount
    capacity_bytes: PositiveCount

    @field_validator("efficiency")
    @classmethod
    def _is_share(cls, quantity: Quantity) -> Quantity:
        if quantity.value > 1:
            raise ValueError("the efficiency is a share of the peak, at most 1")
        return quantity


class LinkTable(Strict):
    """[link]: between the host and the off-chip memory."""

    gbytes_per_s: Quantity
    latency_us: Quantity


def _is_power_of_two(value: int | str) -> int | str:
    if isinstance(value, int) and value & (value - 1):
        raise ValueError("must be a power of two")
    return value


class DesignTable(Strict):
    """[accelerator.design]: choices of the microarchitecture that no size expresses."""

    softmax: Literal["exact", "streaming"] = "exact"
    softmax_shift: Annotated[int, Field(ge=0, le=5)] = 5
    chained: bool = True
    probabilities: Literal["chip", "dram"] = "chip"


class AcceleratorTable(Strict):
    """[accelerator]: the array, lanes and memories; "auto" is sized to fit the device."""

    cores: Annotated[int, Field(ge=1, le=16)] | Auto = "auto"
    tokens: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    outputs: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto"
    multipliers: Annotated[int, Field(ge=1, le=64)] | Auto = "auto"
    window: Annotated[int, Field(ge=4, le=256)] | Auto = "auto"
    selector: Annotated[int, Field(ge=2, le=32)] | Auto = "auto"
    lanes: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    act_bytes: Annotated[int, Field(ge=1024)] | Auto = "auto"
    weight_bytes: Annotated[int, Field(ge=1024)] | Auto = "auto"
    acc_bytes: Annotated[int, Field(ge=1024)] | Auto = "auto"
    param_bytes: Annotated[int, Field(ge=1024)] | Auto = "auto"
    queue_depth: Annotated[int, Field(ge=2, le=4096)] | Auto = "auto"
    design: DesignTable = DesignTable()

    @field_validator("window", "selector", "lanes")
    @classmethod
    def _powers(cls, value: int | str) -> int | str:
        return _is_power_of_two(value)

    @field_validator("window")
    @classmethod
    def _feeds_the_multipliers(cls, window: int | str, info: ValidationInfo) -> int | str:
        multipliers = info.data.get("multipliers")
        if isinstance(window, int) and isinstance(multipliers, int) and window < multipliers:
            raise ValueError(f"must be at least the {multipliers} multipliers that it feeds")
        return window

    @field_validator("outputs")
    @classmethod
    def _divides_row_blocks(cls, value: int | str) -> int | str:
        if isinstance(value, int) and 64 % value and value % 64:
            raise ValueError("must divide 64, the rows of a block of the hp pattern, or be a multiple of it")
        return value


class DecoderTable(Strict):
    """One format of [decode]: how many values per cycle LOAD decodes, and the LUTs that one of them takes."""

    values_per_cycle: Annotated[int, Field(ge=1)]
    lut_per_value: Annotated[int, Field(ge=0)]


class DecodeTable(Strict):
    """[decode]: the storage formats that LOAD can read; one that is left out cannot be chosen."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, DecoderTable] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    dense: DecoderTable
    nm: DecoderTable | None = None
    hp_mark: DecoderTable | None = None
    csr: DecoderTable | None = None
    bitmap: DecoderTable | None = None
    coo: DecoderTable | None = None
    ell: DecoderTable | None = None
    bcsr: DecoderTable | None = None
    cbr: DecoderTable | None = None
    circulant: DecoderTable | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, table: object) -> object:
        """Other keys are formats that another package brings."""
        names = list(cast("dict[str, object]", table)) if isinstance(table, dict) else []
        for name in names:
            if name not in cls.model_fields and name not in storage_formats():
                raise PydanticCustomError("extra_forbidden", "{key}", {"key": name})
        return cast("object", table)

    def listed(self) -> dict[str, DecoderTable]:
        """The formats that are listed, those of other packages last."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: table for name, table in {**own, **self.__pydantic_extra__}.items() if table is not None}


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class TargetFile(Strict):
    """A description of an FPGA board."""

    name: Annotated[str, Field(pattern=NAME)]
    kind: Literal["fpga"]
    summary: str
    device: DeviceTable
    clock: ClockTable
    memory: MemoryTable
    link: LinkTable
    accelerator: AcceleratorTable
    decode: DecodeTable


class CpuTable(Strict):
    """[cpu]: the vector instruction set ("host": that of the machine, its caches too), the data caches of a core, and the
    time of an int8 product whose row picks its inputs, against one of a dense weight."""

    isa: Literal["amx", "avx512-vbmi", "avx512-vnni", "avx512", "avx2", "neon-dotprod", "neon", "host"]
    l1_bytes: PositiveCount
    l2_bytes: PositiveCount
    pick_cost: Quantity | None = None


class CpuTargetFile(Strict):
    """A description of a CPU."""

    name: Annotated[str, Field(pattern=NAME)]
    kind: Literal["cpu"]
    summary: str
    cpu: CpuTable


class GpuTable(Strict):
    """[gpu]: CUDA's compute capability, times ten; bytes of shared memory that a block and a multiprocessor have; 1e12
    operations per second of dense products, and how much faster those of a 2:4 weight are."""

    capability: Literal[80, 90]
    multiprocessors: PositiveCount
    block_shared_bytes: PositiveCount
    shared_bytes: PositiveCount
    l2_bytes: PositiveCount
    memory_gbytes_per_s: Quantity
    fp32_tflops: Quantity
    fp16_tflops: Quantity
    int8_tops: Quantity
    sparse_speedup: Quantity


class GpuTargetFile(Strict):
    """A description of a GPU."""

    name: Annotated[str, Field(pattern=NAME)]
    kind: Literal["gpu"]
    summary: str
    gpu: GpuTable


AnyTargetFile = TargetFile | CpuTargetFile | GpuTargetFile

FORMS: dict[str, type[AnyTargetFile]] = {"fpga": TargetFile, "cpu": CpuTargetFile, "gpu": GpuTargetFile}
"""The form of a file by its `kind`."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a target file of any kind."""
    return TypeAdapter[AnyTargetFile](Annotated[AnyTargetFile, Field(discriminator="kind")]).json_schema()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, sort_keys=True))
