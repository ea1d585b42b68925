"""Checkpoints of a run: one safetensors file, written whole or not at all, that says which run it belongs to."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError

Array = NDArray[Any]
CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
_RUN = "run"


@dataclass(frozen=True)
class Checkpoint:
    """`step` steps are done. `arrays` are named GROUP/KEY: the groups are weight, first, second (Adam's moments), mask,
    allowed, best. `score` is the best score on the dev set in this rung."""

    step: int
    arrays: dict[str, Array]
    score: float | None = None
    chosen: int | None = None

    def group(self, name: str) -> dict[str, Array]:
        return {key.removeprefix(f"{name}/"): array for key, array in self.arrays.items() if key.startswith(f"{name}/")}


@dataclass
class RunFolder:
    """A folder of checkpoints. `run` describes the run: model, data, settings; another run's checkpoint is refused."""

    path: Path
    run: dict[str, str] = field(default_factory=dict)

    def save(self, checkpoint: Checkpoint) -> None:
        """Raises InputError where the folder cannot be written."""
        from safetensors.numpy import save_file

        note = {"step": checkpoint.step, "score": checkpoint.score, "chosen": checkpoint.chosen}
        metadata = {"state": json.dumps(note), _RUN: json.dumps(self.run, sort_keys=True)}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            unfinished = self.path / f"{CHECKPOINT}.{os.getpid()}"
            save_file({key: np.ascontiguousarray(array) for key, array in checkpoint.arrays.items()}, unfinished, metadata)
            unfinished.replace(self.path / CHECKPOINT)
        except OSError as error:
            raise InputError("HPCC1551", f"cannot write the checkpoint: {error.strerror}", where=str(self.path)) from error

    def load(self) -> Checkpoint | None:
        """The last checkpoint, None if there is none yet. Raises InputError for a damaged one, one of another run
        and a file in the folder's place."""
        from safetensors import SafetensorError, safe_open

        path = self.path / CHECKPOINT
        if self.path.exists() and not self.path.is_dir():
            raise InputError("HPCC1551", "cannot write the checkpoint: it is no folder", where=str(self.path))
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata: dict[str, str] = dict(file.metadata() or {})
                arrays = {str(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            note, run = json.loads(metadata["state"]), json.loads(metadata[_RUN])
            step, score, chosen = int(note["step"]), note["score"], note["chosen"]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            hint = "delete it to start over"
            raise InputError("HPCC1552", "the checkpoint is damaged", where=str(path), hint=hint) from error
        self._require_same(run, path)
        return Checkpoint(step, arrays, score, chosen)

    def adopt(self, before: RunFolder) -> None:
        """Begin where another run has ended, unless this one has begun: its finished rungs and its last checkpoint. Raises
        InputError where it has none, or is another than `before` describes."""
        if self.load() is not None:
            return
        found = before.load()
        if found is None:
            raise InputError("HPCC1552", "the checkpoint is gone", where=str(before.path), hint="delete it to start over")
        self.path.mkdir(parents=True, exist_ok=True)
        for rung in sorted(before.path.glob("rung-*.safetensors")):
            shutil.copyfile(rung, self.path / rung.name)
        self.save(found)

    def _require_same(self, run: Any, path: Path) -> None:
        for name, value in self.run.items():
            found = run.get(name) if isinstance(run, dict) else None
            if found != value:
                message = f"the checkpoint is of another run: its {name} is {found}, not {value}"
                raise InputError("HPCC1553", message, where=str(path), hint="resume with the command that began it")

    # ---- finished rungs ---------------------------------------------------------------------------------------------

    def save_rung(self, rung: int, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
        """Keep what a rung ended with, so that a resumed run can write its model again."""
        from safetensors.numpy import save_file

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            unfinished = self.path / f"rung-{rung}.{os.getpid()}"
            save_file(
                {key: np.ascontiguousarray(array) for key, array in arrays.items()}, unfinished, {"facts": json.dumps(facts)}
            )
            unfinished.replace(self.path / f"rung-{rung}.safetensors")
        except OSError as error:
            raise InputError("HPCC1551", f"cannot write the checkpoint: {error.strerror}", where=str(self.path)) from error

    def load_rung(self, rung: int) -> tuple[dict[str, Array], dict[str, Any]]:
        """What `save_rung` kept. Raises InputError where it is damaged or gone."""
        from safetensors import SafetensorError, safe_open

        path = self.path / f"rung-{rung}.safetensors"
        try:
            with safe_open(str(path), framework="numpy") as file:
                facts = json.loads(dict(file.metadata() or {})["facts"])
                return {str(key): file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            hint = "delete the folder to start over"
            raise InputError("HPCC1552", "the checkpoint is damaged", where=str(path), hint=hint) from error

    # ---- the log ----------------------------------------------------------------------------------------------------

    def keep_log(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        path = self.path / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < step]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def log(self, **facts: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
