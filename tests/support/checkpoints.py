"""Tiny checkpoints of every family: random weights, real files, and dimensions that cannot be confused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 32, 40, 3, 60
WORDS = ("the", "The", "and", "a", "of", "fox", "owl", "lamp", "mill", "sang", "slept", ".", ",")


@dataclass(frozen=True)
class Family:
    """One `model_type` and where its layers keep their down-projection.

    Attributes:
        model_type: As in config.json.
        projection: Qualified name of the module; `{}` is the layer.
        settings: What its configuration is made from, besides `LLAMA_LIKE`.
        intermediate: Width of the MLP.
        transposed: Whether the weight is stored (in, out).
    """

    model_type: str
    projection: str = "model.layers.{}.mlp.down_proj"
    settings: dict[str, Any] = field(default_factory=dict)
    intermediate: int = INTERMEDIATE
    transposed: bool = False

    def __str__(self) -> str:
        return self.model_type


LLAMA_LIKE = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_PLAIN = {key: value for key, value in LLAMA_LIKE.items() if key not in ("num_key_value_heads", "head_dim")}
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_inner": INTERMEDIATE, "n_positions": 64, **_IDS}
_BLOOM = {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 2, **_IDS}

_LIKE_LLAMA = """
mistral qwen2 qwen3 gemma gemma2 gemma3_text olmo olmo2 olmo3 granite cohere cohere2 smollm3 glm4
"""
LLAMA = Family("llama", settings=LLAMA_LIKE)
GPT2 = Family("gpt2", "transformer.h.{}.mlp.c_proj", _GPT, transposed=True)
DENSE: tuple[Family, ...] = (
    LLAMA,
    *(Family(name, settings=LLAMA_LIKE) for name in _LIKE_LLAMA.split()),
    Family("phi3", settings=_PLAIN),
    Family("stablelm", settings={**_PLAIN, "num_key_value_heads": 2}),
    Family("starcoder2", "model.layers.{}.mlp.c_proj", LLAMA_LIKE),
    Family("phi", "model.layers.{}.mlp.fc2", _PLAIN),
    Family("gpt_neox", "gpt_neox.layers.{}.mlp.dense_4h_to_h", _PLAIN),
    GPT2,
    Family("gpt_bigcode", "transformer.h.{}.mlp.c_proj", _GPT),
    Family(
        "gpt_neo",
        "transformer.h.{}.mlp.c_proj",
        {
            "hidden_size": HIDDEN,
            "num_layers": LAYERS,
            "attention_types": [[["global"], LAYERS]],
            "num_heads": 2,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": 64,
            **_IDS,
        },
    ),
    Family("gptj", "transformer.h.{}.mlp.fc_out", {**_GPT, "rotary_dim": 4}),
    Family(
        "opt",
        "model.decoder.layers.{}.fc2",
        {**_PLAIN, "ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN, "intermediate_size": 0},
    ),
    Family(
        "falcon", "transformer.h.{}.mlp.dense_4h_to_h", {**_PLAIN, "ffn_hidden_size": INTERMEDIATE, "alibi": False}
    ),
    Family("bloom", "transformer.h.{}.mlp.dense_4h_to_h", _BLOOM, intermediate=4 * HIDDEN),
    Family(
        "mpt",
        "transformer.blocks.{}.ffn.down_proj",
        {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "max_seq_len": 64, **_IDS},
        intermediate=4 * HIDDEN,
    ),
)

_MOE = {**LLAMA_LIKE, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_DEEPSEEK = {
    **_PLAIN,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 6,
}
_LLAMA4 = {**LLAMA_LIKE, "intermediate_size_mlp": 44, "num_local_experts": 4}
EXPERTS: tuple[Family, ...] = (
    *(
        Family(name, settings={**LLAMA_LIKE, "num_local_experts": 4})
        for name in ("mixtral", "phimoe", "granitemoe")
    ),
    Family("gpt_oss", settings={**LLAMA_LIKE, "num_local_experts": 4, "layer_types": ["full_attention"] * LAYERS}),
    Family("qwen2_moe", settings={**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 44}),
    Family("qwen3_moe", settings={**_MOE, "num_experts": 4}),
    Family("olmoe", settings={**_PLAIN, "num_key_value_heads": 1, "num_experts_per_tok": 2, "num_experts": 4}),
    Family("llama4_text", settings=_LLAMA4),
)
# Their first layer is dense, the others keep experts.
DEEPSEEK: tuple[Family, ...] = tuple(Family(name, settings=_DEEPSEEK) for name in ("deepseek_v2", "deepseek_v3"))

_EYE = {
    "hidden_size": 16,
    "intermediate_size": 22,
    # As many layers as the text has, so that taking the eye for the decoder would go unnoticed by length.
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_EYE = {
    "depth": LAYERS,
    "embed_dim": 16,
    "hidden_size": HIDDEN,
    "num_heads": 2,
    "patch_size": 4,
    "intermediate_size": 22,
    "out_hidden_size": HIDDEN,
}
_QWEN_TEXT = {
    **_PLAIN,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]},
}


def _see(model_type: str, text: str, eye: str, **settings: Any) -> Family:
    parts = {
        "text_config": {"model_type": text, **LLAMA_LIKE},
        "vision_config": {"model_type": eye, **_EYE, **settings},
    }
    return Family(model_type, "model.language_model.layers.{}.mlp.down_proj", parts)


def _see_qwen(model_type: str, **settings: Any) -> Family:
    parts = {"text_config": _QWEN_TEXT, "vision_config": {**_QWEN_EYE, **settings}}
    return Family(model_type, "model.language_model.layers.{}.mlp.down_proj", parts)


VISION: tuple[Family, ...] = (
    _see("llava", "llama", "clip_vision_model"),
    _see("gemma3", "gemma3_text", "siglip_vision_model"),
    _see("mistral3", "mistral", "pixtral"),
    _see("paligemma", "gemma", "siglip_vision_model", projection_dim=HIDDEN),
    _see_qwen("qwen2_vl"),
    _see_qwen("qwen2_5_vl", fullatt_block_indexes=[0]),
    _see_qwen("qwen3_vl", num_position_embeddings=16, deepstack_visual_indexes=[0]),
)


def make_model(family: Family, **settings: Any) -> Any:
    """Make an untrained model of a family, always the same one."""
    config = AutoConfig.for_model(family.model_type, **{**family.settings, **settings})
    auto: Any = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    torch.manual_seed(7)
    return auto.from_config(config).eval()


def make_tokenizer(*, bos: bool = True, adds: bool = True, words: tuple[str, ...] = WORDS) -> Any:
    """Make a word-level tokenizer: ids 0 to 3 are `<pad>`, `<s>`, `</s>`, `<unk>`.

    It defines a BOS token if `bos` says so, and puts it before a text if `adds` does.
    """
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = {word: number for number, word in enumerate((*special.values(), *words))}
    inner = Tokenizer(WordLevel(vocabulary, special["unk_token"]))
    inner.pre_tokenizer = WhitespaceSplit()
    if bos and adds:
        inner.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    named = special if bos else {key: word for key, word in special.items() if key != "bos_token"}
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=inner, **named)


def save_checkpoint(folder: Path, family: Family = LLAMA, *, tokenizer: bool = True, **settings: Any) -> Path:
    """Save an untrained model of a family, with a tokenizer, and return its folder."""
    shards = settings.pop("max_shard_size", "1GB")
    make_model(family, **settings).save_pretrained(folder, max_shard_size=shards)
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return folder


def rewrite_config(folder: Path, **changes: Any) -> Path:
    """Change entries of a checkpoint's config.json; `None` takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


Tensors = dict[str, torch.Tensor]


def rewrite_weights(
    folder: Path, change_: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors"
) -> Path:
    """Change the tensors of a checkpoint's one safetensors file, read as a dict by name."""
    path = folder / name
    tensors = load_file(path)
    change_(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder
