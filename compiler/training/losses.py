"""What is minimised: labels, or the distance to a teacher in logits and in hidden states."""

# torch is an optional dependency, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from compiler.training.batches import UNLABELLED
from compiler.training.heads import Tensor
from compiler.training.network import Result
from compiler.training.plan import Settings

Array = NDArray[Any]


def label_loss(logits: Tensor, labels: Array) -> Tensor:
    """Cross entropy of [n, classes] over the samples that have a label; 0 where none has."""
    wanted = torch.from_numpy(np.asarray(labels, np.int64))
    if not bool((wanted != UNLABELLED).any()):
        return logits.sum() * 0
    return functional.cross_entropy(logits, wanted, ignore_index=UNLABELLED)


def logit_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher / T || student / T), the mean over samples (Hinton, Vinyals and Dean 2015)."""
    goal = torch.log_softmax(teacher / temperature, -1)
    found = torch.log_softmax(student / temperature, -1)
    return functional.kl_div(found, goal, reduction="batchmean", log_target=True) * temperature**2


def hidden_distance(student: Result, teacher: Result) -> Tensor:
    """Squared distance of the normalisations' results, relative to the teacher's mean square, over attended tokens."""
    total = torch.zeros(())
    counted = 0
    for found, goal in zip(student.hidden, teacher.hidden, strict=True):
        goal = goal.float()
        square, size = (found.float() - goal) ** 2, goal**2
        mask = teacher.mask
        if mask is not None and goal.ndim == 3 and goal.shape[:2] == mask.shape:
            attended = (mask != 0).to(goal.dtype)[..., None]
            square, size = square * attended, size * attended
        total, counted = total + square.sum() / size.sum(), counted + 1
    return total / max(counted, 1)


def loss_of(settings: Settings, logits: str | None, student: Result, teacher: Result | None, labels: Array | None) -> Tensor:
    """The loss of one batch. `logits` names the output with a row of scores per sample."""
    if settings.loss == "labels":
        assert logits is not None
        assert labels is not None
        return label_loss(student.outputs[logits], labels)
    assert teacher is not None
    loss = settings.hidden * hidden_distance(student, teacher)
    if logits is not None:
        loss = loss + logit_distance(student.outputs[logits], teacher.outputs[logits], settings.temperature)
        if labels is not None and settings.labels:
            loss = loss + settings.labels * label_loss(student.outputs[logits], labels)
    return loss
