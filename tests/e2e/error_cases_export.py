"""What triggers the errors of hpcc-export, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.tools import hpcc_export
from hw_targets.errors import HpccError, InputError, VerificationError
from tests.e2e.harness import call

Case = Callable[[Path, pytest.MonkeyPatch], object]


def export(
    config: str | dict[str, object] | None, *arguments: str, weights: bool = True, fails: HpccError | None = None
) -> Case:
    """hpcc-export on a folder with this config.json; `fails` stands for what torch's side meets."""

    def case(place: Path, patch: pytest.MonkeyPatch) -> object:
        folder = place / "model"
        folder.mkdir()
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config)
            (folder / "config.json").write_text(text, encoding="utf-8")
        if weights:
            (folder / "model.safetensors").touch()
        if fails is not None:

            def failing(*_: object) -> None:
                raise fails

            patch.setattr(hpcc_export, "_export", failing)
        return call(hpcc_export.main, "model", *arguments)

    return case


def no_torch(place: Path, patch: pytest.MonkeyPatch) -> object:
    import sys

    patch.setitem(sys.modules, "torch", None)
    patch.delitem(sys.modules, "compiler.tools.torch_export", raising=False)
    return export(BERT)(place, patch)


BERT: dict[str, object] = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
LINE = "the other --exporter, a lower --opset, or --shape may help"

DIFFERENT = VerificationError("HPCC4005", "the exported file is off by 0.3 of the rms from torch", where="model.onnx")


def input_error(code: str, message: str, hint: str = "") -> InputError:
    return InputError(code, message, where="model", hint=hint)


CASES: dict[str, Case] = {
    "export: no configuration": export(None),
    "export: damaged configuration": export("{"),
    "export: configuration of no type": export({"hidden_size": 3}),
    "export: unknown type": export({"model_type": "berd"}),
    "export: no weights": export(BERT, weights=False),
    "export: no such folder to write to": export(BERT, "-o", "nowhere/model.onnx"),
    "export: shape of no input": export(BERT, "--shape", "input_id:1x8"),
    "export: wrong rank of a shape": export(BERT, "--shape", "input_ids:8"),
    "export: task that the model has not": export(BERT, "--task", "causal-lm"),
    "export: unknown exporter": export(BERT, "--exporter", "tf"),
    "export: without torch": no_torch,
    "export: torch fails": export(
        BERT, fails=InputError("HPCC1044", "torch cannot export it: no", where="model", hint=LINE)
    ),
    "export: transformers fails": export(
        BERT, fails=InputError("HPCC1046", "transformers cannot load it: no", where="model")
    ),
    "export: missing weights": export(
        BERT, fails=input_error("HPCC1047", "2 weights are missing for fill-mask, the first is 'cls.bias'", "another --task")
    ),
    "export: other values": export(BERT, fails=DIFFERENT),
}
