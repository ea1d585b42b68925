"""One training run from files to files: model, teacher and samples in, an ONNX file for each rung out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import Float32Type, ModuleOp
from xdsl.ir import BlockArgument

from compiler.dialects import nn
from compiler.frontend.importer import Imported
from compiler.frontend.onnx_file import open_onnx
from compiler.interpreters.probe import id_limits
from compiler.module import main_function, names_of
from compiler.sparsity.base import Dense, Pattern
from compiler.tools.inputs import InputSpec
from compiler.tools.model_facts import read_facts, record_facts
from compiler.tools.pruning.history import pruning_metadata
from compiler.tools.pruning.provenance import fused
from compiler.tools.training import data
from compiler.tools.training.places import Trainable, trainable
from compiler.training import require_torch
from compiler.training.plan import Plan, Settings, ladder
from compiler.training.state import RunFolder
from hw_targets.errors import InputError, UsageError

if TYPE_CHECKING:
    from compiler.training.loop import Finished, Progress
    from compiler.training.network import Graph, Network

Array = NDArray[Any]
_PARTS = 8
"""Lengths that batches are cut to: eighths of the samples' length."""
_ALIKE = 1e-4
"""How far outputs of cut batches may be from those of padded ones."""


@dataclass(frozen=True)
class Request:
    """What to train: files, patterns in order (one, or a ladder; dense trains without pruning), settings."""

    model: Path
    train: Path
    patterns: Sequence[Pattern]
    settings: Settings
    dev: Path | None = None
    teacher: Path | None = None
    logits: str | None = None
    folder: Path | None = None
    scope: Sequence[str] = ()
    """Globs of the linears that get the patterns; empty: those inside the blocks."""
    before: Path | None = None
    """The folder of a finished run of the same ladder without its last rung, as many steps a rung: this run goes on from
    its end, as if it had made all rungs itself."""


@dataclass(frozen=True)
class RungDone:
    """A trained rung: new values of the file's tensors by name, and the file's metadata, which says what was done."""

    rung: int
    pattern: Pattern
    tensors: Mapping[str, Array]
    score: float | None
    chosen: int
    roles: tuple[str, ...]
    zeros: int
    metadata: Mapping[str, str]
    by_accuracy: bool
    """Whether `score` is an accuracy on the dev set; else it is minus the distance to the teacher."""


@dataclass
class TrainingRun:
    """Everything that is checked before the first step. Raises InputError, UsageError, MissingToolError."""

    request: Request
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        request = self.request
        self.plan = Plan(request.settings, ladder(list(request.patterns), request.settings.steps))
        self.shapes = self._shapes()
        self.opened = opened = open_fused(request.model, self.shapes)
        self.trainable = self._trainable()
        mask = _mask_input(opened.module)
        classes = self._classes()
        specs = _specs(opened, str(request.model))
        labelled = request.settings.loss == "labels"
        self.train = data.read(request.train, specs, mask, classes, labelled=labelled)
        self.dev = None if request.dev is None else data.read(request.dev, specs, mask, classes, labelled=labelled)
        self.folder = (
            None
            if request.folder is None
            else RunFolder(request.folder, self._description(request.patterns, request.settings))
        )
        if self.folder is not None:
            self.folder.load()
        require_torch()
        if self.folder is not None and request.before is not None:
            rungs = len(request.patterns) - 1
            earlier = with_steps(request.settings, self.plan.rungs[rungs].first)
            self.folder.adopt(RunFolder(request.before, self._description(request.patterns[:rungs], earlier)))
        self.student, self.teacher = self._networks(mask)

    # ---- what the files say -----------------------------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """One batch of each input, as the samples and the settings have it."""
        inputs = [str(value.name) for value in open_onnx(self.request.model).model.graph.inputs]
        found = data.sample_shapes(self.request.train, inputs)
        return {name: (self.request.settings.batch, *shape) for name, shape in found.items()}

    def _trainable(self) -> Trainable:
        file, request = open_onnx(self.request.model).model, self.request
        found = trainable(self.opened.module, self.opened.store, file, request.logits, request.patterns, request.scope)
        if not found.places:
            message = "no parameter of the model can be trained: its linears hold no fp32 weights of the file's own"
            raise InputError("HPCC1558", message, where=str(self.request.model), hint="integer weights stay as they are")
        if not found.pruned and not all(isinstance(pattern, Dense) for pattern in self.request.patterns):
            message = f"{self.request.patterns[-1].spec()} applies to no layer that can be trained"
            why = next((f"{role}: {reason}" for role, reason in found.left_dense.items()), "--list-layers")
            raise UsageError("HPCC2258", message, hint=why)
        return found

    def _classes(self) -> int | None:
        """The number of logits. Raises UsageError for a name that is no such output."""
        logits = self.request.logits
        if logits is None:
            if self.request.settings.loss == "labels":
                raise UsageError("HPCC2255", "--loss labels needs the output that the labels are for", hint="--logits NAME")
            return None
        function = main_function(self.opened.module)
        names = names_of(function, "output_names")
        terminator = function.body.block.last_op
        assert terminator is not None
        if logits not in names:
            raise UsageError("HPCC2256", f"the model has no output {logits!r}", hint=f"outputs: {', '.join(names)}")
        value = terminator.operands[names.index(logits)]
        shape = nn.shape_of(value)
        if len(shape) != 2 or not isinstance(nn.element_type_of(value), Float32Type):
            text = "x".join(map(str, shape))
            raise UsageError("HPCC2257", f"the output {logits!r} of shape {text} has no row of scores for each sample")
        return shape[1]

    # ---- networks ---------------------------------------------------------------------------------------------------

    def _networks(self, mask: str | None) -> tuple[Network, Network | None]:
        import torch  # pyright: ignore[reportMissingImports]

        from compiler.training.network import Network

        if self.request.settings.threads:
            torch.set_num_threads(self.request.settings.threads)
        request, precision = self.request, self.request.settings.precision
        graphs = self._graphs(request.model, mask)
        student = Network(graphs, self.trainable.places, precision=precision)
        if request.settings.loss == "labels":
            return student, None
        if request.teacher is None or open_onnx(request.teacher).sha256 == self.opened.sha256:
            return student, Network(graphs, (), precision=precision)
        goals = self._graphs(request.teacher, mask, tuple(graphs))
        self._require_alike(next(iter(graphs.values())).module, next(iter(goals.values())).module)
        return student, Network(goals, (), precision=precision)

    def _graphs(self, path: Path, mask: str | None, lengths: tuple[int, ...] | None = None) -> dict[int, Graph]:
        """Graphs for whole and for cut batches, as far as the model gives the same results for both."""
        from compiler.training.network import Graph, Network

        opened = self.opened if path == self.request.model else open_fused(path, self.shapes)
        full = self.shapes[mask][1] if mask is not None else 0
        graphs = {full: Graph(opened.module, opened.store)}
        wanted = lengths or tuple(sorted({-(-full * part // _PARTS) for part in range(2, _PARTS)}))
        for length in wanted:
            if 0 < length < full:
                shapes = {name: (s[0], length) if s[1:] == (full,) else s for name, s in self.shapes.items()}
                try:
                    cut = open_fused(path, shapes)
                except (InputError, UsageError):
                    continue  # a model of fixed length
                graphs[length] = Graph(cut.module, cut.store)
        if lengths is None and len(graphs) > 1 and not self._cuts_well(Network(graphs, ()), full):
            self.notes.append("batches are not cut: the model's results depend on the padding")
            return {full: graphs[full]}
        return dict(sorted(graphs.items()))

    def _cuts_well(self, network: Network, full: int) -> bool:
        """Whether a batch of short samples gives the same outputs cut as padded; token outputs apart."""
        import torch  # pyright: ignore[reportMissingImports]

        order = np.argsort(self.train.tokens, kind="stable")[: self.request.settings.batch]
        length = min(network.lengths)
        rows = order[self.train.tokens[order] <= length]
        if not len(rows):
            return True
        batch = self.request.settings.batch
        with torch.no_grad():
            whole = network(full, self.train.take(rows, full, batch)[0]).outputs
            cut = network(length, self.train.take(rows, length, batch)[0]).outputs
        return all(
            bool(torch.isclose(cut[name].float(), value.float(), rtol=_ALIKE, atol=_ALIKE).all())
            for name, value in whole.items()
            if value.shape == cut[name].shape
        )

    def _require_alike(self, student: ModuleOp, teacher: ModuleOp) -> None:
        """Raises InputError where the teacher's hidden states or logits are of other shapes."""
        mine, theirs = (_hidden_shapes(module) for module in (student, teacher))
        if mine != theirs:
            message = f"the teacher has {len(theirs)} normalisations of {theirs[:1]}, the model {len(mine)} of {mine[:1]}"
            raise InputError("HPCC1559", message, where=str(self.request.teacher), hint="a teacher of the same architecture")

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _description(self, patterns: Sequence[Pattern], settings: Settings) -> dict[str, str]:
        """What a checkpoint must agree in to be resumed."""
        request = self.request
        teacher = request.teacher or request.model
        chosen = {**settings.as_dict(), "threads": settings.threads or os.cpu_count()}
        return {
            "model": self.opened.sha256,
            "teacher": "none" if request.settings.loss == "labels" else open_onnx(teacher).sha256,
            "patterns": " ".join(pattern.spec() for pattern in patterns),
            "scope": " ".join(request.scope),
            "training data": data.digest(self.train),
            "dev data": data.digest(self.dev),
            "logits": str(request.logits),
            "settings": json.dumps(chosen, sort_keys=True),
            "torch": version("torch") if find_spec("torch") else "none",
        }

    def run(self, finished: Callable[[RungDone], None]) -> None:
        """Train; `finished` is called with each rung as soon as it is done."""
        from compiler.training.loop import Trainer

        trainer = Trainer(
            self.plan,
            self.student,
            self.teacher,
            self.train,
            self.dev,
            self.request.logits,
            frozenset(self.trainable.pruned),
            self.trainable.head,
            self.folder,
            self.progress,
        )
        for done in trainer.run():
            finished(self._done(done))

    def _done(self, done: Finished) -> RungDone:
        pattern = self.plan.rungs[done.rung].pattern
        tensors: dict[str, Array] = {}
        zeros = 0
        for key, place in self.trainable.places.items():
            array = done.arrays[key]
            if key in self.trainable.pruned:
                zeros += array.size - pattern.kept(*array.shape)
            stored = array.T if self.student.turned[key] else array
            tensors[place.tensor] = place.written(stored)
        roles = tuple(role for roles in self.trainable.pruned.values() for role in roles)
        metadata = self._metadata(done, roles, zeros)
        return RungDone(done.rung, pattern, tensors, done.score, done.chosen, roles, zeros, metadata, self._by_accuracy)

    @property
    def _by_accuracy(self) -> bool:
        return self.dev is not None and self.dev.labels is not None and self.request.logits is not None

    def _metadata(self, done: Finished, roles: Sequence[str], zeros: int) -> dict[str, str]:
        """The same for a run that was killed and resumed: no times."""
        settings, rung = self.request.settings, self.plan.rungs[done.rung]
        patterns = {role: rung.pattern if role in roles else Dense() for role in self.trainable.roles}
        said = {
            "pattern": rung.pattern.spec(),
            "ladder": [each.pattern.spec() for each in self.plan.rungs],
            "methods": ["SR-STE"],
            "steps": [rung.first, rung.end, settings.steps],
            "settings": settings.as_dict(),
            "scope": list(self.request.scope),
            "dev": done.score,
            "chosen": done.chosen,
            "zeros": zeros,
        }
        before = open_onnx(self.request.model).model.metadata_props
        return pruning_metadata(patterns, before, self.opened.sha256, said)


def open_fused(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Imported:
    imported = fused(path, shapes)
    record_facts(imported.module, imported)
    return imported


def _specs(opened: Imported, where: str) -> list[InputSpec]:
    limits = id_limits(opened.module)
    facts = read_facts(opened.module, "dense", where)
    return [InputSpec(entry.name, entry.dtype, entry.shape, limits.get(entry.name)) for entry in facts.inputs]


def _mask_input(module: ModuleOp) -> str | None:
    """The input that masks the keys of the attentions, if there is one."""
    function = main_function(module)
    names = names_of(function, "input_names")
    for op in module.walk():
        if isinstance(op, nn.AttentionOp) and op.mask is not None and isinstance(op.mask, BlockArgument):
            return names[op.mask.index]
    return None


def _hidden_shapes(module: ModuleOp) -> list[tuple[int, ...]]:
    norms = [op for op in module.walk() if isinstance(op, nn.LayerNormOp) or (isinstance(op, nn.RmsNormOp) and op.is_whole)]
    return [nn.shape_of(op.result) for op in norms]


def with_steps(settings: Settings, steps: int) -> Settings:
    return replace(settings, steps=steps)
