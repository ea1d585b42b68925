"""Export all-MiniLM-L6-v2 by both torch exporters, with and without the mean-pooling head.

Not a test: a script for an environment that has torch and transformers. It writes
{ts,dynamo}[-pool].onnx (TorchScript exporter, opset 17; dynamo exporter, opset 18), batch and sequence dynamic, and
{ts,dynamo}-1x128.onnx at a fixed shape.

    python tests/export_l6.py MODEL_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModel


class MeanPooled(torch.nn.Module):
    """Token embeddings and their mean over the attended tokens, as sentence-transformers computes it."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor):
        tokens = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).expand(tokens.size()).float()
        return tokens, torch.sum(tokens * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)


class Encoder(torch.nn.Module):
    """BertModel with its two outputs as a plain tuple."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor):
        result = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return result.last_hidden_state, result.pooler_output


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
AXES = {0: "batch", 1: "sequence"}


def export(model: torch.nn.Module, path: Path, outputs: list[str], *, dynamo: bool, dynamic: bool) -> None:
    shape = (2, 16) if dynamic else (1, 128)
    ids = torch.randint(1000, 2000, shape)
    arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    common = {"input_names": list(INPUTS), "output_names": outputs, "dynamo": dynamo}
    if dynamo:
        dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=512)}
        shapes = dict.fromkeys(INPUTS, dims) if dynamic else None
        torch.onnx.export(
            model, arguments, str(path), opset_version=18, dynamic_shapes=shapes, external_data=False, **common
        )
    else:
        axes = {name: AXES for name in INPUTS} if dynamic else None
        torch.onnx.export(model, arguments, str(path), opset_version=17, dynamic_axes=axes, **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = AutoModel.from_pretrained(options.model, attn_implementation=options.attention).eval()
    suffix = "" if options.attention == "sdpa" else "-eager"
    jobs = [
        ("", Encoder(encoder), ["last_hidden_state", "pooler_output"], True),
        ("-pool", MeanPooled(encoder), ["last_hidden_state", "sentence"], True),
        ("-1x128", Encoder(encoder), ["last_hidden_state", "pooler_output"], False),
    ]
    for exporter in ("ts", "dynamo"):
        for kind, model, outputs, dynamic in jobs:
            path = options.out / f"{exporter}{suffix}{kind}.onnx"
            try:
                export(model.eval(), path, outputs, dynamo=exporter == "dynamo", dynamic=dynamic)
                print(f"wrote {path}")
            except Exception as error:  # one exporter's failure must not hide the others' files
                print(f"FAILED {path}: {error}")


if __name__ == "__main__":
    main()
