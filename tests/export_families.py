"""Export small random models of the transformers library, one family and one exporter at a time.

Not a test: a script for an environment that has torch and transformers. It writes FAMILY.EXPORTER.onnx and, beside it,
FAMILY.EXPORTER.shape, a line with the `--shape` options that bind its inputs.

    python tests/export_families.py OUT_FOLDER --families bert vit --exporters ts17 dynamo18
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

SEED = 7
TOKENS = 16
DECODED = 12
"""Tokens of a decoder that reads an encoder's."""
SAMPLES = 400
TEXT = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
DISTIL = {"vocab_size": 1000, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 64}
IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
GPT2 = {"vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128}
LLAMA = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64, "use_cache": False}
NEOX = {**TEXT, "max_position_embeddings": 64, "use_cache": False}
WHISPER = {
    "num_mel_bins": 16,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "max_source_positions": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "vocab_size": 1000,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 1000,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}
SPEECH = {
    **TEXT,
    "conv_dim": (32, 32),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_adapter_layers": 0,
}
GPTJ = {**GPT2, "rotary_dim": 8, "use_cache": False}
BLOOM = {"vocab_size": 1000, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False}
MPT = {"vocab_size": 1000, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "use_cache": False}
FALCON = {**TEXT, "max_position_embeddings": 64, "use_cache": False, "ffn_hidden_size": 128}
DEBERTA = {
    **TEXT,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_position_embeddings": 64,
}
MOBILE = {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [32, 64],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
}
AXES = {part: {0: "batch", 1: "sequence"} for part in ("input_ids", "attention_mask", "token_type_ids")}
AXES["decoder_input_ids"] = {0: "batch", 1: "decoded"}
EXPORTERS = ("ts17", "ts14", "ts11", "dynamo18", "dynamo23")


@dataclass(frozen=True)
class Family:
    """How a model is made, which inputs it takes, and what of its result is an output of the file."""

    make: Callable[[str], torch.nn.Module]
    inputs: tuple[str, ...]
    output: str


def _text(model: str, config: str, **sizes: Any) -> Callable[[str], torch.nn.Module]:
    return lambda attention: getattr(hf, model)(getattr(hf, config)(**sizes, attn_implementation=attention))


IDS = ("input_ids", "attention_mask")
TYPED = (*IDS, "token_type_ids")
PIXELS = ("pixel_values",)
AUDIO = ("input_values",)
SEQ2SEQ = (*IDS, "decoder_input_ids")
FAMILIES: dict[str, Family] = {
    "bert": Family(_text("BertModel", "BertConfig", **TEXT), TYPED, "last_hidden_state"),
    "bert-cls": Family(_text("BertForSequenceClassification", "BertConfig", **TEXT), TYPED, "logits"),
    "roberta": Family(_text("RobertaModel", "RobertaConfig", **TEXT), IDS, "last_hidden_state"),
    "roberta-cls": Family(_text("RobertaForSequenceClassification", "RobertaConfig", **TEXT), IDS, "logits"),
    "distilbert": Family(_text("DistilBertModel", "DistilBertConfig", **DISTIL), IDS, "last_hidden_state"),
    "distilbert-cls": Family(_text("DistilBertForSequenceClassification", "DistilBertConfig", **DISTIL), IDS, "logits"),
    "albert": Family(_text("AlbertModel", "AlbertConfig", **TEXT, embedding_size=32), TYPED, "last_hidden_state"),
    "albert-cls": Family(
        _text("AlbertForSequenceClassification", "AlbertConfig", **TEXT, embedding_size=32), TYPED, "logits"
    ),
    "electra": Family(_text("ElectraModel", "ElectraConfig", **TEXT, embedding_size=32), TYPED, "last_hidden_state"),
    "electra-cls": Family(
        _text("ElectraForSequenceClassification", "ElectraConfig", **TEXT, embedding_size=32), TYPED, "logits"
    ),
    "vit": Family(_text("ViTModel", "ViTConfig", **IMAGE), PIXELS, "last_hidden_state"),
    "vit-cls": Family(_text("ViTForImageClassification", "ViTConfig", **IMAGE), PIXELS, "logits"),
    "deit-cls": Family(_text("DeiTForImageClassification", "DeiTConfig", **IMAGE), PIXELS, "logits"),
    "dinov2": Family(_text("Dinov2Model", "Dinov2Config", **IMAGE, mlp_ratio=2), PIXELS, "last_hidden_state"),
    "dinov2-cls": Family(_text("Dinov2ForImageClassification", "Dinov2Config", **IMAGE, mlp_ratio=2), PIXELS, "logits"),
    "clip-vision": Family(_text("CLIPVisionModel", "CLIPVisionConfig", **IMAGE), PIXELS, "last_hidden_state"),
    "gpt2": Family(_text("GPT2LMHeadModel", "GPT2Config", **GPT2, use_cache=False), IDS, "logits"),
    "llama": Family(_text("LlamaForCausalLM", "LlamaConfig", **LLAMA), IDS, "logits"),
    "llama-tied": Family(_text("LlamaForCausalLM", "LlamaConfig", **LLAMA, tie_word_embeddings=True), IDS, "logits"),
    "llama-ids": Family(_text("LlamaForCausalLM", "LlamaConfig", **LLAMA), ("input_ids",), "logits"),
    "mistral": Family(_text("MistralForCausalLM", "MistralConfig", **LLAMA, sliding_window=None), IDS, "logits"),
    "qwen2": Family(_text("Qwen2ForCausalLM", "Qwen2Config", **LLAMA), IDS, "logits"),
    "qwen3": Family(_text("Qwen3ForCausalLM", "Qwen3Config", **LLAMA, head_dim=32), IDS, "logits"),
    "gpt-neox": Family(_text("GPTNeoXForCausalLM", "GPTNeoXConfig", **NEOX), IDS, "logits"),
    "opt": Family(
        _text("OPTForCausalLM", "OPTConfig", **OPT, max_position_embeddings=64, word_embed_proj_dim=64, use_cache=False),
        IDS,
        "logits",
    ),
    "phi": Family(_text("PhiForCausalLM", "PhiConfig", **NEOX), IDS, "logits"),
    "phi3": Family(_text("Phi3ForCausalLM", "Phi3Config", **LLAMA, pad_token_id=0), IDS, "logits"),
    "gemma": Family(_text("GemmaForCausalLM", "GemmaConfig", **LLAMA, head_dim=16), IDS, "logits"),
    "cohere": Family(_text("CohereForCausalLM", "CohereConfig", **LLAMA), IDS, "logits"),
    "xlm-roberta": Family(_text("XLMRobertaModel", "XLMRobertaConfig", **TEXT), IDS, "last_hidden_state"),
    "camembert": Family(_text("CamembertModel", "CamembertConfig", **TEXT), IDS, "last_hidden_state"),
    "megatron-bert": Family(_text("MegatronBertModel", "MegatronBertConfig", **TEXT), IDS, "last_hidden_state"),
    "ernie": Family(_text("ErnieModel", "ErnieConfig", **TEXT), TYPED, "last_hidden_state"),
    "roformer": Family(_text("RoFormerModel", "RoFormerConfig", **TEXT), IDS, "last_hidden_state"),
    "mpnet": Family(_text("MPNetModel", "MPNetConfig", **TEXT), IDS, "last_hidden_state"),
    "deberta": Family(_text("DebertaV2Model", "DebertaV2Config", **DEBERTA), IDS, "last_hidden_state"),
    "deberta-v1": Family(_text("DebertaModel", "DebertaConfig", **TEXT), IDS, "last_hidden_state"),
    "squeezebert": Family(
        _text("SqueezeBertModel", "SqueezeBertConfig", **TEXT, embedding_size=64), TYPED, "last_hidden_state"
    ),
    "mobilebert": Family(_text("MobileBertModel", "MobileBertConfig", **MOBILE), TYPED, "last_hidden_state"),
    "convbert": Family(_text("ConvBertModel", "ConvBertConfig", **TEXT, embedding_size=64), IDS, "last_hidden_state"),
    "funnel": Family(
        _text(
            "FunnelBaseModel",
            "FunnelConfig",
            vocab_size=1000,
            d_model=64,
            n_head=4,
            d_head=16,
            d_inner=128,
            block_sizes=[1, 1],
        ),
        IDS,
        "last_hidden_state",
    ),
    "modernbert": Family(
        _text("ModernBertModel", "ModernBertConfig", **TEXT, max_position_embeddings=64, pad_token_id=0),
        IDS,
        "last_hidden_state",
    ),
    "fnet": Family(_text("FNetModel", "FNetConfig", **TEXT), ("input_ids",), "last_hidden_state"),
    "xglm": Family(
        _text(
            "XGLMForCausalLM",
            "XGLMConfig",
            vocab_size=1000,
            d_model=64,
            ffn_dim=128,
            num_layers=2,
            attention_heads=4,
            use_cache=False,
        ),
        IDS,
        "logits",
    ),
    "data2vec": Family(_text("Data2VecTextModel", "Data2VecTextConfig", **TEXT), IDS, "last_hidden_state"),
    "layoutlm": Family(_text("LayoutLMModel", "LayoutLMConfig", **TEXT), TYPED, "last_hidden_state"),
    "rembert": Family(_text("RemBertModel", "RemBertConfig", **TEXT, input_embedding_size=32), TYPED, "last_hidden_state"),
    "esm": Family(
        _text("EsmModel", "EsmConfig", **TEXT, pad_token_id=1, position_embedding_type="rotary"), IDS, "last_hidden_state"
    ),
    "xlm": Family(
        _text("XLMModel", "XLMConfig", vocab_size=1000, emb_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64),
        IDS,
        "last_hidden_state",
    ),
    "gpt-neo": Family(
        _text(
            "GPTNeoForCausalLM",
            "GPTNeoConfig",
            vocab_size=1000,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            max_position_embeddings=64,
            use_cache=False,
        ),
        IDS,
        "logits",
    ),
    "gpt-bigcode": Family(
        _text("GPTBigCodeForCausalLM", "GPTBigCodeConfig", **GPT2, multi_query=True, use_cache=False), IDS, "logits"
    ),
    "mpt": Family(_text("MptForCausalLM", "MptConfig", **MPT), IDS, "logits"),
    "starcoder2": Family(_text("Starcoder2ForCausalLM", "Starcoder2Config", **LLAMA), IDS, "logits"),
    "gemma3": Family(_text("Gemma3ForCausalLM", "Gemma3TextConfig", **LLAMA, head_dim=16), IDS, "logits"),
    "olmo2": Family(_text("Olmo2ForCausalLM", "Olmo2Config", **LLAMA), IDS, "logits"),
    "granite": Family(_text("GraniteForCausalLM", "GraniteConfig", **LLAMA, attention_multiplier=0.25), IDS, "logits"),
    "smollm3": Family(_text("SmolLM3ForCausalLM", "SmolLM3Config", **LLAMA, pad_token_id=0), IDS, "logits"),
    "blip-vision": Family(_text("BlipVisionModel", "BlipVisionConfig", **IMAGE), PIXELS, "last_hidden_state"),
    "vit-msn": Family(_text("ViTMSNModel", "ViTMSNConfig", **IMAGE), PIXELS, "last_hidden_state"),
    "t5-encoder": Family(_text("T5EncoderModel", "T5Config", **T5), IDS, "last_hidden_state"),
    "t5": Family(_text("T5Model", "T5Config", **T5, use_cache=False), SEQ2SEQ, "last_hidden_state"),
    "flan-t5": Family(
        _text(
            "T5ForConditionalGeneration",
            "T5Config",
            **T5,
            feed_forward_proj="gated-gelu",
            use_cache=False,
            tie_word_embeddings=False,
        ),
        SEQ2SEQ,
        "logits",
    ),
    "bart": Family(_text("BartModel", "BartConfig", **BART), SEQ2SEQ, "last_hidden_state"),
    "mbart": Family(_text("MBartModel", "MBartConfig", **BART), SEQ2SEQ, "last_hidden_state"),
    "pegasus": Family(_text("PegasusModel", "PegasusConfig", **BART), SEQ2SEQ, "last_hidden_state"),
    "marian": Family(_text("MarianMTModel", "MarianConfig", **BART, pad_token_id=0), SEQ2SEQ, "logits"),
    "bloom": Family(_text("BloomForCausalLM", "BloomConfig", **BLOOM), IDS, "logits"),
    "falcon": Family(_text("FalconForCausalLM", "FalconConfig", **FALCON), IDS, "logits"),
    "falcon-alibi": Family(_text("FalconForCausalLM", "FalconConfig", **FALCON, alibi=True), IDS, "logits"),
    "gptj": Family(_text("GPTJForCausalLM", "GPTJConfig", **GPTJ), IDS, "logits"),
    "stablelm": Family(_text("StableLmForCausalLM", "StableLmConfig", **LLAMA), IDS, "logits"),
    "olmo": Family(_text("OlmoForCausalLM", "OlmoConfig", **LLAMA), IDS, "logits"),
    "gemma2": Family(_text("Gemma2ForCausalLM", "Gemma2Config", **LLAMA, head_dim=16), IDS, "logits"),
    "swin": Family(_text("SwinModel", "SwinConfig", **SWIN), PIXELS, "last_hidden_state"),
    "beit": Family(_text("BeitModel", "BeitConfig", **IMAGE, use_relative_position_bias=True), PIXELS, "last_hidden_state"),
    "dinov2-registers": Family(
        _text("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **IMAGE, mlp_ratio=2), PIXELS, "last_hidden_state"
    ),
    "segformer": Family(_text("SegformerModel", "SegformerConfig", **SEGFORMER), PIXELS, "last_hidden_state"),
    "siglip-vision": Family(_text("SiglipVisionModel", "SiglipVisionConfig", **IMAGE), PIXELS, "pooler_output"),
    "siglip-text": Family(
        _text("SiglipTextModel", "SiglipTextConfig", **TEXT, max_position_embeddings=64), ("input_ids",), "pooler_output"
    ),
    "clip-text": Family(
        _text("CLIPTextModel", "CLIPTextConfig", **TEXT, max_position_embeddings=64), IDS, "last_hidden_state"
    ),
    "ast": Family(
        _text(
            "ASTModel", "ASTConfig", **TEXT, num_mel_bins=16, max_length=32, patch_size=8, frequency_stride=4, time_stride=4
        ),
        AUDIO,
        "last_hidden_state",
    ),
    "wav2vec2": Family(_text("Wav2Vec2Model", "Wav2Vec2Config", **SPEECH), AUDIO, "last_hidden_state"),
    "hubert": Family(_text("HubertModel", "HubertConfig", **SPEECH), AUDIO, "last_hidden_state"),
    "whisper": Family(
        _text("WhisperModel", "WhisperConfig", **WHISPER, max_target_positions=64, use_cache=False),
        ("input_features", "decoder_input_ids"),
        "last_hidden_state",
    ),
    "whisper-encoder": Family(
        lambda attention: hf.WhisperModel(hf.WhisperConfig(**WHISPER, attn_implementation=attention)).get_encoder(),  # pyright: ignore
        ("input_features",),
        "last_hidden_state",
    ),
}


class Single(torch.nn.Module):
    """A model with positional inputs and one tensor as its result."""

    def __init__(self, model: torch.nn.Module, family: Family) -> None:
        super().__init__()
        self.model, self.family = model, family

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.family.inputs, arguments, strict=True))
        return getattr(self.model(**named), self.family.output)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Numbers with which every part shows in the outputs: matrices that keep the scale of their input, scores of a
    deviation near 1, biases and norm parameters that are not 0 and 1."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name and parameter.dim() == 2:
                continue
            if parameter.dim() >= 2:
                parameter.normal_(0.0, (parameter.numel() / parameter.shape[0]) ** -0.5)
                if name.endswith("Attention.q.weight"):  # T5 has its scale of scores in its queries
                    parameter.mul_(T5["d_kv"] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def _argument(family: str, name: str, batch: int, tokens: int) -> torch.Tensor:
    if name == "pixel_values":
        return torch.randn(batch, 3, IMAGE["image_size"], IMAGE["image_size"])
    if name == "input_features":
        return torch.randn(batch, WHISPER["num_mel_bins"], 2 * WHISPER["max_source_positions"])
    if name == "input_values":
        return torch.randn(batch, 32, 16) if family == "ast" else torch.randn(batch, SAMPLES)
    if name == "decoder_input_ids":
        return torch.randint(5, 1000, (batch, DECODED))
    if name == "input_ids":
        return torch.randint(5, 1000, (batch, tokens))
    return torch.ones(batch, tokens, dtype=torch.int64) if name == "attention_mask" else torch.zeros(batch, tokens).long()


def export(name: str, exporter: str, attention: str, folder: Path, fixed: bool) -> None:
    family = FAMILIES[name]
    model = Single(lively(family.make(attention)), family).eval()
    shape = (1, TOKENS) if fixed else (2, TOKENS)
    arguments = tuple(_argument(name, part, *shape) for part in family.inputs)
    path = folder / f"{name}.{exporter}.onnx"
    common: dict[str, Any] = {"input_names": list(family.inputs), "output_names": [family.output]}
    opset = int(exporter.removeprefix("dynamo").removeprefix("ts"))
    axes = [AXES.get(part, {0: "batch"}) for part in family.inputs]
    if exporter.startswith("dynamo"):
        dims = {label: torch.export.Dim(label, min=1, max=64) for each in axes for label in each.values()}
        shapes = None if fixed else (tuple({axis: dims[label] for axis, label in each.items()} for each in axes),)
        torch.onnx.export(
            model,
            arguments,
            str(path),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
            **common,
        )
    else:
        dynamic = None if fixed else dict(zip(family.inputs, axes, strict=True))
        torch.onnx.export(model, arguments, str(path), dynamo=False, opset_version=opset, dynamic_axes=dynamic, **common)
    sizes = [[1, *argument.shape[1:]] for argument in arguments]
    specs = [f"{part}:{'x'.join(map(str, size))}" for part, size in zip(family.inputs, sizes, strict=True)]
    path.with_suffix(".shape").write_text(" ".join(f"--shape {spec}" for spec in specs) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--exporters", nargs="+", default=["ts17", "dynamo18"], choices=EXPORTERS)
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--fixed", action="store_true", help="no dynamic axes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.families:
        for exporter in options.exporters:
            try:
                export(name, exporter, options.attention, options.out, options.fixed)
                print(f"wrote {name}.{exporter}", flush=True)
            except Exception as error:  # one failure must not hide the other files
                print(f"FAILED {name}.{exporter}: {str(error).splitlines()[0][:200]}", flush=True)


if __name__ == "__main__":
    main()
