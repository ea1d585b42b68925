"""A Hugging Face folder of a small random BERT classifier; runs in a Python that has torch and transformers."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    transformers.BertForSequenceClassification(config).save_pretrained(arguments[0])
    return 0
