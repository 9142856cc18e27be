"""Configuration and generation settings as they take effect: what a file does not say is what its class says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.loading import one_line_refusals
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import CheckpointError
from sw_audit.gguf_file import read_gguf
from sw_audit.record.files import SettingEffect

GENERATION = "generation_config.json"
_QUANTIZATION = ("quantization_config", "compression_config")
# What only training, a library's bookkeeping or the form of the answer depends on. Whatever else a configuration's
# class knows counts.
_IDLE_CONFIG = (
    *("transformers_version", "architectures", "auto_map", "*name_or_path", "dtype", "torch_dtype", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "output_scores", "return_dict*"),
    *("chunk_size_feed_forward", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *(
        "*initializer*",
        "init_std",
        "init_method*",
        "*dropout*",
        "*pdrop*",
        "*layerdrop",
        "*_loss*",
        "router_jitter*",
    ),
    *(
        "pretraining_tp",
        "tokenizer_class",
        "gradient_checkpointing",
        "*attn_implementation*",
        "cache_implementation",
    ),
    *("summary_*", "classifier_*", "unk_token_id", "torchscript", "use_bfloat16", *_QUANTIZATION),
)
_IDLE_GENERATION = (
    *("transformers_version", "_*", "use_cache", "cache_*", "max_cache_len", "return_*", "output_*", "low_memory"),
    *("compile_config", "disable_compile", "prefill_chunk_size", "continuous_batching_config"),
    # Speculation decides how fast tokens come, and not which.
    *("is_assistant", "assistant_*", "num_assistant_tokens*", "max_matching_ngram_size", "prompt_lookup_*"),
    *("target_lookbehind", "speculation_type", "use_mtp"),
)
_KNOWN_GENERATION = frozenset(vars(GenerationConfig()))  # type: ignore[no-untyped-call]
_STOPPING = (
    *("eos_token_id", "forced_eos_token_id", "max_length", "max_new_tokens", "min_length", "min_new_tokens"),
    *("max_time", "stop_strings", "exponential_decay_length_penalty", "early_stopping"),
)
_INPUT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "pad_token_id")
# Keys of llama.cpp that the library does not read, with those of transformers: (key, what it stands for).
_MORE_GGUF_KEYS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
}
# Some classes make a list with an entry per layer.
_MOST_LAYERS = 10_000
_ROPE = "rope_parameters"
_ROPE_KEYS = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}
# Kinds of scaling that llama.cpp has under a key; others are tensors.
_KEYED_SCALINGS = ("linear", "yarn")


@dataclass(frozen=True)
class Configuration:
    """The settings of a model.

    Attributes:
        folder: Where they were found.
        config: Of config.json, or of a GGUF file: those of the decoder, nested ones with dots.
        generation: Of generation_config.json, or what follows from the former.
        known: Which keys of `config` the model's class reads; `None` where nobody knows the class.
        said: Which of them a GGUF file has a word for, apart from those that it could have left out; `None`: all.
        metadata: What a GGUF file says besides.
        has_generation: Whether there is a file of generation settings.
        nested: Whether the decoder's settings lie in a part of their own.
        unread: Why the file of generation settings cannot be read; empty where it can.
    """

    folder: CheckpointFolder
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    known: frozenset[str] | None
    said: frozenset[str] | None
    metadata: Mapping[str, Any]
    has_generation: bool
    nested: bool = False
    unread: str = ""

    @property
    def rows(self) -> int | None:
        """How many tokens the model has."""
        size = self.config.get("vocab_size")
        return size if isinstance(size, int) else None

    @property
    def stops(self) -> frozenset[int]:
        """Ids of the tokens that end a text when it is generated."""
        return as_ids(self.generation.get("eos_token_id", self.config.get("eos_token_id")))


def as_ids(value: Any) -> frozenset[int]:
    """Return the ids that a setting names: one, several, or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return frozenset(one for one in values if isinstance(one, int))


def read_configuration(folder: CheckpointFolder, *, raw: bool = False) -> Configuration:
    """Read the settings of a model; those of an adapter are its base's.

    No code that comes with a checkpoint is run. With `raw` they are what config.json says, and nothing by default.

    Raises:
        CheckpointError: If they cannot be read.
    """
    while (base := folder.format.find_base(folder)) is not None:
        folder = CheckpointFolder.require(base)
    if not folder.format.uses_config:
        return _read_gguf_configuration(folder)
    stored, nested = dict(folder.config), False
    config = None if raw else _resolve_config(stored)
    if config is None:
        flat, known = _flatten(stored), None
    else:
        flat, nested = _flatten_config(config)
        known = frozenset(flat) & _list_known(config)
        # What the class does not know, and what it says by itself of the library's version.
        flat |= {key: value for key, value in _flatten(stored).items() if _is_idle(key, _IDLE_CONFIG)}
    for key in _QUANTIZATION:
        if isinstance(stored.get(key), Mapping):
            flat = {name: value for name, value in flat.items() if name.partition(".")[0] != key}
            flat[key] = stored[key].get("quant_method")
    flat["dtype"] = str(flat.get("dtype") or flat.pop("torch_dtype", None)).removeprefix("torch.")
    flat.pop("torch_dtype", None)
    unread = ""
    try:
        given = folder.read_json(GENERATION) if folder.holds(GENERATION) else None
    except CheckpointError as error:
        given, unread = None, error.found
    generation = _resolve_generation(given, stored if config is None else config)
    return Configuration(folder, flat, generation, known, None, {}, given is not None, nested, unread)


def find_config_effect(key: str, ours: Configuration, theirs: Configuration) -> SettingEffect:
    """Say what a key of the configuration decides."""
    if _is_idle(key, _IDLE_CONFIG):
        return "none"
    # What neither class reads changes nothing.
    if all(side.known is not None and key not in side.known for side in (ours, theirs)):
        return "none"
    if key in _STOPPING:
        return "stopping"
    return "input" if key in _INPUT else "computation"


def find_generation_effect(key: str) -> SettingEffect:
    """Say what a key of the generation settings decides."""
    if _is_idle(key, _IDLE_GENERATION) or key not in _KNOWN_GENERATION:
        return "none"
    if key in _STOPPING:
        return "stopping"
    return "input" if key in _INPUT else "sampling"


def _is_idle(key: str, patterns: tuple[str, ...]) -> bool:
    name = key.partition(".")[0]
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _resolve_config(raw: Mapping[str, Any]) -> Any:
    """Return what transformers makes of a configuration; `None` if it does not know it or refuses it."""
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    counts = (value for key, value in raw.items() if "layer" in key and isinstance(value, int))
    if max(counts, default=0) > _MOST_LAYERS:
        return None
    content = {key: value for key, value in raw.items() if key not in _QUANTIZATION}
    try:
        with quiet_libraries():
            return CONFIG_MAPPING[kind].from_dict(content)
    except Exception:  # whatever its class complains of is seen in the raw values
        return None


def _flatten_config(config: Any) -> tuple[dict[str, Any], bool]:
    text = config.get_text_config(decoder=True)
    flat = _flatten(text.to_dict())
    if text is config:
        return flat, False
    whole = _flatten(config.to_dict())
    parts = {name for name, part in vars(config).items() if part is text}
    others = {key: value for key, value in whole.items() if key.partition(".")[0] not in parts}
    return {**flat, **{key: value for key, value in others.items() if value is not None}}, True


def _list_known(config: Any) -> frozenset[str]:
    """List the keys that a class reads: all but those that it merely keeps."""
    text = config.get_text_config(decoder=True)
    fields = {
        field for part in (config, text) for field in getattr(type(part), "__dataclass_fields__", vars(part))
    }
    return frozenset(
        key for part in (config, text) for key in _flatten(part.to_dict()) if key.partition(".")[0] in fields
    )


def _resolve_generation(given: Mapping[str, Any] | None, config: Any) -> dict[str, Any]:
    try:
        with quiet_libraries():
            made = (
                GenerationConfig.from_model_config(config)
                if given is None
                else GenerationConfig.from_dict(dict(given))
            )
        content = made.to_dict()
    except Exception:  # whatever the library complains of is seen in the raw values
        content = dict(given or {})
    content = {key: value for key, value in content.items() if value is not None}
    return {**GenerationConfig._get_default_generation_params(), **content}


def _read_gguf_configuration(folder: CheckpointFolder) -> Configuration:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    (file,) = folder.weight_files
    with one_line_refusals(folder, file.name), folder.format.reading(), quiet_libraries():
        content = load_gguf_checkpoint(file)["config"]  # type: ignore[no-untyped-call]
        kind = content["model_type"]
        fields = read_gguf(file).fields
        architecture = str(fields["general.architecture"].contents())
        plain = CONFIG_MAPPING[kind]()
        known = _list_known(plain)
        own = {
            key.removeprefix(f"{architecture}."): field
            for key, field in fields.items()
            if key.startswith(architecture)
        }
        mapped: Any = GGUF_CONFIG_MAPPING.get(kind, {})
        more = {
            name: own[key].contents()
            for key, name in _MORE_GGUF_KEYS.items()
            if key in own and key not in mapped and name in known
        }
        scaling = {name: own[key].contents() for key, name in _ROPE_KEYS.items() if key in own}
        if "rope.scaling.type" in own:
            scaling["rope_type"] = str(own["rope.scaling.type"].contents()).replace("none", "default")
        content = {**content, **more}
        if scaling:
            content["rope_scaling"] = scaling
        config = _resolve_config(content)
        if config is None:
            raise ValueError(f"its values make no configuration of {kind}")
        flat, _ = _flatten_config(config)
        generation = _resolve_generation(None, config)
    names = getattr(type(config), "attribute_map", {})
    said = {names.get(key, key) for key in content} - {"model_type", "rope_theta", "rope_scaling"}
    said |= {f"{_ROPE}.{key}" for key in (*scaling, *(["rope_theta"] if "rope_theta" in content else []))}
    told = {*mapped, *_MORE_GGUF_KEYS, *_ROPE_KEYS, "rope.scaling.type"}
    metadata = {
        key: field.contents()
        for key, field in fields.items()
        if (key.startswith(f"{architecture}.") and key.removeprefix(f"{architecture}.") not in told)
        or key.startswith("tokenizer.")
        or key == "general.architecture"
    }
    return Configuration(folder, flat, generation, known, frozenset(said), metadata, has_generation=False)


def says(side: Configuration, other: Configuration, key: str) -> bool:
    """Whether a side could have said what the other one says under a key."""
    if side.said is None or key in side.said:
        return True
    if other.said is not None:
        return key in other.said
    # A scaling that llama.cpp has a key for is none where the key is missing.
    return key == f"{_ROPE}.rope_type" and other.config.get(key) in _KEYED_SCALINGS


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = dict[str, Any]()
    for key, value in content.items():
        if prefix == f"{_ROPE}." and key == "type":
            continue  # what `rope_type` was called once
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
