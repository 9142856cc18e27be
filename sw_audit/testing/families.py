"""Tiny random models of real architectures: the configurations, and how to fill them with weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from sw_audit.checkpoint.families import find_decoder_layers
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.start import find_start
from sw_audit.record.identity import ModelIdentity

HIDDEN, INNER, VOCABULARY = 64, 112, 101
"""Sizes that no two matrices of a layer share, so that mistaking one for another shows."""

_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **_IDS,
}
_LLAMA = {**_PLAIN, "num_key_value_heads": 2, "head_dim": 16}
_GPT = {"n_embd": HIDDEN, "n_head": 4, "n_inner": INNER, "n_positions": 128, **_IDS}

DENSE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA),
    **dict.fromkeys(("olmo", "olmo2", "olmo3", "cohere", "cohere2", "smollm3", "glm4"), _LLAMA),
    # Multipliers as in the published Granite 3 models.
    "granite": {**_LLAMA, "residual_multiplier": 0.22, "embedding_multiplier": 12.0},
    "phi3": _PLAIN,
    "stablelm": {**_PLAIN, "num_key_value_heads": 2},
    "starcoder2": _LLAMA,
    "phi": _PLAIN,
    "gpt_neox": _PLAIN,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "hidden_size": HIDDEN,
        "num_heads": 4,
        "intermediate_size": INNER,
        "max_position_embeddings": 128,
        **_IDS,
    },
    "gptj": {**_GPT, "rotary_dim": 8},
    "opt": {**_PLAIN, "ffn_dim": INNER, "word_embed_proj_dim": HIDDEN, "intermediate_size": 0},
    "falcon": {**_PLAIN, "ffn_hidden_size": INNER, "alibi": False},
    "bloom": {"hidden_size": HIDDEN, "n_head": 4, **_IDS},
    "mpt": {"d_model": HIDDEN, "n_heads": 4, "max_seq_len": 128, **_IDS},
}
"""Dense decoder families by `model_type`, with what their configuration needs to be tiny."""

_MOE = {**_LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": INNER}
_LOCAL = {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
_DEEPSEEK = {
    **_PLAIN,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER,
    "head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": _LOCAL,
    "phimoe": _LOCAL,
    "granitemoe": {**_LOCAL, "residual_multiplier": 0.22, "embedding_multiplier": 12.0},
    "gpt_oss": _LOCAL,
    "qwen2_moe": {**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 44},
    "qwen3_moe": {**_MOE, "num_experts": 4},
    "olmoe": {**_MOE, "num_experts": 4},
    "llama4_text": {**_LLAMA, "intermediate_size_mlp": 120, "num_local_experts": 4},
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": {**_DEEPSEEK, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
"""Families that fuse their experts, likewise."""

_EYE = {
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_EYE = {
    "depth": 1,
    "embed_dim": 16,
    "hidden_size": HIDDEN,
    "num_heads": 2,
    "patch_size": 4,
    "intermediate_size": 22,
    "out_hidden_size": HIDDEN,
}
_QWEN_TEXT = {
    **_PLAIN,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]},
}


def _see(text: str, eye: str, **settings: Any) -> dict[str, Any]:
    return {
        "text_config": {"model_type": text, **_LLAMA},
        "vision_config": {"model_type": eye, **_EYE, **settings},
    }


VISION: dict[str, dict[str, Any]] = {
    "llava": _see("llama", "clip_vision_model"),
    "gemma3": _see("gemma3_text", "siglip_vision_model"),
    "mistral3": _see("mistral", "pixtral"),
    "paligemma": _see("gemma", "siglip_vision_model", projection_dim=HIDDEN),
    "qwen2_vl": {"text_config": _QWEN_TEXT, "vision_config": _QWEN_EYE},
    "qwen2_5_vl": {"text_config": _QWEN_TEXT, "vision_config": {**_QWEN_EYE, "fullatt_block_indexes": [0]}},
    "qwen3_vl": {
        "text_config": _QWEN_TEXT,
        "vision_config": {**_QWEN_EYE, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    },
}
"""Vision-language wrappers, likewise; the language model is inside."""

_NAMES_OF_DEPTH = {"mpt": "n_layers", "bloom": "n_layer", "gpt_neo": "num_layers"}


class Numerals:
    """A tokenizer for models without one: the text `5 7 11` is the ids 5, 7, 11.

    Attributes:
        bos_token_id: Id of the BOS token, `None` if the model is to have none.
    """

    def __init__(self, bos_token_id: int | None = 1) -> None:
        self.bos_token_id = bos_token_id

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids that the text names; no BOS is added unless asked for."""
        token_ids = [int(word) for word in text.split()]
        return [self.bos_token_id, *token_ids] if add_special_tokens and self.bos_token_id else token_ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Return the ids as text."""
        left_out = {self.bos_token_id} if skip_special_tokens else set()
        return " ".join(str(number) for number in token_ids if number not in left_out)


def build_random_model(
    family: str, layers: int = 6, seed: int = 0, gain: float = 0.8, *, tied: bool | None = None
) -> Any:
    """Build a random model of a family whose blocks each add about as much to the residual stream as is there.

    The library's own initialization leaves every block almost silent, which would make any spike easy to see.

    Args:
        family: A `model_type` of `DENSE`, `EXPERTS` or `VISION`.
        layers: Number of decoder layers.
        seed: Decides the weights.
        gain: Standard deviation of every matrix, times the square root of the hidden size.
        tied: Whether embedding and head are one; `None` leaves that to the family.

    Raises:
        KeyError: If there is no such family here.
    """
    settings = {**(DENSE | EXPERTS | VISION)[family]}
    if tied is not None:
        settings["tie_word_embeddings"] = tied
    if family in VISION:
        settings["text_config"] = {**settings["text_config"], "num_hidden_layers": layers}
    elif family in _NAMES_OF_DEPTH:
        settings[_NAMES_OF_DEPTH[family]] = layers
    elif "n_embd" in settings:
        settings["n_layer"] = layers
    else:
        settings["num_hidden_layers"] = layers
    if family == "gpt_neo":
        settings["attention_types"] = [[["global"], layers]]
    if family == "gpt_oss":
        settings["layer_types"] = ["full_attention"] * layers
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(seed)
    auto: Any = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=chance)
        if parameter.ndim == 1:  # norms and biases
            parameter.data.add_(noise, alpha=0.05)
        else:
            parameter.data.copy_(noise * gain / HIDDEN**0.5)
    embedding = model.get_input_embeddings().weight
    embedding.data.copy_(torch.randn(embedding.shape, generator=chance) * 0.3)
    return model


def wrap_model(model: Any, tokenizer: Any = None, name: str = "planted") -> Checkpoint:
    """Wrap a transformers model built in memory the way `open_checkpoint` wraps one from disk.

    It is put into evaluation mode; a tokenizer is needed only if something is to be encoded.
    """
    model.eval().requires_grad_(False)
    layers = find_decoder_layers(model)
    identity = ModelIdentity(
        id=name,
        source="memory",
        revision=None,
        family=model.config.model_type,
        architecture=type(model).__name__,
        layers=len(layers),
        hidden_size=model.config.get_text_config(decoder=True).hidden_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device="cpu",
        files=(),
        digest="0" * 64,
    )
    start = find_start(tokenizer)
    return Checkpoint(model=model, tokenizer=tokenizer, identity=identity, layers=layers, start=start)
