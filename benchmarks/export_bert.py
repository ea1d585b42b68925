"""Export BERT encoders by both torch exporters: pretrained ones from a folder, or random ones of known sizes.

Not part of the package: a script for an environment that has torch and transformers (which may be another one than
hpcc's, see benchmarks/workloads.py). Batch and sequence stay dynamic unless `--fixed` binds them.

    python benchmarks/export_bert.py bertbase OUT_FILE --exporter torchscript
    python benchmarks/export_bert.py MODEL_FOLDER OUT_FILE --exporter dynamo --head pool --attention eager
"""

# torch is no dependency of hpcc, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, BertConfig, BertModel

SIZES: Mapping[str, Mapping[str, int]] = {
    "tinybert4": {
        "hidden_size": 312,
        "intermediate_size": 1200,
        "num_attention_heads": 12,
        "num_hidden_layers": 4,
    },
    "tinybert6": {"num_hidden_layers": 6},
    "bertbase": {},
}
"""What differs from BertConfig's defaults (768 / 3072, 12 heads, 12 layers, vocabulary 30,522, positions 512)."""
SEED = 20240
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
AXES = {0: "batch", 1: "sequence"}
OPSETS = {"torchscript": 17, "dynamo": 18}


class Encoder(torch.nn.Module):
    """BertModel with its two outputs as a plain tuple."""

    outputs = ("last_hidden_state", "pooler_output")

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor):
        result = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return result.last_hidden_state, result.pooler_output


class MeanPooled(torch.nn.Module):
    """Token embeddings and their mean over the attended tokens, as sentence-transformers computes it."""

    outputs = ("last_hidden_state", "sentence")

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor):
        tokens = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).expand(tokens.size()).float()
        return tokens, torch.sum(tokens * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)


HEADS = {"pooler": Encoder, "pool": MeanPooled}


def encoder_of(model: str, attention: str) -> torch.nn.Module:
    """A random encoder of a known size, the same numbers at every call, or a pretrained one from a folder."""
    if model in SIZES:
        torch.manual_seed(SEED)
        config = BertConfig(**SIZES[model])
        config._attn_implementation = attention
        return _made_lively(BertModel(config)).eval()
    return AutoModel.from_pretrained(model, attn_implementation=attention).eval()


def _made_lively(model: torch.nn.Module) -> torch.nn.Module:
    """Numbers with which every part shows in the outputs.

    With BertConfig's own initialisation (matrices of deviation 0.02, biases 0) attention is uniform, layers add next to
    nothing to the embeddings, and a dropped bias changes no bit. So: matrices that keep the scale of their input, scores
    of a deviation near 1, biases and norm parameters that are not 0 and 1.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embeddings.weight" in name:
                continue
            if parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def export(model: torch.nn.Module, path: Path, exporter: str, fixed: tuple[int, int] | None) -> None:
    """Write one ONNX file; it appears whole or not at all."""
    shape = fixed or (2, 16)
    ids = torch.randint(1000, 2000, shape)
    arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    outputs: Any = model.outputs
    common = {"input_names": list(INPUTS), "output_names": list(outputs), "opset_version": OPSETS[exporter]}
    if exporter == "dynamo":
        dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=512)}
        shapes: dict[str, Any] | None = None if fixed else dict.fromkeys(INPUTS, dims)
        torch.onnx.export(
            model, arguments, str(unfinished), dynamo=True, dynamic_shapes=shapes, external_data=False, **common
        )
    else:
        axes: dict[str, Any] | None = None if fixed else dict.fromkeys(INPUTS, AXES)
        torch.onnx.export(model, arguments, str(unfinished), dynamo=False, dynamic_axes=axes, **common)
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help=f"one of {', '.join(SIZES)}, or a folder of transformers")
    parser.add_argument("out", type=Path, help="the .onnx file to write")
    parser.add_argument("--exporter", default="torchscript", choices=list(OPSETS))
    parser.add_argument("--head", default="pooler", choices=list(HEADS))
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--fixed", type=int, nargs=2, metavar=("BATCH", "SEQUENCE"), help="instead of dynamic axes")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model = HEADS[options.head](encoder_of(options.model, options.attention)).eval()
    export(model, options.out, options.exporter, tuple(options.fixed) if options.fixed else None)


if __name__ == "__main__":
    main()
