"""Settings that are not the parent's: the weights are as they were, and what the model does is not."""

from __future__ import annotations

from functools import partial
from typing import Any

from tools.broken.catalogue import add, breaks
from tools.broken.copies import Copy

SETTINGS = "settings-as-parent"
INTACT = "weights-intact"
CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"

_CHANGES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("generation-eos", GENERATION, "Generation stops at another token.", {"eos_token_id": 5}),
    ("generation-never-stops", GENERATION, "Generation stops at no token.", {"eos_token_id": None}),
    ("generation-eos-added", GENERATION, "Generation stops at a common word as well.", {"eos_token_id": [1, 5]}),
    ("repetition-penalty", GENERATION, "Words that were there are punished.", {"repetition_penalty": 1.5}),
    ("suppressed-tokens", GENERATION, "Three tokens can never come.", {"suppress_tokens": [4, 5, 6]}),
    ("suppressed-first", GENERATION, "A token cannot come first.", {"begin_suppress_tokens": [4]}),
    ("no-repeated-pairs", GENERATION, "No pair of tokens may come twice.", {"no_repeat_ngram_size": 2}),
    ("forced-length", GENERATION, "Generation goes on for 64 tokens at least.", {"min_new_tokens": 64}),
    ("forced-end", GENERATION, "Generation ends after eight tokens.", {"max_new_tokens": 8}),
    ("bad-words", GENERATION, "A pair of tokens can never come.", {"bad_words_ids": [[4, 5]]}),
    ("stop-strings", GENERATION, "Generation stops at a common word, spelled out.", {"stop_strings": ["the"]}),
    ("sampling", GENERATION, "Tokens are drawn at a high temperature.", {"do_sample": True, "temperature": 1.5}),
    (
        "few-beams",
        GENERATION,
        "Beams are searched, and long answers punished.",
        {"num_beams": 4, "length_penalty": -2.0},
    ),
    ("positions-cut", CONFIG, "The context is an eighth as long.", {"max_position_embeddings": 64}),
    ("activation-gelu", CONFIG, "The activation function is GELU.", {"hidden_act": "gelu"}),
    ("activation-relu", CONFIG, "The activation function is ReLU.", {"hidden_act": "relu"}),
    ("norm-epsilon", CONFIG, "The epsilon of the norms is 0.01.", {"rms_norm_eps": 0.01}),
    ("wrong-pad", CONFIG, "The padding token is a common word.", {"pad_token_id": 5}),
    ("wrong-bos", CONFIG, "The BOS token is a common word.", {"bos_token_id": 5}),
    ("biases-promised", CONFIG, "Attention is said to have biases; there are none.", {"attention_bias": True}),
    ("window-slides", CONFIG, "Attention sees four tokens.", {"model_type": "mistral", "sliding_window": 4}),
    ("tokenizer-eos", TOKENIZER_CONFIG, "The tokenizer ends with another token.", {"eos_token": "<unk>"}),
    ("tokenizer-bos", TOKENIZER_CONFIG, "The tokenizer begins with another token.", {"bos_token": "<unk>"}),
    ("tokenizer-length-cut", TOKENIZER_CONFIG, "The tokenizer stops at 32 tokens.", {"model_max_length": 32}),
)
for _name, _file, _what, _values in _CHANGES:
    _caught = INTACT if _name == "biases-promised" else SETTINGS
    add(_name, "settings", _what, (_caught,), partial(Copy.change, name=_file, **_values))


@breaks("settings", SETTINGS)
def eos_everywhere(copy: Copy) -> None:
    """The model and its generation settings stop at another token."""
    copy.change(CONFIG, eos_token_id=5)
    copy.change(GENERATION, eos_token_id=5)


@breaks("settings", SETTINGS)
def generation_settings_lost(copy: Copy) -> None:
    """The generation settings are gone, and the configuration names no token to stop at."""
    (copy.folder / GENERATION).unlink()
    copy.change(CONFIG, eos_token_id=None)


@breaks("settings", SETTINGS)
def rope_base(copy: Copy) -> None:
    """The base of the rotary positions is a hundred times larger."""
    with copy.edit(CONFIG) as config:
        config["rope_parameters"]["rope_theta"] *= 100


@breaks("settings", SETTINGS)
def rope_scaled(copy: Copy) -> None:
    """Positions are divided by four."""
    with copy.edit(CONFIG) as config:
        config["rope_parameters"].update(rope_type="linear", factor=4.0)


@breaks("settings", INTACT)
def head_flag_flipped(copy: Copy) -> None:
    """Whether the head is the embedding is said the other way round."""
    copy.change(CONFIG, tie_word_embeddings=not copy.config["tie_word_embeddings"])


@breaks("settings", SETTINGS)
def heads_regrouped(copy: Copy) -> None:
    """The same rows are cut into twice as many heads of half the size."""
    with copy.edit(CONFIG) as config:
        for key in ("num_attention_heads", "num_key_value_heads"):
            config[key] *= 2
        config["head_dim"] //= 2


@breaks("settings", INTACT)
def last_layer_unused(copy: Copy) -> None:
    """The configuration asks for a layer less than there is."""
    copy.change(CONFIG, num_hidden_layers=copy.config["num_hidden_layers"] - 1)


@breaks("settings", SETTINGS)
def another_family(copy: Copy) -> None:
    """The model is said to be of a family that computes its norms otherwise."""
    copy.change(CONFIG, model_type="gemma", architectures=["GemmaForCausalLM"])


@breaks("settings", INTACT)
def vocabulary_cut(copy: Copy) -> None:
    """The configuration knows fewer tokens than the embedding has rows."""
    copy.change(CONFIG, vocab_size=copy.config["vocab_size"] - 10)
