"""The training loop: SR-STE under any zero pattern, a ladder of them (IDP), distillation; resumable at any step.

SR-STE (Zhou et al., ICLR 2021): the forward pass uses the masked weights, the gradient goes straight through to the dense
ones, and masked weights are pulled towards zero, here outside of Adam's moments unless `coupled` is asked for. IDP: the
rungs of a ladder share one budget, each inherits the weights of the one before; a weight may return within a rung only.
"""

# torch is an optional dependency, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.sparsity.base import Dense
from compiler.training.batches import UNLABELLED, Samples, batch_at, fitting, in_order
from compiler.training.losses import loss_of
from compiler.training.masks import MaskedWeight, start
from compiler.training.network import Network
from compiler.training.plan import Plan
from compiler.training.state import Checkpoint, RunFolder
from hw_targets.errors import HpccError, InputError

Array = NDArray[Any]
Progress = Callable[[int, float], None]
_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}


@dataclass(frozen=True)
class Finished:
    """A rung's weights by key, out x in, with hard zeros; `score` on the dev set after step `chosen`, if it chose."""

    rung: int
    arrays: Mapping[str, Array]
    score: float | None
    chosen: int


@dataclass
class Trainer:
    """One run. `pruned` are the keys of the matrices that get the pattern, `head` those that learn at the head's rate."""

    plan: Plan
    student: Network
    teacher: Network | None
    train: Samples
    dev: Samples | None
    logits: str | None
    pruned: frozenset[str]
    head: frozenset[str]
    folder: RunFolder | None = None
    progress: Progress | None = None
    weights: dict[str, MaskedWeight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._best: dict[str, Array] | None = None
        self._score: float | None = None
        self._chosen: int | None = None
        self._tokens = self.train.tokens
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> Any:
        settings, groups = self.plan.settings, []
        for rate, is_head in ((settings.rate, False), (settings.head_rate, True)):
            for decay, is_matrix in ((settings.weight_decay, True), (0.0, False)):
                chosen = [
                    parameter
                    for key, parameter in self.student.parameters.items()
                    if (key in self.head) == is_head and (parameter.ndim > 1) == is_matrix
                ]
                groups.append({"params": chosen, "peak": rate, "lr": rate, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Finished]:
        """Train and yield each rung when it is done, from the folder's checkpoint on if it has one."""
        step = self._resume()
        yield from self._earlier(step)
        while step < self.plan.settings.steps:
            rung = self.plan.rungs[self.plan.rung_of(step)]
            if step == rung.first:
                self._enter(step)
            self._step(step)
            if self.dev is not None and self.plan.evaluates(step):
                self._evaluate(step)
            step += 1
            if step == rung.end:
                finished = self._finish(step)
                if self.folder is not None:
                    facts = {"score": finished.score, "chosen": finished.chosen}
                    self.folder.save_rung(finished.rung, dict(finished.arrays), facts)
                yield finished
            if self.folder is not None and (step == rung.end or step % self.plan.settings.save == 0):
                self.folder.save(self._checkpoint(step))

    def _earlier(self, step: int) -> Iterator[Finished]:
        """The rungs that were done before the run was interrupted."""
        for index, rung in enumerate(self.plan.rungs):
            if rung.end <= step and self.folder is not None:
                arrays, facts = self.folder.load_rung(index)
                yield Finished(index, arrays, facts["score"], facts["chosen"])

    def _enter(self, step: int) -> None:
        pattern = self.plan.rungs[self.plan.rung_of(step)].pattern
        if step:
            self._optimizer = self._new_optimizer()
        self._best = self._score = self._chosen = None
        if isinstance(pattern, Dense):
            return
        for key in sorted(self.pruned):
            if key in self.weights:
                self.weights[key].descend(pattern)
            else:
                outs, ins = self.student.parameters[key].shape
                self.weights[key] = start(pattern, (outs, ins))

    def _step(self, step: int) -> None:
        settings = self.plan.settings
        if self.weights and self.plan.refreshes(step):
            self._refresh(step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self.plan.rate_share(step)
        rows = batch_at(self._tokens, settings.batch, settings.seed, step)
        length = fitting(self.student.lengths, int(self._tokens[rows].max()))
        inputs, labels = self.train.take(rows, length, settings.batch)
        result = self.student(length, inputs)
        goal = None
        if self.teacher is not None:
            with torch.no_grad():
                goal = self.teacher(length, inputs)
        loss = loss_of(settings, self.logits, result, goal, self._filled(labels))
        value = float(loss.detach())
        if not np.isfinite(value):
            raise InputError("HPCC1554", f"the loss is {value} at step {step}: training diverged", hint="lower the rate")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.coupled:
            self._add_regulariser()
        torch.nn.utils.clip_grad_norm_(list(self.student.parameters.values()), settings.clip)
        self._optimizer.step()
        if not settings.coupled:
            self._shrink_masked()
        if self.folder is not None and self.plan.refreshes(step):
            churns = [weight.churn for weight in self.weights.values()]
            facts = {"rate": settings.rate * self.plan.rate_share(step), "extra": self.plan.extra_share(step)}
            self.folder.log(step=step, loss=value, churn=float(np.mean(churns)) if churns else 0.0, **facts)
        if self.progress is not None:
            self.progress(step + 1, value)

    def _filled(self, labels: Array | None) -> Array | None:
        """Labels of a whole batch; the rows that fill it up have none."""
        if labels is None:
            return None
        return np.concatenate([labels, np.full(self.plan.settings.batch - len(labels), UNLABELLED, labels.dtype)])

    # ---- masks ------------------------------------------------------------------------------------------------------

    def _refresh(self, step: int) -> None:
        extra = self.plan.extra_share(step)
        for key, weight in self.weights.items():
            try:
                weight.refresh(self.student.parameters[key].detach().numpy(), extra)
            except HpccError as error:
                raise InputError(error.code, f"{error.message} at step {step}", where=f"weight {key!r}") from error
            self.student.masks[key] = torch.from_numpy(weight.mask.astype(np.float32))

    def _shrink_masked(self) -> None:
        """Decoupled: masked weights shrink by rate x regulariser, whatever Adam's moments are."""
        share = self._optimizer.param_groups[0]["lr"] * self.plan.settings.regulariser
        with torch.no_grad():
            for key, mask in self.student.masks.items():
                self.student.parameters[key].mul_(1 - share * (1 - mask))

    def _add_regulariser(self) -> None:
        for key, mask in self.student.masks.items():
            parameter = self.student.parameters[key]
            parameter.grad.add_(self.plan.settings.regulariser * (1 - mask) * parameter.detach())

    # ---- the dev set ------------------------------------------------------------------------------------------------

    def score(self, samples: Samples) -> float:
        """Accuracy where there are labels and logits, else minus the distance to the teacher."""
        right = total = 0.0
        tokens = samples.tokens
        with torch.no_grad():
            for rows in in_order(samples, self.plan.settings.batch):
                length = fitting(self.student.lengths, int(tokens[rows].max()))
                inputs, labels = samples.take(rows, length, self.plan.settings.batch)
                result = self.student(length, inputs)
                if labels is not None and self.logits is not None:
                    found = result.outputs[self.logits].numpy().argmax(-1)[: len(rows)]
                    right, total = right + float((found == labels).sum()), total + len(rows)
                else:
                    assert self.teacher is not None
                    goal = self.teacher(length, inputs)
                    loss = loss_of(self.plan.settings, self.logits, result, goal, None)
                    right, total = right - float(loss) * len(rows), total + len(rows)
        return right / total

    def _evaluate(self, step: int) -> None:
        assert self.dev is not None
        score = self.score(self.dev)
        if self.folder is not None:
            self.folder.log(step=step, dev=score)
        if self._score is None or score >= self._score:
            self._best, self._score, self._chosen = self.student.arrays(), score, step

    def _finish(self, step: int) -> Finished:
        """The rung's weights: those that the dev set chose, else the last ones. The next rung goes on from them."""
        if self._best is not None:
            self.student.load(self._best)
        final = self.student.final()
        for key, weight in self.weights.items():
            weight.pattern.check(final[key])
        self.student.load(final)
        chosen = step - 1 if self._chosen is None else self._chosen
        return Finished(self.plan.rung_of(step - 1), final, self._score, chosen)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int) -> Checkpoint:
        """Where a rung ends there are no moments: the next one begins with new ones."""
        arrays = {f"weight/{key}": array for key, array in self.student.arrays().items()}
        ends = any(rung.end == step for rung in self.plan.rungs)
        for key, parameter in () if ends else self.student.parameters.items():
            state = self._optimizer.state.get(parameter, {})
            for group, name in _MOMENTS.items():
                if name in state:
                    arrays[f"{group}/{key}"] = state[name].numpy().copy()
            if "step" in state:
                arrays[f"count/{key}"] = state["step"].numpy().copy()
        for key, weight in self.weights.items():
            arrays[f"mask/{key}"] = np.packbits(weight.mask)
            if weight.allowed is not None:
                arrays[f"allowed/{key}"] = np.packbits(weight.allowed)
        for key, array in (self._best or {}).items():
            arrays[f"best/{key}"] = array
        return Checkpoint(step, arrays, self._score, self._chosen)

    def _resume(self) -> int:
        found = None if self.folder is None else self.folder.load()
        if self.folder is not None:
            self.folder.keep_log(0 if found is None else found.step)
        if found is None:
            return 0
        self.student.load(found.group("weight"))
        moments = {group: found.group(group) for group in (*_MOMENTS, "count")}
        for key, parameter in self.student.parameters.items():
            if key in moments["count"]:
                self._optimizer.state[parameter] = {
                    "step": torch.from_numpy(moments["count"][key]),
                    **{name: torch.from_numpy(moments[group][key]) for group, name in _MOMENTS.items()},
                }
        self._restore_masks(found)
        best = found.group("best")
        self._best, self._score, self._chosen = best or None, found.score, found.chosen
        return found.step

    def _restore_masks(self, found: Checkpoint) -> None:
        pattern = self.plan.rungs[self.plan.rung_of(found.step - 1)].pattern
        allowed = found.group("allowed")
        for key, bits in found.group("mask").items():
            shape = tuple(self.student.parameters[key].shape)
            mask = _unpacked(bits, shape)
            kept = _unpacked(allowed[key], shape) if key in allowed else None
            self.weights[key] = MaskedWeight(pattern, mask, kept)
            self.student.masks[key] = torch.from_numpy(mask.astype(np.float32))


def _unpacked(bits: Array, shape: tuple[int, ...]) -> Array:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(np.bool_)
