"""What can be tried: for every device the patterns of the attention and of the feed-forward matrices, and a precision.

A device is a name, a pattern its full text; what they mean is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

DENSE = "dense"
ZEROED = "zeroed"
RANDOM = "random"


@dataclass(frozen=True, order=True)
class Algorithm:
    """What is done to the model: it decides the accuracy, whatever the device.

    `control` is "" or says that the weights are damaged on purpose (`zeroed`: every matrix of the encoder is zero, `random`:
    the pattern's zeros fall anywhere). A control is measured and never chosen.
    """

    attention: str
    feed_forward: str
    precision: str = "int8"
    control: str = ""

    @property
    def is_uniform(self) -> bool:
        return self.attention == self.feed_forward

    @property
    def is_dense(self) -> bool:
        return self.is_uniform and self.attention == DENSE and not self.control

    @property
    def label(self) -> str:
        """Short and unique: `nm:2:4`, or `attention=dense feed-forward=nm:2:4`."""
        pattern = self.attention if self.is_uniform else f"attention={self.attention} feed-forward={self.feed_forward}"
        words = [ZEROED if self.control == ZEROED else pattern]
        if self.control == RANDOM:
            words.append("random (control)")
        elif self.control:
            words.append("(control)")
        if self.precision != "int8":
            words.append(self.precision)
        return " ".join(words)


@dataclass(frozen=True, order=True)
class Candidate:
    """A device with a pruned model on it."""

    device: str
    algorithm: Algorithm

    @property
    def label(self) -> str:
        return f"{self.device} {self.algorithm.label}"


@dataclass(frozen=True)
class Part:
    """Devices of one kind and, by the family of patterns, its members from dense to sparse; `mixed` lets the two groups of
    matrices differ inside a family. `precision` is the arithmetic of the devices."""

    devices: Sequence[str]
    families: Mapping[str, Sequence[str]]
    mixed: bool = False
    precision: str = "int8"

    def algorithms(self) -> list[Algorithm]:
        """Each once, in the order of the families; dense first."""
        found: dict[Algorithm, None] = {}
        for members in self.families.values():
            choices = (DENSE, *members)
            pairs = product(choices, choices) if self.mixed else ((choice, choice) for choice in choices)
            found.update((Algorithm(attention, forward, self.precision), None) for attention, forward in pairs)
        return list(found)

    def __len__(self) -> int:
        return len(self.devices) * len(self.algorithms())


@dataclass(frozen=True)
class Space:
    """All candidates, by kind of device: each kind has patterns and an arithmetic of its own."""

    parts: Mapping[str, Part]

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(device for part in self.parts.values() for device in part.devices)

    def algorithms(self) -> list[Algorithm]:
        """Each once, kind by kind."""
        return list(dict.fromkeys(algorithm for part in self.parts.values() for algorithm in part.algorithms()))

    def __iter__(self) -> Iterator[Candidate]:
        return (Candidate(d, a) for part in self.parts.values() for a in part.algorithms() for d in part.devices)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))
